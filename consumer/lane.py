"""What one connection waits for in one partition, as memory holds it. Pure."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import NamedTuple

from consumer import tries
from consumer.breaker import Breaker
from consumer.concurrency import Concurrency
from consumer.frozen import Frozen
from consumer.limits import BLOCK_S, Meter
from consumer.tries import Tries

#: A later revision goes so long after the one before it, which orders them among what is due.
AFTER_S = 0.001


class Tier(StrEnum):
    """Deliveries never put off, and those that were: each in an order of its own, so that neither starves."""

    DUE = "due"
    AGAIN = "again"


class LaneKey(NamedTuple):
    partition: int
    connection: str
    tier: Tier = Tier.DUE


@dataclass(slots=True)
class Delivery:
    """One pending delivery; `due` in seconds since the epoch.

    `offset` is negative for what takes a delivery back. `removed`: a removal came while it was in flight.
    """

    partition: int
    connection: str
    offset: int
    due: float
    frozen: Frozen
    tries: Tries = tries.NONE
    tier: Tier = Tier.DUE
    removed: bool = False

    @property
    def referral_id(self) -> str:
        return self.frozen.referral_id

    @property
    def revision(self) -> int:
        return self.frozen.revision

    def rides_with(self, first: Delivery) -> bool:
        """Whether one request may carry both. What takes a delivery back goes alone: few take lists."""
        return self.offset >= 0 and first.offset >= 0 and self.tries.group == first.tries.group


@dataclass(slots=True)
class Gate:
    """What all lanes of a connection share. `rows`: deliveries that one request may carry. `in_flight`:
    requests, `flying`: the deliveries they carry.
    """

    max_in_flight: int
    rows: int = 1
    in_flight: int = 0
    flying: int = 0
    not_before: float = 0.0
    paused: bool = False
    meter: Meter | None = None
    concurrency: Concurrency = field(default_factory=lambda: Concurrency(0))
    breaker: Breaker = field(default_factory=Breaker)
    blocked: deque[Lane] = field(default_factory=deque)

    @property
    def shut(self) -> bool:
        """Nothing may start before something else happens: an answer, a command, a new set."""
        if self.paused or self.in_flight >= self.concurrency.requests:
            return True
        # Half-open: one request probes.
        return not self.breaker.closed and self.in_flight > 0

    def usable(self, waiting: int) -> int:
        """Requests that so many deliveries have use for within one block, going by the answers so far."""
        usual = self.concurrency.usual
        turns = max(1.0, BLOCK_S / usual) if usual else 1.0
        return max(1, min(math.ceil(waiting / self.rows), math.ceil(self.concurrency.requests * turns)))


@dataclass(slots=True)
class Family:
    """Both tiers of one connection in one partition.

    `settling`: put off until then or ended (inf), which Redis does not know yet, with the referral; a page
    read meanwhile must not bring them back as they were. `flying`: without an answer yet, of whatever
    owner's time. `busy`: referrals in flight, each with what has to wait for its answer.
    """

    partition: int
    connection: str
    gate: Gate
    settling: dict[int, tuple[float, str]] = field(default_factory=dict)
    #: Held for a person, which Redis does not know yet.
    holding: dict[int, Delivery] = field(default_factory=dict)
    flying: set[int] = field(default_factory=set)
    busy: dict[str, list[Delivery]] = field(default_factory=dict)
    lanes: dict[Tier, Lane] = field(default_factory=dict)

    def knows(self, offset: int) -> bool:
        if offset in self.settling or offset in self.flying:
            return True
        return any(offset in lane.loaded for lane in self.lanes.values())

    def held_up_until(self, delivery: Delivery) -> float:
        """Until when an earlier delivery of its referral, put off just now, keeps it waiting; inf for one
        that is held, 0 for none.
        """
        if not delivery.revision:
            return 0.0
        if any(
            held.referral_id == delivery.referral_id and offset < delivery.offset
            for offset, held in self.holding.items()
        ):
            return inf
        return max(
            (
                due
                for offset, (due, referral_id) in self.settling.items()
                if referral_id == delivery.referral_id and offset < delivery.offset and due < inf
            ),
            default=0.0,
        )

    def waiting_of(self, referral_id: str) -> list[Delivery]:
        """Those of the referral that are in memory and not in flight."""
        return [
            delivery
            for lane in self.lanes.values()
            for delivery in lane.loaded.values()
            if delivery.referral_id == referral_id and delivery.offset not in self.flying
        ]


@dataclass(slots=True, eq=False)
class Lane:
    """One tier. `loaded` holds at most `room`; `waiting` orders those of it that may be started, by due time;
    those due at one moment that must go together stand together.

    `beyond`: what Redis has and memory does not know is due no earlier; inf where memory knows all.
    """

    family: Family
    tier: Tier
    room: int
    waiting: list[tuple[float, str, int]] = field(default_factory=list)
    loaded: dict[int, Delivery] = field(default_factory=dict)
    beyond: float = inf
    #: Its next page is asked for.
    asked: bool = False
    #: Its places in the heap of lanes, the soonest last.
    places: list[float] = field(default_factory=list)
    blocked: bool = False
    #: Of all lanes' starts, the number of its last: who started longest ago goes first.
    started: int = 0
    #: Requests it has use for, while it stands before a meter.
    wants: int = 0

    @property
    def key(self) -> LaneKey:
        return LaneKey(self.family.partition, self.family.connection, self.tier)

    @property
    def gate(self) -> Gate:
        return self.family.gate

    @property
    def due(self) -> float:
        """When its first may start; it must have one that waits."""
        return max(self.waiting[0][0], self.gate.not_before, self.gate.breaker.open_until)

    def load(self, delivery: Delivery) -> None:
        """Take it into memory, unless what Redis has or all that is there is due before."""
        fits = len(self.loaded) < self.room or self._evict_later_than(delivery.due)
        if fits and delivery.due < self.beyond:
            self.loaded[delivery.offset] = delivery
            self.wait(delivery)
        else:
            self.beyond = min(self.beyond, delivery.due)

    def paged(self, deliveries: Sequence[Delivery], *, whole: bool) -> None:
        """What Redis has: its first by due time; `whole`: there is no more."""
        self.beyond = inf
        for delivery in deliveries:
            if not self.family.knows(delivery.offset):
                self.load(delivery)
        if self.tier is Tier.AGAIN:
            settling = self.family.settling.items()
            put_off = (due for offset, (due, _) in settling if offset not in self.loaded)
            self.beyond = min(self.beyond, *put_off, inf)
        if not whole:
            self.beyond = min(self.beyond, deliveries[-1].due if deliveries else 0.0)

    def wait(self, delivery: Delivery) -> None:
        heapq.heappush(self.waiting, (delivery.due, delivery.tries.group, delivery.offset))

    def take(self) -> Delivery:
        """The first that waits: it waits no more."""
        return self.loaded[heapq.heappop(self.waiting)[2]]

    def unload(self, offset: int) -> None:
        """Forget one that does not wait."""
        self.loaded.pop(offset, None)

    def take_out(self, matches: Callable[[Delivery], bool]) -> list[Delivery]:
        """Those not in flight that match; those in flight are marked instead."""
        out = []
        for delivery in [delivery for delivery in self.loaded.values() if matches(delivery)]:
            if delivery.offset in self.family.flying:
                delivery.removed = True
            else:
                out.append(self.loaded.pop(delivery.offset))
        if out:
            self.stop_waiting({delivery.offset for delivery in out})
        return out

    def stop_waiting(self, offsets: set[int]) -> None:
        self.waiting = [item for item in self.waiting if item[2] not in offsets]
        heapq.heapify(self.waiting)

    def forget(self) -> None:
        self.waiting.clear()
        self.loaded.clear()
        self.beyond, self.asked = inf, False

    def _evict_later_than(self, due: float) -> bool:
        """Make room for a delivery due earlier than the last one that waits."""
        last = max(self.waiting, default=(0.0, "", 0))
        if last[0] <= due:
            return False
        self.waiting.remove(last)
        heapq.heapify(self.waiting)
        del self.loaded[last[2]]
        self.beyond = min(self.beyond, last[0])
        return True
