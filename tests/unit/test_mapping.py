"""Custom fields: what an advertiser gets, and what nobody gets whatever the rules say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.mapping import (
    CONSENT,
    KNOWN,
    NESTED,
    PARTNER,
    PERSONAL,
    FieldRule,
    Value,
    ValueRule,
    render,
    text,
)
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
    [(_, found)] = render([rule(given)], decoded(**changes), partner_data=partner_data)
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
    [(_, found)] = render([rule], given, partner_data=partner)
    assert text(found) not in PERSONAL_VALUES
    if rule.source is not None and rule.source.partition(".")[0] in PERSONAL:
        # Neither the value nor which rule it met: what is told is the same for everybody.
        nobody = decoded(campaign_type=kind, **{name: None for name in event() if name in PERSONAL - NESTED})
        assert found == rule.empty == render([rule], nobody, partner_data=partner)[0][1]


@given(rule=RULES, kind=st.sampled_from(["EMAIL_SUBSCRIPTION", "WEBSITE_TRAFFIC", "LEAD", "UNKNOWN"]))
def test_no_partner_data_leaves_unless_the_connection_may_see_it(rule: FieldRule, kind: str) -> None:
    [(_, found)] = render([rule], decoded(campaign_type=kind), partner_data=False)
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
    [(None, ""), (True, "true"), (False, "false"), (0, "0"), (-5, "-5"), ("", ""), ("x", "x")],
)
def test_cells(given: Value, expected: str) -> None:
    assert text(given) == expected
