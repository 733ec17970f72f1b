"""The fields of a referral by name, and which of them may leave. Pure.

Its law: personal data leaves only where the campaign's type allows it, partner data only where the
connection may see it, whatever a rule or a template asks for.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from schemas.referral import CampaignType, Referral, definition

#: Every field upstream can send, by its Avro name.
KNOWN = frozenset(field["name"] for field in definition()["fields"])

#: Fields that say who a person is: they leave only where the campaign type allows it.
PERSONAL = frozenset(
    field["name"] for field in definition()["fields"] if "Personal data." in field.get("doc", "")
) | {"answers", "consent", "attributes"}

#: Who the partner is: leaves only where the connection may see it.
PARTNER = frozenset({"partner_id", "source", "confirmation_ref"})

#: Fields a rule names a part of, as `<field>.<part>`.
NESTED = frozenset({"attributes", "answers", "consent"})

#: The parts `consent` has; those of the other two are upstream's.
CONSENT = frozenset(
    part["name"]
    for field in definition()["fields"]
    if field["name"] == "consent"
    for branch in field["type"]
    if isinstance(branch, dict)
    for part in branch["fields"]
)

#: Ways to read a source that are kept made: connections ask for the same few.
MAX_KEPT = 4_096

Reader = Callable[[Mapping[str, Any]], Any]
"""What stands at one source, from a referral's fields."""

#: Campaign types whose referrals may carry personal data.
MAY_IDENTIFY = frozenset({CampaignType.EMAIL_SUBSCRIPTION, CampaignType.LEAD})


def _moments() -> tuple[frozenset[str], frozenset[str]]:
    """The sources that are dates, and those that are times."""
    dates, times = set(), set()
    consent = {"name": "consent.granted_at", "type": {"logicalType": "timestamp-micros"}}
    for field in [*definition()["fields"], consent]:
        for branch in field["type"] if isinstance(field["type"], list) else [field["type"]]:
            logical = branch.get("logicalType", "") if isinstance(branch, dict) else ""
            if logical.startswith("timestamp"):
                times.add(field["name"])
            elif logical == "date":
                dates.add(field["name"])
    return frozenset(dates), frozenset(times)


#: Sources that a `format` spells.
DATES, TIMES = _moments()


def check(source: str) -> None:
    """Raises ValueError, in words for people, where referrals have no such field."""
    head, dot, rest = source.partition(".")
    if head in NESTED and not rest:
        raise ValueError(f"say which part of {head}: {head}.<name>")
    if head == "consent" and rest not in CONSENT:
        raise ValueError(f"consent has the parts {', '.join(sorted(CONSENT))}")
    if head not in KNOWN or (dot and head not in NESTED):
        near = difflib.get_close_matches(head, KNOWN, n=1)
        hint = f"did you mean {near[0]}?" if near else "the fields are listed in avro/referral_event.v1.avsc"
        raise ValueError(f"referrals have no field of this name: {hint}")


def allowed(source: str, referral: Referral, *, partner_data: bool) -> Any:
    """What stands at `source`; None where the campaign's type or the connection keeps it here."""
    return reader(source, may_identify(referral), partner_data)(referral.fields)


def may_identify(referral: Referral) -> bool:
    """Whether its campaign's type lets personal data leave."""
    return referral.campaign_type in MAY_IDENTIFY


@lru_cache(maxsize=MAX_KEPT)
def reader(source: str, personal_data: bool, partner_data: bool) -> Reader:
    """What `allowed` answers for `source`, made once for all referrals that are allowed the same."""
    head, dot, rest = source.partition(".")
    if (head in PERSONAL and not personal_data) or (head in PARTNER and not partner_data):
        return _nothing
    if not dot:
        return lambda fields: fields.get(head)
    if head == "answers":
        return lambda fields: _answer(fields.get(head), rest)
    return lambda fields: (fields.get(head) or {}).get(rest)


def _nothing(_: Mapping[str, Any]) -> None:
    return None


def _answer(answers: list[dict[str, Any]] | None, question: str) -> Any:
    for answer in answers or ():
        if answer["question_id"] == question:
            return answer["answer_label"] or answer["answer_code"]
    return None
