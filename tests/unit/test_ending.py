"""What every answer of a CRM means for its delivery and of its receiver, as tables."""

from __future__ import annotations

import dataclasses
import hashlib
from datetime import timedelta
from typing import Any, get_args

import pytest

from consumer import metrics
from consumer.crm.answers import Answer, Delivered, Disable, Duplicate, KeyConflict, Pause, Rejected, Retry
from consumer.ending import (
    SERVICE,
    Decision,
    Ended,
    Health,
    Hold,
    Later,
    Stand,
    conclude,
    ended,
    health,
    label,
    too_late,
)
from consumer.frozen import Frozen
from consumer.retry import JITTER
from consumer.tries import NONE, Tries
from schemas import receipt as receipts
from schemas.connection import RETRY_SECONDS, HttpConnection
from schemas.delivery import Action, Outcome
from schemas.receipt import Acknowledged, Receipt, Subject, utc

NOW = 1_800_000_000.0
BODY = '{"email":"zoë@example.com"}\n\x00'.encode()
FROZEN = Frozen("delivery-1", "referral-1", 4, "acme", "c-1", 1_799_999_999_000_000, BODY)
LAST = len(RETRY_SECONDS) + 1

GONE_QUIET = Retry("no answer in 20 s", unknown=True)
REFUSED = Retry("connection refused", unknown=False)
BUSY = Retry("answered 503 Service Unavailable", unknown=False, status=503, retry_after=9.0)
BROKEN = Retry("answered 500 Internal Server Error", unknown=True, status=500)
REJECTED = Rejected(400, "answered 400 Bad Request")
CONFLICT = KeyConflict("the receiver objects to the key", 422)

#: One of each, and of Retry one of each kind.
ANSWERS: dict[str, Answer] = {
    "delivered": Delivered(201),
    "duplicate": Duplicate(409),
    "rejected": REJECTED,
    "retry": BUSY,
    "unknown": GONE_QUIET,
    "pause": Pause("answered 401 Unauthorized", 401),
    "disable": Disable("answered 410 Gone", 410),
    "key_conflict": CONFLICT,
}


def connection(**options: Any) -> HttpConnection:
    given = {"name": "acme-crm", "kind": "http", "url": "https://crm.example.com/", "fields": ["email"]}
    return HttpConnection.model_validate({**given, **options})


def concluded(
    answer: Answer, tried: int | Tries = 0, jitter: float = 0.0, group: str = "", **options: Any
) -> Decision:
    before = tried if isinstance(tried, Tries) else Tries(tried)
    return conclude(FROZEN, connection(**options), answer, before, NOW, jitter, group)


def receipt_of(outcome: Outcome, attempts: int, **fields: Any) -> Receipt:
    given = {
        "subject": Subject.DELIVERY,
        "subject_id": "delivery-1",
        "outcome": outcome,
        "service": SERVICE,
        "at": utc(NOW),
        "account_id": "acme",
        "campaign_id": "c-1",
        "connection": "acme-crm",
        "referral_id": "referral-1",
        "revision": 4,
        "digest": hashlib.sha256(BODY).hexdigest(),
        "attempts": attempts,
        "action": Action.DELIVER,
    }
    return Receipt(**{**given, **fields})


def read(entry: bytes) -> tuple[str, Receipt]:
    """The key and the receipt of an outbox entry without a body."""
    assert entry[:1] == b"R"
    assert BODY not in entry
    key, _, value = entry[1:].partition(b"\n")
    return key.decode(), receipts.decode(value)


# What ends a delivery.


