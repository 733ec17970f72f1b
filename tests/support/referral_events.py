"""One full, realistic referral event, and variations of it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from schemas import referral
from schemas.referral import Referral

#: Every value that says who the person is; none of them may show where personal data may not.
PERSONAL_VALUES = (
    "Zoë", "Nguyễn", "zoe@example.com", "e3b0c442", "d41d8cd9", "Ms", "F", "1990-12-31", "35",
    "+61400000001", "0400 000 001", "1 High St", "Unit 7", "Wagga", "NSW", "02650", "203.0.113.9",
    "Mozilla/5.0", "Fortnightly", "tick-box", "gold-member", "2026-03-01T00:00:00Z",
)  # fmt: skip


def event(**changes: Any) -> dict[str, Any]:
    """As `referral.encode` wants it, with `changes`."""
    return {
        "event_id": "0b7e4d0a-4f89-41d3-9a0c-0305e82c3301",
        "referral_id": "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
        "event_type": "CREATED",
        "revision": 2,
        "is_test": False,
        "account_id": "acme",
        "campaign_id": "c-1",
        "campaign_name": "Spring",
        "campaign_type": "LEAD",
        "partner_id": "partner-77",
        "source": "checkout-3",
        "confirmation_ref": "order-9912",
        "ad_response": "Yes, please",
        "email": "zoe@example.com",
        "email_sha256": "e3b0c442",
        "email_md5": "d41d8cd9",
        "title": "Ms",
        "first_name": "Zoë",
        "last_name": "Nguyễn",
        "gender": "F",
        "birth_date": date(1990, 12, 31),
        "age": 35,
        "phone_e164": "+61400000001",
        "phone_raw": "0400 000 001",
        "address1": "1 High St",
        "address2": "Unit 7",
        "city": "Wagga",
        "state": "NSW",
        "postal_code": "02650",
        "country": "AU",
        "ip_address": "203.0.113.9",
        "user_agent": "Mozilla/5.0",
        "answers": [
            {
                "question_id": "q1",
                "question_text": "How often?",
                "answer_code": "2",
                "answer_label": "Fortnightly",
            },
            {"question_id": "q2", "question_text": None, "answer_code": "7", "answer_label": None},
        ],
        "consent": {
            "granted_at": datetime(2026, 3, 1, tzinfo=UTC),
            "text": "I agree",
            "text_version": None,
            "page_url": None,
            "method": "tick-box",
            "channels": ["email", "sms"],
        },
        "bid_price": Decimal("1.2500"),
        "currency": "AUD",
        "attributes": {"tier": "gold-member"},
        "opted_in_at": datetime(2026, 3, 8, 2, 30, 0, 123457, tzinfo=UTC),
        "produced_at": datetime(2026, 3, 8, 2, 30, 1, 999999, tzinfo=UTC),
        **changes,
    }


def decoded(**changes: Any) -> Referral:
    return referral.decode(referral.encode(event(**changes)))
