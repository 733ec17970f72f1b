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
from consumer.tries import Tries
from schemas.delivery import Action, Outcome
from schemas.push import PushBase
from schemas.receipt import Acknowledged, Receipt, Subject, utc

SERVICE = "push"


@dataclass(frozen=True, slots=True)
class Ended:
    """The delivery has ended; `entry` is its share of the outbox."""

    outcome: Outcome
    entry: bytes


@dataclass(frozen=True, slots=True)
class Later:
    """Another attempt at `due` (seconds since the epoch); nothing of the credential before `quiet_until`."""

    due: float
    quiet_until: float
    tries: Tries


@dataclass(frozen=True, slots=True)
class Hold:
    """The receiver may have it and may have forgotten its key: a person decides. `entry` says so."""

    tries: Tries
    entry: bytes


@dataclass(frozen=True, slots=True)
class Stand:
    """The whole connection stands until an operator resumes it; no attempt is spent."""

    reason: str


Decision = Ended | Later | Hold | Stand


def conclude(
    frozen: Frozen,
    connection: PushBase,
    answer: Answer,
    before: Tries,
    now: float,
    jitter: float,
    group: str = "",
) -> Decision:
    """`before`: what earlier attempts left. `jitter`: in [0, 1). `group`: those tried again together."""
    attempts = before.attempts + 1
    match answer:
        case Delivered(status, record_id, by_request):
            vouched = Acknowledged.REQUEST if by_request else Acknowledged.ROW
            return ended(
                frozen,
                connection.name,
                Outcome.DELIVERED,
                attempts,
                now,
                status,
                record_id=record_id,
                acknowledged=vouched,
            )
        case Duplicate(status, record_id):
            outcome = Outcome.DUPLICATE_AT_DESTINATION
            return ended(frozen, connection.name, outcome, attempts, now, status, record_id=record_id)
        case Rejected(status, reason) | KeyConflict(reason, status):
            return ended(frozen, connection.name, Outcome.REJECTED, attempts, now, status, reason)
        case Retry():
            return _later(frozen, connection, answer, before, now, jitter, group)
        case Pause(reason) | Disable(reason):
            return Stand(reason)
        case _:
            assert_never(answer)


def too_late(frozen: Frozen, connection: PushBase, tries: Tries, now: float) -> Hold | None:
    """Whether one more attempt may make a second effect: an earlier one may have been applied, and by `now`
    the receiver may have forgotten its key, which it may have got a whole timeout before we stopped waiting;
    and one that begins now may take as long to reach it. None where the connection wants to be tried on.
    Removing somebody twice is once.
    """
    repeatable = connection.recognises_repeats or frozen.action is Action.REMOVE
    if repeatable or connection.on_uncertain == "retry" or not tries.unknown_since:
        return None
    if now < tries.unknown_since - 2 * connection.timeout + connection.key_ttl:
        return None
    reason = (
        f"an attempt of {utc(tries.unknown_since):%Y-%m-%d %H:%M} UTC had no answer, and the receiver "
        f"remembers keys for {connection.key_ttl} s only: look there whether it has the referral, then "
        "`referrals connections uncertain`"
    )
    return Hold(tries, receipts.entry(_uncertain(frozen, connection.name, tries, now, reason)))


def _later(
    frozen: Frozen,
    connection: PushBase,
    answer: Retry,
    before: Tries,
    now: float,
    jitter: float,
    group: str,
) -> Decision:
    attempts = before.attempts + 1
    step = next_attempt(attempts, answer, connection.retry_seconds, now, jitter)
    if not isinstance(step, Again):
        return ended(frozen, connection.name, Outcome.EXHAUSTED, attempts, now, answer.status, step.reason)
    tries = Tries(attempts, before.unknown_since or (now if answer.unknown else 0.0), group)
    hold = too_late(frozen, connection, tries, step.at)
    return hold or Later(step.at, now + (answer.retry_after or 0.0), tries)


def ended(
    frozen: Frozen,
    connection: str,
    outcome: Outcome,
    attempts: int,
    now: float,
    status: int | None = None,
    reason: str | None = None,
    *,
    record_id: str | None = None,
    acknowledged: Acknowledged | None = None,
) -> Ended:
    """The receipt of a delivery's end; what ended undelivered is kept as a dead letter as well."""
    receipt = receipt_of(
        frozen,
        connection,
        frozen.delivery_id,
        outcome,
        attempts,
        now,
        reason,
        status,
        record_id=record_id,
        acknowledged=acknowledged,
    )
    if outcome in {Outcome.REJECTED, Outcome.EXHAUSTED}:
        return Ended(outcome, receipts.entry_with_dead_letter(receipt, frozen.body))
    return Ended(outcome, receipts.entry(receipt))


def _uncertain(frozen: Frozen, connection: str, tries: Tries, now: float, reason: str) -> Receipt:
    """An open state, told under a key of its own: the end of the delivery has the delivery's."""
    subject_id = f"{frozen.delivery_id}:uncertain"
    return receipt_of(frozen, connection, subject_id, Outcome.UNCERTAIN, tries.attempts, now, reason)


def receipt_of(
    frozen: Frozen,
    connection: str,
    subject_id: str,
    outcome: Outcome,
    attempts: int,
    now: float,
    reason: str | None = None,
    status: int | None = None,
    *,
    record_id: str | None = None,
    acknowledged: Acknowledged | None = None,
) -> Receipt:
    """The receipt of a delivery's end, or of a state it is in."""
    return Receipt(
        subject=Subject.DELIVERY,
        subject_id=subject_id,
        outcome=outcome,
        service=SERVICE,
        at=utc(now),
        account_id=frozen.account_id,
        campaign_id=frozen.campaign_id,
        connection=connection,
        referral_id=frozen.referral_id,
        revision=frozen.revision,
        digest=hashlib.sha256(frozen.body).hexdigest(),
        attempts=attempts,
        action=frozen.action,
        reason=reason,
        status=status,
        record_id=record_id,
        acknowledged=acknowledged,
    )


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


@dataclass(frozen=True, slots=True)
class Health:
    """What an answer says of the receiver, whatever it says of the referral."""

    alive: bool
    busy: bool


def health(answer: Answer) -> Health | None:
    """None where nothing was asked of it."""
    match answer:
        case Rejected(status=None) | Pause(status=None):
            return None
        case Retry(status=429):
            return Health(alive=True, busy=True)
        case Retry(unknown=unknown, status=None):
            # Silence may be load; a connection refused is not.
            return Health(alive=False, busy=unknown)
        case Retry(status=int(status)) if status >= 500:
            return Health(alive=False, busy=status in {503, 504})
        case Delivered() | Duplicate() | Rejected() | Retry() | Pause() | Disable() | KeyConflict():
            return Health(alive=True, busy=False)
        case _:
            assert_never(answer)
