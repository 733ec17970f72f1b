"""Referrals as life sends them, for the demo and the tests: varied, complete, and the same for a seed.

Addresses of mail and of networks lie in ranges kept for documentation: nothing generated here can
reach anybody.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cache
from itertools import accumulate
from random import Random
from typing import Any, TypeVar

from deploy.embedded.campaigns import Campaign, campaigns
from deploy.embedded.countries import COUNTRIES, Country

Choice = TypeVar("Choice")

#: One person in so many has typed something that breaks careless files: formulas, line breaks, quotes.
ODD_ONE_IN = 200
ODD_NAMES = (
    "=Anna",
    "-Lee",
    "+Joe",
    "@rita",
    '="Max"',
    "Zoë 🌻",
    'Łu, "Lu"',
    "  Sam  ",
    "tab\there",
    "Bobby'); --",
)
ODD_LINES = ("Gate code #4\nring twice", '=HYPERLINK("x")', 'the "blue" door; left', "-")

MAIL_DOMAINS = ("mail.example", "inbox.example", "example.com", "example.org", "post.example")
SITES = ("tickets", "cinema", "flowers", "shoes", "parking", "groceries", "hotel", "gaming")
TIERS = ("none", "silver", "gold", "platinum")
#: (family, version, device, user agent)
BROWSERS = (
    (
        "Chrome",
        "139.0",
        "desktop",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/139.0.0.0 Safari/537.36",
    ),
    (
        "Safari",
        "18.5",
        "phone",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) Version/18.5 Safari/604.1",
    ),
    ("Firefox", "141.0", "desktop", "Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0"),
    ("Samsung Internet", "28.0", "phone", "Mozilla/5.0 (Linux; Android 15) SamsungBrowser/28.0 Mobile"),
    ("Edge", "138.0", "tablet", "Mozilla/5.0 (Windows NT 10.0; Touch) Chrome/138.0.0.0 Edg/138.0.0.0"),
)
#: (id, text, (code, label) of each choice)
QUESTIONS = (
    (
        "home",
        "Do you own your home?",
        (("OWN", "Yes, I own it"), ("RENT", "No, I rent"), ("NA", "I'd rather not")),
    ),
    (
        "when",
        "When would you like to start?",
        (("0", "Right away"), ("30", "Within 30 days"), ("LATER", "Later")),
    ),
    ("budget", "Monthly budget?", (("LOW", "< 50"), ("MID", "50 - 100"), ("HIGH", "> 100"))),
    ("contact", "How may we reach you?", (("EMAIL", "Email"), ("PHONE", "Phone, evenings"), ("SMS", "Text"))),
)


def referrals(seed: int, count: int, accounts: Sequence[str], at: datetime) -> Iterator[dict[str, Any]]:
    """`count` new referrals, published at `at` (aware), as `schemas.referral.encode` wants them.

    Accounts get fewer the later they stand in `accounts`, as big and small advertisers do.
    """
    source = Random(seed)
    shares = list(accumulate(1 / (3 + place) for place in range(len(accounts))))
    for _ in range(count):
        account = source.choices(accounts, cum_weights=shares)[0]
        yield _referral(source, account, _pick(source, campaigns(account)), _pick(source, COUNTRIES), at)


def _referral(
    source: Random, account: str, campaign: Campaign, country: Country, at: datetime
) -> dict[str, Any]:
    chance = source.random
    opted_in = at - timedelta(microseconds=int(chance() * 90_000_000))
    if chance() < 0.01:  # a partner's queue was stuck: late events exist
        opted_in -= timedelta(days=1 + int(chance() * 5))
    city, state, postal = _pick(source, country.cities)
    browser, version, device, agent = _pick(source, BROWSERS)
    site = _pick(source, SITES)
    creative = int(chance() * 6)
    offer = country.offer.format(campaign=campaign.name)
    unique = source.getrandbits(128)
    return {
        "event_id": _uuid(source),
        "referral_id": _uuid(source),
        "event_type": "CREATED",
        "revision": 0,
        "is_test": False,
        "account_id": account,
        "campaign_id": campaign.campaign_id,
        "campaign_name": campaign.name,
        "campaign_type": campaign.campaign_type,
        "audience_id": str(9_000_000_000_000_000_000 + int(chance() * 40)),
        "audience_name": f"{country.code} {site} buyers",
        "creative_id": f"cr-{campaign.campaign_id[-6:]}-{creative}",
        "creative_name": f"{campaign.name} v{creative}",
        "ad_text": offer,
        "ad_text_html": f"<b>{offer}</b>",
        "ad_response": country.accept,
        "partner_id": f"partner-{site}-{country.code.lower()}",
        "source": f"{site}-confirmation-page",
        "confirmation_ref": f"{site[:2].upper()}{unique % 100_000_000:08d}",
        "tracking_id": f"{unique:032x}",
        **_person(source, country, at),
        "city": city,
        "state": state,
        "postal_code": _filled(source, postal),
        "country": country.code,
        "language": country.language,
        "ip_address": f"203.0.113.{unique % 254 + 1}" if chance() < 0.8 else f"2001:db8::{unique % 65_536:x}",
        "user_agent": agent,
        "browser": browser,
        "browser_version": version,
        "device": device,
        "answers": _answers(source),
        "consent": {
            "granted_at": opted_in,
            "text": country.consent,
            "text_version": f"{country.language}-7",
            "page_url": f"https://{site}.example/{country.code.lower()}/thank-you",
            "method": "button",
            "channels": ["email", "phone"] if chance() < 0.6 else ["email"],
        },
        "bid_price": Decimal(int(chance() * 120_000) + 500).scaleb(-4),
        "currency": country.currency,
        "attributes": {
            "loyalty_tier": _pick(source, TIERS),
            "cart_value": f"{chance() * 300:.2f}",
            "vertical": site,
        },
        "opted_in_at": opted_in,
        "produced_at": at,
        "time_zone": country.zone,
        "schema_version": 1,
    }


def _person(source: Random, country: Country, at: datetime) -> dict[str, Any]:
    chance = source.random
    man = chance() < 0.5
    first, last = _pick(source, country.men if man else country.women), _pick(source, country.surnames)
    number = int(chance() * 100_000)
    email = f"{_ascii(first)}.{_ascii(last)}{number}@{_pick(source, MAIL_DOMAINS)}"
    second = _pick(source, country.second_lines) if chance() < 0.45 else None
    if chance() * ODD_ONE_IN < 1:
        first = _pick(source, ODD_NAMES)
    if chance() * ODD_ONE_IN < 1:
        second = _pick(source, ODD_LINES)
    digits = f"{int(chance() * 10**country.digits):0{country.digits}d}"
    birth = date(1940 + int(chance() * 67), 1 + int(chance() * 12), 1 + int(chance() * 28))
    trimmed = email.encode()
    return {
        "email": email if number % 20 else f"{email[0].upper()}{email[1:]} ",  # as typed: capitals, a blank
        "email_sha256": hashlib.sha256(trimmed).hexdigest(),
        "email_md5": hashlib.md5(trimmed, usedforsecurity=False).hexdigest(),
        "title": country.titles[man],
        "first_name": first,
        "last_name": last,
        "gender": country.genders[man] if number % 25 else (None, "", "X", "d", "m ")[number % 5],
        "birth_date": birth,
        "age": at.year - birth.year - ((at.month, at.day) < (birth.month, birth.day)),
        "phone_e164": country.prefix + digits,
        "phone_raw": _pick(source, country.local).format(*digits),
        "address1": country.address.format(number=number % 250 + 1, street=_pick(source, country.streets)),
        "address2": second,
    }


def _answers(source: Random) -> list[dict[str, str]]:
    first = int(source.random() * len(QUESTIONS))
    found = []
    for question_id, text, choices in (QUESTIONS[first], QUESTIONS[first - 1])[
        : 1 + int(source.random() * 2)
    ]:
        code, label = _pick(source, choices)
        found.append(
            {"question_id": question_id, "question_text": text, "answer_code": code, "answer_label": label}
        )
    return found


def _pick(source: Random, choices: Sequence[Choice]) -> Choice:
    """Three times as fast as Random.choice, and even enough for lists this short."""
    return choices[int(source.random() * len(choices))]


def _uuid(source: Random) -> str:
    digits = f"{source.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def _filled(source: Random, pattern: str) -> str:
    bits = source.getrandbits(64)
    filled = []
    for sign in pattern:
        if sign == "#":
            bits, number = divmod(bits, 10)
            filled.append("0123456789"[number])
        elif sign == "@":
            bits, number = divmod(bits, 20)
            filled.append("ABDEFGHJLNPQRSTUWXYZ"[number])
        else:
            filled.append(sign)
    return "".join(filled)


@cache
def _ascii(name: str) -> str:
    """A name as people put it into a mail address; where nothing of it is left, a stand-in of its own."""
    plain = unicodedata.normalize("NFKD", name).replace("ł", "l").replace("Ł", "L").replace("ß", "ss")
    kept = "".join(letter for letter in plain.lower() if letter.isascii() and letter.isalnum())
    return kept or f"u{hashlib.sha256(name.encode()).hexdigest()[:6]}"
