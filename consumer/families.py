"""What memory holds of each lane, and what it has to ask Redis for. Pure state.

Memory holds the next of a lane by due time, Redis all of it: what memory does not know is due later than
what it does, or asked for. What was put off or ended stays known until Redis was told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf

from consumer.gates import NOW, Gates
from consumer.lane import AFTER_S, Delivery, Family, Lane, LaneKey, Tier

#: Below this part of what memory may hold of it, a lane with more in Redis asks for its next page.
REFILL_PART = 4


class Families(Gates):
    """Every lane this worker knows. `max_loaded`: deliveries of a lane in memory."""

    def __init__(self, max_unsettled: int, max_loaded: int) -> None:
        super().__init__(max_unsettled)
        self._max_loaded = max_loaded
        self._families: dict[tuple[int, str], Family] = {}
        self._wanted: deque[LaneKey] = deque()
        self._put_off: list[Delivery] = []
        self._settling = 0

    def __len__(self) -> int:
        """Deliveries in memory."""
        return sum(len(lane.loaded) for lane in self._lanes())

    def oldest(self) -> Delivery | None:
        """The delivery in memory that came first, roughly: the lowest offset of each lane is looked at."""
        firsts = (lane.loaded[min(lane.loaded)] for lane in self._lanes() if lane.loaded)
        return min(firsts, key=lambda delivery: delivery.due, default=None)

    def accept(self, delivery: Delivery) -> None:
        """A new delivery, already in Redis."""
        lane = self._lane(delivery.partition, delivery.connection, delivery.tier)
        if not lane.family.knows(delivery.offset):
            lane.load(delivery)
        self._look_after(lane)

    def page(
        self, key: LaneKey, deliveries: Sequence[Delivery], behind: Mapping[int, float], *, whole: bool
    ) -> None:
        """The lane's next deliveries by due time, as Redis has them; `whole`: it has no others. `behind`:
        until when an earlier delivery of its referral keeps one waiting.
        """
        lane = self._lane(*key)
        lane.asked = False
        free = []
        for delivery in deliveries:
            # Redis may not have been told yet.
            until = max(behind.get(delivery.offset, NOW), lane.family.held_up_until(delivery))
            if until == NOW or (until < delivery.due and delivery.tier is Tier.AGAIN):
                free.append(delivery)
            elif not lane.family.knows(delivery.offset):
                # Within its tier, what is due later starts later; between tiers nothing says so.
                self._wait_behind(lane.family, delivery, max(until, delivery.due))
        lane.paged(free, whole=whole)
        if not whole and not free:
            lane.beyond = min(lane.beyond, max((one.due for one in deliveries), default=NOW))
        if lane.waiting and max(lane.waiting)[0] > lane.beyond:
            self._ask(lane)
        self._look_after(lane)

    def refill(self, key: LaneKey) -> None:
        """The lane has deliveries in Redis that memory does not know, perhaps due before those it does."""
        lane = self._lane(*key)
        lane.beyond = NOW
        self._ask(lane)

    def wanted(self) -> LaneKey | None:
        """The next lane that needs a page. It is not told again until it got one."""
        return self._wanted.popleft() if self._wanted else None

    def still_wanted(self, key: LaneKey) -> None:
        """Its page could not be read."""
        self._wanted.appendleft(key)

    def known(self, key: LaneKey) -> int:
        """So many of a lane's earliest in Redis memory may know. Any thread may ask."""
        family = self._families[key.partition, key.connection]
        return len(family.flying) + len(family.settling) + self._max_loaded

    def put_off(self) -> list[Delivery]:
        """Those since the last call that wait for an earlier one of their referral: Redis is told next."""
        put_off, self._put_off = self._put_off, []
        return put_off

    def withdrawn(self, delivery: Delivery) -> bool:
        """A removal ended it before memory held it; False where memory decides: it is there or in flight."""
        family = self._family(delivery.partition, delivery.connection)
        held = family.holding.pop(delivery.offset, None)
        if held is not None:
            delivery.tries = held.tries
        elif family.knows(delivery.offset):
            return False
        self._settle(family, delivery, inf)
        return True

    def settled(self, partition: int, connection: str, told: Mapping[int, float]) -> None:
        """Redis knows that these ended or are held (inf), or until when they are put off: what happened to
        them since, it does not.
        """
        family = self._family(partition, connection)
        for offset, due in told.items():
            known = family.settling.get(offset)
            if known is not None and known[0] == due:
                del family.settling[offset]
                family.holding.pop(offset, None)
                self._settling -= 1

    def take_out(self, partition: int, matches: Callable[[Delivery], bool]) -> list[Delivery]:
        """Remove waiting deliveries of a partition; those in flight stay, marked as removed."""
        out: list[Delivery] = []
        for lane in self._lanes():
            if lane.family.partition == partition:
                taken = lane.take_out(matches)
                for delivery in taken:
                    self._settle(lane.family, delivery, inf)
                self._look_after(lane)
                out += taken
        return out

    def drop(self, partition: int) -> None:
        """Forget what waits of a partition. What is in flight or being settled is not started again."""
        for lane in self._lanes():
            if lane.family.partition == partition:
                lane.forget()

    def flying(self, partitions: Collection[int]) -> int:
        """Deliveries in flight of these partitions."""
        return sum(len(family.flying) for (p, _), family in self._families.items() if p in partitions)

    def states(self, now: float) -> dict[str, int]:
        """How many connections with work are held back, by what."""
        gates = {id(lane.gate): lane.gate for lane in self._lanes() if lane.loaded}.values()
        return {
            "paused": sum(gate.paused for gate in gates),
            "quiet": sum(gate.not_before > now for gate in gates),
            "open": sum(not gate.breaker.closed for gate in gates),
            "slowed": sum(gate.concurrency.requests < gate.max_in_flight for gate in gates),
            "limited": sum(gate.meter is not None and bool(gate.meter.blocked) for gate in gates),
        }

    def _wait_behind(self, family: Family, delivery: Delivery, due: float) -> None:
        """It is due right after an earlier delivery of its referral, or (inf) waits for one that is held; no
        attempt is spent.
        """
        lane = family.lanes[delivery.tier]
        lane.stop_waiting({delivery.offset})
        if due < inf:
            self._move(lane, delivery, due + AFTER_S)
            self._put_off.append(replace(delivery))
            return
        lane.unload(delivery.offset)
        self._settle(family, delivery, inf)
        self._look_after(lane)
        self._put_off.append(replace(delivery, due=inf))

    def _move(self, lane: Lane, delivery: Delivery, due: float) -> None:
        """To the tier of those put off, where it is due then."""
        lane.unload(delivery.offset)
        self._settle(lane.family, delivery, due)
        delivery.due, delivery.tier = due, Tier.AGAIN
        tier = self._lane(delivery.partition, delivery.connection, Tier.AGAIN)
        tier.load(delivery)
        self._look_after(tier)
        if tier is not lane:
            self._look_after(lane)

    def _settle(self, family: Family, delivery: Delivery, due: float) -> None:
        self._settling += delivery.offset not in family.settling
        family.settling[delivery.offset] = due, delivery.referral_id

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

    def _lanes(self) -> Iterator[Lane]:
        return (lane for family in self._families.values() for lane in family.lanes.values())

    def _family(self, partition: int, connection: str) -> Family:
        family = self._families.get((partition, connection))
        if family is None:
            family = Family(partition, connection, self._gate(connection))
            family.lanes = {tier: Lane(family, tier, self._max_loaded) for tier in Tier}
            self._families[partition, connection] = family
        return family

    def _lane(self, partition: int, connection: str, tier: Tier) -> Lane:
        return self._family(partition, connection).lanes[tier]
