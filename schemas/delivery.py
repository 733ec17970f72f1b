"""What a delivery is called and how it can end."""

from __future__ import annotations

from enum import StrEnum
from hashlib import sha1
from uuid import UUID

#: Ours for ever: every delivery id and idempotency key is derived from it.
NAMESPACE = UUID("6d5f6f0e-6f0c-5d7c-9b8e-0b8e3a1f4c21")
_NAMESPACE = NAMESPACE.bytes


class Action(StrEnum):
    DELIVER = "deliver"
    REMOVE = "remove"


class Outcome(StrEnum):
    """Every state a referral can be in, as receipts and `reconcile` name it."""

    # Terminal: the delivery has ended.
    DELIVERED = "DELIVERED"
    DUPLICATE_AT_DESTINATION = "DUPLICATE_AT_DESTINATION"
    REJECTED = "REJECTED"
    EXHAUSTED = "EXHAUSTED"
    WITHDRAWN = "WITHDRAWN"
    SUPERSEDED = "SUPERSEDED"
    # Before routing: the record never became a delivery.
    DUPLICATE_UPSTREAM = "DUPLICATE_UPSTREAM"
    UNDECODABLE = "UNDECODABLE"
    UNROUTED = "UNROUTED"
    TEST = "TEST"
    # Open.
    PENDING = "PENDING"
    PARKED = "PARKED"
    HELD = "HELD"
    UNCERTAIN = "UNCERTAIN"


def delivery_id(connection: str, referral_id: str, revision: int, action: Action = Action.DELIVER) -> str:
    """The id of a delivery, also its idempotency key: the same after a replay or a re-publication.

    UUIDv5 of connection, referral id, revision and action; holds no personal data, so that it may
    stand in logs, headers and Kafka keys.
    """
    named = _NAMESPACE + f"{connection}\n{referral_id}\n{revision}\n{action}".encode()
    # As `uuid.uuid5` and its text, which take three times as long: RFC 9562, section 5.5.
    text = sha1(named, usedforsecurity=False).hexdigest()
    variant = "89ab"[int(text[16], 16) & 0b11]
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{variant}{text[17:20]}-{text[20:32]}"


def window_id(connection: str, number: int) -> str:
    """The id of a window, as file names and receipts carry it: `<connection>-000012`."""
    return f"{connection}-{number:06d}"
