"""Dates, times and numbers as a receiver spells them. Pure, and the same under every locale."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from zoneinfo import ZoneInfo

#: strftime's directives that no locale changes.
_OF_DATES: Mapping[str, Callable[[date], str]] = {
    "%": lambda _: "%",
    "Y": lambda day: f"{day.year:04}",
    "y": lambda day: f"{day.year % 100:02}",
    "m": lambda day: f"{day.month:02}",
    "d": lambda day: f"{day.day:02}",
    "j": lambda day: f"{day.timetuple().tm_yday:03}",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_OF_TIMES: Mapping[str, Callable[[datetime], str]] = {
    "H": lambda time: f"{time.hour:02}",
    "I": lambda time: f"{time.hour % 12 or 12:02}",
    "p": lambda time: "AM" if time.hour < 12 else "PM",
    "M": lambda time: f"{time.minute:02}",
    "S": lambda time: f"{time.second:02}",
    "f": lambda time: f"{time.microsecond:06}",
    "z": lambda time: time.strftime("%z"),
    "s": lambda time: str((time - _EPOCH) // _SECOND),
}
_DIRECTIVE = re.compile(r"%(.?)", re.DOTALL)

#: Digits a double keeps exactly, and the largest whole number every JSON reader keeps.
MAX_DIGITS = 15
MAX_WHOLE = 2**53 - 1
_NUMBER = re.compile(r"[-+]?[0-9]{1,40}(\.[0-9]{1,40})?")
#: Room for all digits of a number and its decimals; the default's 28 are fewer than a number may have.
_EXACT = Context(prec=80)
_TRUE, _FALSE = frozenset({"true", "yes", "1"}), frozenset({"false", "no", "0"})


def check(pattern: str, *, time: bool) -> None:
    """Raises ValueError for a directive we do not write. `time`: whether hours are known."""
    known = [*_OF_DATES, *(_OF_TIMES if time else ())]
    if any(name not in known for name in _DIRECTIVE.findall(pattern)):
        raise ValueError(f"the directives here are {' '.join(f'%{name}' for name in known)}")


def moment(value: date, pattern: str, zone: str | None) -> str:
    """A date, or an aware time in `zone` (UTC where none is given), by a checked pattern."""
    if not isinstance(value, datetime):
        return _DIRECTIVE.sub(lambda found: _OF_DATES[found[1]](value), pattern)
    local = value.astimezone(ZoneInfo(zone) if zone else UTC)
    return _DIRECTIVE.sub(lambda found: (_OF_DATES.get(found[1]) or _OF_TIMES[found[1]])(local), pattern)


def rounded(text: str, decimals: int) -> str:
    """A number with exactly so many decimals, half up; what is no number as it is."""
    value = _decimal(text)
    if value is None:
        return text
    return format(value.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP, _EXACT), "f")


def number(text: str) -> int | float | str:
    """The number a text says, where JSON keeps every digit of it; else the text: an id stays whole."""
    value = _decimal(text)
    if value is None or len(value.as_tuple().digits) > MAX_DIGITS + 1:
        return text
    if "." not in text:
        return int(value) if abs(value) <= MAX_WHOLE and str(int(value)) == text.strip() else text
    return float(value) if len(value.normalize().as_tuple().digits) <= MAX_DIGITS else text


def boolean(text: str) -> bool | str:
    """True for true, yes and 1, False for false, no and 0; what is neither as it is."""
    given = text.strip().casefold()
    return True if given in _TRUE else False if given in _FALSE else text


def _decimal(text: str) -> Decimal | None:
    try:
        return Decimal(text.strip()) if _NUMBER.fullmatch(text.strip()) else None
    except InvalidOperation:
        return None
