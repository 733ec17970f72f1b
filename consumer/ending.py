"""What an attempt's answer means for its delivery. Pure: an answer and the time in, a decision out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from consumer import receipts
from consumer.crm.answers import Answer, Delivered, Disable, Duplicate, KeyConflict, Pause, Rejected, Retry
from consumer.frozen import Frozen
from consumer.retry import Again, next_attempt
from schemas.delivery import Outcome
from schemas.push import PushBase
from schemas.receipt import Receipt, Subject, utc

SERVICE = "push"


@dataclass(frozen=True, slots=True)
class Ended:
    """The delivery has ended; `entry` is its share of the outbox."""

    outcome: Outcome
    entry: bytes


@dataclass(frozen=True, slots=True)
class Later:
    """Another attempt at `due` (seconds since the epoch); nothing of the connection before `quiet_until`."""

    due: float
    quiet_until: float


@dataclass(frozen=True, slots=True)
class Stand:
    """The whole connection stands until an operator resumes it; no attempt is spent."""

    reason: str


Decision = Ended | Later | Stand


def conclude(
    frozen: Frozen, connection: PushBase, answer: Answer, attempts: int, now: float, jitter: float
) -> Decision:
    """`attempts`: made so far, this one included. `jitter`: in [0, 1)."""
    match answer:
        case Delivered(status):
            return ended(frozen, connection.name, Outcome.DELIVERED, attempts, now, status)
        case Duplicate(status):
            return ended(frozen, connection.name, Outcome.DUPLICATE_AT_DESTINATION, attempts, now, status)
        case Rejected(status, reason) | KeyConflict(reason, status):
            return ended(frozen, connection.name, Outcome.REJECTED, attempts, now, status, reason)
        case Retry():
            step = next_attempt(attempts, answer, connection.retry_seconds, now, jitter)
            if isinstance(step, Again):
                return Later(step.at, now + (answer.retry_after or 0.0))
            return ended(
                frozen, connection.name, Outcome.EXHAUSTED, attempts, now, answer.status, step.reason
            )
        case Pause(reason) | Disable(reason):
            return Stand(reason)
        case _:
            assert_never(answer)


def ended(
    frozen: Frozen,
    connection: str,
    outcome: Outcome,
    attempts: int,
    now: float,
    status: int | None = None,
    reason: str | None = None,
) -> Ended:
    """The receipt of a delivery's end; what ended undelivered is kept as a dead letter as well."""
    receipt = Receipt(
        subject=Subject.DELIVERY,
        subject_id=frozen.delivery_id,
        outcome=outcome,
        service=SERVICE,
        at=utc(now),
        reason=reason,
        account_id=frozen.account_id,
        campaign_id=frozen.campaign_id,
        connection=connection,
        referral_id=frozen.referral_id,
        revision=frozen.revision,
        digest=hashlib.sha256(frozen.body).hexdigest(),
        attempts=attempts,
        status=status,
    )
    if outcome in {Outcome.REJECTED, Outcome.EXHAUSTED}:
        return Ended(outcome, receipts.entry_with_dead_letter(receipt, frozen.body))
    return Ended(outcome, receipts.entry(receipt))


#: The answers' names in metrics and logs.
_LABELS: Mapping[type[Answer], str] = {
    Delivered: "delivered",
    Duplicate: "duplicate",
    Rejected: "rejected",
    Retry: "retry",
    Pause: "pause",
    Disable: "disable",
    KeyConflict: "key_conflict",
}


def label(answer: Answer) -> str:
    """The answer's name in metrics and logs."""
    if isinstance(answer, Retry) and answer.unknown:
        return "unknown"
    return _LABELS[type(answer)]
