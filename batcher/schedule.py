"""When a connection's window is due. Pure: the time is an argument, the answer a slot.

Each slot of the schedule is due once. Slots missed while nothing ran are caught up by one window,
that of the latest: the rows of the older ones are in it.
"""

from __future__ import annotations

from datetime import datetime

from schemas import cron
from schemas.connection import Schedule
from schemas.cron import Slot


def due(schedule: Schedule, last: str | None, since: datetime, now: datetime) -> Slot | None:
    """The slot whose window is to be sealed at `now`, or None.

    `last`: the text of the last claimed slot (`Slot.text`); without one, `since` is when the
    connection's windows began, and only slots after it count. Both instants are aware. A `last`
    written under another zone is compared by the instant it was due, so an edited zone neither
    repeats a slot nor waits a day. Raises ValueError when `last` is not a slot's text.
    """
    latest = cron.last_slot(schedule.cron, schedule.zone, now)
    if latest is None:
        return None
    if last is None:
        return latest if latest.due > since else None
    claimed = cron.parse(last, schedule.zone)
    return latest if latest > claimed else None


def next_due(schedule: Schedule, last: str | None, since: datetime, now: datetime) -> datetime:
    """When to look again: the instant (aware UTC) of the slot that is due, else of the next one."""
    slot = due(schedule, last, since, now)
    return (slot or cron.next_slot(schedule.cron, schedule.zone, now)).due
