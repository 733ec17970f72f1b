"""The referral event: from Kafka's bytes to a typed value, whole or just what routing needs."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from schemas import codec
from schemas.codec import Schema, SingleObject, Undecodable
from schemas.fit import troubles

#: What upstream may grow to. A larger record is a dead letter, not a slow partition.
MAX_BYTES = 900_000

#: As many as a person reads; the rest is counted.
MAX_TROUBLES = 10

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class EventType(StrEnum):
    CREATED = "CREATED"
    CORRECTED = "CORRECTED"
    WITHDRAWN = "WITHDRAWN"
    ERASED = "ERASED"
    UNKNOWN = "UNKNOWN"

    @property
    def removes(self) -> bool:
        return self in {EventType.WITHDRAWN, EventType.ERASED}


class CampaignType(StrEnum):
    EMAIL_SUBSCRIPTION = "EMAIL_SUBSCRIPTION"
    WEBSITE_TRAFFIC = "WEBSITE_TRAFFIC"
    LEAD = "LEAD"
    UNKNOWN = "UNKNOWN"


#: By what Avro's symbol says; asking the classes themselves takes ten times as long.
_EVENT_TYPES = {kind.value: kind for kind in EventType}
_CAMPAIGN_TYPES = {kind.value: kind for kind in CampaignType}

#: Routing needs only these; fastavro skips the rest, which is twice as fast (55k against 28k a second).
ROUTING_FIELDS = (
    "referral_id",
    "event_type",
    "revision",
    "is_test",
    "account_id",
    "campaign_id",
    "campaign_type",
    "produced_at",
)


@dataclass(frozen=True, slots=True)
class Referral:
    """One event of a referral.

    `fields` holds every decoded field by its Avro name (all of them, or only ROUTING_FIELDS when
    decoded for routing): text, int, bool, Decimal, date, aware datetime, list or dict.
    """

    referral_id: str
    event_type: EventType
    revision: int
    is_test: bool
    account_id: str
    campaign_id: str
    campaign_type: CampaignType
    produced_at_us: int
    fields: Mapping[str, Any]


_WHOLE = SingleObject("referral_event.v1")
_ROUTING: Schema = codec.projection(_WHOLE.schema, ROUTING_FIELDS)

#: Finds the writer schema of a Confluent schema id; raises Undecodable when there is none.
SchemaById = Callable[[int], Schema]


def encode(event: Mapping[str, Any]) -> bytes:
    """An event as a record value, in single-object encoding.

    Raises Undecodable where `decode` would refuse the bytes or the event does not fit the schema:
    every member in trouble is named, no value is.
    """
    check(event)
    return _sized(_WHOLE.encode(event))


def encode_confluent(event: Mapping[str, Any], schema_id: int) -> bytes:
    """As `encode`, in the Confluent wire format under the registry's `schema_id`."""
    check(event)
    header = codec.CONFLUENT + struct.pack(">I", schema_id)
    return _sized(codec.encode(_WHOLE.schema, header, event))


def check(event: Mapping[str, Any]) -> None:
    """Raises Undecodable where `event` breaks the schema or a rule of `decode`; names members, no value."""
    found = troubles(_WHOLE.schema, event) or list(filter(None, [_broken_rule(event)]))
    if found:
        more = f"; and {len(found) - MAX_TROUBLES} more" if len(found) > MAX_TROUBLES else ""
        raise Undecodable("; ".join(found[:MAX_TROUBLES]) + more)


def definition() -> Schema:
    """The newest shipped schema of the event."""
    return _WHOLE.schema


def decode(value: bytes | None, by_id: SchemaById | None = None, *, routing_only: bool = False) -> Referral:
    """Decode a record's value. Raises Undecodable with the rule it breaks, never with its content.

    `by_id` is given where a Schema Registry is configured: then the Confluent wire format is
    understood as well. Without one, only single-object encoding is.
    """
    if not value:
        raise Undecodable("the record has no value")
    _sized(value)
    reader = _ROUTING if routing_only else _WHOLE.schema
    if by_id is not None and value[:1] == codec.CONFLUENT:
        if len(value) <= codec.CONFLUENT_HEADER:
            raise Undecodable("cut off inside the Confluent header")
        writer = by_id(int.from_bytes(value[1 : codec.CONFLUENT_HEADER], "big"))
        datum = codec.decode(value, codec.CONFLUENT_HEADER, writer, reader)
    elif routing_only:
        datum = codec.decode(value, codec.SINGLE_OBJECT_HEADER, _WHOLE.writer(value), reader)
    else:
        datum = _WHOLE.decode(value)
    return _typed(datum)


def _typed(datum: dict[str, Any]) -> Referral:
    trouble = _broken_rule(datum)
    if trouble:
        raise Undecodable(trouble)
    return Referral(
        referral_id=datum["referral_id"],
        event_type=_EVENT_TYPES[datum["event_type"]],
        revision=datum["revision"],
        is_test=datum["is_test"],
        account_id=datum["account_id"],
        campaign_id=datum["campaign_id"],
        campaign_type=_CAMPAIGN_TYPES[datum["campaign_type"]],
        produced_at_us=(datum["produced_at"] - _EPOCH) // _MICROSECOND,
        fields=datum,
    )


def _sized(value: bytes) -> bytes:
    if len(value) > MAX_BYTES:
        raise Undecodable(f"the record has {len(value)} bytes, over {MAX_BYTES}")
    return value


def _broken_rule(event: Mapping[str, Any]) -> str | None:
    """What Avro's types leave open, and keys, logs, headers and receipts rely on."""
    for name in ("referral_id", "account_id"):
        if not _plain(event[name]):
            return f"{name} is empty, longer than 64 characters or not plain ASCII text"
    if not (0 < len(event["campaign_id"]) <= 512 and event["campaign_id"].isprintable()):
        return "campaign_id is empty, longer than 512 characters or not one line of text"
    if not 0 <= event.get("revision", 0) < 2**31:  # a damaged or foreign varint can hold more than an int
        return "revision is negative or over 2147483647"
    if not isinstance(event["produced_at"], datetime):  # a registry's schema may lack the logical type
        return "produced_at is not a timestamp"
    return None


def _plain(identifier: str) -> bool:
    return (
        0 < len(identifier) <= 64
        and identifier.isascii()
        and identifier.isprintable()
        and " " not in identifier
    )
