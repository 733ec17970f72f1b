"""A referral event written as JSON, as upstream teams try the contract: to the mapping `encode` wants.

Times are ISO 8601 with their offset, dates ISO 8601, money is text such as "1.2500" (a JSON number
would be a float); all else as it is. Members left out get the schema's defaults.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from schemas.codec import Undecodable
from schemas.fit import branches
from schemas.referral import check, definition

#: One form of each, in ASCII digits: `fromisoformat` also takes week dates and other rarities.
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"
    r"([Zz]|[+-][0-9]{2}:?[0-9]{2})"
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MONEY = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,12})?")


def from_json(value: object) -> dict[str, Any]:
    """The event of a parsed JSON object. Raises Undecodable: names every member in trouble, no value."""
    event = _converted(definition(), value)
    if not isinstance(event, dict):
        raise Undecodable("an event is a JSON object")
    check(event)
    return event


def _converted(schema: Any, value: Any) -> Any:
    """`value` with its text turned into times, dates and money; what cannot be turned stays as it is."""
    one, _ = branches(schema)
    if not isinstance(one, dict):
        return value
    kind = str(one.get("logicalType", one["type"]))
    if kind == "record" and isinstance(value, Mapping):
        return _record(one, value)
    if kind == "array" and isinstance(value, list):
        return [_converted(one["items"], item) for item in value]
    if isinstance(value, str) and kind in _LEAVES:
        pattern, turn = _LEAVES[kind]
        try:
            return turn(value) if pattern.fullmatch(value) else value
        except (ValueError, OverflowError):  # such as 30 February
            return value
    return value


def _record(schema: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    types = {field["name"]: field["type"] for field in schema["fields"]}
    defaults = {field["name"]: deepcopy(field["default"]) for field in schema["fields"] if "default" in field}
    given = {name: _converted(types[name], item) if name in types else item for name, item in value.items()}
    return defaults | given


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text.upper()).astimezone(UTC)


_LEAVES: Mapping[str, tuple[re.Pattern[str], Callable[[str], Any]]] = {
    "timestamp-micros": (_TIME, _utc),
    "date": (_DATE, date.fromisoformat),
    "decimal": (_MONEY, Decimal),
}
