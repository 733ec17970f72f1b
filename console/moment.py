"""Points in time as operators write them. Pure."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from consumer.service import Stop

EXAMPLE = "2026-01-31T08:00:00+00:00"


def moment(given: str, zone: str | None = None, also: str = "") -> datetime:
    """A point in time; one without an offset is in `zone`, where there is one. Raises Stop.

    `also`: what else the option takes, for the message.
    """
    try:
        at = datetime.fromisoformat(given)
    except ValueError as error:
        raise Stop(f"{given!r} is not a time: use {also}one such as {EXAMPLE}") from error
    if at.tzinfo is not None:
        return at
    if zone is None:
        raise Stop(f"{given!r} does not say which zone: add an offset, as in {EXAMPLE}")
    local = at.replace(tzinfo=ZoneInfo(zone))
    if local.utcoffset() != local.replace(fold=1).utcoffset():
        # A gap or a repetition: clocks were changed here, and the hour means nothing or two things.
        raise Stop(f"{given!r}: the clocks of {zone} change in that hour: add an offset, as in {EXAMPLE}")
    return local
