"""What every answer of a CRM means for its delivery, as a table."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from consumer.crm.answers import Answer, Delivered, Disable, Duplicate, KeyConflict, Pause, Rejected, Retry
from consumer.ending import SERVICE, Decision, Ended, Later, Stand, conclude, ended, label
from consumer.frozen import Frozen
from consumer.retry import JITTER
from schemas import receipt as receipts
from schemas.connection import RETRY_SECONDS, HttpConnection
from schemas.delivery import Outcome
from schemas.receipt import Receipt, Subject, utc

NOW = 1_800_000_000.0
BODY = '{"email":"zoë@example.com"}\n\x00'.encode()
FROZEN = Frozen("delivery-1", "referral-1", 4, "acme", "c-1", 1_799_999_999_000_000, BODY)
LAST = len(RETRY_SECONDS) + 1


def connection(**options: Any) -> HttpConnection:
    given = {"name": "acme-crm", "kind": "http", "url": "https://crm.example.com/", "fields": ["email"]}
    return HttpConnection.model_validate({**given, **options})


def concluded(answer: Answer, attempts: int = 1, jitter: float = 0.0, **options: Any) -> Decision:
    return conclude(FROZEN, connection(**options), answer, attempts, NOW, jitter)


def receipt_of(outcome: Outcome, attempts: int, status: int | None, reason: str | None) -> Receipt:
    return Receipt(
        subject=Subject.DELIVERY,
        subject_id="delivery-1",
        outcome=outcome,
        service=SERVICE,
        at=utc(NOW),
        reason=reason,
        account_id="acme",
        campaign_id="c-1",
        connection="acme-crm",
        referral_id="referral-1",
        revision=4,
        digest=hashlib.sha256(BODY).hexdigest(),
        attempts=attempts,
        status=status,
    )


GONE_QUIET = Retry("no answer in 20 s", unknown=True)
BUSY = Retry("answered 503 Service Unavailable", unknown=False, status=503, retry_after=9.0)


@pytest.mark.parametrize(
    ("answer", "attempts", "outcome", "status", "reason"),
    [
        pytest.param(Delivered(201), 1, Outcome.DELIVERED, 201, None, id="delivered at once"),
        pytest.param(Delivered(200), 7, Outcome.DELIVERED, 200, None, id="delivered at last"),
        pytest.param(Delivered(204), LAST, Outcome.DELIVERED, 204, None, id="delivered by the last attempt"),
        pytest.param(Duplicate(409), 2, Outcome.DUPLICATE_AT_DESTINATION, 409, None, id="had it already"),
    ],
)
def test_a_success_is_a_receipt_alone(
    answer: Answer, attempts: int, outcome: Outcome, status: int, reason: str | None
) -> None:
    decision = concluded(answer, attempts)
    assert isinstance(decision, Ended)
    assert decision.outcome is outcome
    assert decision.entry[:1] == b"R"
    key, _, value = decision.entry[1:].partition(b"\n")
    assert key == b"delivery-1"
    assert receipts.decode(value) == receipt_of(outcome, attempts, status, reason)


@pytest.mark.parametrize(
    ("answer", "attempts", "options", "outcome", "status", "reason"),
    [
        pytest.param(
            Rejected(400, "answered 400 Bad Request"), 1, {}, Outcome.REJECTED, 400, "answered 400 Bad Request",
            id="rejected",
        ),
        pytest.param(
            KeyConflict("the receiver objects", 422), 3, {}, Outcome.REJECTED, 422, "the receiver objects",
            id="objects to the key",
        ),
        pytest.param(
            BUSY, LAST, {}, Outcome.EXHAUSTED, 503, f"{LAST} attempts, the last: {BUSY.reason}",
            id="schedule used up, surely not applied",
        ),
        pytest.param(
            GONE_QUIET, 3, {"retry_seconds": (5, 5)}, Outcome.EXHAUSTED, None, f"3 attempts, the last: {GONE_QUIET.reason}",
            id="schedule used up, perhaps applied",
        ),
        pytest.param(
            BUSY, 1, {"retry_seconds": ()}, Outcome.EXHAUSTED, 503, f"1 attempts, the last: {BUSY.reason}",
            id="no retries wanted",
        ),
    ],
)  # fmt: skip
def test_what_ends_undelivered_takes_its_body_along(
    answer: Answer, attempts: int, options: dict[str, Any], outcome: Outcome, status: int | None, reason: str
) -> None:
    decision = concluded(answer, attempts, **options)
    assert isinstance(decision, Ended)
    assert decision.outcome is outcome
    assert decision.entry[:1] == b"X"
    size = int.from_bytes(decision.entry[1:5], "big")
    assert receipts.decode(decision.entry[5 : 5 + size]) == receipt_of(outcome, attempts, status, reason)
    assert decision.entry[5 + size :] == BODY


@pytest.mark.parametrize(
    ("answer", "attempts", "jitter", "expected"),
    [
        pytest.param(GONE_QUIET, 1, 0.0, Later(NOW + 5, NOW), id="first failure, nobody else waits"),
        pytest.param(GONE_QUIET, LAST - 1, 0.0, Later(NOW + RETRY_SECONDS[-1], NOW), id="before the last attempt"),
        pytest.param(BUSY, 1, 0.0, Later(NOW + 9, NOW + 9), id="Retry-After quiets the connection"),
        pytest.param(BUSY, 2, 0.0, Later(NOW + 300, NOW + 9), id="quiet as asked, its own turn later"),
        pytest.param(BUSY, 1, 0.5, Later(NOW + 9 * (1 + JITTER / 2), NOW + 9), id="jitter is the delivery's own"),
        pytest.param(
            Retry("answered 429", unknown=False, status=429, retry_after=0.0), 1, 0.0, Later(NOW + 5, NOW),
            id="Retry-After 0 quiets nobody",
        ),
    ],
)  # fmt: skip
def test_again(answer: Answer, attempts: int, jitter: float, expected: Later) -> None:
    assert concluded(answer, attempts, jitter) == expected


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Pause("answered 401 Unauthorized", 401), id="pause with a status"),
        pytest.param(Pause("header Authorization: TOKEN is not set"), id="pause before anything was sent"),
        pytest.param(Disable("answered 410 Gone", 410), id="disable"),
    ],
)
@pytest.mark.parametrize("attempts", [1, LAST, 1_000])
def test_what_only_a_person_can_mend_ends_nothing(answer: Pause | Disable, attempts: int) -> None:
    assert concluded(answer, attempts) == Stand(answer.reason)


@pytest.mark.parametrize("outcome", [Outcome.WITHDRAWN, Outcome.SUPERSEDED, Outcome.DELIVERED])
def test_an_end_without_an_answer_keeps_no_body(outcome: Outcome) -> None:
    end = ended(FROZEN, "acme-crm", outcome, 2, NOW)
    assert end.entry[:1] == b"R"
    assert BODY not in end.entry
    _, _, value = end.entry[1:].partition(b"\n")
    assert receipts.decode(value) == receipt_of(outcome, 2, None, None)


def test_every_answer_has_its_own_label_but_a_retry_has_two() -> None:
    answers: list[Answer] = [
        Delivered(200), Duplicate(409), Rejected(400, "x"), BUSY, GONE_QUIET, Pause("x"), Disable("x", 410),
        KeyConflict("x", 422),
    ]  # fmt: skip
    assert [label(answer) for answer in answers] == [
        "delivered", "duplicate", "rejected", "retry", "unknown", "pause", "disable", "key_conflict",
    ]  # fmt: skip
