"""Lanes: what waits for each connection, and what may start now. Pure state; the time is an argument.

A lane is one tier of the pending deliveries of one partition and one connection. What the lanes of a
connection share is in `gates`, what memory holds of each in `families`; here requests start and land.
Deliveries of one referral go one after another. Used from one thread.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from math import inf

from consumer.families import Families
from consumer.lane import Delivery, Family, Lane
from consumer.tries import Tries

#: Deliveries of a lane in memory; the rest is paged from Redis.
MAX_LOADED = 256
#: Default of REFERRALS_MAX_IN_FLIGHT.
MAX_UNSETTLED = 1_000
#: A lane whose partition's lease has run out looks again after this.
LEASE_PAUSE_S = 0.05


class Lanes(Families):
    """All lanes of a worker. `may_start(partition)`: whether its lease holds now.

    `max_unsettled` bounds what a crash can repeat: deliveries in flight, and answered ones Redis has not
    been told of yet.
    """

    def __init__(
        self,
        may_start: Callable[[int], bool],
        max_unsettled: int = MAX_UNSETTLED,
        max_loaded: int = MAX_LOADED,
    ) -> None:
        super().__init__(max_unsettled, max_loaded)
        self.may_start = may_start

    def start(self, now: float) -> list[Delivery]:
        """The deliveries of the next request that may start now, counted as in flight; none: []."""
        while self._heap and self._heap[0][0] <= now and not self._full:
            lane = heapq.heappop(self._heap)[-1]
            lane.places.pop()
            started = [] if lane.blocked else self._startable(lane, now)
            if started:
                return started
        return []

    def next_due(self) -> float | None:
        """When `start` may have something; None also while only `settled` can make room."""
        return self._heap[0][0] if self._heap and not self._full else None

    def landed(self, deliveries: Sequence[Delivery]) -> None:
        """One request has its answer; `ended`, `again`, `back` or `held` of each delivery follows."""
        self._landed(self._gate(deliveries[0].connection), len(deliveries))

    def ended(self, delivery: Delivery) -> None:
        """It reached its end; Redis is told by `settle`, and `settled` follows."""
        lane, followers = self._came_down(delivery)
        lane.unload(delivery.offset)
        self._settle(lane.family, delivery, inf)
        self._let_go(lane.family, followers)
        self._look_after(lane)

    def held(self, delivery: Delivery) -> bool:
        """It waits for a person, as Redis is told next; False when the partition was given up meanwhile."""
        lane, followers = self._came_down(delivery)
        if lane.loaded.get(delivery.offset) is not delivery:
            self._read_anew(lane, delivery)
            return False
        lane.unload(delivery.offset)
        self._settle(lane.family, delivery, inf)
        lane.family.holding[delivery.offset] = delivery
        self._after(delivery, followers, lane.family, inf)
        self._look_after(lane)
        return True

    def again(self, delivery: Delivery, due: float, tries: Tries) -> bool:
        """Try it again at `due`, as Redis is told next; False when the partition was given up meanwhile.

        Where Redis has some that are due before, it makes room for them.
        """
        lane, followers = self._came_down(delivery)
        if lane.loaded.get(delivery.offset) is not delivery:
            self._read_anew(lane, delivery)
            return False
        delivery.tries = tries
        self._move(lane, delivery, due)
        self._after(delivery, followers, lane.family, due)
        return True

    def back(self, delivery: Delivery) -> None:
        """It was not tried: it waits as before."""
        lane, followers = self._came_down(delivery)
        if lane.loaded.get(delivery.offset) is not delivery:
            self._read_anew(lane, delivery)
            return
        lane.wait(delivery)
        self._look_after(lane)
        self._let_go(lane.family, followers)

    @property
    def _full(self) -> bool:
        return self.in_flight + self._settling >= self._max_unsettled

    def _startable(self, lane: Lane, now: float) -> list[Delivery]:
        """What a lane whose turn it is may start."""
        gate, meter = lane.gate, lane.gate.meter
        if not lane.waiting:
            self._pass_on(gate)
            return []
        if gate.shut or self._crowded(gate):
            self._stand(lane)
            return []
        at = lane.due
        if at <= now and meter is not None:
            ready = meter.ready_at(now)
            if ready is None:
                self._stand_before(meter, lane, now)
                return []
            at = max(at, ready)
        if at > now or not self.may_start(lane.family.partition):
            self._push(lane, at if at > now else now + LEASE_PAUSE_S)
            self._pass_on(gate)
            return []
        return self._started(lane, now)

    def _started(self, lane: Lane, now: float) -> list[Delivery]:
        due, group, _ = lane.waiting[0]
        if group and lane.beyond <= due and len(lane.waiting) < self._max_loaded:
            # Some of those it must go with are in Redis alone: the page that brings them gives the turn back,
            # or the landing of what takes their room.
            if len(lane.loaded) < self._max_loaded:
                self._ask(lane)
            self._pass_on(lane.gate)
            return []
        started = self._take(lane, now)
        if started:
            self._took_off(lane, len(started))
            self.in_flight += len(started)
        else:
            self._pass_on(lane.gate)
        if lane.waiting:
            self._push(lane, lane.due)
        return started

    def _take(self, lane: Lane, now: float) -> list[Delivery]:
        """The next deliveries that one request may carry, from now on in flight."""
        family = lane.family
        taken: list[Delivery] = []
        most = lane.gate.rows
        if not lane.waiting[0][1]:
            # What must go together does, over this bound too: such receivers recognise repeats.
            most = min(self._request_size(lane.gate), self._max_unsettled - self.in_flight - self._settling)
        while lane.waiting and len(taken) < most and lane.waiting[0][0] <= now:
            if taken and not lane.loaded[lane.waiting[0][2]].rides_with(taken[0]):
                break
            delivery = lane.take()
            followers = family.busy.get(delivery.referral_id)
            if followers is not None:
                followers.append(delivery)
                continue
            if delivery.revision and (before := _before(family, delivery)) is not None:
                self._wait_behind(family, delivery, before)
                continue
            family.busy[delivery.referral_id] = []
            family.flying.add(delivery.offset)
            taken.append(delivery)
        return taken

    def _came_down(self, delivery: Delivery) -> tuple[Lane, list[Delivery]]:
        """It is not in flight any more; its lane, and what waited for it."""
        lane = self._lane(delivery.partition, delivery.connection, delivery.tier)
        lane.family.flying.discard(delivery.offset)
        self.in_flight -= 1
        followers = lane.family.busy.pop(delivery.referral_id, [])
        lanes = lane.family.lanes
        return lane, [one for one in followers if lanes[one.tier].loaded.get(one.offset) is one]

    def _after(self, delivery: Delivery, followers: Sequence[Delivery], family: Family, due: float) -> None:
        """What memory has of its referral, and comes later, waits until then; what takes an earlier one back
        need not.
        """
        self._let_go(family, [one for one in followers if one.offset < delivery.offset])
        waiting = (*followers, *family.waiting_of(delivery.referral_id))
        for other in {one.offset: one for one in waiting}.values():
            if other.offset > delivery.offset:
                self._wait_behind(family, other, due)

    def _read_anew(self, lane: Lane, delivery: Delivery) -> None:
        """Memory lost it in flight: Redis has it, and what comes after it must not overtake it."""
        self.refill(lane.key)
        for later in lane.family.waiting_of(delivery.referral_id):
            tier = lane.family.lanes[later.tier]
            tier.unload(later.offset)
            tier.stop_waiting({later.offset})
            self.refill(tier.key)

    def _let_go(self, family: Family, followers: Iterable[Delivery]) -> None:
        for follower in followers:
            lane = family.lanes[follower.tier]
            lane.wait(follower)
            self._look_after(lane)


def _before(family: Family, delivery: Delivery) -> float | None:
    """When the last earlier delivery of its referral that waits is due."""
    earlier = (one for one in family.waiting_of(delivery.referral_id) if one.offset < delivery.offset)
    return max((one.due for one in earlier), default=None)
