"""Dead letters: what could not be delivered or even read, kept whole with where it came from and why."""

from __future__ import annotations

from consumer.kafka_out import Out
from consumer.stream import Record
from consumer.topics import Topics
from schemas.receipt import Receipt, coordinates
from schemas.referral import MAX_BYTES

#: Headers a dead letter carries over from its record; more is upstream's mistake.
MAX_HEADERS = 64
#: Bytes of such a header that are kept.
MAX_HEADER = 1_024


def of_record(topics: Topics, record: Record, reason: str) -> Out:
    """The record's own bytes; a repeat after a crash has the same key."""
    headers = {
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "reason": reason,
    }
    for name, given in record.headers[:MAX_HEADERS]:
        headers.setdefault(f"original-{name}", given[:MAX_HEADER].decode("utf-8", "replace"))
    key = coordinates(record.topic, record.partition, record.offset)
    return _letter(topics, key, record.value, headers)


def of_delivery(topics: Topics, receipt: Receipt, body: bytes) -> Out:
    """The frozen body of a delivery that ended undelivered."""
    headers = {
        "delivery_id": receipt.subject_id,
        "connection": receipt.connection or "",
        "referral_id": receipt.referral_id or "",
        "outcome": receipt.outcome,
        "reason": receipt.reason or "",
        "attempts": str(receipt.attempts),
    }
    return _letter(topics, receipt.subject_id, body, headers)


def _letter(topics: Topics, key: str, value: bytes | None, headers: dict[str, str]) -> Out:
    """What is larger than any referral is left out; a record's coordinates still find it in its topic.

    With our headers around it the broker might refuse it, and it would hold up its partition for ever.
    """
    if value is not None and len(value) > MAX_BYTES:
        return Out(topics.dead_letters, key, None, {**headers, "left-out": f"{len(value)} bytes"})
    return Out(topics.dead_letters, key, value, headers)
