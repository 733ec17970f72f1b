"""When a file connection's windows are sealed, as `schedule:` of a connection says.

Members that came after the first release are left out of a stored definition where they say nothing
new, so that a definition keeps its digest.
"""

from __future__ import annotations

from datetime import time, timedelta
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from schemas import cron, grammar, slots
from schemas.base import Model, doubled, misfit, unless
from schemas.grammar import Whole
from schemas.slots import Walls

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = get_args(Day)

#: Half-hourly round the clock; whoever wants more says `every`.
_MOST_TIMES = 48
#: Those that divide an hour, or a day: their slots are the same wall-clock times every day.
_STEPS = {
    **{f"{minutes}m": timedelta(minutes=minutes) for minutes in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)},
    **{f"{hours}h": timedelta(hours=hours) for hours in (1, 2, 3, 4, 6, 8, 12)},
    "1d": timedelta(days=1),
}


def _step(value: Any) -> Any:
    if value is not None and (not isinstance(value, str) or value not in _STEPS):
        *most, last = _STEPS
        raise ValueError(f"write how often, as a part of an hour or a day: {', '.join(most)} or {last}")
    return value


_Once = Field(exclude_if=unless(None))


class Schedule(Model):
    """Wall-clock times in an IANA zone, by `cron` or by `at` and `days`; or an interval, `every`."""

    cron: Annotated[grammar.Cron | None, _Once] = None
    #: Times of day.
    at: Annotated[
        Annotated[tuple[grammar.TimeOfDay, ...], Field(min_length=1, max_length=_MOST_TIMES)] | None, _Once
    ] = None
    #: The weekdays of `at`; every day where none are given.
    days: Annotated[Annotated[tuple[Day, ...], Field(min_length=1)] | None, _Once] = None
    every: Annotated[str | None, BeforeValidator(_step), _Once] = None
    zone: grammar.Zone = "UTC"
    #: Rows, and bytes of their records as they came: an open window that has as many is sealed at once. It
    #: is one more, which the slots do not count.
    or_rows: Annotated[Annotated[Whole, Field(ge=1, le=10_000_000)] | None, _Once] = None
    or_bytes: Annotated[Annotated[Whole, Field(ge=1_000, le=10_000_000_000)] | None, _Once] = None

    @model_validator(mode="after")
    def _one_form(self) -> Schedule:
        given = [name for name in ("cron", "at", "every") if getattr(self, name) is not None]
        if not given:
            raise misfit("does not say when", "give one of cron, at or every")
        if len(given) > 1:
            raise misfit(f"stands beside {given[0]}", "give one of cron, at and every", given[1])
        return self

    @model_validator(mode="after")
    def _days_of_times(self) -> Schedule:
        if self.days is not None and self.at is None:
            raise misfit("goes with times of day", 'give at: ["08:00"], or leave it out', "days")
        return self

    @model_validator(mode="after")
    def _each_once(self) -> Schedule:
        for name, given in (("at", self.at or ()), ("days", self.days or ())):
            if twice := doubled(given):
                place = len(given) - 1 - given[::-1].index(twice[0])
                raise misfit("stands here twice", "take one of them out", name, place)
        return self

    @property
    def walls(self) -> Walls:
        """The local times of `cron` or `at`."""
        if self.cron is not None:
            return cron.walls(self.cron)
        assert self.at is not None, "an interval has instants"
        return slots.times(
            [time.fromisoformat(at) for at in self.at], [DAYS.index(day) for day in self.days or DAYS]
        )

    @property
    def step(self) -> timedelta | None:
        """Of `every`."""
        return None if self.every is None else _STEPS[self.every]

    @property
    def limited(self) -> bool:
        """Whether a window may be sealed before its slot."""
        return self.or_rows is not None or self.or_bytes is not None

    def reached(self, rows: int, size: int) -> bool:
        """Whether an open window with these rows and bytes is sealed now."""
        return (self.or_rows is not None and rows >= self.or_rows) or (
            self.or_bytes is not None and size >= self.or_bytes
        )

    @property
    def told(self) -> str:
        """For people: `08:00, 16:30 mon, tue Australia/Sydney or 50,000 rows`."""
        times = ", ".join(sorted(self.at)) if self.at is not None else ""
        days = ", ".join(sorted(self.days, key=DAYS.index)) if self.days is not None else ""
        when = self.cron or (f"every {self.every}" if self.every is not None else f"{times} {days}".strip())
        rows = f"or {self.or_rows:,} rows" if self.or_rows is not None else ""
        size = f"or {self.or_bytes:,} bytes" if self.or_bytes is not None else ""
        return " ".join(filter(None, (when, self.zone, rows, size)))
