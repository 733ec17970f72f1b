"""What a credential allows, shared by all workers: leased from Redis in blocks of a second.

A Meter is one worker's side of it: how many requests it may still start in this block, from when on and
how far apart, and how many at once. What is not used within the block is given up.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from consumer.keys import Keys
from consumer.store import Argument, Call, Reply, Script
from schemas.push import Limits, PushBase

if TYPE_CHECKING:
    from consumer.lane import Lane

LEASE = Script("consumer", "lease")
#: How long a grant may be used: what another worker learned of the receiver is late by so much at most.
BLOCK_S = 1.0
#: A request may start so long after its place, which costs this part of the rate: places lie further apart
#: by as much, so that no second sees more than is allowed. A busy loop is late by less.
LATE_S = 0.05
#: Requests asked for in one block: more than any worker starts in a second.
MAX_WANTED = 10_000
#: A worker's requests count as under way until their timeout; connecting and clocks need a little more.
GRACE_MS = 5_000

PERIODS_MS = {"per_minute": 60_000, "per_hour": 3_600_000, "per_day": 86_400_000}


@dataclass(frozen=True, slots=True)
class Grant:
    """`first_us`: microseconds until the first request may start, `apart_us`: between one and the next.
    `at_once`: None for no limit. `again_s`: after which more may be asked for.
    """

    requests: int
    first_us: int
    apart_us: int
    at_once: int | None
    again_s: float


def lease(
    keys: Keys, credential: str, worker: str, limits: Limits, wanted: int, under_way: int, timeout_s: float
) -> Call:
    """Ask for `wanted` requests beside those `under_way`. `timeout_s`: how long a request may take."""
    apart_us = math.ceil((1 + LATE_S) * 1e6 / limits.per_second) if limits.per_second else ""
    args: list[Argument] = [worker, int(BLOCK_S * 1000), min(wanted, MAX_WANTED), under_way]
    args += [int(timeout_s * 1000) + GRACE_MS, limits.connections or "", apart_us]
    for name, period_ms in PERIODS_MS.items():
        allowed = getattr(limits, name)
        if allowed is not None:
            args += [period_ms, allowed]
    return Call(LEASE, keys.limits(credential), args)


def granted(reply: Reply) -> Grant:
    requests, first_us, apart_us, at_once, again_ms = (int(item) for item in reply)
    return Grant(requests, first_us, apart_us, None if at_once < 0 else at_once, again_ms / 1000)


@dataclass(slots=True, eq=False)
class Meter:
    """One credential's limits as a worker's loop sees them; times in seconds of the lanes' clock.

    `blocked`: lanes that wait for a grant or an answer, `wanted`: the requests they have use for. `asked`: a
    grant is on its way. `under_way`: requests in flight, at most, until it comes.
    """

    credential: str
    limits: Limits
    timeout_s: float
    in_flight: int = 0
    asked: bool = False
    under_way: int = 0
    wanted: int = 0
    blocked: deque[Lane] = field(default_factory=deque)
    _left: int = 0
    _next: float = 0.0
    _apart: float = 0.0
    _at_once: int | None = None
    _until: float = 0.0
    _asked_at: float = 0.0
    _ask_at: float = 0.0

    def ready_at(self, now: float) -> float | None:
        """When the next request may start; None where that takes a grant, or an answer, first."""
        if self._spent(now):
            return None if self._may_ask(now) else self._ask_at
        if self._crowded:
            return None
        self._forgo(now)
        return min(self._next, self._until)

    def wants(self, now: float) -> bool:
        """Whether to ask for a grant now, for those that are blocked.

        What is left of the last one is lost by that: only where requests cost nothing is it done for more of
        them at once.
        """
        free = self.limits == Limits(connections=self.limits.connections)
        return not self.asked and self._may_ask(now) and (self._spent(now) or (free and self._crowded))

    def idle(self, now: float) -> bool:
        """Whether it holds more of the requests at once than it has use for."""
        unused = self._at_once is not None and self._at_once > self.in_flight
        return unused and not self.blocked and not self.asked and self._spent(now)

    def ask(self, now: float) -> None:
        """A grant is asked for. Until it comes, what is left of the last one may be used."""
        startable = 0 if self._spent(now) else self._at_once or 0
        self.asked, self.under_way = True, max(self.in_flight, startable)

    def stand(self, lane: Lane, wants: int) -> None:
        lane.wants, lane.blocked = wants, True
        self.wanted += wants
        self.blocked.append(lane)

    def call(self) -> Lane:
        """The lane that stands longest, which stands no more."""
        lane = self.blocked.popleft()
        lane.blocked = False
        self.wanted -= lane.wants
        return lane

    def take(self) -> None:
        """A request starts."""
        self.in_flight += 1
        self._left -= 1
        self._next += self._apart

    def grant(self, given: Grant, asked_at: float) -> None:
        self.asked = False
        self._left, self._apart, self._at_once = given.requests, given.apart_us / 1e6, given.at_once
        self._next = asked_at + given.first_us / 1e6
        self._asked_at, self._until = asked_at, asked_at + BLOCK_S
        self._ask_at = asked_at + given.again_s

    def refused(self) -> None:
        """Redis could not be asked."""
        self.asked = False

    @property
    def _crowded(self) -> bool:
        return self._at_once is not None and self.in_flight >= self._at_once

    def _spent(self, now: float) -> bool:
        return now >= self._until or self._left == 0 or now < self._asked_at

    def _may_ask(self, now: float) -> bool:
        """Before it was last asked is after the clock was set back."""
        return now >= self._ask_at or now < self._asked_at

    def _forgo(self, now: float) -> None:
        """Lose the places that were missed, but for the last: a slow Redis must not leave none."""
        if self._apart and now > self._next + LATE_S:
            missed = min(self._left - 1, math.ceil((now - LATE_S - self._next) / self._apart))
            self._left -= missed
            self._next += missed * self._apart


def meter(connection: PushBase) -> Meter | None:
    """A connection's; None where its receiver states no limits."""
    if connection.limits == Limits():
        return None
    return Meter(connection.shared_as, connection.limits, connection.timeout)