@pytest.mark.parametrize(
    ("answer", "tried", "outcome", "fields"),
    [
        pytest.param(
            Delivered(201, "rec-7"), 0, Outcome.DELIVERED,
            {"status": 201, "record_id": "rec-7", "acknowledged": Acknowledged.ROW}, id="delivered at once, under its id there",
        ),
        pytest.param(
            Delivered(200, by_request=True), 6, Outcome.DELIVERED,
            {"status": 200, "acknowledged": Acknowledged.REQUEST}, id="vouched for among others",
        ),
        pytest.param(
            Delivered(204), LAST - 1, Outcome.DELIVERED, {"status": 204, "acknowledged": Acknowledged.ROW},
            id="by the last attempt",
        ),
        pytest.param(
            Duplicate(409, "rec-7"), 1, Outcome.DUPLICATE_AT_DESTINATION, {"status": 409, "record_id": "rec-7"},
            id="had it already",
        ),
    ],
)  # fmt: skip
def test_a_success_is_a_receipt_alone(
    answer: Answer, tried: int, outcome: Outcome, fields: dict[str, Any]
) -> None:
    decision = concluded(answer, tried)
    assert isinstance(decision, Ended)
    assert decision.outcome is outcome
    assert read(decision.entry) == ("delivery-1", receipt_of(outcome, tried + 1, **fields))


@pytest.mark.parametrize(
    ("answer", "tried", "options", "outcome", "status", "reason"),
    [
        pytest.param(REJECTED, 0, {}, Outcome.REJECTED, 400, REJECTED.reason, id="rejected"),
        pytest.param(Rejected(None, "an email address is missing"), 0, {}, Outcome.REJECTED, None, "an email address is missing", id="rejected before it was sent"),
        pytest.param(CONFLICT, 2, {}, Outcome.REJECTED, 422, CONFLICT.reason, id="objects to the key"),
        pytest.param(BUSY, LAST - 1, {}, Outcome.EXHAUSTED, 503, f"{LAST} attempts, the last: {BUSY.reason}", id="schedule used up, surely not applied"),
        pytest.param(GONE_QUIET, 2, {"retry_seconds": (5, 5)}, Outcome.EXHAUSTED, None, f"3 attempts, the last: {GONE_QUIET.reason}", id="schedule used up, perhaps applied"),
        pytest.param(BUSY, 0, {"retry_seconds": ()}, Outcome.EXHAUSTED, 503, f"1 attempts, the last: {BUSY.reason}", id="no retries wanted"),
    ],
)  # fmt: skip
def test_what_ends_undelivered_takes_its_body_along(
    answer: Answer, tried: int, options: dict[str, Any], outcome: Outcome, status: int | None, reason: str
) -> None:
    decision = concluded(answer, tried, **options)
    assert isinstance(decision, Ended)
    assert decision.outcome is outcome
    assert decision.entry[:1] == b"X"
    size = int.from_bytes(decision.entry[1:5], "big")
    told = receipts.decode(decision.entry[5 : 5 + size])
    assert told == receipt_of(outcome, tried + 1, status=status, reason=reason)
    assert decision.entry[5 + size :] == BODY


@pytest.mark.parametrize(
    "outcome", [Outcome.WITHDRAWN, Outcome.SUPERSEDED, Outcome.DELIVERED], ids=lambda outcome: outcome.lower()
)
def test_an_end_without_an_answer_keeps_no_body(outcome: Outcome) -> None:
    end = ended(FROZEN, "acme-crm", outcome, 2, NOW)
    assert read(end.entry) == ("delivery-1", receipt_of(outcome, 2))


def test_a_removal_says_that_it_is_one() -> None:
    back = dataclasses.replace(FROZEN, removal=b"{}").taken_back("acme-crm")
    assert back is not None
    decision = conclude(back, connection(), Delivered(204), NONE, NOW, 0.0)
    assert isinstance(decision, Ended)
    key, told = read(decision.entry)
    assert key == told.subject_id == back.delivery_id != "delivery-1"
    assert (told.action, told.digest) == (Action.REMOVE, hashlib.sha256(b"{}").hexdigest())


# What is tried again.


