"""Addresses and headers with a referral's values: each stands where it was meant to, or nowhere."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import template
from schemas.template import Unfit
from tests.support.referral_events import PERSONAL_VALUES, decoded

PATH = "https://crm.example/leads/{email}/notes"


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        pytest.param("https://x.example/{email}", {"email": "a@b.example"}, "https://x.example/a%40b.example", id="path"),
        pytest.param("https://x.example/l?m={email}&s=1", {"email": "a&m=b#c d"}, "https://x.example/l?m=a%26m%3Db%23c%20d&s=1", id="query"),
        pytest.param("https://x.example/{email}-{city}.json", {"email": "a", "city": "Zoë/1"}, "https://x.example/a-Zo%C3%AB%2F1.json", id="several in a segment"),
        pytest.param("https://x.example/?m={email}", {"email": ""}, "https://x.example/?m=", id="missing in a query is empty"),
        pytest.param("https://x.example/?m={email}", {"email": ".."}, "https://x.example/?m=..", id="dots in a query"),
        pytest.param("https://x.example/{{email}}", {}, "https://x.example/{email}", id="braces"),
        pytest.param("https://x.example/{attributes.ab}", {"attributes.ab": "1%2f"}, "https://x.example/1%252f", id="a percent sign"),
        pytest.param("https://x.example/{email}", {"email": "{city}"}, "https://x.example/%7Bcity%7D", id="a value that looks like a field"),
        pytest.param("https://x.example/{email}", {"email": "a..b"}, "https://x.example/a..b", id="dots inside"),
        pytest.param("https://x.example/{email}", {"email": "a:b@c"}, "https://x.example/a%3Ab%40c", id="what a host could hold"),
        pytest.param("https://x.example/../{email}", {"email": "a"}, "https://x.example/../a", id="the file's own dots"),
    ],
)  # fmt: skip
def test_addresses(text: str, values: dict[str, str], expected: str) -> None:
    assert template.check_url(text) == text
    assert template.url(text, values) == expected


@pytest.mark.parametrize(
    ("text", "value", "reason"),
    [
        pytest.param(PATH, "", "the path needs {email}, which is missing or may not leave", id="missing"),
        pytest.param(PATH, " ", "the path needs {email}, which is missing or may not leave", id="blank"),
        pytest.param(PATH, ".", "the path would lead elsewhere: {email} holds dots", id="dot"),
        pytest.param(PATH, "..", "the path would lead elsewhere: {email} holds dots", id="two dots"),
        pytest.param(PATH, "x/../../admin", "the path would lead elsewhere: {email} holds dots", id="dots behind a slash"),
        pytest.param(PATH, "..\\admin", "the path would lead elsewhere: {email} holds dots", id="dots before a backslash"),
        pytest.param("https://x.example/.{email}", ".", "the path would lead elsewhere: {email} holds dots", id="a dot beside the file's"),
        pytest.param("https://x.example/%2e{email}", ".", "the path would lead elsewhere: {email} holds dots", id="beside an escaped dot"),
        pytest.param(PATH, "a\x00", "the path needs {email}, which holds a control character", id="NUL"),
        pytest.param(PATH, "a\r\nHost: b", "the path needs {email}, which holds a control character", id="line break"),
        pytest.param(PATH, "\ud800", "{email} is no text UTF-8 can write", id="half a surrogate pair in a path"),
        pytest.param("https://x.example/?a={email}", "\ud800", "{email} is no text UTF-8 can write", id="half a surrogate pair"),
        pytest.param("https://x.example/?a={email}", "ö" * 2_000, "the address would have over 8,000 characters", id="endless"),
    ],
)  # fmt: skip
def test_values_that_cannot_stand_in_an_address(text: str, value: str, reason: str) -> None:
    assert template.url(text, {"email": value}) == Unfit(reason)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("a-1", "id a-1;", id="text"),
        pytest.param("", "id ;", id="missing is empty"),
        pytest.param("${env:TOKEN}", "id ${env:TOKEN};", id="a value that looks like a reference stays text"),
        *(
            pytest.param(value, Unfit("a header needs {email}, which is not one line of ASCII text: send it in the body"), id=name)
            for name, value in {
                "line break": "a\r\nX: b", "LF": "a\nb", "NUL": "a\0", "DEL": "a\x7f", "umlaut": "Zoë", "emoji": "😀",
                "line separator": "a\u2028b", "Arabic digit": "٣", "tab": "a\tb",
            }.items()
        ),
        pytest.param("x" * 2_001, Unfit("a header needs {email}, which is over 2,000 characters: send it in the body"), id="endless"),
    ],
)  # fmt: skip
def test_headers(value: str, expected: str | Unfit) -> None:
    assert template.header(template.parse("id {email};"), {"email": value}) == expected


def test_what_an_older_connection_did_not_take_is_told_apart_from_what_is_missing() -> None:
    assert template.url("https://x.example/?m={email}", {}) == Unfit(
        "it was taken before {email} stood in the connection: replay it"
    )


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_value_changes_what_stands_around_it(one: str, two: str) -> None:
    found = template.url(
        "https://crm.example:8443/a/{email}/b?x={email}&y={city}", {"email": one, "city": two}
    )
    if isinstance(found, Unfit):
        return
    parts = urlsplit(found)
    assert (parts.scheme, parts.netloc, parts.fragment) == ("https", "crm.example:8443", "")
    assert [unquote(segment) for segment in parts.path.split("/")] == ["", "a", one, "b"]
    assert parse_qsl(parts.query, keep_blank_values=True) == [("x", one), ("y", two)]
    assert found.isascii()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("https://{country}.example/", "never in scheme, host or port", id="host"),
        pytest.param("https://x.example{city}", "never in scheme, host or port", id="end of the host"),
        pytest.param("https://x.example:{age}/", "never in scheme, host or port", id="port"),
        pytest.param("https://x.example/{emial}", "did you mean email?", id="no such field"),
        pytest.param("https://x.example/{ email }", "no field of this name", id="blanks"),
        pytest.param("https://x.example/{}", "no field of this name", id="nothing"),
        pytest.param("https://x.example/{attributes}", "attributes.<name>", id="a nested field whole"),
        pytest.param("https://x.example/{attributes.a/b}", "has no / and no ?", id="a slash in a name"),
        pytest.param(
            "https://x.example/{attributes.a?b}", "has no / and no ?", id="a question mark in a name"
        ),
        pytest.param("https://x.example/{email", "a brace by itself", id="left open"),
        pytest.param("https://x.example/email}", "a brace by itself", id="never opened"),
        pytest.param("https://x.example/{a{email}}", "a brace by itself", id="one in another"),
        pytest.param("https://x.example/?k=${env:KEY}", "use auth", id="a secret"),
    ],
)
def test_addresses_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        template.check_url(text)


TEMPLATES = ["https://x.example/{email}?p={partner_id}&c={campaign_id}&a={attributes.tier}", "{phone_e164}"]


@pytest.mark.parametrize(
    ("kind", "partner_data", "expected"),
    [
        pytest.param("LEAD", True, {"email": "zoe@example.com", "partner_id": "partner-77", "phone_e164": "+61400000001", "attributes.tier": "gold-member"}, id="all"),
        pytest.param("LEAD", False, {"email": "zoe@example.com", "partner_id": "", "phone_e164": "+61400000001", "attributes.tier": "gold-member"}, id="no partner data"),
        pytest.param("WEBSITE_TRAFFIC", True, {"email": "", "partner_id": "partner-77", "phone_e164": "", "attributes.tier": ""}, id="no personal data"),
        pytest.param("UNKNOWN", False, {"email": "", "partner_id": "", "phone_e164": "", "attributes.tier": ""}, id="neither"),
    ],
)  # fmt: skip
def test_values_obey_the_same_gates_as_fields(
    kind: str, partner_data: bool, expected: dict[str, Any]
) -> None:
    referral = decoded(campaign_type=kind)
    found = template.values(TEMPLATES, referral, partner_data=partner_data)
    assert found == expected | {"campaign_id": str(referral.fields["campaign_id"])}
    if kind in {"WEBSITE_TRAFFIC", "UNKNOWN"}:
        assert not set(found.values()) & set(PERSONAL_VALUES)
