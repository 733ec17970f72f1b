"""Custom fields: what an advertiser gets, and what nobody gets whatever the rules say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas import formats, pattern
from schemas.mapping import Columns, FieldRule, Value, ValueRule, render, text
from schemas.referral import Referral
from schemas.sources import CONSENT, KNOWN, NESTED, PARTNER, PERSONAL
from tests.support.referral_events import PERSONAL_VALUES, decoded, event

PARTNER_VALUES = ("partner-77", "checkout-3", "order-9912")
SOURCES = sorted((KNOWN - NESTED) | {f"consent.{part}" for part in CONSENT}) + [
    "attributes.tier",
    "attributes.none",
    "answers.q1",
    "answers.q2",
    "answers.none",
]


def rule(given: Any) -> FieldRule:
    return FieldRule.model_validate(given)


def value(given: Any, *, partner_data: bool = False, **changes: Any) -> Value:
    return alike([rule(given)], decoded(**changes), partner_data=partner_data)


def alike(rules: Sequence[FieldRule], referral: Referral, *, partner_data: bool) -> Value:
    """The value of one rule, which is the same alone and made ready for many, and from what is remembered."""
    [(_, found)] = render(rules, referral, partner_data=partner_data)
    columns = Columns(rules, partner_data=partner_data)
    for _ in range(2):
        (cell,) = columns.cells(referral)
        assert (type(cell), cell) == (type(found), found)
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("email", "zoe@example.com"),
        ("postal_code", "02650"),
        ("phone_e164", "+61400000001"),
        ("age", 35),
        ("is_test", False),
        ("birth_date", "1990-12-31"),
        ("bid_price", "1.2500"),
        ("opted_in_at", "2026-03-08T02:30:00.123457Z"),
        ("consent.granted_at", "2026-03-01T00:00:00Z"),
        ("consent.channels", "email, sms"),
        ("consent.page_url", None),
        ("attributes.tier", "gold-member"),
        ("attributes.none", None),
        ("answers.q1", "Fortnightly"),
        ("answers.q2", "7"),
        ("answers.none", None),
        ("language", None),
        ("campaign_type", "LEAD"),
    ],
)
def test_a_field_alone_is_its_value(source: str, expected: Value) -> None:
    found = value(source)
    assert found == expected
    assert type(found) is type(expected)


def test_fields_keep_the_order_and_the_names_given() -> None:
    rules = [
        rule("gender"),
        rule({"name": "E-mail", "from": "email"}),
        rule({"name": "origin", "constant": "us"}),
    ]
    found = render(rules, decoded(), partner_data=False)
    assert found == [("gender", "F"), ("E-mail", "zoe@example.com"), ("origin", "us")]


SEX = {"name": "sex", "from": "gender", "values": {"M": "Male", "F": "Female"}}


@pytest.mark.parametrize(
    ("more", "given", "expected"),
    [
        pytest.param({}, "M", "Male", id="equal"),
        pytest.param({}, " m ", "Male", id="case and outer blanks do not matter"),
        pytest.param({}, "X", "X", id="no rule matches: itself"),
        pytest.param({"other": "Other"}, "X", "Other", id="no rule matches: other"),
        pytest.param({"other": "Other"}, "F", "Female", id="a rule goes before other"),
        pytest.param({"other": "Other"}, None, None, id="missing is not other"),
        pytest.param({"empty": "Unknown"}, None, "Unknown", id="missing: empty"),
        pytest.param({"empty": "Unknown"}, "  ", "Unknown", id="blank: empty"),
        pytest.param({"empty": ""}, None, "", id="missing: an empty text"),
        pytest.param({"empty": "Unknown", "other": "Other"}, "M", "Male", id="all three"),
        pytest.param({}, "Maſculine", "Maſculine", id="equal is the whole text"),
    ],
)
def test_custom_values(more: dict[str, str], given: str | None, expected: str | None) -> None:
    assert value(SEX | more, gender=given) == expected


def test_the_first_matching_rule_wins_and_numbers_are_matched_as_text() -> None:
    rules = [{"contains": "3", "value": "thirties"}, {"equal": "35", "value": "never reached"}]
    assert value({"name": "a", "from": "age", "rules": rules}, age=35) == "thirties"
    assert value({"name": "a", "from": "is_test", "rules": [{"equal": "false", "value": "live"}]}) == "live"


@pytest.mark.parametrize(
    ("expression", "given", "found"),
    [
        pytest.param("own", "Home OWNER", True, id="anywhere, in any case"),
        pytest.param("^own", "home owner", False, id="at the beginning"),
        pytest.param("er$", " home owner ", True, id="outer blanks do not count"),
        pytest.param(r"^\+?61[0-9]{9}$", "+61400000001", True, id="a phone"),
        pytest.param(r"^(gold|silver)-", "gold-member", True, id="alternatives"),
        pytest.param(".", "x" * (pattern.MAX_TEXT + 1), False, id="a text too long matches nothing"),
        pytest.param("stra(ss|ß)e", "Hauptstraße", True, id="beyond ASCII"),
    ],
)
def test_a_regular_expression_looks_anywhere(expression: str, given: str, found: bool) -> None:
    assert ValueRule(regex=expression, value="x").matches(given) is found


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        pytest.param("(a*)*b", "could run for ever", id="nested"),
        pytest.param("(a+)+$", "could run for ever", id="nested, plus"),
        pytest.param("(a|ab)*c", "could run for ever", id="a repeated choice"),
        pytest.param("(a|a)*c", "could run for ever", id="a repeated choice of the same"),
        pytest.param("(?:a?){0,300}b", "could run for ever", id="a repeated option"),
        pytest.param("a?" * 30 + "a" * 30, "could run for ever", id="options in a row"),
        pytest.param(".*.*x", "could run for ever", id="two repetitions from anywhere"),
        pytest.param("^.*.*.*x", "could run for ever", id="three repetitions from the beginning"),
        pytest.param("(?m)^.*.*x", "could run for ever", id="every line is a beginning"),
        pytest.param("(?:){60000}", "could run for ever", id="nothing, often"),
        pytest.param("((a{99}){99}){99}", "could run for ever", id="a million letters"),
        pytest.param(r"(a)\1", "back references", id="back reference"),
        pytest.param("(?=a)a", "look-arounds", id="look-ahead"),
        pytest.param("(?<!a)a", "look-arounds", id="look-behind"),
        pytest.param("(a)?(?(1)b|c)", "back references", id="condition"),
        pytest.param("a{99999999999}", "no regular expression", id="endless number"),
        pytest.param("(", "no regular expression", id="open bracket"),
        pytest.param("*", "no regular expression", id="nothing to repeat"),
        pytest.param("[[a]", "no regular expression", id="what Python will read otherwise one day"),
        pytest.param("a" * 201, "1 to 200", id="too long"),
        pytest.param("", "1 to 200", id="empty"),
    ],
)
def test_regular_expressions_refused(expression: str, says: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ValueRule(regex=expression, value="x")
    assert says in str(refused.value)


@given(
    st.text(st.sampled_from("a.b*+?|()[]{}1,0^$\\"), min_size=1, max_size=14),
    st.text(st.sampled_from("ab1"), max_size=3),
)
@settings(deadline=2_000)
def test_no_expression_that_is_taken_takes_long(expression: str, end: str) -> None:
    try:
        rule_ = ValueRule(regex=expression, value="x")
    except ValidationError:
        return
    rule_.matches("a" * (pattern.MAX_TEXT - len(end)) + end)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({"from": "opted_in_at", "format": "%d/%m/%Y %H:%M:%S"}, "08/03/2026 02:30:00", id="a time, in UTC"),
        pytest.param({"from": "opted_in_at", "format": "%Y-%m-%dT%H:%M:%S.%f%z", "zone": "Australia/Sydney"}, "2026-03-08T13:30:00.123457+1100", id="a time in a zone"),
        pytest.param({"from": "opted_in_at", "format": "%I:%M %p", "zone": "America/New_York"}, "09:30 PM", id="twelve hours"),
        pytest.param({"from": "opted_in_at", "format": "%s000"}, "1772937000000", id="Unix milliseconds"),
        pytest.param({"from": "consent.granted_at", "format": "%y%j"}, "26060", id="day of the year"),
        pytest.param({"from": "birth_date", "format": "%m/%d/%Y"}, "12/31/1990", id="a date"),
        pytest.param({"from": "birth_date", "format": "100%%"}, "100%", id="a percent sign"),
        pytest.param({"from": "opted_in_at", "format": "%d", "other": "x"}, "x", id="other goes before a format"),
        pytest.param({"from": "bid_price", "decimals": 2}, "1.25", id="money"),
        pytest.param({"from": "bid_price", "decimals": 1}, "1.3", id="half up"),
        pytest.param({"from": "age", "decimals": 2}, "35.00", id="a whole number"),
        pytest.param({"from": "email", "decimals": 2}, "zoe@example.com", id="no number"),
        pytest.param({"from": "answers.q2", "type": "number"}, 7, id="a number from text"),
        pytest.param({"from": "bid_price", "type": "number"}, 1.25, id="money as a number, because asked"),
        pytest.param({"from": "bid_price", "decimals": 2, "type": "number"}, 1.25, id="both"),
        pytest.param({"from": "postal_code", "type": "number"}, "02650", id="a leading zero stays"),
        pytest.param({"from": "email", "type": "number"}, "zoe@example.com", id="no number stays text"),
        pytest.param({"constant": "9007199254740991", "type": "number"}, 2**53 - 1, id="the largest whole number"),
        pytest.param({"constant": "9007199254740992", "type": "number"}, "9007199254740992", id="a long id stays text"),
        pytest.param({"constant": "0.1234567890123456", "type": "number"}, "0.1234567890123456", id="too many digits stay text"),
        pytest.param({"constant": "-0.50", "type": "number"}, -0.5, id="negative"),
        pytest.param({"constant": "1e5", "type": "number"}, "1e5", id="an exponent is no number"),
        pytest.param({"constant": "nan", "type": "number"}, "nan", id="nan is no number"),
        pytest.param({"constant": "\u0663", "type": "number"}, "\u0663", id="an Arabic digit is no number"),
        pytest.param({"constant": "Yes", "type": "boolean"}, True, id="yes"),
        pytest.param({"from": "gender", "values": {"F": "0"}, "type": "boolean"}, False, id="a rule's value is typed"),
        pytest.param({"constant": "maybe", "type": "boolean"}, "maybe", id="maybe stays text"),
        pytest.param({"from": "age", "type": "text"}, "35", id="a number as text"),
        pytest.param({"from": "is_test", "type": "text"}, "false", id="a boolean as text"),
        pytest.param({"from": "language", "type": "number"}, None, id="missing stays missing"),
        pytest.param({"from": "language", "type": "number", "empty": "0"}, 0, id="missing: empty, typed"),
    ],
)  # fmt: skip
def test_formats_and_types(given: dict[str, Any], expected: Value) -> None:
    found = value({"name": "x"} | given)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        pytest.param(
            {"from": "email", "format": "%Y"}, "format is for dates and times", id="format of a text"
        ),
        pytest.param({"from": "opted_in_at", "format": "%B"}, "the directives here are", id="a month's name"),
        pytest.param({"from": "opted_in_at", "format": "%-d"}, "the directives here are", id="glibc's own"),
        pytest.param(
            {"from": "opted_in_at", "format": "5%"}, "the directives here are", id="half a directive"
        ),
        pytest.param(
            {"from": "birth_date", "format": "%H"}, "the directives here are", id="the hour of a date"
        ),
        pytest.param(
            {"from": "birth_date", "format": "%d", "zone": "UTC"}, "zone goes with", id="the zone of a date"
        ),
        pytest.param({"from": "opted_in_at", "zone": "UTC"}, "zone goes with", id="a zone without a format"),
        pytest.param({"from": "opted_in_at", "format": "%d", "zone": "Sydney"}, "IANA", id="no such zone"),
        pytest.param(
            {"from": "opted_in_at", "decimals": 2}, "decimals is for numbers", id="decimals of a time"
        ),
        pytest.param(
            {"constant": "1", "decimals": 2}, "decimals is for numbers", id="decimals of a constant"
        ),
        pytest.param({"from": "age", "decimals": 7}, "less than or equal to 6", id="too many decimals"),
        pytest.param({"from": "age", "type": "int"}, "'text', 'number' or 'boolean'", id="another type"),
    ],
)
def test_formats_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as refused:
        rule({"name": "x"} | given)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        pytest.param("emial", id="no such field"),
        pytest.param("", id="empty"),
        pytest.param("attributes", id="a nested field whole"),
        pytest.param("attributes.", id="no part"),
        pytest.param("email.x", id="a part of a plain field"),
        pytest.param("consent.granted", id="a part consent does not have"),
        pytest.param({"name": "x"}, id="no source"),
        pytest.param({"name": "x", "from": "email", "constant": "y"}, id="two sources"),
        pytest.param({"name": "", "from": "email"}, id="no name"),
        pytest.param({"name": "a\nb", "from": "email"}, id="a name of two lines"),
        pytest.param({"name": "x" * 129, "from": "email"}, id="an endless name"),
        pytest.param({"name": "x", "from": "email", "values": {"M": True}}, id="a value that is no text"),
        pytest.param({"name": "x", "from": "email", "values": {False: "Norway"}}, id="NO unquoted"),
        pytest.param({"name": "x", "from": "email", "values": ["M"]}, id="values not a mapping"),
        pytest.param({"name": "x", "from": "email", "values": {}, "rules": []}, id="values and rules"),
        pytest.param({"name": "x", "from": "email", "rules": [{"value": "y"}]}, id="a rule without condition"),
        pytest.param({"name": "x", "from": "email", "rules": [{"equal": "a", "contains": "b", "value": "y"}]}, id="both"),
        pytest.param({"name": "x", "from": "email", "rules": [{"equal": "a", "regex": "b", "value": "y"}]}, id="equal and regex"),
        pytest.param({"name": "x", "from": "email", "rules": [{"contains": " ", "value": "y"}]}, id="matches everything"),
        pytest.param({"name": "x", "from": "email", "rules": [{"equal": "", "value": "y"}]}, id="matches nothing"),
        pytest.param({"name": "x", "from": "email", "rules": [{"equal": "a", "value": "y"}] * 501}, id="too many rules"),
        pytest.param({"name": "x", "constant": 5}, id="a constant that is no text"),
    ],
)  # fmt: skip
def test_rules_refused(given: Any) -> None:
    with pytest.raises(ValidationError):
        rule(given)


TEXT = st.text(st.sampled_from("abFM35@.-+ zo"), min_size=1, max_size=4).filter(str.strip)
CONDITIONS = st.builds(lambda contains, put: ValueRule(contains=contains, value=put), TEXT, st.just("kept"))
RULES = st.builds(
    lambda source, rules, empty, other: FieldRule(
        name="x", source=source, rules=tuple(rules), empty=empty, other=other
    ),
    st.sampled_from(SOURCES),
    st.lists(CONDITIONS, max_size=3),
    st.none() | st.just("nothing"),
    st.none() | st.just("something"),
)


@given(rule=RULES, kind=st.sampled_from(["WEBSITE_TRAFFIC", "UNKNOWN"]), partner=st.booleans())
def test_no_personal_data_leaves_where_the_campaign_does_not_allow_it(
    rule: FieldRule, kind: str, partner: bool
) -> None:
    given = decoded(campaign_type=kind)
    found = alike([rule], given, partner_data=partner)
    assert text(found) not in PERSONAL_VALUES
    if rule.source is not None and rule.source.partition(".")[0] in PERSONAL:
        # Neither the value nor which rule it met: what is told is the same for everybody.
        nobody = decoded(campaign_type=kind, **{name: None for name in event() if name in PERSONAL - NESTED})
        assert found == rule.empty == render([rule], nobody, partner_data=partner)[0][1]


@given(rule=RULES, kind=st.sampled_from(["EMAIL_SUBSCRIPTION", "WEBSITE_TRAFFIC", "LEAD", "UNKNOWN"]))
def test_no_partner_data_leaves_unless_the_connection_may_see_it(rule: FieldRule, kind: str) -> None:
    found = alike([rule], decoded(campaign_type=kind), partner_data=False)
    assert text(found) not in PARTNER_VALUES
    if rule.source in PARTNER:
        assert found == rule.empty


def test_partner_data_leaves_where_the_connection_may_see_it() -> None:
    found = [
        value(source, partner_data=True, campaign_type="UNKNOWN")
        for source in ("partner_id", "source", "confirmation_ref")
    ]
    assert tuple(found) == PARTNER_VALUES


def test_every_person_field_of_the_sample_counts_as_personal() -> None:
    leads = [text(value(source)) for source in SOURCES if source.partition(".")[0] in PERSONAL]
    assert set(PERSONAL_VALUES) <= set(leads)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ""),
        (1.25, "1.25"),
        (0.00001, "0.00001"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (-5, "-5"),
        ("", ""),
        ("x", "x"),
    ],
)
def test_cells(given: Value, expected: str) -> None:
    assert text(given) == expected


@pytest.mark.parametrize("digits", [27, 28, 40])
def test_a_number_of_many_digits_keeps_them_all(digits: int) -> None:
    assert formats.rounded("9" * digits + ".5", 1) == "9" * digits + ".5"
    assert formats.rounded("1" * digits, 6) == "1" * digits + ".000000"
