"""Where a value does not fit an Avro schema, in words that name members and never a value.

An event may be personal data, so nothing of it may reach a message: only names the schema knows,
positions, and the names of unknown members.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

#: An unknown member's name is shown up to here: long enough for a slip, too short for a document.
_SHOWN = 40

_INT = range(-(2**31), 2**31)
_LONG = range(-(2**63), 2**63)


def troubles(schema: Any, value: Any, path: str = "") -> list[str]:
    """One sentence for each member of `value` that does not fit; none when all do."""
    return list(_troubles(schema, value, path))


def named(path: str, trouble: str) -> str:
    return f"{path or 'the event'} {trouble}"


def branches(schema: Any) -> tuple[Any, bool]:
    """The one type of a nullable field that is not null, and whether null may stand instead."""
    if not isinstance(schema, list):
        return schema, False
    others = [branch for branch in schema if branch != "null"]
    return (others[0] if len(others) == 1 else others), len(others) < len(schema)


def _troubles(schema: Any, value: Any, path: str) -> Iterator[str]:
    one, nullable = branches(schema)
    if nullable and value is None:
        return
    kind = one["type"] if isinstance(one, dict) else one
    if isinstance(one, dict) and "logicalType" in one:
        kind = one["logicalType"]
    if kind == "record":
        yield from _record(one, value, path)
    elif kind == "array":
        yield from _array(one, value, path)
    elif kind == "map":
        yield from _map(one, value, path)
    elif isinstance(kind, str) and kind in _LEAVES:
        trouble = _LEAVES[kind](one, value)
        if trouble:
            yield named(path, "is missing a value" if value is None else trouble)


def _record(schema: Mapping[str, Any], value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield named(path, "must be an object with named members")
        return
    fields = {field["name"]: field for field in schema["fields"]}
    for name, field in fields.items():
        if name in value:
            yield from _troubles(field["type"], value[name], _member(path, name))
        elif "default" not in field:
            yield named(_member(path, name), "is missing")
    for name in value:
        if name not in fields:
            yield named(_member(path, printable(name)), "is unknown: the schema has no such member")


def _array(schema: Mapping[str, Any], value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, list | tuple):
        yield named(path, "must be a list")
        return
    for index, item in enumerate(value):
        yield from _troubles(schema["items"], item, f"{path}[{index}]")


def _map(schema: Mapping[str, Any], value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield named(path, "must be an object with named members")
        return
    for name, item in value.items():
        if not isinstance(name, str) or not _encodable(name):
            yield named(path, "has a member whose name is not valid text")
        else:
            yield from _troubles(schema["values"], item, _member(path, printable(name)))


def printable(name: object) -> str:
    """A member's name as it may be shown: short, printable."""
    text = str(name)[:_SHOWN]
    return text if text.isprintable() and text else "?"


def _member(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _encodable(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(_: Any, value: Any) -> str | None:
    if not isinstance(value, str):
        return "must be text"
    return None if _encodable(value) else "holds half a surrogate pair, which is not valid text"


def _whole(bounds: range, says: str) -> Callable[[Any, Any], str | None]:
    def check(_: Any, value: Any) -> str | None:
        fits = isinstance(value, int) and not isinstance(value, bool) and value in bounds
        return None if fits else says

    return check


def _flag(_: Any, value: Any) -> str | None:
    return None if isinstance(value, bool) else "must be true or false"


def _symbol(schema: Any, value: Any) -> str | None:
    return None if value in schema["symbols"] else f"must be one of {', '.join(schema['symbols'])}"


def _time(_: Any, value: Any) -> str | None:
    fits = isinstance(value, datetime) and value.tzinfo is not None
    return None if fits else "must be a time with its offset, such as 2026-03-08T02:30:00Z"


def _date(_: Any, value: Any) -> str | None:
    fits = isinstance(value, date) and not isinstance(value, datetime)
    return None if fits else "must be a date such as 1990-12-31"


def _decimal(schema: Any, value: Any) -> str | None:
    if not isinstance(value, Decimal) or not value.is_finite():
        return 'must be a decimal number, in JSON as text such as "1.2500"'
    scale, precision = schema.get("scale", 0), schema["precision"]
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int), "a finite number"
    if -exponent > scale or len(digits) + exponent + scale > precision:
        return f"has more than {scale} decimals or {precision - scale} digits before them"
    return None


_LEAVES: Mapping[str, Callable[[Any, Any], str | None]] = {
    "string": _text,
    "boolean": _flag,
    "int": _whole(_INT, "must be a whole number of at most 32 bits"),
    "long": _whole(_LONG, "must be a whole number of at most 64 bits"),
    "enum": _symbol,
    "timestamp-micros": _time,
    "date": _date,
    "decimal": _decimal,
}
