"""Lines of a file of events: which are right, and what is said of the others."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from console import publish
from console.publish import Event, Fault, events, parsed
from schemas import referral

GOOD: dict[str, Any] = {
    "event_id": "e-1",
    "referral_id": "r-1",
    "event_type": "CREATED",
    "account_id": "acme",
    "campaign_id": "c-1",
    "campaign_type": "LEAD",
    "first_name": "Zoë",
    "opted_in_at": "2026-03-08T12:30:00+10:00",
    "produced_at": "2026-03-08T02:30:00.123457Z",
}


def line(**changes) -> bytes:
    return json.dumps({**GOOD, **changes}, ensure_ascii=False).encode()


def test_a_right_line_is_an_event_under_its_referral_id() -> None:
    found = parsed(1, line(), referral.encode)
    assert isinstance(found, Event)
    assert found.referral_id == "r-1"
    assert referral.decode(found.value).fields["first_name"] == "Zoë"


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        pytest.param(
            b"{", "not JSON: expecting property name enclosed in double quotes, column 2", id="not JSON"
        ),
        pytest.param(b'{"a": 1} x', "not JSON: extra data, column 10", id="two values"),
        pytest.param(b"[]", "an event is a JSON object", id="not an object"),
        pytest.param(b'"\xff"', "not UTF-8 text: byte 2 of the line", id="not UTF-8"),
        pytest.param(b"[" * 200_000, "nested too deep for an event", id="nested"),
        pytest.param(
            b'{"revision": ' + b"9" * 5_000 + b"}", "a number has too many digits", id="a huge number"
        ),
        pytest.param(
            b'{"email": "zoe@x.example", "email": null}', "email is given twice", id="a member given twice"
        ),
        pytest.param(line(referral_id=7), "referral_id must be text", id="a wrong type"),
        pytest.param(
            line(nmae="Zoë"), "nmae is unknown: the schema has no such member", id="an unknown member"
        ),
        pytest.param(
            line(birth_date="31.12.1990"), "birth_date must be a date such as 1990-12-31", id="a wrong date"
        ),
        pytest.param(
            line(event_type="UNKNOWN"), "event_type UNKNOWN is what readers see", id="the reader's own symbol"
        ),
        pytest.param(line(ad_text="x" * 900_001), "the record has", id="too large"),
    ],
)
def test_a_wrong_line_is_told_by_its_member(raw: bytes, says: str) -> None:
    found = parsed(3, raw, referral.encode)
    assert isinstance(found, Fault)
    assert found.line == 3
    assert found.what.startswith(says)


def test_every_trouble_of_a_line_is_named_and_no_value_is() -> None:
    found = parsed(1, line(email=["zoe@secret.example"], age="thirty-five", bid_price=1.25), referral.encode)
    assert isinstance(found, Fault)
    assert {word for word in ("email", "age", "bid_price") if word in found.what} == {
        "email",
        "age",
        "bid_price",
    }
    assert "secret" not in found.what
    assert "thirty" not in found.what


def test_lines_are_numbered_as_an_editor_does_and_blank_ones_passed_over() -> None:
    source = io.BytesIO(b"\xef\xbb\xbf" + line() + b"\r\n\n  \n{\n" + line(referral_id="r-2"))
    first, second, third = events(source, referral.encode)
    assert isinstance(first, Event)
    assert isinstance(second, Fault)
    assert isinstance(third, Event)
    assert (first.referral_id, second.line, third.referral_id) == ("r-1", 4, "r-2")


def test_an_endless_line_is_one_fault_and_the_next_line_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "MAX_LINE_BYTES", 1_000)
    source = io.BytesIO(b"x" * 4_321 + b"\n" + line() + b"\n" + b"y" * 1_000)
    endless, good, last = events(source, referral.encode)
    assert endless == Fault(1, "the line is longer than 1,000 bytes")
    assert isinstance(good, Event)
    assert isinstance(last, Fault)
    assert last.line == 3
