from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.crm.answers import (
    MAX_RETRY_AFTER_S,
    Delivered,
    Disable,
    Duplicate,
    KeyConflict,
    Pause,
    Rejected,
    Retry,
    classify,
    retry_after,
)
from consumer.exchange import NotSent, Response, Unknown, Unsendable

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("kind", "statuses"),
    [
        (Delivered, (200, 201, 202, 204, 207, 299)),
        (Pause, (300, 301, 302, 303, 304, 307, 308, 401, 402, 403, 404, 405, 406, 407, 421, 426, 431)),
        (Disable, (410,)),
        (Rejected, (400, 411, 412, 413, 414, 415, 416, 417, 418, 422, 424, 428, 451, 471, 499)),
        (Retry, (100, 101, 408, 409, 423, 425, 429, 500, 501, 502, 503, 504, 507, 520, 599, 600, 999)),
    ],
)
def test_every_status_has_its_class(kind, statuses):
    for status in statuses:
        got = classify(Response(status), NOW)
        assert type(got) is kind, status
        assert got.status == status


@pytest.mark.parametrize("status", [425, 429, 503])
def test_known_not_applied(status):
    assert classify(Response(status), NOW).unknown is False


@pytest.mark.parametrize("status", [101, 408, 409, 423, 500, 502, 504, 520])
def test_may_have_been_applied(status):
    assert classify(Response(status), NOW).unknown is True


@pytest.mark.parametrize(
    ("exchanged", "answer"),
    [
        pytest.param(
            NotSent("connection refused"), Retry("connection refused", unknown=False), id="not sent"
        ),
        pytest.param(Unknown("no answer in 20 s"), Retry("no answer in 20 s", unknown=True), id="unknown"),
        pytest.param(Unsendable("no address"), Pause("no address"), id="unsendable"),
    ],
)
def test_no_answer(exchanged, answer):
    assert classify(exchanged, NOW) == answer


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        pytest.param(422, b'{"type":".../idempotency-key-reused"}', KeyConflict, id="problem type"),
        pytest.param(422, b"Idempotency-Key is already used", KeyConflict, id="text"),
        pytest.param(422, b"IDEMPOTENCY KEY REUSED", KeyConflict, id="any case"),
        pytest.param(400, b'{"type":"idempotency_error"}', KeyConflict, id="400 about the key"),
        pytest.param(422, b'{"error":"email is not valid"}', Rejected, id="422 about the referral"),
        pytest.param(422, b'{"error":"unknown key city"}', Rejected, id="another key"),
        pytest.param(422, b"", Rejected, id="422 that says nothing"),
        pytest.param(400, b"\xff\xfe", Rejected, id="no text"),
        pytest.param(409, b"", Retry, id="409 that says nothing"),
        pytest.param(409, b"A request is outstanding for this Idempotency-Key", Retry, id="still running"),
        pytest.param(409, b'{"error":"duplicate request in progress"}', Retry, id="duplicate still running"),
        pytest.param(409, b'{"message":"Contact already exists"}', Duplicate, id="exists"),
        pytest.param(409, b'{"code":"DUPLICATE_PROFILE"}', Duplicate, id="duplicate"),
        pytest.param(500, b"duplicate idempotency key", Retry, id="a failure stays one"),
        pytest.param(200, b"error: idempotency", Delivered, id="2xx needs no body"),
    ],
)
def test_what_the_body_decides(status, body, kind):
    assert type(classify(Response(status, body=body), NOW)) is kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [(b"x-request-id was seen", KeyConflict), (b"X REQUEST ID reused", KeyConflict), (b"request", Rejected)],
)
def test_the_keys_header_may_have_another_name(text, kind):
    assert type(classify(Response(422, body=text), NOW, "X-Request-Id")) is kind


@given(st.integers(100, 999), st.binary(max_size=50))
def test_reasons_hold_nothing_of_the_body(status, noise):
    answer = classify(Response(status, body=b"ann@example.org " + noise), NOW)
    assert "example" not in repr(answer)


