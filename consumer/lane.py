"""What one connection waits for in one partition, as memory holds it. Pure."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf

LaneKey = tuple[int, str]


@dataclass(slots=True)
class Delivery:
    """One pending delivery; `due` in seconds since the epoch, `attempts` made so far.

    `raw`: as `frozen` wrote it; the ids stand beside it for those who look for a referral. `removed`: a
    removal came while it was in flight.
    """

    partition: int
    connection: str
    offset: int
    due: float
    attempts: int
    raw: bytes
    referral_id: str
    revision: int
    removed: bool = False


@dataclass(slots=True)
class Gate:
    """What all lanes of a connection share."""

    max_in_flight: int
    in_flight: int = 0
    not_before: float = 0.0
    paused: bool = False
    blocked: deque[Lane] = field(default_factory=deque)

    @property
    def shut(self) -> bool:
        return self.paused or self.in_flight >= self.max_in_flight


@dataclass(slots=True, eq=False)
class Lane:
    """`loaded` holds at most `room`; `waiting` orders those of it that are not in flight.

    `settling`: put off until then or ended (inf), which Redis does not know yet; a page read meanwhile must
    not bring them back as they were. `flying`: requests without an answer yet, of whatever owner's time.
    `beyond`: what Redis has and memory does not know is due no earlier; inf where memory knows all.
    """

    partition: int
    connection: str
    gate: Gate
    room: int
    waiting: list[tuple[float, int]] = field(default_factory=list)
    loaded: dict[int, Delivery] = field(default_factory=dict)
    settling: dict[int, float] = field(default_factory=dict)
    flying: set[int] = field(default_factory=set)
    beyond: float = inf
    #: Its next page is asked for.
    asked: bool = False
    #: Its places in the heap of lanes, the soonest last.
    places: list[float] = field(default_factory=list)
    blocked: bool = False

    @property
    def key(self) -> LaneKey:
        return self.partition, self.connection

    @property
    def due(self) -> float:
        """When its first may start; it must have one that waits."""
        return max(self.waiting[0][0], self.gate.not_before)

    def load(self, delivery: Delivery) -> None:
        """Take it into memory, unless it is there, being settled or in flight, or what Redis has or all
        that is there is due before.
        """
        if self.knows(delivery.offset):
            return
        fits = len(self.loaded) < self.room or self._evict_later_than(delivery.due)
        if fits and delivery.due < self.beyond:
            self.loaded[delivery.offset] = delivery
            self.wait(delivery)
        else:
            self.beyond = min(self.beyond, delivery.due)

    def page(self, deliveries: Sequence[Delivery], pending: int) -> None:
        """What Redis has: its first by due time, and how many in all."""
        self.beyond = inf
        for delivery in deliveries:
            self.load(delivery)
        put_off = [due for offset, due in self.settling.items() if offset not in self.loaded]
        rest = pending > len(self.loaded.keys() | self.settling.keys() | self.flying)
        read_to = deliveries[-1].due if deliveries else 0.0
        self.beyond = min(self.beyond, *put_off, read_to if rest else inf)

    def knows(self, offset: int) -> bool:
        return offset in self.loaded or offset in self.settling or offset in self.flying

    def wait(self, delivery: Delivery) -> None:
        heapq.heappush(self.waiting, (delivery.due, delivery.offset))

    def take(self) -> Delivery:
        """The first that waits, from now on in flight."""
        _, offset = heapq.heappop(self.waiting)
        self.flying.add(offset)
        return self.loaded[offset]

    def take_out(self, matches: Callable[[Delivery], bool]) -> list[Delivery]:
        """Those that wait and match; those in flight are marked instead."""
        out = [self.loaded.pop(at) for _, at in self.waiting if matches(self.loaded[at])]
        if out:
            self.waiting = [item for item in self.waiting if item[1] in self.loaded]
            heapq.heapify(self.waiting)
        for offset in self.flying & self.loaded.keys():
            self.loaded[offset].removed |= matches(self.loaded[offset])
        return out

    def forget(self) -> None:
        """All but what is in flight or being settled."""
        self.waiting.clear()
        self.loaded.clear()
        self.beyond, self.asked = inf, False

    def _evict_later_than(self, due: float) -> bool:
        """Make room for a delivery due earlier than the last one that waits."""
        last = max(self.waiting, default=(0.0, 0))
        if last[0] <= due:
            return False
        self.waiting.remove(last)
        heapq.heapify(self.waiting)
        del self.loaded[last[1]]
        self.beyond = min(self.beyond, last[0])
        return True
