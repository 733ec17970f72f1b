"""When a connection's window is due. Pure: the time is an argument, the answer a slot.

Each slot of the schedule is due once. Slots missed while nothing ran are caught up by one window,
that of the latest: the rows of the older ones are in it.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

from schemas import slots
from schemas.connection import Schedule
from schemas.slots import Slot

#: The desk asks for each connection twice a second, and the answer changes with the minute at most. Some
#: hundred bytes each; with more schedules than this, answers are worked out again.
_KEPT = 4_096


def due(schedule: Schedule, last: str | None, since: datetime, now: datetime) -> Slot | None:
    """The slot whose window is to be sealed at `now`, or None.

    `last`: the text of the last claimed slot (`Slot.text`), and `since` when the newest window was
    claimed; without one, `since` is when the connection's windows began, and only slots after it count.
    Both instants are aware. Slots are compared by the instants they were due, so a schedule edited in
    zone or form neither repeats one nor waits a day. A text that cannot be read, of a zone that is gone,
    and a slot that is yet to come, claimed while a clock was ahead, count from `since`.
    """
    latest = last_slot(schedule, now)
    if latest is None:
        return None
    claimed = since if last is None else _claimed(last, schedule.zone) or since
    if claimed > now:
        claimed = min(claimed, since)
    return latest if latest.due > claimed else None


def next_due(schedule: Schedule, last: str | None, since: datetime, now: datetime) -> datetime:
    """When to look again: the instant (aware UTC) of the slot that is due, else of the next one."""
    return (due(schedule, last, since, now) or next_slot(schedule, now)).due


def last_slot(schedule: Schedule, at: datetime) -> Slot | None:
    """The latest slot due at or before the instant `at` (aware); None when there is none."""
    return _last_slot(schedule, at.replace(second=0, microsecond=0))


def next_slot(schedule: Schedule, after: datetime) -> Slot:
    """The first slot due after the instant `after` (aware)."""
    step = schedule.step
    if step is not None:
        return slots.next_every(step, schedule.zone, after)
    return slots.next_of(schedule.walls, schedule.zone, after)


@lru_cache(_KEPT)
def _last_slot(schedule: Schedule, minute: datetime) -> Slot | None:
    step = schedule.step
    if step is not None:
        return slots.last_every(step, schedule.zone, minute)
    return slots.last_of(schedule.walls, schedule.zone, minute)


@lru_cache(_KEPT)
def _claimed(last: str, zone: str) -> datetime | None:
    try:
        return slots.parse(last, zone).due
    except ValueError:
        return None
