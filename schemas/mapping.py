"""Custom fields: from a referral to the columns or JSON members an advertiser chose."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

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

#: Campaign types whose referrals may carry personal data.
MAY_IDENTIFY = frozenset({CampaignType.EMAIL_SUBSCRIPTION, CampaignType.LEAD})

Value = str | int | bool | None


class ValueRule(BaseModel):
    """One custom value: the first rule that matches wins. Matching ignores case and outer blanks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    equal: str | None = None
    contains: str | None = None
    value: str

    @model_validator(mode="after")
    def _one_condition(self) -> ValueRule:
        if (self.equal is None) == (self.contains is None):
            raise ValueError("give either equal or contains")
        if not (self.equal or self.contains or "").strip():
            raise ValueError("a rule for blank values is written as empty, beside the rules")
        return self

    def matches(self, text: str) -> bool:
        given = text.strip().casefold()
        if self.equal is not None:
            return given == self.equal.strip().casefold()
        return str(self.contains).strip().casefold() in given


class FieldRule(BaseModel):
    """One column or JSON member. In YAML either a field's name alone, or:

    {name: sex, from: gender, rules: [{equal: M, value: Male}], empty: Unknown, other: Other}
    {name: origin, constant: marketplace}

    `from` is a field of the referral, `attributes.<key>` or `answers.<question_id>`.
    `values: {M: Male}` is short for a list of `equal` rules.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    name: Annotated[str, Field(min_length=1, max_length=128)]
    source: Annotated[str | None, Field(alias="from")] = None
    constant: str | None = None
    rules: Annotated[tuple[ValueRule, ...], Field(max_length=500)] = ()
    #: What stands for a missing or blank value.
    empty: str | None = None
    #: What stands for a value no rule matches; without it the value itself.
    other: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"name": given, "from": given}
        if isinstance(given, dict) and "values" in given:
            given = dict(given)
            values = given.pop("values")
            if not isinstance(values, Mapping) or "rules" in given:
                raise ValueError("values is a mapping such as {M: Male}, given instead of rules")
            if not all(isinstance(text, str) for pair in values.items() for text in pair):
                raise ValueError("both sides of values are text: put numbers, yes, no and dates in quotes")
            given["rules"] = [{"equal": equal, "value": value} for equal, value in values.items()]
        return given

    @model_validator(mode="after")
    def _has_one_source(self) -> FieldRule:
        if not self.name.isprintable():
            raise ValueError("a field's name is one line of printable text")
        if (self.source is None) == (self.constant is None):
            raise ValueError("give either from or constant")
        if self.source is not None:
            _check_source(self.source)
        return self


def _check_source(source: str) -> None:
    head, dot, rest = source.partition(".")
    if head in NESTED and not rest:
        raise ValueError(f"say which part of {head}: {head}.<name>")
    if head == "consent" and rest not in CONSENT:
        raise ValueError(f"consent has the parts {', '.join(sorted(CONSENT))}")
    if head not in KNOWN or (dot and head not in NESTED):
        near = difflib.get_close_matches(head, KNOWN, n=1)
        hint = f"did you mean {near[0]}?" if near else "the fields are listed in avro/referral_event.v1.avsc"
        raise ValueError(f"referrals have no field of this name: {hint}")


def render(rules: Sequence[FieldRule], referral: Referral, *, partner_data: bool) -> list[tuple[str, Value]]:
    """The (name, value) pairs of `rules`, in their order.

    Values are text, int, bool or None; times are ISO 8601 in UTC, dates ISO 8601, money is text
    (never a float), ids and postal codes stay text.
    """
    may_identify = referral.campaign_type in MAY_IDENTIFY
    return [
        (rule.name, _value(rule, referral, may_identify=may_identify, partner_data=partner_data))
        for rule in rules
    ]


def text(value: Value) -> str:
    """A value as a cell of a file: None is empty, booleans are true and false."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _value(rule: FieldRule, referral: Referral, *, may_identify: bool, partner_data: bool) -> Value:
    if rule.source is None:
        return rule.constant
    head = rule.source.partition(".")[0]
    if (head in PERSONAL and not may_identify) or (head in PARTNER and not partner_data):
        return rule.empty
    value = _plain(_look_up(rule.source, referral.fields))
    if value is None or (isinstance(value, str) and not value.strip()):
        return rule.empty if rule.empty is not None else value
    if not rule.rules and rule.other is None:
        return value
    given = text(value)
    for condition in rule.rules:
        if condition.matches(given):
            return condition.value
    return rule.other if rule.other is not None else value


def _look_up(source: str, fields: Mapping[str, Any]) -> Any:
    head, dot, rest = source.partition(".")
    value = fields.get(head)
    if not dot or value is None:
        return value
    if head == "answers":
        for answer in value:
            if answer["question_id"] == rest:
                return answer["answer_label"] or answer["answer_code"]
        return None
    return value.get(rest)


def _plain(value: Any) -> Value:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)
