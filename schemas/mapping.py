"""Custom fields: from a referral to the columns or JSON members an advertiser chose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache, partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from schemas import formats, grammar, pattern, sources
from schemas.referral import Referral
from schemas.sources import DATES, TIMES

#: Values of one column whose rule is remembered: people choose between fewer.
MAX_CHOSEN = 1_000

#: A float only where `type: number` asks for one and it keeps every digit.
Value = str | int | float | bool | None


class ValueRule(BaseModel):
    """One custom value: the first rule that matches wins. Matching ignores case and outer blanks.

    `regex`: a Python regular expression found anywhere in the value: ^ and $ stand for its two ends.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    equal: str | None = None
    contains: str | None = None
    regex: Annotated[str, AfterValidator(pattern.check)] | None = None
    value: str

    @model_validator(mode="after")
    def _one_condition(self) -> ValueRule:
        given = [text for text in (self.equal, self.contains, self.regex) if text is not None]
        if len(given) != 1:
            raise ValueError("give one of equal, contains and regex")
        if not given[0].strip():
            raise ValueError("a rule for blank values is written as empty, beside the rules")
        return self

    def matches(self, text: str) -> bool:
        if self.regex is not None:
            return pattern.found(self.regex, text.strip())
        given = text.strip().casefold()
        if self.equal is not None:
            return given == self.equal.strip().casefold()
        return str(self.contains).strip().casefold() in given


class FieldRule(BaseModel):
    """One column or JSON member. In YAML either a field's name alone, or:

    {name: sex, from: gender, rules: [{equal: M, value: Male}], empty: Unknown, other: Other}
    {name: origin, constant: marketplace}
    {name: signed_up, from: opted_in_at, format: "%d/%m/%Y %H:%M", zone: Europe/Paris}
    {name: price, from: bid_price, decimals: 2, type: number}

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
    #: A date or time as strftime's directives spell it; times in `zone`, by default UTC.
    format: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    zone: grammar.Zone | None = None
    #: A number with exactly so many decimals, half up.
    decimals: Annotated[grammar.Whole, Field(ge=0, le=6)] | None = None
    #: What the value is in JSON, whatever it came from. Text that says no number or no boolean stays
    #: text, and so does a number with more digits than every JSON reader keeps: ids stay whole.
    type: Literal["text", "number", "boolean"] | None = None

    @property
    def is_source_alone(self) -> bool:
        """Whether it leaves every value as it stands."""
        changes = (self.empty, self.other, self.format, self.decimals, self.type)
        return not self.rules and all(change is None for change in changes)

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
            sources.check(self.source)
        self._check_format()
        return self

    def _check_format(self) -> None:
        moment = self.source in DATES | TIMES
        if self.format is not None and not moment:
            raise ValueError(f"format is for dates and times: {', '.join(sorted(DATES | TIMES))}")
        if self.format is not None:
            formats.check(self.format, time=self.source in TIMES)
        if self.zone is not None and (self.source not in TIMES or self.format is None):
            raise ValueError("zone goes with the format of a time: leave it out")
        if self.decimals is not None and (moment or self.source is None):
            raise ValueError("decimals is for numbers: leave it out")


def render(rules: Sequence[FieldRule], referral: Referral, *, partner_data: bool) -> list[tuple[str, Value]]:
    """The (name, value) pairs of `rules`, in their order.

    Values are text, int, bool or None; times are ISO 8601 in UTC, dates ISO 8601, money is text
    (never a float), ids and postal codes stay text: unless the rule says otherwise.
    """
    return [(rule.name, _rendered(rule, referral, partner_data)) for rule in rules]


class Columns:
    """`rules` made ready for many referrals: `cells` are the values `render` gives, `pairs` its pairs."""

    def __init__(self, rules: Sequence[FieldRule], *, partner_data: bool) -> None:
        self._names = [rule.name for rule in rules]
        self._with_person = [_column(rule, True, partner_data) for rule in rules]
        self._without = [_column(rule, False, partner_data) for rule in rules]

    def cells(self, referral: Referral) -> list[Value]:
        columns = self._with_person if sources.may_identify(referral) else self._without
        fields = referral.fields
        return [column(fields) for column in columns]

    def pairs(self, referral: Referral) -> list[tuple[str, Value]]:
        return list(zip(self._names, self.cells(referral), strict=True))


def source_text(source: str, referral: Referral, *, partner_data: bool) -> str:
    """A field's value as text; empty where it is missing or may not leave."""
    return text(_plain(sources.allowed(source, referral, partner_data=partner_data)))


def text(value: Value) -> str:
    """A value as a cell of a file: None is empty, booleans are true and false."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return format(Decimal(repr(value)), "f") if isinstance(value, float) else str(value)


def _column(rule: FieldRule, personal: bool, partner_data: bool) -> Callable[[Mapping[str, Any]], Value]:
    """From a referral's fields to the rule's value."""
    if rule.source is None:
        constant = _typed(rule, rule.constant)
        return lambda _: constant
    read = sources.reader(rule.source, personal, partner_data)
    if rule.is_source_alone:
        return lambda fields: _plain(read(fields))
    chosen = lru_cache(maxsize=MAX_CHOSEN)(partial(_chosen, rule))
    return lambda fields: _typed(rule, _value(rule, read(fields), chosen))


def _rendered(rule: FieldRule, referral: Referral, partner_data: bool) -> Value:
    if rule.source is None:
        return _typed(rule, rule.constant)
    given = sources.allowed(rule.source, referral, partner_data=partner_data)
    return _typed(rule, _value(rule, given, partial(_chosen, rule)))


def _value(rule: FieldRule, given: Any, chosen: Callable[[str], str | None]) -> Value:
    value = _plain(given)
    if value is None or (isinstance(value, str) and not value.strip()):
        return rule.empty if rule.empty is not None else value
    plain = text(value)
    found = chosen(plain) if rule.rules else None
    if found is not None:
        return found
    if rule.other is not None:
        return rule.other
    if rule.format is not None and isinstance(given, date):
        return formats.moment(given, rule.format, rule.zone)
    return value if rule.decimals is None else formats.rounded(plain, rule.decimals)


def _chosen(rule: FieldRule, plain: str) -> str | None:
    """What the first of its rules that matches says."""
    return next((condition.value for condition in rule.rules if condition.matches(plain)), None)


def _typed(rule: FieldRule, value: Value) -> Value:
    if value is None or rule.type is None:
        return value
    if rule.type == "number":
        return formats.number(text(value))
    return formats.boolean(text(value)) if rule.type == "boolean" else text(value)


def _plain(value: Any) -> Value:
    if value is None or isinstance(value, (str, int)):
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
