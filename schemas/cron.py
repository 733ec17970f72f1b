"""Cron lines in local time: each local slot once, whatever the clocks do. The one owner of cronsim.

A slot is a wall-clock time the line names. CronSim runs on naive local time, so a slot in an hour
that comes twice is one slot, due the first time; a slot in an hour that is skipped is due when the
skipped hour ends. Several slots may then share one instant: a slot is known by its local time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

#: Any fixed start will do: a line either comes due within the years cronsim looks ahead, or never.
_START = datetime(2024, 1, 1)  # noqa: DTZ001 - cron lines are local times
#: The longest line that names every minute, hour, day, month and weekday one by one stays below it.
_LONGEST = 512
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """`due`: the instant, aware UTC. `local`: the naive wall-clock time in `zone` that names it.

    Slots sort by when they are due, those of one instant by their local time.
    """

    due: datetime
    local: datetime
    zone: str

    @property
    def text(self) -> str:
        """Its identity, as stored: `2026-03-08T02:30[America/New_York]`."""
        return f"{self.local.isoformat(timespec='minutes')}[{self.zone}]"


def check(line: str) -> str:
    """`line` when it is a cron line that comes due. Raises ValueError with a sentence for people."""
    if len(line) > _LONGEST or len(line.split()) != 5:
        raise ValueError("a cron line has five fields: minute hour day month weekday")
    try:
        next(CronSim(line, _START))
    except CronSimError as error:
        raise ValueError("not a cron line: five fields such as 0 8 * * 1-5") from error
    except StopIteration as error:
        raise ValueError("this cron line never comes due") from error
    return line


def parse(text: str, zone: str) -> Slot:
    """The slot `Slot.text` wrote; a text without a zone belongs to `zone`. Raises ValueError."""
    local, bracket, named = text.partition("[")
    try:
        return _slot(datetime.fromisoformat(local), named.removesuffix("]") if bracket else zone)
    except KeyError as error:
        raise ValueError("the slot's time zone is unknown here") from error


def next_slot(line: str, zone: str, after: datetime) -> Slot:
    """The first slot due after the instant `after` (aware). Raises ValueError when there is none."""
    local = after.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)
    for slot in _slots(line, zone, local, reverse=False):
        # The second time an hour comes, its slots lie ahead of the wall clock but were due before.
        if slot.due > after:
            return slot
    raise ValueError("this cron line never comes due")


def last_slot(line: str, zone: str, at: datetime) -> Slot | None:
    """The latest slot due at or before the instant `at` (aware); None when there is none."""
    there = at.astimezone(ZoneInfo(zone))
    # The second time an hour comes, slots ahead of the wall clock were due the first time already.
    ahead = _offset(there.replace(fold=0)) - _offset(there) if there.fold else timedelta()
    local = there.replace(tzinfo=None, fold=0) + ahead + _SECOND
    return next((slot for slot in _slots(line, zone, local, reverse=True) if slot.due <= at), None)


def _slots(line: str, zone: str, local: datetime, *, reverse: bool) -> Iterator[Slot]:
    for wall in CronSim(line, local, reverse=reverse):
        yield _slot(wall, zone)


def _slot(wall: datetime, zone: str) -> Slot:
    there = wall.replace(tzinfo=ZoneInfo(zone), fold=0)
    before, after = _offset(there), _offset(there.replace(fold=1))
    due = (wall - before).replace(tzinfo=UTC)
    # In a skipped hour fold=0 gives the offset before the change and fold=1 the larger one after it.
    return Slot(_change(due - (after - before), due, after, zone) if after > before else due, wall, zone)


def _change(early: datetime, late: datetime, offset: timedelta, zone: str) -> datetime:
    """The first instant after `early`, to the second, at which `zone` has `offset`; at `late` it has."""
    while late - early > _SECOND:
        middle = early + ((late - early) / 2 // _SECOND) * _SECOND
        if _offset(middle.astimezone(ZoneInfo(zone))) == offset:
            late = middle
        else:
            early = middle
    return late


def _offset(there: datetime) -> timedelta:
    offset = there.utcoffset()
    assert offset is not None, "every time here carries its zone"
    return offset