@pytest.mark.parametrize(
    ("answer", "before", "jitter", "due", "quiet_until", "tries"),
    [
        pytest.param(REFUSED, NONE, 0.0, 5, 0, Tries(1), id="surely not applied"),
        pytest.param(GONE_QUIET, NONE, 0.0, 5, 0, Tries(1, NOW), id="perhaps applied, since now"),
        pytest.param(BROKEN, Tries(1, NOW - 9), 0.0, 300, 0, Tries(2, NOW - 9), id="since the first nobody knows"),
        pytest.param(REFUSED, Tries(1, NOW - 9), 0.0, 300, 0, Tries(2, NOW - 9), id="what is unknown stays so"),
        pytest.param(REFUSED, Tries(LAST - 2), 0.0, RETRY_SECONDS[-1], 0, Tries(LAST - 1), id="before the last attempt"),
        pytest.param(BUSY, NONE, 0.0, 9, 9, Tries(1), id="Retry-After quiets the connection"),
        pytest.param(BUSY, Tries(1), 0.0, 300, 9, Tries(2), id="quiet as asked, its own turn later"),
        pytest.param(BUSY, NONE, 0.5, 9 * (1 + JITTER / 2), 9, Tries(1), id="jitter is the delivery's own"),
        pytest.param(dataclasses.replace(BUSY, retry_after=0.0), NONE, 0.0, 5, 0, Tries(1), id="Retry-After 0 quiets nobody"),
    ],
)  # fmt: skip
def test_again(
    answer: Retry, before: Tries, jitter: float, due: float, quiet_until: float, tries: Tries
) -> None:
    assert concluded(answer, before, jitter) == Later(NOW + due, NOW + quiet_until, tries)


def test_what_must_go_together_again_says_with_whom_and_forgets_with_whom_before() -> None:
    together = concluded(GONE_QUIET, group="g2")
    assert isinstance(together, Later)
    assert together.tries.group == "g2"
    alone = concluded(REFUSED, Tries(1, NOW - 1, "g2"))
    assert isinstance(alone, Later)
    assert alone.tries.group == ""


@pytest.mark.parametrize("name", ["pause", "disable"])
@pytest.mark.parametrize("tried", [0, LAST, 1_000])
def test_what_only_a_person_can_mend_ends_nothing(name: str, tried: int) -> None:
    answer = ANSWERS[name]
    assert isinstance(answer, Pause | Disable)
    assert concluded(answer, Tries(tried, NOW - 9e6)) == Stand(answer.reason)


# When nobody may know any more.

