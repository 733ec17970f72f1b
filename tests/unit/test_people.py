"""The demo's referrals are complete, varied, accepted by the schema, and the same for a seed."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime
from itertools import islice

import pytest

from deploy.embedded.campaigns import CAMPAIGN_TYPES, campaigns
from deploy.embedded.people import referrals
from schemas import referral

ACCOUNTS = [f"account-{number:02d}" for number in range(50)]
AT = datetime(2026, 3, 2, 8, 30, 0, 123456, tzinfo=UTC)
COUNT = 3000

#: Members that life leaves out now and then, and how many of a hundred referrals must have them.
SOMETIMES = {"address2": 35, "gender": 95}


@pytest.fixture(scope="module")
def events() -> list[dict]:
    return list(referrals(1, COUNT, ACCOUNTS, AT))


def test_every_event_is_encoded_and_decoded_whole(events):
    sizes = []
    for event in events:
        value = referral.encode(event)
        sizes.append(len(value))
        assert referral.decode(value).fields == event
    mean = sum(sizes) / len(sizes)
    print(f"mean {mean:.0f} bytes, least {min(sizes)}, most {max(sizes)}")
    assert mean >= 600


def test_every_field_is_filled_as_in_life(events):
    for field in referral.definition()["fields"]:
        name = field["name"]
        filled = sum(event[name] not in (None, "", [], {}) for event in events)
        assert filled * 100 >= SOMETIMES.get(name, 100) * COUNT, name


def test_a_seed_gives_the_same_referrals_and_another_seed_others(events):
    assert list(referrals(1, COUNT, ACCOUNTS, AT)) == events
    assert list(islice(referrals(1, 10**9, ACCOUNTS, AT), 10)) == events[:10]
    ids = {event["referral_id"] for event in events}
    assert not ids & {event["referral_id"] for event in referrals(2, COUNT, ACCOUNTS, AT)}


def test_ids_are_unique(events):
    assert len({event["referral_id"] for event in events}) == COUNT
    assert len({event["event_id"] for event in events}) == COUNT


def test_every_account_gets_some_and_the_first_most(events):
    shares = Counter(event["account_id"] for event in events)
    assert set(shares) == set(ACCOUNTS)
    assert shares[ACCOUNTS[0]] > 3 * shares[ACCOUNTS[-1]]


def test_campaigns_belong_to_their_account_and_are_of_every_type(events):
    for event in events:
        known = {campaign.campaign_id: campaign for campaign in campaigns(event["account_id"])}
        assert event["campaign_type"] == known[event["campaign_id"]].campaign_type
    assert {event["campaign_type"] for event in events} == set(CAMPAIGN_TYPES)
    ids = [campaign.campaign_id for account in ACCOUNTS for campaign in campaigns(account)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("field", "pattern"),
    [
        pytest.param("postal_code", r"0\d+", id="postal codes that begin with zero"),
        pytest.param("postal_code", r"SW1A \d[A-Z]{2}", id="British postal codes"),
        pytest.param("phone_e164", r"\+\d{8,15}", id="phones with a plus"),
        pytest.param("phone_raw", r"0[\d /.-]+", id="phones as typed at home"),
        pytest.param("first_name", r"[=+@-].*", id="names like formulas"),
        pytest.param("last_name", r".*'.*", id="apostrophes"),
        pytest.param("last_name", r".*,.*", id="commas"),
        pytest.param("first_name", r'.*".*', id="quotes"),
        pytest.param("last_name", r"[^\x00-\x7f]+", id="names without one ASCII letter"),
        pytest.param("last_name", r".*[ÄÖÜäöüßéèçñłśąęãõā].*", id="names with accents"),
        pytest.param("address2", r".*\n.*", id="line breaks inside a cell"),
        pytest.param("email", r".* ", id="addresses with a trailing blank"),
        pytest.param("gender", r"M", id="genders that custom values map"),
        pytest.param("country", r"JP", id="Japan"),
        pytest.param("ip_address", r"2001:db8:.*", id="IPv6"),
    ],
)
def test_the_referrals_are_varied(events, field: str, pattern: str):
    assert any(re.fullmatch(pattern, event[field] or "", re.DOTALL) for event in events)


def test_nothing_generated_can_reach_anybody(events):
    for event in events:
        assert event["email"].strip().lower().endswith((".example", "@example.com", "@example.org"))
        assert event["email"].isascii()
        assert event["ip_address"].startswith(("203.0.113.", "2001:db8:"))


def test_times_are_before_they_are_published(events):
    assert all(event["opted_in_at"] <= event["produced_at"] == AT for event in events)
    late = sum((AT - event["opted_in_at"]).days >= 1 for event in events)
    assert 0 < late < COUNT / 20
