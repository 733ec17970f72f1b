"""Dead letters: what could not be delivered or even read, kept whole with where it came from and why."""

from __future__ import annotations

from consumer.kafka_out import Out
from consumer.stream import Record
from consumer.topics import Topics
from schemas.receipt import Receipt, coordinates

#: Headers a dead letter carries over from its record; more is upstream's mistake.
MAX_HEADERS = 64


def of_record(topics: Topics, record: Record, reason: str) -> Out:
    """The record's own bytes; a repeat after a crash has the same key."""
    headers = {
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "reason": reason,
    }
    for name, value in record.headers[:MAX_HEADERS]:
        headers.setdefault(f"original-{name}", value.decode("utf-8", "replace"))
    key = coordinates(record.topic, record.partition, record.offset)
    return Out(topics.dead_letters, key, record.value, headers)


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
    return Out(topics.dead_letters, receipt.subject_id, body, headers)
