"""What files are called: `{connection}-{date:%Y%m%d}-{number:06}`, and never the same twice. Pure.

Its law: a name stays in its folder, is a plain file on every system, and holds something that no other
window of the connection has. The ending is not written: it follows from what the file is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from schemas import formats
from schemas.delivery import window_id

DEFAULT = "{connection}-{date:%Y%m%d}-{number:06}"
#: With the number of a file, what marks one sent again, and the endings below the 143 bytes that encrypted
#: folders leave for a name.
MAX_NAME = 100
#: The most files of one window, whose numbers have three digits.
MAX_FILES = 999
#: Of an account's, a connection's or a campaign's name at their longest, when a template is checked.
_LONGEST = 64
#: The form of a number: up to twelve digits, more windows than anybody has.
_DIGITS = re.compile("0([1-9]|1[0-2])")
_SOME_DAY = datetime(2026, 12, 31, tzinfo=UTC)

_PART = re.compile(r"\{([^{}]*)\}|[{}]")
_PARTS = ("account", "campaign", "connection", "date", "number", "window")
_UNIQUE = frozenset({"number", "window"})
_PLAIN = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9 ._+-]*[A-Za-z0-9_+-])?")
_FOREIGN = re.compile(r"[^A-Za-z0-9_-]")
#: Devices on Windows, whatever follows the first dot.
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])\s*(\.|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Named:
    """What a name is made of. `campaign`: the one that is chosen; `at`: when the window was sealed."""

    account: str
    connection: str
    campaign: str
    number: int
    at: datetime
    zone: str


def check(template: str) -> str:
    """The template itself. Raises ValueError, in words for people."""
    parts = _parts(template)
    if not _UNIQUE & {name for name, _ in parts}:
        raise ValueError("two windows would get the same name: add {number:06} or {window}")
    for value in ("a", "con", "a" * _LONGEST):
        name = render(template, Named(value, value[:63], value, 10**6, _SOME_DAY, "UTC"))
        if not _PLAIN.fullmatch(name) or ".." in name:
            raise ValueError(
                "a file's name is letters, digits, inner blanks and dots, and _ + -, without folders: "
                "{date:%H-%M} instead of {date:%H:%M}"
            )
        if _RESERVED.match(name):
            raise ValueError("Windows knows this name as a device: begin it otherwise")
    if len(name) > MAX_NAME:
        raise ValueError(f"the name could have over {MAX_NAME} characters: leave some out")
    return template


def wants_campaign(template: str) -> bool:
    """Whether it names the campaign, which must then be one."""
    return any(name == "campaign" for name, _ in _parts(template))


def render(template: str, named: Named) -> str:
    """The name without its ending, by a checked template."""
    return _PART.sub(lambda found: _value(*_split(found[1]), named), template)


def numbered(name: str, file: int) -> str:
    """The name, without its ending, of one of several files; 0 where there is only one."""
    return f"{name}-{file:03}" if file else name


def ended(name: str, endings: tuple[str, ...]) -> str:
    """The name with its endings; the first is not doubled where the template has it already."""
    first, *others = endings
    stem = name[: -len(first)] if name.lower().endswith(first) and len(name) > len(first) else name
    return "".join((stem, first, *others))


def _value(name: str, given: str, named: Named) -> str:
    match name:
        case "account":
            return _FOREIGN.sub("_", named.account)
        case "campaign":
            return _FOREIGN.sub("_", named.campaign)[:_LONGEST]
        case "connection":
            return named.connection
        case "date":
            local = named.at.astimezone(ZoneInfo(named.zone))
            return formats.moment(local, given or "%Y%m%d", named.zone)
        case "window":
            return window_id(named.connection, named.number)
        case _:
            return format(named.number, given or "d")


def _parts(template: str) -> list[tuple[str, str]]:
    found = []
    for part in _PART.finditer(template):
        if part[1] is None:
            raise ValueError("a brace by itself: a part of the name is written {date}")
        name, given = _split(part[1])
        if name not in _PARTS:
            raise ValueError(f"the parts of a file's name are {', '.join(f'{{{one}}}' for one in _PARTS)}")
        if name == "date":
            formats.check(given, time=True)
        elif given and not (name == "number" and _DIGITS.fullmatch(given)):
            raise ValueError("a form follows {date:%Y%m%d} and {number:06} only")
        found.append((name, given))
    return found


def _split(part: str) -> tuple[str, str]:
    name, _, given = part.partition(":")
    return name, given
