"""A connection's own rules for answers: the first that matches decides, then the defaults."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.crm.answers import (
    Answer,
    Delivered,
    Disable,
    Duplicate,
    KeyConflict,
    Pause,
    Rejected,
    Retry,
)
from consumer.crm.rules import classify, classify_removal
from consumer.exchange import NotSent, Response, Unknown
from schemas import paths
from schemas.connection import HttpConnection

NOW = 1_772_366_400.0


def connection(*responses: dict[str, Any], **changes: Any) -> HttpConnection:
    made = {"kind": "http", "name": "crm", "url": "https://crm.example/", "fields": ["email"]}
    return HttpConnection.model_validate(made | {"responses": list(responses)} | changes)


def meets(rule: dict[str, Any], status: int, body: Any, *, read_fully: bool = True) -> bool:
    """Whether the rule decides: it says `duplicate`, which no default makes of these answers."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = Response(status, {}, raw, read_fully=read_fully)
    return isinstance(classify(connection(rule | {"is": "duplicate"}), response, NOW), Duplicate)


NESTED = {
    "result": {
        "status": "OK",
        "id": 7,
        "errors": [],
        "ok": True,
        "no": False,
        "none": None,
        "zero": 0,
        "tags": ["New", 1],
    }
}


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        pytest.param({"status": "200"}, True, id="status"),
        pytest.param({"status": "201"}, False, id="another status"),
        pytest.param({"status": "2xx"}, True, id="class"),
        pytest.param({"status": "4xx"}, False, id="another class"),
        pytest.param({"status": "200-299"}, True, id="range"),
        pytest.param({"status": "201-299"}, False, id="range without it"),
        pytest.param({"text": "OK"}, True, id="text"),
        pytest.param({"text": "ok"}, True, id="text in any case"),
        pytest.param({"text": "fail"}, False, id="other text"),
        pytest.param({"json": "result.status", "equal": "OK"}, True, id="equal"),
        pytest.param({"json": "result.status", "equal": "ok"}, False, id="equal is letter by letter"),
        pytest.param({"json": "result.id", "equal": 7}, True, id="equal number"),
        pytest.param({"json": "result.id", "equal": "7"}, False, id="a text is no number"),
        pytest.param({"json": "result.ok", "equal": True}, True, id="equal true"),
        pytest.param({"json": "result.ok", "equal": 1}, False, id="true is not 1"),
        pytest.param({"json": "result.zero", "equal": False}, False, id="0 is not false"),
        pytest.param({"json": "result.no", "equal": False}, True, id="equal false"),
        pytest.param({"json": "result.none", "equal": "None"}, False, id="null is no text"),
        pytest.param({"json": "result.status", "contains": "k"}, True, id="contains, in any case"),
        pytest.param({"json": "result.tags", "contains": "new"}, True, id="a list contains"),
        pytest.param({"json": "result.tags", "contains": "ne"}, False, id="a list contains whole texts"),
        pytest.param({"json": "result.id", "contains": "7"}, False, id="a number contains nothing"),
        pytest.param({"json": "result.status"}, True, id="there"),
        pytest.param({"json": "result.zero"}, True, id="0 is there"),
        pytest.param({"json": "result.none"}, False, id="null is not there"),
        pytest.param({"json": "result.no"}, False, id="false is not there"),
        pytest.param({"json": "result.errors"}, False, id="no errors are not there"),
        pytest.param({"json": "result.missing"}, False, id="missing"),
        pytest.param({"json": "result.status.id"}, False, id="a member of a text"),
        pytest.param({"json": "length(result.tags)", "equal": 2}, True, id="a function"),
        pytest.param({"json": "length(result.id)", "equal": 2}, False, id="a function that does not fit"),
        pytest.param({"json": "result.tags[?@ == 'New'] | [0]", "equal": "New"}, True, id="a filter"),
        pytest.param({"status": "2xx", "json": "result.ok", "text": "tags"}, True, id="all conditions"),
        pytest.param({"status": "2xx", "json": "result.ok", "text": "nobody"}, False, id="all but one"),
    ],
)  # fmt: skip
def test_when_a_rule_matches(rule: dict[str, Any], matches: bool) -> None:
    assert meets(rule, 200, NESTED) is matches


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>ok</html>", id="HTML"),
        pytest.param(b'{"ok": tru', id="cut short"),
        pytest.param(b"\xff\xfe", id="no UTF-8"),
        pytest.param(b"[" * 60_000, id="nested without end"),
        pytest.param(b'{"a": ' + b"9" * 5_000 + b"}", id="an endless number"),
        pytest.param(b"null", id="null"),
        pytest.param(b"5", id="a number"),
    ],
)
def test_a_body_that_is_no_such_json_meets_no_json_rule(body: bytes) -> None:
    for rule in ({"json": "ok"}, {"json": "!ok", "equal": True}, {"json": "ok", "equal": ""}):
        assert meets(rule, 200, body) is (body == b"5" and rule["json"] == "!ok")


