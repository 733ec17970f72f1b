"""Cron lines: whether one can be read, and the wall-clock times it names. The one owner of cronsim.

CronSim runs on naive local time; what the clocks make of it is for `slots` to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from cronsim import CronSim, CronSimError

from schemas.slots import Walls

#: Any fixed start will do: a line either comes due within the years cronsim looks ahead, or never.
_START = datetime(2024, 1, 1)  # noqa: DTZ001 - cron lines are local times
#: The longest line that names every minute, hour, day, month and weekday one by one stays below it.
_LONGEST = 512
_FIELDS = ("minute", "hour", "day of the month", "month", "weekday")


def check(line: str) -> str:
    """`line` when it is a cron line that comes due. Raises ValueError with a sentence for people."""
    fields = line.split()
    if len(line) > _LONGEST or len(fields) != len(_FIELDS):
        raise ValueError(
            "a cron line has five fields such as 0 8 * * 1-5: minute, hour, day of the month, month and "
            "weekday, without seconds or names such as @daily"
        )
    for place, (name, given) in enumerate(zip(_FIELDS, fields, strict=True)):
        # A day is read beside a month that has it, a month beside a day it has.
        if not _comes_due(" ".join([*"*" * place, given, *"*" * (len(_FIELDS) - place - 1)])):
            raise ValueError(f"the {name} of this cron line cannot be read: write it as in 0 8 * * 1-5")
    if not _comes_due(line):
        raise ValueError(
            "this cron line never comes due: no month it names has such a day; change one of them"
        )
    return line


def walls(line: str) -> Walls:
    """The times a checked line names."""

    def walls_of_line(local: datetime, reverse: bool) -> Iterator[datetime]:
        yield from CronSim(line, local, reverse=reverse)

    return walls_of_line


def _comes_due(line: str) -> bool:
    try:
        next(CronSim(line, _START))
    except (CronSimError, StopIteration):
        return False
    return True
