"""The only Kafka reader. One thread owns a Stream.

It starts where Redis says, never where Kafka's committed offsets say; those are advisory: lag tools
read them, and they bear witness when Redis went back. librdkafka's traps, each met here:

- an exception that leaves `on_assign` makes the binding assign at the committed offset and drop what
  was dequeued: everything is caught inside, the assignment emptied, and the loop ends;
- `consume(n, timeout)` waits for n records: `poll` first, then `consume(n, 0)`;
- without `on_lost`, lost partitions would go through `on_revoke`;
- a start offset outside the log jumps silently: `auto.offset.reset=error`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from consumer.log import silent

#: Prefetched bytes per process: what a pause in Redis may pile up in memory.
QUEUED_KBYTES = 16_384
#: A full queue is looked at again after this; librdkafka's own second would make the reader wait.
FULL_QUEUE_MS = 50
#: Nothing between two polls takes longer; above the patience callers have with Redis.
MAX_POLL_INTERVAL_MS = 300_000
#: Broker look-ups inside a rebalance.
BROKER_TIMEOUT_S = 10.0
#: What librdkafka would go on asking for in silence.
_NOT_ALLOWED = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED})


class StreamFailed(Exception):  # noqa: N818 - a state, named for what it is
    """Reading must stop; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Record:
    """A Kafka record. `timestamp_ms` is the producer's, or 0."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: tuple[tuple[str, bytes], ...] = ()

    @property
    def next_offset(self) -> int:
        return self.offset + 1


@dataclass(frozen=True, slots=True)
class Witness:
    """A committed offset and, in its metadata, an offset that was surely on Redis's disk by then."""

    offset: int
    durable: int


Assigned = Callable[[dict[int, Witness]], dict[int, int]]
"""Given the new partitions with their witnesses, returns the offset to start each from."""
Gone = Callable[[list[int]], None]


class Stream:
    """A member of a consumer group on one topic."""

    def __init__(
        self,
        bootstrap: str,
        config: Mapping[str, Any],
        *,
        topic: str,
        group: str,
        session_timeout_ms: int,
        group_protocol: str,
        assigned: Assigned,
        revoked: Gone,
        lost: Gone,
    ) -> None:
        self._topic = topic
        self._assigned, self._revoked, self._lost = assigned, revoked, lost
        self._failed: str | None = None
        classic = {
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": session_timeout_ms,
            "heartbeat.interval.ms": session_timeout_ms // 6,
        }
        self._consumer = Consumer(
            {
                "client.id": "referral-delivery",
                "queued.max.messages.kbytes": QUEUED_KBYTES,
                "check.crcs": True,
                "socket.keepalive.enable": True,
                "fetch.queue.backoff.ms": FULL_QUEUE_MS,
                **config,
                "bootstrap.servers": bootstrap,
                "group.id": group,
                "group.protocol": group_protocol,
                **(classic if group_protocol == "classic" else {}),
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",
                "max.poll.interval.ms": MAX_POLL_INTERVAL_MS,
                "logger": silent(),
            }
        )
        try:
            self._consumer.subscribe(
                [topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
        except KafkaException as error:
            raise StreamFailed(f"cannot subscribe to {topic}: {error.args[0].str()}") from error

    def poll(self, timeout: float, limit: int) -> list[Record]:
        """Up to `limit` records, waiting at most `timeout` seconds for the first. Raises StreamFailed."""
        try:
            first = self._consumer.poll(timeout)
            rest = self._consumer.consume(limit - 1, 0) if first is not None and limit > 1 else []
        except (KafkaException, RuntimeError) as error:
            raise StreamFailed(f"reading {self._topic} failed: {error}") from error
        if self._failed is not None:
            raise StreamFailed(self._failed)
        if first is None:
            return []
        return [record_of(m) for m in (first, *rest) if self._judge(m.error())]

    def seek(self, partition: int, offset: int) -> None:
        """Read on from `offset`. Records already handed out are the caller's to drop."""
        try:
            self._consumer.seek(TopicPartition(self._topic, partition, offset))
        except KafkaException as error:
            raise StreamFailed(f"cannot seek {self._topic}/{partition}: {error.args[0].str()}") from error

    def commit(self, witnesses: Mapping[int, Witness]) -> None:
        """Tell Kafka how far Redis is; nobody waits for it, nothing depends on it."""
        offsets = [
            TopicPartition(self._topic, p, w.offset, f"durable={w.durable}") for p, w in witnesses.items()
        ]
        if offsets:
            try:
                self._consumer.commit(offsets=offsets, asynchronous=True)
            except KafkaException:
                return  # a rebalance or an outage: the next commit says it again

    def high_watermark(self, partition: int) -> int:
        """The end of the log as the last fetch reported it, or -1. Costs no request."""
        try:
            _low, high = self._consumer.get_watermark_offsets(
                TopicPartition(self._topic, partition), cached=True
            )
        except KafkaException:
            return -1
        return int(high)

    def close(self) -> None:
        """Leave the group at once, so that the others need not wait for the session to end."""
        self._consumer.close()

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            starts = self._assigned(self._witnesses(consumer, partitions)) if partitions else {}
            consumer.incremental_assign([TopicPartition(self._topic, p, o) for p, o in starts.items()])
        except Exception as error:  # noqa: BLE001 - must not leave this callback, see above
            self._failed = str(error) or type(error).__name__
            consumer.incremental_assign([])

    def _witnesses(self, consumer: Consumer, partitions: list[TopicPartition]) -> dict[int, Witness]:
        committed = consumer.committed(partitions, timeout=BROKER_TIMEOUT_S)
        return {c.partition: witness(c) for c in committed}

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._guarded(self._revoked, partitions)

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._guarded(self._lost, partitions)

    def _guarded(self, gone: Gone, partitions: list[TopicPartition]) -> None:
        try:
            gone([p.partition for p in partitions])
        except Exception as error:  # noqa: BLE001 - as in _on_assign
            self._failed = str(error) or type(error).__name__

    def _judge(self, error: KafkaError | None) -> bool:
        """True for a record. Passes over what librdkafka mends by itself, stops for what it cannot."""
        if error is None:
            return True
        code = error.code()
        if code == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 - the binding's public constant
            raise StreamFailed(
                f"the offset stored for a partition of {self._topic} is not in Kafka's log any more "
                f"({error.str()}): records were deleted before they were read, or the topic is another one"
            )
        if code in {
            KafkaError.UNKNOWN_TOPIC_OR_PART,
            KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
            KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
        }:
            raise StreamFailed(
                f"topic {self._topic} is not there (any more): check its name, or run `referrals init`"
            )
        if error.fatal() or code in _NOT_ALLOWED:
            raise StreamFailed(f"Kafka: {error.str()}")
        return False


def record_of(message: Any) -> Record:
    headers: Iterable[tuple[str, Any]] = message.headers() or ()
    return Record(
        message.topic(),
        message.partition(),
        message.offset(),
        message.key(),
        message.value(),
        max(0, message.timestamp()[1]),
        tuple((name, value or b"") for name, value in headers),
    )


def witness(committed: TopicPartition) -> Witness:
    """What a commit says."""
    metadata = committed.metadata or ""
    offset = max(0, int(committed.offset))
    durable = metadata.removeprefix("durable=")
    # A commit without our note (an operator's tool) explains nothing: take it at its word.
    return Witness(offset, int(durable) if durable.isdecimal() else offset)
