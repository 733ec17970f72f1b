"""Receipts: what `referral-receipts` tells of every delivery, record and window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from operator import attrgetter
from typing import Any

from schemas.codec import SingleObject, Undecodable
from schemas.delivery import Action, Outcome

_CODEC = SingleObject("receipt.v1")


class Subject(StrEnum):
    DELIVERY = "DELIVERY"
    RECORD = "RECORD"
    WINDOW = "WINDOW"


class Acknowledged(StrEnum):
    """What the receiver vouched for: this referral, or only the request that carried it among others."""

    ROW = "ROW"
    REQUEST = "REQUEST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One row of `referral-receipts`; the fields are described in `avro/receipt.v1.avsc`."""

    subject: Subject
    subject_id: str
    outcome: Outcome
    service: str
    at: datetime
    reason: str | None = None
    account_id: str | None = None
    campaign_id: str | None = None
    connection: str | None = None
    referral_id: str | None = None
    revision: int | None = None
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    digest: str | None = None
    attempts: int = 0
    status: int | None = None
    action: Action = Action.DELIVER
    acknowledged: Acknowledged | None = None
    record_id: str | None = None
    rows: int | None = None
    left_out: int | None = None

    def encode(self) -> bytes:
        # Not `asdict`: it copies deeply, at twice the cost of the rest.
        datum = dict(zip(_NAMES, _values(self), strict=True))
        datum["action"] = self.action.name
        return _CODEC.encode(datum)


_NAMES = tuple(one.name for one in fields(Receipt))
_values: Callable[[Receipt], tuple[Any, ...]] = attrgetter(*_NAMES)


def decode(value: bytes) -> Receipt:
    """Raises `schemas.codec.Undecodable`."""
    datum: dict[str, Any] = _CODEC.decode(value)
    try:
        subject, outcome = Subject(datum.pop("subject")), Outcome(datum.pop("outcome"))
        action = Action[datum.pop("action")]
        given = datum.pop("acknowledged")
        acknowledged = None if given is None else Acknowledged(given)
    except (ValueError, KeyError) as error:
        raise Undecodable("a subject or outcome newer than this version") from error
    return Receipt(subject=subject, outcome=outcome, action=action, acknowledged=acknowledged, **datum)


def coordinates(topic: str, partition: int, offset: int) -> str:
    """A record's name: the key of its receipt and of its dead letter."""
    return f"{topic}-{partition}-{offset}"


def utc(seconds: float) -> datetime:
    """Seconds since the epoch as the aware UTC time receipts carry."""
    return datetime.fromtimestamp(seconds, UTC)
