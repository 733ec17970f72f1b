"""Slots: when windows are due, in local time of a zone, whatever its clocks do.

A slot is named in one of two ways. One of a wall-clock time (`at`, `cron`) is known by that time: in an
hour that comes twice it is due the first time only, in an hour that is skipped when the skipped hour
ends; several may then share one instant. One of an interval (`every`) is known by its instant: an hour
that comes twice has its slots both times, and what lies in a skipped hour is due once, at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)
#: Any one: intervals divide a day.
_MIDNIGHT = datetime(2000, 1, 1)  # noqa: DTZ001 - a wall-clock time

#: Wall-clock times strictly after a naive local time, or strictly before it and backwards (`True`).
Walls = Callable[[datetime, bool], Iterator[datetime]]


@dataclass(frozen=True, slots=True)
class Slot:
    """`due`: the instant, aware UTC. `local`: the naive wall-clock time in `zone` that names it, together
    with its offset from UTC where `instant`.
    """

    due: datetime
    local: datetime
    zone: str
    instant: bool = False

    @property
    def text(self) -> str:
        """Its identity, as stored: `2026-03-08T02:30[America/New_York]`, of an interval
        `2026-11-01T01:30-05:00[America/New_York]`.
        """
        local = self.due.astimezone(ZoneInfo(self.zone)) if self.instant else self.local
        return f"{local.isoformat(timespec='minutes')}[{self.zone}]"


def parse(text: str, zone: str) -> Slot:
    """The slot `Slot.text` wrote; a text without a zone belongs to `zone`. Raises ValueError."""
    stamp, bracket, named = text.partition("[")
    try:
        there = named.removesuffix("]") if bracket else zone
        local = datetime.fromisoformat(stamp)
        return of_wall(local, there) if local.tzinfo is None else _of_instant(local.astimezone(UTC), there)
    except KeyError as error:
        raise ValueError("the slot's time zone is unknown here") from error


def next_of(walls: Walls, zone: str, after: datetime) -> Slot:
    """The first slot due after the instant `after` (aware). Raises ValueError when there is none."""
    local = after.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)
    # The second time an hour comes, its slots lie ahead of the wall clock but were due before.
    for slot in _slots(walls(local, False), zone):
        if slot.due > after:
            return slot
    raise ValueError("this schedule never comes due")


def last_of(walls: Walls, zone: str, at: datetime) -> Slot | None:
    """The latest slot due at or before the instant `at` (aware); None when there is none."""
    there = at.astimezone(ZoneInfo(zone))
    # The second time an hour comes, slots ahead of the wall clock were due the first time already.
    ahead = _offset(there.replace(fold=0)) - _offset(there) if there.fold else timedelta()
    local = there.replace(tzinfo=None, fold=0) + ahead + _SECOND
    return next((slot for slot in _slots(walls(local, True), zone) if slot.due <= at), None)


def times(clock: Collection[time], weekdays: Collection[int]) -> Walls:
    """These times of day on these weekdays (0 is Monday), for ever."""
    ordered = sorted(clock)

    def walls(local: datetime, reverse: bool) -> Iterator[datetime]:
        day = local.date()
        while True:
            if day.weekday() in weekdays:
                for at in reversed(ordered) if reverse else ordered:
                    wall = datetime.combine(day, at)
                    if wall < local if reverse else wall > local:
                        yield wall
            day += -_DAY if reverse else _DAY

    return walls


def last_every(step: timedelta, zone: str, at: datetime) -> Slot:
    """The latest slot at or before the instant `at` (aware) of those `step` apart, counted from local
    midnight. `step` divides an hour or a day; whole days have one slot each, also where midnight comes twice.
    """
    there, at = ZoneInfo(zone), at.astimezone(UTC).replace(microsecond=0)
    while True:
        local = at.astimezone(there)
        offset = _offset(local)
        due = at - (local.replace(tzinfo=None) - _MIDNIGHT) % step
        if _offset(due.astimezone(there)) != offset:
            # The clocks changed in between. Forward: what was skipped is due at the change.
            change = _change(due, at, offset, zone)
            before = _offset((change - _SECOND).astimezone(there))
            if due + offset >= change + before:
                return _of_instant(change, zone)
            at = change - _SECOND
        elif step == _DAY and due.astimezone(there).fold:
            at = due - _SECOND
        else:
            return _of_instant(due, zone)


def next_every(step: timedelta, zone: str, after: datetime) -> Slot:
    """The first slot after the instant `after` (aware) of those `last_every` knows."""
    until = after
    while True:
        until += step
        slot = last_every(step, zone, until)
        if slot.due > after:
            # A change of the clocks can put a slot or two more between.
            while (earlier := last_every(step, zone, slot.due - _SECOND)).due > after:
                slot = earlier
            return slot


def of_wall(wall: datetime, zone: str) -> Slot:
    """The slot a naive local time names. Raises KeyError for an unknown zone."""
    there = wall.replace(tzinfo=ZoneInfo(zone), fold=0)
    before, after = _offset(there), _offset(there.replace(fold=1))
    due = (wall - before).replace(tzinfo=UTC)
    # In a skipped hour fold=0 gives the offset before the change and fold=1 the larger one after it.
    return Slot(_change(due - (after - before), due, after, zone) if after > before else due, wall, zone)


def _of_instant(due: datetime, zone: str) -> Slot:
    return Slot(due, due.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0), zone, instant=True)


def _slots(walls: Iterable[datetime], zone: str) -> Iterator[Slot]:
    return (of_wall(wall, zone) for wall in walls)


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
