"""Records read again by their offsets, for parked lanes. A reader of no group; one thread owns it.

That a record is gone is never concluded from silence: either the log starts behind it, or a consumer that
never read anything else is handed a later one first.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from consumer.log import silent
from consumer.stream import BROKER_TIMEOUT_S, Record, StreamFailed, record_of

#: Prefetched bytes: a few batches ahead.
QUEUED_KBYTES = 4_096
#: One read ends within this, with what it met by then: others wait for the thread.
READ_S = 2.0
#: Between two wanted records, so many others are read over; for more it is quicker to fetch anew.
MAX_GAP = 2_000
#: Records asked of the prefetch at once, of the largest size some 50 MB, and how long for: it waits for all.
CHUNK = 50
CHUNK_S = 0.2
#: Longest wait of a fetch at the end of the log, and of one for room in the prefetch.
FETCH_WAIT_MS = 20
#: No partition: of a new consumer, and of one that must be told anew where to read.
UNUSED, NOWHERE = -1, -2


class Reread:
    """Reads chosen records of one topic."""

    def __init__(self, bootstrap: str, config: Mapping[str, Any], topic: str) -> None:
        self._config: dict[str, Any] = {
            **config,
            "bootstrap.servers": bootstrap,
            "group.id": "referral-delivery-reread",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "check.crcs": True,
            "queued.max.messages.kbytes": QUEUED_KBYTES,
            # Where to read changes often, and a fetch under way is waited for first.
            "fetch.wait.max.ms": FETCH_WAIT_MS,
            "fetch.queue.backoff.ms": FETCH_WAIT_MS,
            "logger": silent(),
        }
        self._topic = topic
        #: Made when first needed: most workers never park anything.
        self._consumer: Consumer | None = None
        #: The partition being read, and the offset that comes next; `_pure`: the consumer read nothing else.
        self._partition, self._next, self._pure = UNUSED, 0, True

    def read(self, partition: int, wanted: Sequence[int], size: int) -> list[Record | None]:
        """The records at the first of `wanted`, which ascends; None for one that Kafka has no more.

        As many as `size` bytes of values and READ_S allow, at least one of any size; none where Kafka hands
        out nothing now. Raises StreamFailed.
        """
        deadline = time.monotonic() + READ_S
        try:
            low, high = self._watermarks(partition)
            if wanted[-1] >= high:
                raise StreamFailed(
                    f"{self._topic}/{partition} ends at {high}, before offset {wanted[-1]}, which was read "
                    "once: the log was cut off, or the topic is another one"
                )
            found: list[Record | None] = [None for offset in wanted if offset < low]
            while len(found) < len(wanted) and size > 0 and time.monotonic() < deadline:
                self._go_to(partition, wanted[len(found)])
                for record in self._chunk(min(CHUNK, wanted[-1] - self._next + 1)):
                    if size <= 0 or len(found) == len(wanted):
                        # It was handed out and is not taken: the next read must begin before it.
                        self._partition = NOWHERE
                        break
                    size -= self._sort_in(record, wanted, found)
        except (KafkaException, RuntimeError) as error:
            self._partition = NOWHERE
            raise StreamFailed(f"reading {self._topic}/{partition} again failed: {error}") from error
        return found

    def rest(self) -> None:
        """Fetch nothing until the next read."""
        if self._consumer is not None and self._partition != UNUSED:
            self._consumer.unassign()
            self._partition = NOWHERE

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _watermarks(self, partition: int) -> tuple[int, int]:
        place = TopicPartition(self._topic, partition)
        low, high = self._open().get_watermark_offsets(place, timeout=BROKER_TIMEOUT_S)
        return int(low), int(high)

    def _open(self) -> Consumer:
        if self._consumer is None:
            self._consumer, self._partition = Consumer(self._config), UNUSED
        return self._consumer

    def _go_to(self, partition: int, offset: int) -> None:
        consumer = self._open()
        if self._partition == partition and 0 <= offset - self._next <= MAX_GAP:
            return
        self._pure = self._partition == UNUSED
        consumer.assign([TopicPartition(self._topic, partition, offset)])
        self._partition, self._next = partition, offset

    def _chunk(self, number: int) -> list[Record]:
        records = []
        for message in self._open().consume(number, CHUNK_S):
            error = message.error()
            if error is None:
                records.append(record_of(message))
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 - the binding's public constant
                # The log's start has just moved: the next look at it will say so.
                self._partition = NOWHERE
            elif error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                self._partition = NOWHERE
                raise StreamFailed(f"Kafka: {error.str()}")
        return records

    def _sort_in(self, record: Record, wanted: Sequence[int], found: list[Record | None]) -> int:
        """Append what the record is, or shows to be missing; returns its size where it was wanted."""
        if record.partition != self._partition or record.offset < self._next:
            return 0
        if wanted[len(found)] < record.offset and not self._pure:
            # Perhaps a left-over of what was read before: let a new consumer say it.
            self.close()
            self._partition = UNUSED
            return 0
        found += [None for offset in wanted[len(found) :] if offset < record.offset]
        self._next = record.next_offset
        if record.offset not in wanted[len(found) : len(found) + 1]:
            return 0
        found.append(record)
        return max(1, len(record.value or b""))