def test_a_body_not_read_to_its_end_meets_no_json_rule_but_text_that_was_read() -> None:
    assert not meets({"json": "ok"}, 200, {"ok": True}, read_fully=False)
    assert meets({"text": "already known"}, 200, b'{"error": "Already known', read_fully=False)


def test_a_byte_order_mark_is_no_matter() -> None:
    assert meets({"json": "ok"}, 200, b'\xef\xbb\xbf{"ok": true}')


@pytest.mark.parametrize(
    ("rule", "status", "answer"),
    [
        pytest.param({"text": "x", "is": "delivered"}, 302, Delivered(302), id="delivered"),
        pytest.param({"text": "x", "is": "duplicate"}, 400, Duplicate(400), id="duplicate"),
        pytest.param({"text": "x", "is": "rejected"}, 200, Rejected(200, "answered 200 OK: rejected by rule 1 of responses"), id="200 with an error in it"),
        pytest.param({"text": "x", "is": "pause"}, 400, Pause("answered 400 Bad Request: pause by rule 1 of responses", 400), id="pause"),
        pytest.param({"text": "x", "is": "retry"}, 400, Retry("answered 400 Bad Request: retry by rule 1 of responses", False, 400, 7.0), id="a refusal was not applied"),
        pytest.param({"text": "x", "is": "retry"}, 200, Retry("answered 200 OK: retry by rule 1 of responses", True, 200, 7.0), id="a 2xx may have been applied"),
        pytest.param({"text": "x", "is": "retry"}, 503, Retry("answered 503 Service Unavailable: retry by rule 1 of responses", False, 503, 7.0), id="503 was not applied"),
        pytest.param({"text": "x", "is": "retry"}, 409, Retry("answered 409 Conflict: retry by rule 1 of responses", True, 409, 7.0), id="409 may still run"),
        pytest.param({"text": "x", "is": "delivered"}, 401, Delivered(401), id="a rule goes before the defaults"),
    ],
)  # fmt: skip
def test_what_a_rule_says(rule: dict[str, Any], status: int, answer: Answer) -> None:
    assert classify(connection(rule), Response(status, {"retry-after": "7"}, b"x@example.org"), NOW) == answer


def test_the_first_rule_that_matches_decides() -> None:
    made = connection(
        {"status": "5xx", "is": "pause"}, {"text": "dup", "is": "duplicate"}, {"status": "4xx", "is": "retry"}
    )
    assert classify(made, Response(400, {}, b"dup"), NOW) == Duplicate(400)
    assert classify(made, Response(400, {}, b""), NOW) == Retry(
        "answered 400 Bad Request: retry by rule 3 of responses", False, 400
    )


@pytest.mark.parametrize(
    ("exchanged", "kind"),
    [
        pytest.param(Response(200), Delivered, id="200"),
        pytest.param(Response(401), Pause, id="401"),
        pytest.param(Response(404), Pause, id="404"),
        pytest.param(Response(308), Pause, id="308"),
        pytest.param(Response(410), Disable, id="410"),
        pytest.param(Response(422, {}, b"idempotency key reused"), KeyConflict, id="422 about the key"),
        pytest.param(Response(422), Rejected, id="422"),
        pytest.param(Response(500), Retry, id="500"),
        pytest.param(NotSent("x"), Retry, id="not sent"),
        pytest.param(Unknown("x"), Retry, id="unknown"),
    ],
)
def test_what_no_rule_matches_is_as_by_default(exchanged: Any, kind: type) -> None:
    assert type(classify(connection({"status": "499", "is": "retry"}), exchanged, NOW)) is kind


