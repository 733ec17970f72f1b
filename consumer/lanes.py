"""Lanes: what waits for each connection, and what may start now. Pure state; the time is an argument.

A lane is the pending deliveries of one partition and one connection. Memory holds the next MAX_LOADED
of it by due time, Redis all of it. One heap orders all lanes by their next due time, so that ten
thousand lanes cost no more than the ones that have work. A Gate is what a connection's lanes share:
how many requests may run, until when it wants quiet, whether it is paused. Used from one thread.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf

#: Deliveries of a lane in memory; the rest is paged from Redis.
MAX_LOADED = 256
#: Below this a lane with more in Redis asks for its next page.
REFILL_BELOW = 64
#: A lane whose partition's lease has run out looks again after this.
LEASE_PAUSE_S = 0.05

LaneKey = tuple[int, str]


@dataclass(slots=True)
class Delivery:
    """One pending delivery; `due` in seconds since the epoch, `attempts` made so far."""

    partition: int
    connection: str
    offset: int
    due: float
    attempts: int
    raw: bytes


@dataclass(slots=True)
class Gate:
    """What all lanes of a connection share."""

    max_in_flight: int
    in_flight: int = 0
    not_before: float = 0.0
    paused: bool = False
    blocked: deque[Lane] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class Lane:
    """`settling`: ended here but not yet in Redis; a page read meanwhile must not bring them back."""

    partition: int
    connection: str
    gate: Gate
    waiting: list[tuple[float, int]] = field(default_factory=list)
    loaded: dict[int, Delivery] = field(default_factory=dict)
    settling: set[int] = field(default_factory=set)
    #: Requests without an answer yet, of whatever owner's time.
    flying: set[int] = field(default_factory=set)
    #: Redis has deliveries that memory does not know; asked for.
    more: bool = False
    asked: bool = False
    #: Its place in the heap; another entry of it there is stale.
    at: float = inf
    blocked: bool = False

    def knows(self, offset: int) -> bool:
        return offset in self.loaded or offset in self.settling or offset in self.flying


class Lanes:
    """All lanes of a worker. `may_start(partition)`: whether its lease holds now."""

    def __init__(self, may_start: Callable[[int], bool]) -> None:
        self._may_start = may_start
        self._lanes: dict[LaneKey, Lane] = {}
        self._gates: dict[str, Gate] = {}
        self._heap: list[tuple[float, int, Lane]] = []
        self._sequence = 0
        self._wanted: deque[LaneKey] = deque()
        self.in_flight = 0

    def __len__(self) -> int:
        """Deliveries in memory."""
        return sum(len(lane.loaded) for lane in self._lanes.values())

    def oldest(self) -> Delivery | None:
        """The delivery in memory that came first, roughly: the lowest offset of each lane is looked at."""
        firsts = (lane.loaded[min(lane.loaded)] for lane in self._lanes.values() if lane.loaded)
        return min(firsts, key=lambda delivery: delivery.due, default=None)

    def configure(self, limits: Mapping[str, int]) -> None:
        """The connections in force with their `max_in_flight`. One that is gone starts nothing more;
        its deliveries stay pending."""
        for name in self._gates.keys() | limits.keys():
            gate = self._gate(name)
            gate.max_in_flight = limits.get(name, 0)
            self._unblock(gate, len(gate.blocked))

    def pause(self, paused: Iterable[str]) -> None:
        """Exactly these connections are paused."""
        names = set(paused)
        for name in names:
            self._gate(name).paused = True
        for name, gate in self._gates.items():
            if gate.paused and name not in names:
                gate.paused = False
                self._unblock(gate, len(gate.blocked))

    def stand(self, connection: str) -> None:
        """Start nothing more of it: an answer said that nothing can succeed."""
        self._gate(connection).paused = True

    def hold(self, connection: str, until: float) -> None:
        """The receiver asked for quiet: no request of any lane of it before `until`."""
        gate = self._gate(connection)
        gate.not_before = max(gate.not_before, until)

    def accept(self, delivery: Delivery) -> None:
        """A new delivery, already in Redis."""
        lane = self._lane((delivery.partition, delivery.connection))
        if len(lane.loaded) >= MAX_LOADED and not self._evict_later_than(lane, delivery.due):
            lane.more = True
            return
        self._load(lane, delivery)

    def page(self, key: LaneKey, deliveries: Iterable[Delivery], pending: int) -> None:
        """The lane's next deliveries by due time, as Redis has them, and how many it has in all."""
        lane = self._lane(key)
        lane.asked = False
        for delivery in deliveries:
            if not lane.knows(delivery.offset) and len(lane.loaded) < MAX_LOADED:
                self._load(lane, delivery)
        lane.more = pending > len(lane.loaded) + len(lane.settling)
        self._want(lane)

    def refill(self, key: LaneKey) -> None:
        """The lane has deliveries in Redis that memory does not know."""
        lane = self._lane(key)
        lane.more = True
        self._want(lane)

    def wanted(self) -> LaneKey | None:
        """The next lane that needs a page."""
        return self._wanted.popleft() if self._wanted else None

    def start(self, now: float) -> Delivery | None:
        """The next delivery whose request may start now, counted as in flight."""
        while self._heap and self._heap[0][0] <= now:
            at, _, lane = heapq.heappop(self._heap)
            if at != lane.at:
                continue
            lane.at = inf
            delivery = self._startable(lane, now)
            if delivery is not None:
                return delivery
        return None

    def next_due(self) -> float | None:
        """When `start` may have something."""
        return self._heap[0][0] if self._heap else None

    def ended(self, delivery: Delivery) -> None:
        """It reached its end; Redis is told by `settle`, and `settled` follows."""
        lane = self._landed(delivery)
        if lane.loaded.pop(delivery.offset, None) is not None:
            lane.settling.add(delivery.offset)
        self._want(lane)

    def again(self, delivery: Delivery, due: float) -> bool:
        """Try it again at `due`; False when the partition was given up meanwhile."""
        lane = self._landed(delivery)
        if lane.loaded.get(delivery.offset) is not delivery:
            lane.more = True
            self._want(lane)
            return False
        delivery.due = due
        heapq.heappush(lane.waiting, (due, delivery.offset))
        self._queue(lane)
        return True

    def settled(self, key: LaneKey, offsets: Iterable[int]) -> None:
        """Redis has what became of these."""
        lane = self._lanes.get(key)
        if lane is not None:
            lane.settling.difference_update(offsets)

    def take_out(self, partition: int, matches: Callable[[Delivery], bool]) -> list[Delivery]:
        """Remove waiting deliveries of a partition; those in flight stay."""
        out: list[Delivery] = []
        for lane in self._lanes.values():
            if lane.partition != partition:
                continue
            for _, offset in lane.waiting:
                delivery = lane.loaded.get(offset)
                if delivery is not None and matches(delivery):
                    out.append(delivery)
                    del lane.loaded[offset]
                    lane.settling.add(offset)
            lane.waiting = [item for item in lane.waiting if item[1] in lane.loaded]
            heapq.heapify(lane.waiting)
        return out

    def drop(self, partition: int) -> None:
        """Forget what waits of a partition. What is in flight is not started again while it flies."""
        for lane in self._lanes.values():
            if lane.partition == partition:
                lane.waiting.clear()
                lane.loaded.clear()
                lane.settling.clear()
                lane.more = lane.asked = False

    def flying(self, partitions: Collection[int]) -> int:
        """Requests in flight of these partitions."""
        return sum(len(lane.flying) for lane in self._lanes.values() if lane.partition in partitions)

    def _startable(self, lane: Lane, now: float) -> Delivery | None:
        gate = lane.gate
        if not lane.waiting:
            return None
        if gate.paused or gate.in_flight >= gate.max_in_flight:
            gate.blocked.append(lane)
            lane.blocked = True
            return None
        if not self._may_start(lane.partition):
            self._push(lane, now + LEASE_PAUSE_S)
            return None
        due, offset = lane.waiting[0]
        if max(due, gate.not_before) > now:
            self._queue(lane)
            return None
        heapq.heappop(lane.waiting)
        gate.in_flight += 1
        self.in_flight += 1
        lane.flying.add(offset)
        self._queue(lane)
        return lane.loaded[offset]

    def _landed(self, delivery: Delivery) -> Lane:
        """Its request has an answer: the next of its connection may start."""
        lane = self._lane((delivery.partition, delivery.connection))
        lane.flying.discard(delivery.offset)
        lane.gate.in_flight -= 1
        self.in_flight -= 1
        if not lane.gate.paused:
            self._unblock(lane.gate, 1)
        return lane

    def _load(self, lane: Lane, delivery: Delivery) -> None:
        lane.loaded[delivery.offset] = delivery
        heapq.heappush(lane.waiting, (delivery.due, delivery.offset))
        self._queue(lane)

    def _evict_later_than(self, lane: Lane, due: float) -> bool:
        """Make room for a delivery due earlier than the last one that waits."""
        if not lane.waiting or max(lane.waiting)[0] <= due:
            return False
        last = max(lane.waiting)
        lane.waiting.remove(last)
        heapq.heapify(lane.waiting)
        del lane.loaded[last[1]]
        lane.more = True
        return True

    def _want(self, lane: Lane) -> None:
        if lane.more and not lane.asked and len(lane.loaded) < REFILL_BELOW:
            lane.asked = True
            self._wanted.append((lane.partition, lane.connection))

    def _queue(self, lane: Lane) -> None:
        """Put the lane where its next delivery is due, unless it stands there or earlier already."""
        if lane.waiting and not lane.blocked:
            at = max(lane.waiting[0][0], lane.gate.not_before)
            if at < lane.at:
                self._push(lane, at)

    def _push(self, lane: Lane, at: float) -> None:
        self._sequence += 1
        lane.at = at
        heapq.heappush(self._heap, (at, self._sequence, lane))

    def _unblock(self, gate: Gate, lanes: int) -> None:
        """Let so many blocked lanes that have work try again, in the order they were blocked."""
        while gate.blocked and lanes:
            lane = gate.blocked.popleft()
            lane.blocked = False
            self._queue(lane)
            lanes -= bool(lane.waiting)

    def _gate(self, name: str) -> Gate:
        return self._gates.setdefault(name, Gate(0))

    def _lane(self, key: LaneKey) -> Lane:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(*key, self._gate(key[1]))
        return lane