def test_reasons_are_for_people():
    assert classify(Response(429), NOW).reason == f"answered 429 {HTTPStatus(429).phrase}"
    assert classify(Response(599), NOW).reason == "answered 599"
    assert "redirects are not followed" in classify(Response(308), NOW).reason


@pytest.mark.case(20)
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        pytest.param("120", 120, id="seconds"),
        pytest.param(" 120 ", 120, id="blanks around"),
        pytest.param("0", 0, id="zero"),
        pytest.param("0000000000000000000030", 30, id="leading zeros"),
        pytest.param("86401", MAX_RETRY_AFTER_S, id="over a day"),
        pytest.param("315360000", MAX_RETRY_AFTER_S, id="ten years"),
        pytest.param("100000000000000", MAX_RETRY_AFTER_S, id="1e14"),
        pytest.param("9" * 10_000, MAX_RETRY_AFTER_S, id="ten thousand digits"),
        pytest.param("Sun, 01 Mar 2026 12:05:00 GMT", 300, id="IMF-fixdate"),
        pytest.param("Sunday, 01-Mar-26 12:05:00 GMT", 300, id="RFC 850 date"),
        pytest.param("Sun Mar  1 12:05:00 2026", 300, id="asctime, naive"),
        pytest.param("Sun, 01 Mar 2026 12:05:00 -0000", 300, id="-0000, naive"),
        pytest.param("Sun, 01 Mar 2026 13:05:00 +0100", 300, id="another zone"),
        pytest.param("Sun, 01 Mar 2026 11:00:00 GMT", 0, id="past date"),
        pytest.param("Sat, 01 Mar 2036 12:00:00 GMT", MAX_RETRY_AFTER_S, id="a date in ten years"),
        pytest.param("Sunday, 01-Mar-26 11:00:00 GMT", 0, id="past RFC 850 date"),
        pytest.param("Sun Mar  1 11:00:00 2026", 0, id="past asctime"),
        pytest.param("Sun, 01 Mar 2226 11:00:00 GMT", MAX_RETRY_AFTER_S, id="two hundred years"),
        *(
            pytest.param(junk, None, id=f"junk {junk[:20]!r}")
            for junk in (
                "",
                " ",
                "1.5",
                "1e14",
                "-1",
                "-0",
                "120.0",
                "1_000",
                "+1",
                "\u0663",
                "1\u0663",
                "\u00b2",
                "soon",
                "30 seconds",
                "120, 60",
                "0x10",
                "nan",
                "inf",
                "Sun, 01 Mar 2026 25:05:00 GMT",
                "Sun, 31 Feb 2026 12:05:00 GMT",
                "Sun, 01 Mar 99999999999999 12:05:00 GMT",
                "Sun, 01 Mar 2026 12:05:00 +9999999999",
                "Sun, \u0660\u0661 Mar 2026 12:05:00 GMT",
                "x" * 100_000,
            )
        ),
    ],
)
def test_retry_after(value, seconds):
    assert retry_after({"retry-after": value}, NOW) == seconds


def test_retry_after_absent():
    assert retry_after({}, NOW) is None


@pytest.mark.case(20)
@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        pytest.param("Sun, 01 Mar 2026 14:00:00 GMT", 60, id="their clock is two hours ahead"),
        pytest.param("Sun, 01 Mar 2026 15:00:00 GMT", 0, id="past by their own clock"),
        pytest.param("junk", 7_260, id="no date of theirs: our clock"),
    ],
)
def test_retry_after_is_measured_by_the_receivers_clock(date, seconds):
    headers = {"retry-after": "Sun, 01 Mar 2026 14:01:00 GMT", "date": date}
    assert retry_after(headers, NOW) == seconds


@pytest.mark.case(20)
@given(st.text(max_size=60), st.text(max_size=60))
def test_no_header_breaks_it(value, date):
    wait = retry_after({"retry-after": value, "date": date}, NOW)
    assert wait is None or 0 <= wait <= MAX_RETRY_AFTER_S


@pytest.mark.case(20)
@pytest.mark.parametrize("status", [409, 429, 500, 503])
def test_retry_after_reaches_every_retry(status):
    assert classify(Response(status, {"retry-after": "7"}), NOW).retry_after == 7
