"""Lanes: what waits for each connection, and what may start now. Pure state; the time is an argument.

A lane is the pending deliveries of one partition and one connection. Memory holds the next MAX_LOADED
of it by due time, Redis all of it: what memory does not know is due later than what it does, or asked
for. One heap orders all lanes by when it is their turn, so that ten thousand lanes cost no more than
the ones that have work. A Gate is what a connection's lanes share: how many requests may run, until
when it wants quiet, whether it is paused. A lane before a shut gate stands in its queue, not in the
heap; one that cannot use its turn passes it on. Used from one thread.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import inf

from consumer.lane import Delivery, Gate, Lane, LaneKey

#: Deliveries of a lane in memory; the rest is paged from Redis.
MAX_LOADED = 256
#: Below this part of it, a lane with more in Redis asks for its next page.
REFILL_PART = 4
#: Default of REFERRALS_MAX_IN_FLIGHT.
MAX_UNSETTLED = 1_000
#: A lane whose partition's lease has run out looks again after this.
LEASE_PAUSE_S = 0.05
#: Before every due time.
NOW = 0.0


class Lanes:
    """All lanes of a worker. `may_start(partition)`: whether its lease holds now.

    `max_unsettled` bounds what a crash can repeat: requests in flight, and answered ones Redis has not
    been told of yet.
    """

    def __init__(
        self,
        may_start: Callable[[int], bool],
        max_unsettled: int = MAX_UNSETTLED,
        max_loaded: int = MAX_LOADED,
    ) -> None:
        self._may_start, self._max_unsettled, self._max_loaded = may_start, max_unsettled, max_loaded
        self._lanes: dict[LaneKey, Lane] = {}
        self._gates: dict[str, Gate] = {}
        self._heap: list[tuple[float, int, Lane]] = []
        self._sequence = 0
        self._wanted: deque[LaneKey] = deque()
        self.in_flight = 0
        self._settling = 0

    def __len__(self) -> int:
        """Deliveries in memory."""
        return sum(len(lane.loaded) for lane in self._lanes.values())

    def oldest(self) -> Delivery | None:
        """The delivery in memory that came first, roughly: the lowest offset of each lane is looked at."""
        firsts = (lane.loaded[min(lane.loaded)] for lane in self._lanes.values() if lane.loaded)
        return min(firsts, key=lambda delivery: delivery.due, default=None)

    def configure(self, limits: Mapping[str, int]) -> None:
        """The connections in force with their `max_in_flight`. One that is gone starts nothing more;
        its deliveries stay pending.
        """
        for name in self._gates.keys() | limits.keys():
            gate = self._gate(name)
            gate.max_in_flight = limits.get(name, 0)
            self._call_up(gate, len(gate.blocked))

    def pause(self, paused: Iterable[str]) -> None:
        """Exactly these connections are paused."""
        names = set(paused)
        for name in names:
            self._gate(name).paused = True
        for name, gate in self._gates.items():
            if gate.paused and name not in names:
                gate.paused = False
                self._call_up(gate, len(gate.blocked))

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
        lane.load(delivery)
        self._look_after(lane)

    def page(self, key: LaneKey, deliveries: Sequence[Delivery], pending: int) -> None:
        """The lane's next deliveries by due time, as Redis has them, and how many it has in all."""
        lane = self._lane(key)
        lane.asked = False
        lane.page(deliveries, pending)
        if lane.waiting and max(lane.waiting)[0] > lane.beyond:
            self._ask(lane)
        self._look_after(lane)

    def refill(self, key: LaneKey) -> None:
        """The lane has deliveries in Redis that memory does not know, perhaps due before those it does."""
        lane = self._lane(key)
        lane.beyond = NOW
        self._ask(lane)

    def wanted(self) -> LaneKey | None:
        """The next lane that needs a page. It is not told again until it got one."""
        return self._wanted.popleft() if self._wanted else None

    def still_wanted(self, key: LaneKey) -> None:
        """Its page could not be read."""
        self._wanted.appendleft(key)

    def start(self, now: float) -> Delivery | None:
        """The next delivery whose request may start now, counted as in flight."""
        while self._heap and self._heap[0][0] <= now and not self._full:
            lane = heapq.heappop(self._heap)[2]
            lane.places.pop()
            delivery = None if lane.blocked else self._startable(lane, now)
            if delivery is not None:
                return delivery
        return None

    def next_due(self) -> float | None:
        """When `start` may have something; None also while only `settled` can make room."""
        return self._heap[0][0] if self._heap and not self._full else None

    def ended(self, delivery: Delivery) -> None:
        """It reached its end; Redis is told by `settle`, and `settled` follows."""
        lane = self._landed(delivery)
        lane.loaded.pop(delivery.offset, None)
        self._settle(lane, delivery.offset, inf)
        self._look_after(lane)

    def again(self, delivery: Delivery, due: float) -> bool:
        """Try it again at `due`, as Redis is told next; False when the partition was given up meanwhile.

        Where Redis has some that are due before, it makes room for them.
        """
        lane = self._landed(delivery)
        if lane.loaded.get(delivery.offset) is not delivery:
            self.refill(lane.key)
            return False
        delivery.due = due
        self._settle(lane, delivery.offset, due)
        if due < lane.beyond:
            lane.wait(delivery)
        else:
            del lane.loaded[delivery.offset]
        self._look_after(lane)
        return True

    def back(self, delivery: Delivery) -> None:
        """It was not tried: it waits as before."""
        lane = self._landed(delivery)
        if lane.loaded.get(delivery.offset) is delivery:
            lane.wait(delivery)
            self._look_after(lane)
        else:
            self.refill(lane.key)

    def withdrawn(self, delivery: Delivery) -> bool:
        """A removal ended it before memory held it; False where memory decides: it is there or in flight."""
        lane = self._lane((delivery.partition, delivery.connection))
        if lane.knows(delivery.offset):
            return False
        self._settle(lane, delivery.offset, inf)
        return True

    def settled(self, key: LaneKey, ended: Iterable[int] = (), put_off: Iterable[int] = ()) -> None:
        """Redis knows that these ended, and until when those are put off, unless they ended meanwhile."""
        lane = self._lane(key)
        told = [*ended, *(offset for offset in put_off if lane.settling.get(offset) != inf)]
        for offset in told:
            self._settling -= lane.settling.pop(offset, None) is not None

    def take_out(self, partition: int, matches: Callable[[Delivery], bool]) -> list[Delivery]:
        """Remove waiting deliveries of a partition; those in flight stay, marked as removed."""
        out: list[Delivery] = []
        for lane in self._lanes.values():
            if lane.partition == partition:
                taken = lane.take_out(matches)
                for delivery in taken:
                    self._settle(lane, delivery.offset, inf)
                self._look_after(lane)
                out += taken
        return out

    def drop(self, partition: int) -> None:
        """Forget what waits of a partition. What is in flight or being settled is not started again."""
        for lane in self._lanes.values():
            if lane.partition == partition:
                lane.forget()

    def flying(self, partitions: Collection[int]) -> int:
        """Requests in flight of these partitions."""
        return sum(len(lane.flying) for lane in self._lanes.values() if lane.partition in partitions)

    @property
    def _full(self) -> bool:
        return self.in_flight + self._settling >= self._max_unsettled

    def _startable(self, lane: Lane, now: float) -> Delivery | None:
        """What a lane whose turn it is may start."""
        gate = lane.gate
        if lane.waiting and gate.shut:
            gate.blocked.append(lane)
            lane.blocked = True
            return None
        delivery = None
        if lane.waiting and lane.due <= now:
            if self._may_start(lane.partition):
                delivery = lane.take()
                gate.in_flight += 1
                self.in_flight += 1
            else:
                self._push(lane, now + LEASE_PAUSE_S)
        if delivery is None:
            self._call_up(gate, 1)
        if lane.waiting and (delivery is not None or lane.due > now):
            self._push(lane, lane.due)
        return delivery

    def _landed(self, delivery: Delivery) -> Lane:
        """Its request has an answer: the next of its connection may start."""
        lane = self._lane((delivery.partition, delivery.connection))
        lane.flying.discard(delivery.offset)
        lane.gate.in_flight -= 1
        self.in_flight -= 1
        if not lane.gate.paused:
            self._call_up(lane.gate, 1)
        return lane

    def _settle(self, lane: Lane, offset: int, due: float) -> None:
        self._settling += offset not in lane.settling
        lane.settling[offset] = due

    def _look_after(self, lane: Lane) -> None:
        """After any change: its turn where it has work, a page where it runs low."""
        if lane.waiting and not lane.blocked:
            self._push(lane, lane.due)
        if lane.beyond < inf and len(lane.loaded) < self._max_loaded // REFILL_PART:
            self._ask(lane)

    def _ask(self, lane: Lane) -> None:
        if not lane.asked:
            lane.asked = True
            self._wanted.append(lane.key)

    def _push(self, lane: Lane, at: float) -> None:
        """Give the lane its turn at `at`, unless it has one before. Later ones stay and count."""
        if not lane.places or at < lane.places[-1]:
            self._sequence += 1
            lane.places.append(at)
            heapq.heappush(self._heap, (at, self._sequence, lane))

    def _call_up(self, gate: Gate, lanes: int) -> None:
        """Give so many blocked lanes their turn now, in the order they were blocked."""
        for _ in range(min(lanes, len(gate.blocked))):
            lane = gate.blocked.popleft()
            lane.blocked = False
            self._push(lane, NOW)

    def _gate(self, name: str) -> Gate:
        return self._gates.setdefault(name, Gate(0))

    def _lane(self, key: LaneKey) -> Lane:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(*key, self._gate(key[1]), self._max_loaded)
        return lane