KEY_S = 3_600
#: The receiver may have got the key a timeout before we stopped waiting.
FORGOTTEN = KEY_S - 2 * 20
OPTIONS: dict[str, dict[str, Any]] = {
    "hold": {"on_uncertain": "hold", "key_ttl": KEY_S, "timeout": 20.0},
    "retry": {"on_uncertain": "retry", "key_ttl": KEY_S, "timeout": 20.0},
    "upsert": {"upsert": True, "key_ttl": KEY_S, "timeout": 20.0},
    "upsert and retry": {"upsert": True, "on_uncertain": "retry", "key_ttl": KEY_S, "timeout": 20.0},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(
    ("since", "forgotten"),
    [
        pytest.param(0.0, False, id="nothing unknown"),
        pytest.param(NOW, False, id="unknown just now"),
        pytest.param(NOW - FORGOTTEN + 1, False, id="its key still known"),
        pytest.param(NOW - FORGOTTEN, True, id="its key perhaps forgotten"),
        pytest.param(NOW - 9e6, True, id="its key long forgotten"),
    ],
)
def test_too_late(options: str, since: float, forgotten: bool) -> None:
    tries = Tries(3, since, "g")
    hold = too_late(FROZEN, connection(**OPTIONS[options]), tries, NOW)
    if not forgotten or options != "hold":
        assert hold is None
        return
    assert hold is not None
    assert hold.tries == tries
    key, told = read(hold.entry)
    assert told.reason is not None
    assert f"{KEY_S} s" in told.reason
    assert "UTC" in told.reason
    assert key == "delivery-1:uncertain", "the delivery's end has the delivery's key"
    assert told == receipt_of(Outcome.UNCERTAIN, 3, subject_id=key, reason=told.reason)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize(
    ("before", "late"),
    [
        pytest.param(NONE, False, id="first attempt"),
        pytest.param(Tries(1), False, id="tried, nothing unknown"),
        pytest.param(Tries(1, NOW - 100), False, id="unknown, the key known at the next attempt"),
        pytest.param(Tries(1, NOW - FORGOTTEN + 299), True, id="unknown, the key forgotten by the next attempt"),
        pytest.param(Tries(LAST, NOW - 9e6), True, id="unknown, the schedule used up"),
    ],
)  # fmt: skip
def test_every_answer_of_every_connection_has_its_decision(
    options: str, name: str, before: Tries, late: bool
) -> None:
    decision = concluded(ANSWERS[name], before, **OPTIONS[options])
    last = before.attempts == LAST
    if name in {"retry", "unknown"} and not last:
        held = options == "hold" and late
        assert isinstance(decision, Hold if held else Later)
        first = before.unknown_since or (NOW if name == "unknown" else 0.0)
        assert decision.tries == Tries(before.attempts + 1, first)
        return
    expected = {
        "delivered": Outcome.DELIVERED,
        "duplicate": Outcome.DUPLICATE_AT_DESTINATION,
        "rejected": Outcome.REJECTED,
        "key_conflict": Outcome.REJECTED,
        "retry": Outcome.EXHAUSTED,
        "unknown": Outcome.EXHAUSTED,
    }
    if name in expected:
        assert isinstance(decision, Ended)
        assert decision.outcome is expected[name]
    else:
        assert isinstance(decision, Stand)


def test_uncertain_is_told_in_time_of_day_of_the_attempt() -> None:
    since = NOW - timedelta(days=30).total_seconds()
    hold = too_late(FROZEN, connection(), Tries(1, since), NOW)
    assert hold is not None
    assert f"{utc(since):%Y-%m-%d %H:%M} UTC" in (read(hold.entry)[1].reason or "")


# What an answer says of the receiver.

WELL, TIRED, DOWN, SILENT = Health(True, False), Health(True, True), Health(False, False), Health(False, True)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(Delivered(200), WELL, id="delivered"),
        pytest.param(Duplicate(409), WELL, id="duplicate"),
        pytest.param(REJECTED, WELL, id="rejected by it"),
        pytest.param(Rejected(None, "x"), None, id="rejected here"),
        pytest.param(Pause("x", 401), WELL, id="refuses the credential"),
        pytest.param(Pause("x"), None, id="paused here"),
        pytest.param(Disable("x", 410), WELL, id="gone for good, it says"),
        pytest.param(CONFLICT, WELL, id="objects to the key"),
        pytest.param(GONE_QUIET, SILENT, id="silence may be load"),
        pytest.param(REFUSED, DOWN, id="refused connections are not"),
        pytest.param(Retry("x", False, 429), TIRED, id="too many requests"),
        pytest.param(Retry("x", True, 408), WELL, id="too slow, it says of us"),
        pytest.param(Retry("x", False, 425), WELL, id="too early"),
        pytest.param(BUSY, SILENT, id="not available"),
        pytest.param(Retry("x", True, 504), SILENT, id="nobody behind the gateway answered"),
        pytest.param(BROKEN, DOWN, id="broken"),
        pytest.param(Retry("x", True, 200), WELL, id="a success its rules do not call one"),
    ],
)
def test_health(answer: Answer, expected: Health | None) -> None:
    assert health(answer) == expected


def test_every_answer_has_a_label_of_its_own_that_metrics_know() -> None:
    assert {name: label(answer) for name, answer in ANSWERS.items()} == {name: name for name in ANSWERS}
    assert {type(answer) for answer in ANSWERS.values()} == set(get_args(Answer))
    assert set(metrics.ATTEMPT_OUTCOMES) == set(ANSWERS)