def test_where_a_rule_says_what_success_is_nothing_else_is() -> None:
    made = connection(
        {"json": "success", "equal": True, "is": "delivered"}, {"text": "spam", "is": "rejected"}
    )
    assert classify(made, Response(200, {}, b'{"success": true}'), NOW) == Delivered(200)
    assert isinstance(classify(made, Response(200, {}, b'{"success": false, "why": "spam"}'), NOW), Rejected)
    for body in (b'{"success": false}', b"", b"<html>please log in</html>"):
        assert classify(made, Response(200, {"retry-after": "9"}, body), NOW) == Retry(
            "answered 200 OK, but no rule of responses says that it is delivered", True, 200, 9.0
        )


@pytest.mark.parametrize(
    ("expression", "body"),
    [
        pytest.param("contains(message, code)", b'{"message": "no", "code": 7}', id="a number in a text"),
        pytest.param("floor(id)", b'{"id": Infinity}', id="a number without an end"),
        pytest.param("ids[?@ > `1`]", b'{"ids": ["a", 1]}', id="a text against a number"),
        pytest.param("ids[::0]", b'{"ids": [1]}', id="steps of nothing"),
        pytest.param("merge(@, id)", b'{"id": 1}', id="a number as a mapping"),
    ],
)
def test_a_function_that_does_not_fit_the_answer_finds_nothing(expression: str, body: bytes) -> None:
    made = connection({"json": expression, "is": "duplicate"}, record_id=expression)
    assert classify(made, Response(201, {}, body), NOW) == Delivered(201, None)


def test_no_answer_is_joined_with_itself() -> None:
    assert paths.check("join(', ', names)")
    with pytest.raises(ValueError, match="in quotes"):
        paths.check("join(a, b)")
    with pytest.raises(ValueError, match="in quotes"):
        paths.check("x[?join(join(a, b), b) == 'c']")


@pytest.mark.parametrize(
    ("body", "record_id"),
    [
        pytest.param({"id": "L-1"}, "L-1", id="text"),
        pytest.param(
            {"id": 12345678901234567890}, "12345678901234567890", id="a long number, digit by digit"
        ),
        pytest.param({"id": 0}, "0", id="0"),
        pytest.param({"id": "x" * 200}, "x" * 200, id="200 characters"),
        *(
            pytest.param({"id": value}, None, id=repr(value)[:20])
            for value in ("", "zoe@example.com", "x" * 201, "a\nb", "a\x00", True, 1.5, None, [], ["L-1"], {})
        ),
        pytest.param([], None, id="another document"),
        pytest.param(b"L-1", None, id="no JSON"),
    ],
)
def test_the_receivers_id(body: Any, record_id: str | None) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    made = connection({"status": "409", "is": "duplicate"}, record_id="id")
    assert classify(made, Response(201, {}, raw), NOW) == Delivered(201, record_id)
    assert classify(made, Response(409, {}, raw), NOW) == Duplicate(409, record_id)
    assert classify(made, Response(201, {}, raw, read_fully=False), NOW) == Delivered(201, None)


@given(st.integers(100, 999), st.binary(max_size=60))
def test_reasons_hold_nothing_of_the_body(status: int, noise: bytes) -> None:
    made = connection(
        *(
            {"text": "ann", "is": verdict, "status": f"{first}xx"}
            for first, verdict in enumerate(("rejected", "pause", "retry"), 2)
        )
    )
    assert "example" not in repr(classify(made, Response(status, {}, b"ann@example.org " + noise), NOW))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, Delivered),
        (204, Delivered),
        (404, Delivered),
        (410, Delivered),
        (401, Pause),
        (422, Rejected),
        (500, Retry),
    ],
)
def test_who_is_gone_already_is_removed_and_rules_are_for_deliveries(status: int, kind: type) -> None:
    made = connection({"json": "success", "is": "delivered"}, removal={"url": "https://crm.example/x"})
    assert type(classify_removal(made, Response(status), NOW)) is kind
