"""The only producer: everything we say to Kafka, acknowledged by all replicas."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaException, Producer

from consumer.log import silent

#: librdkafka gives up on a record after this; callers then keep what they have and try again.
DELIVERY_TIMEOUT_MS = 30_000
#: librdkafka counts before compression: a set of ten thousand connections has 36 MB, of which Kafka gets
#: half a megabyte.
MAX_RECORD_BYTES = 64 << 20
#: Waits on an answer end in any case; a little above the delivery timeout.
WAIT_S = 35.0


class NotAcknowledged(Exception):  # noqa: N818 - what did not happen
    """Kafka did not acknowledge in time. The records may or may not be there; repeats are harmless."""


@dataclass(frozen=True, slots=True)
class Out:
    """One record to produce."""

    topic: str
    key: str
    value: bytes | None
    headers: Mapping[str, str] = field(default_factory=dict)
    timestamp_ms: int = 0


class KafkaOut:
    """An idempotent producer. `send` returns only when everything is acknowledged."""

    def __init__(self, bootstrap: str, config: Mapping[str, Any]) -> None:
        self._producer = Producer(
            {
                "client.id": "referral-delivery",
                "linger.ms": 5,
                "compression.type": "lz4",
                "message.max.bytes": MAX_RECORD_BYTES,
                "queue.buffering.max.kbytes": MAX_RECORD_BYTES // 1024,
                **config,
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "acks": "all",
                # Java's partitioner: what upstream uses, and what key = referral id relies on.
                "partitioner": "murmur2_random",
                "delivery.timeout.ms": DELIVERY_TIMEOUT_MS,
                "logger": silent(),
            }
        )
        self._lock = threading.Lock()

    def send(self, records: Sequence[Out]) -> Counter[int]:
        """Produce and wait; how many each partition took. Raises NotAcknowledged, with how many failed."""
        failed: list[str] = []
        taken: Counter[int] = Counter()

        def delivered(error: Any, message: Any) -> None:
            if error is not None:
                failed.append(str(error.name()))
            else:
                taken[message.partition()] += 1

        with self._lock:
            for record in records:
                self._produce(record, delivered)
            left = self._producer.flush(WAIT_S)
        if failed or left:
            why = failed[0] if failed else "no answer"
            raise NotAcknowledged(
                f"Kafka did not acknowledge {len(failed) + left} of {len(records)} records: {_advised(why)}"
            )
        return taken

    def _produce(self, record: Out, delivered: Any) -> None:
        headers: Any = [(name, value.encode()) for name, value in record.headers.items()]
        while True:
            try:
                self._producer.produce(
                    record.topic,
                    key=record.key.encode(),
                    value=record.value,
                    headers=headers,
                    timestamp=record.timestamp_ms,
                    on_delivery=delivered,
                )
            except BufferError:
                # The queue is full: acknowledgements make room, or the delivery timeout does.
                self._producer.poll(0.1)
            except KafkaException as error:
                why = _advised(error.args[0].name())
                raise NotAcknowledged(f"Kafka refused a record for {record.topic}: {why}") from error
            else:
                return


def _advised(code: str) -> str:
    """Kafka's name of what is wrong, and what to do where that helps."""
    if code == "MSG_SIZE_TOO_LARGE":
        return f"{code}: raise max.message.bytes of the topic"
    return code
