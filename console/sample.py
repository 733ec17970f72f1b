"""A referral to show or try a connection with: an invented person's, or one from a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

from console.publish import MAX_LINE_BYTES, Fault, parsed
from consumer.route import AnyConnection
from consumer.service import Stop
from schemas import referral as referrals
from schemas import template
from schemas.connection import HttpConnection
from schemas.mapping import FieldRule
from schemas.referral import Referral
from schemas.sources import MAY_IDENTIFY, PARTNER, PERSONAL

#: Nobody's: a reserved domain (RFC 2606), a number and addresses kept for documentation.
_EMAIL = "alex.sample@example.com"


@dataclass(frozen=True, slots=True)
class Sample:
    """`given`: it stands in a file, so it is not ours to fit to the connection."""

    event: Mapping[str, Any]
    given: bool

    def referral(self) -> Referral:
        """As the services see it: encoded and decoded. Raises Stop."""
        found = referrals.decode(referrals.encode(self.event))
        if found.event_type.removes:
            raise Stop("a removal is no delivery: give a referral whose event_type is CREATED or CORRECTED")
        return found

    def flagged(self) -> Sample:
        """The same as a test of its own: no receiver and no receipt can take it for another."""
        now = datetime.now(UTC)
        ids = {"event_id": str(uuid4()), "referral_id": str(uuid4())}
        return Sample({**self.event, **ids, "is_test": True, "produced_at": now}, self.given)


def read(path: str) -> Sample:
    """One referral as `referrals publish` takes it, on one line or several. Raises Stop."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_LINE_BYTES + 1)
    except OSError as error:
        raise Stop(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_LINE_BYTES:
        raise Stop(f"{path}: is longer than {MAX_LINE_BYTES:,} bytes: give one referral")
    event = parsed(1, content, referrals.encode)
    if isinstance(event, Fault):
        raise Stop(f"{path}: not one referral event: {event.what}")
    return Sample(referrals.decode(event.value).fields, given=True)


def invented(account: str, connection: AnyConnection) -> Sample:
    """A person nobody is, with every field filled, of a campaign the connection gets."""
    now = datetime.now(UTC)
    campaign = "sample-campaign" if connection.campaigns == "all" else connection.campaigns[0]
    asked = [source.partition(".") for source in sources_of(connection)]
    return Sample(
        {
            "event_id": str(uuid4()),
            "referral_id": str(uuid4()),
            "event_type": "CREATED",
            "revision": 1,
            "is_test": False,
            "account_id": account,
            "campaign_id": campaign,
            "campaign_name": "Sample campaign",
            "campaign_type": "LEAD",
            "audience_id": "sample-audience",
            "audience_name": "Sample audience",
            "creative_id": "sample-creative",
            "creative_name": "Sample creative",
            "ad_text": "Win a sample",
            "ad_text_html": "<b>Win a sample</b>",
            "ad_response": "Yes, please",
            "partner_id": "sample-partner",
            "source": "sample-source",
            "confirmation_ref": "sample-order",
            "tracking_id": "sample-tracking",
            "email": _EMAIL,
            "email_sha256": hashlib.sha256(_EMAIL.encode()).hexdigest(),
            "email_md5": hashlib.md5(_EMAIL.encode(), usedforsecurity=False).hexdigest(),
            "title": "Mx",
            "first_name": "Alex",
            "last_name": "Sample",
            "gender": "F",
            "birth_date": date(1990, 1, 1),
            "age": now.year - 1990,
            "phone_e164": "+12025550143",
            "phone_raw": "(202) 555-0143",
            "address1": "1 Sample Street",
            "address2": "Floor 2",
            "city": "Washington",
            "state": "DC",
            "postal_code": "20001",
            "country": "US",
            "language": "en",
            "ip_address": "192.0.2.1",
            "user_agent": "Mozilla/5.0",
            "browser": "Firefox",
            "browser_version": "140.0",
            "device": "desktop",
            "answers": [
                {
                    "question_id": name,
                    "question_text": "A sample question?",
                    "answer_code": "1",
                    "answer_label": "Sample answer",
                }
                for head, _, name in asked
                if head == "answers"
            ],
            "consent": {
                "granted_at": now,
                "text": "I agree to be contacted.",
                "text_version": "1",
                "page_url": "https://partner.example/sample",
                "method": "checkbox",
                "channels": ["email", "phone"],
            },
            "bid_price": Decimal("1.2500"),
            "currency": "USD",
            "attributes": {name: "sample" for head, _, name in asked if head == "attributes"},
            "opted_in_at": now,
            "produced_at": now,
            "time_zone": "America/New_York",
        },
        given=False,
    )


def sources_of(connection: AnyConnection) -> list[str]:
    """The fields of the referral that a delivery is made of, each once, in order. Pure."""
    rules: tuple[FieldRule, ...] = connection.fields
    found = [rule.source for rule in rules if rule.source is not None]
    if isinstance(connection, HttpConnection):
        found += sorted(template.fields_of([connection.url, *connection.headers.values()]))
    return list(dict.fromkeys(found))


def kept_back(connection: AnyConnection, referral: Referral) -> Iterator[str]:
    """What the connection asks for and this referral has, but may not leave: a line each, no value. Pure."""
    for source in sources_of(connection):
        head = source.partition(".")[0]
        if referral.fields.get(head) in (None, [], {}):
            continue
        if head in PERSONAL and referral.campaign_type not in MAY_IDENTIFY:
            yield f"{source} is kept back: {referral.campaign_type} campaigns give no personal data away"
        elif head in PARTNER and not connection.partner_data:
            yield f"{source} is kept back: the connection does not say partner_data: true"
