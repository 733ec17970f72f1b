"""What one connection waits for in one partition, as memory holds it. Pure."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

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

    `settling`: ended or put off here but not yet in Redis; a page read meanwhile must not bring them
    back as they were. `flying`: requests without an answer yet, of whatever owner's time.
    """

    partition: int
    connection: str
    gate: Gate
    room: int
    waiting: list[tuple[float, int]] = field(default_factory=list)
    loaded: dict[int, Delivery] = field(default_factory=dict)
    settling: set[int] = field(default_factory=set)
    flying: set[int] = field(default_factory=set)
    #: Redis has deliveries that memory does not know; asked for.
    more: bool = False
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

    @property
    def known(self) -> int:
        """How many of the lane's deliveries in Redis memory knows, once all before it is written."""
        strays = len(self.flying - self.loaded.keys())
        return len(self.loaded) + len(self.settling) + strays

    def load(self, delivery: Delivery) -> bool:
        """Take it into memory, unless it is there, ended or in flight, or all that is there is due before."""
        offset = delivery.offset
        if offset in self.loaded or offset in self.settling or offset in self.flying:
            return False
        if len(self.loaded) >= self.room and not self._evict_later_than(delivery.due):
            return False
        self.loaded[offset] = delivery
        self.wait(delivery)
        return True

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
        self.more = self.asked = False

    def _evict_later_than(self, due: float) -> bool:
        """Make room for a delivery due earlier than the last one that waits."""
        last = max(self.waiting, default=(0.0, 0))
        if last[0] <= due:
            return False
        self.waiting.remove(last)
        heapq.heapify(self.waiting)
        del self.loaded[last[1]]
        self.more = True
        return True
