"""Lanes under any order of events, beside a model of what Redis has.

Laws: never more requests than a connection or a grant allows or a crash may repeat; nothing starts before its time,
while its connection is paused or quiet, without a lease, while it is already in flight, after it ended, or
before an earlier delivery of its referral ended; what must go together does; memory and heap stay bounded;
nothing is lost: in the end everything that was accepted has ended.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consumer.lane import AFTER_S, Delivery, Lane, LaneKey, Tier
from consumer.lanes import LEASE_PAUSE_S, Lanes
from consumer.limits import Grant, Meter
from consumer.tries import NONE, Tries
from schemas.push import Limits
from tests.support.waiting import frozen

PARTITIONS = (0, 1)
CONNECTIONS = ("a", "b")
#: Requests of "b" carry up to so many.
ROWS = {"a": 1, "b": 2}
ROOM = 4
PAGE = 2 * ROOM
UNSETTLED = 6
#: Far more steps than anything the machine can have piled up needs.
ENOUGH = 3_000

partitions = st.sampled_from(PARTITIONS)
connections = st.sampled_from(CONNECTIONS)
#: Mostly now and soon, sometimes far away.
delays = st.sampled_from((0.0, 0.0, 0.0, 1.0, 3.0, 1_000.0))

FamilyKey = tuple[int, str]


@dataclass
class Stored:
    """A delivery as Redis has it. Every third offset begins a new referral: two revisions follow it."""

    due: float
    tier: Tier = Tier.DUE
    tries: Tries = NONE
    #: "held" for a person, or "behind" one of its referral that is.
    aside: str = ""


class Worker(RuleBasedStateMachine):
    """A worker's loop and its Redis: `redis` is what is pending there, by lane and offset."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1.0
        self.leases = set(PARTITIONS)
        self.lanes = Lanes(lambda partition: partition in self.leases, UNSETTLED, ROOM)
        self.redis: defaultdict[FamilyKey, dict[int, Stored]] = defaultdict(dict)
        self.offsets = dict.fromkeys(PARTITIONS, 0)
        #: Requests in flight.
        self.flying: list[list[Delivery]] = []
        self.ended: set[tuple[FamilyKey, int]] = set()
        self.removed: set[tuple[FamilyKey, int]] = set()
        #: Not yet in Redis: (lane, offset, due, tries), due inf where it ended.
        self.untold: list[tuple[FamilyKey, int, float, Tries, str]] = []
        self.limits: dict[str, int] = {}
        #: Requests the last grant may still start, and how many at once; None for any.
        self.granted: tuple[int, int | None] = (0, None)
        self.metered: set[str] = set()
        self.paused: set[str] = set()
        self.quiet = dict.fromkeys(CONNECTIONS, 0.0)
        self.groups = 0

    @initialize(a=st.integers(1, 3), b=st.integers(1, 3), metered=st.sets(connections))
    def configured(self, a: int, b: int, metered: set[str]) -> None:
        self.configure(a, b, metered)

    @rule(a=st.integers(0, 3), b=st.integers(0, 3), metered=st.sets(connections))
    def configure(self, a: int, b: int, metered: set[str]) -> None:
        """Those `metered` share the limits of one credential."""
        self.limits, self.metered = {"a": a, "b": b}, metered
        meters = {name: Meter("shared", Limits(connections=3), 20.0) for name in metered}
        self.lanes.configure(
            {name: (limit, ROWS[name], meters.get(name)) for name, limit in self.limits.items()}
        )

    @rule(
        requests=st.sampled_from((0, 1, 3, 100)),
        at_once=st.sampled_from((None, 0, 1, 2)),
        apart=st.sampled_from((0, 0, 300_000)),
        again=st.sampled_from((0.0, 0.5)),
        refused=st.booleans(),
    )
    def grant(self, requests: int, at_once: int | None, apart: int, again: float, refused: bool) -> None:
        if (found := self.lanes.asking()) is None:
            return
        meter, wanted = found
        assert wanted >= 0
        if at_once == 0:
            requests = 0
        given = None if refused else Grant(requests, 0, apart, at_once, again if requests else 0.5)
        self.lanes.granted(meter, given, self.now)
        if given is not None and meter in self.lanes._meters.values():
            self.granted = requests, at_once

    @rule()
    def look(self) -> None:
        self.lanes.give_up_shares(self.now)

    @rule(partition=partitions, connection=connections, count=st.integers(1, ROOM + 2))
    def accept(self, partition: int, connection: str, count: int) -> None:
        for _ in range(count):
            offset = self.offsets[partition]
            self.offsets[partition] += 1
            self.redis[partition, connection][offset] = Stored(self.now)
            self.give((partition, connection), offset)

    def give(self, key: FamilyKey, offset: int) -> None:
        """As the worker does: a first revision goes to memory, of a later one Redis is asked."""
        delivery = self.delivery(key, offset)
        if delivery.revision:
            self.lanes.refill(LaneKey(*key))
        else:
            self.lanes.accept(delivery)

    @rule(seconds=st.sampled_from((0.0, 1.0, 3.0, 2_000.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def start(self) -> None:
        while deliveries := self.lanes.start(self.now):
            self.tell_put_off()
            name = deliveries[0].connection
            assert len(self.of(name)) < self.limits[name]
            assert self.unsettled() + len(deliveries) <= UNSETTLED or deliveries[0].tries.group
            assert len(deliveries) <= ROWS[name]
            if name in self.metered:
                self.within_the_grant()
            assert len({(one.partition, one.connection, one.tries.group) for one in deliveries}) == 1
            assert len({one.referral_id for one in deliveries}) == len(deliveries)
            for one in deliveries:
                self.may_start((one.partition, one.connection), one)
            if group := deliveries[0].tries.group:
                key = deliveries[0].partition, name
                waiting = {
                    offset
                    for offset, stored in self.redis[key].items()
                    if stored.tries.group == group and (key, offset) not in self.ended | self.removed
                }
                assert waiting <= {one.offset for one in deliveries}, "what must go together was split"
            self.flying.append(list(deliveries))
        self.tell_put_off()
        if self.unsettled() < UNSETTLED:
            self.nothing_waits_without_a_reason()

    def within_the_grant(self) -> None:
        left, at_once = self.granted
        assert left > 0
        assert at_once is None or sum(len(self.of(name)) for name in self.metered) < at_once
        self.granted = left - 1, at_once

    def may_start(self, key: FamilyKey, one: Delivery) -> None:
        assert one.due <= self.now
        assert self.quiet[one.connection] <= self.now
        assert one.connection not in self.paused
        assert one.partition in self.leases
        assert (key, one.offset) not in self.ended | self.removed
        flying = [
            other for others in self.of(one.connection) for other in others if other.partition == key[0]
        ]
        assert one.offset not in {other.offset for other in flying}
        earlier = {
            offset
            for offset in self.redis[key]
            if offset < one.offset and offset // 3 == one.offset // 3 and (key, offset) not in self.ended
        }
        assert not earlier - {offset for where, offset in self.removed if where == key}, (
            f"{one} before {earlier}: {self.redis[key]}, {self.lanes._family(*key)}"
        )

    def tell_put_off(self) -> None:
        for one in self.lanes.put_off():
            aside = "behind" if one.due == inf else ""
            self.untold.append(((one.partition, one.connection), one.offset, one.due, one.tries, aside))

    def nothing_waits_without_a_reason(self) -> None:
        """Where a request may run, what is due in memory does; a lane without a lease looks again soon."""
        for (partition, name), family in self.lanes._families.items():
            may = name not in self.paused and not family.gate.shut and not self.lanes._crowded(family.gate)
            for lane in family.lanes.values():
                ready = may and partition in self.leases and lane.waiting and lane.due <= self.now
                # One that had its fair share, when there was little to share, goes on with its next answer.
                shared = lane.blocked and family.gate.in_flight > 0
                if ready and not shared and not self.waits_for_a_page(lane) and self.meter_is_ready(lane):
                    soon = lane.places and lane.places[-1] <= self.now + LEASE_PAUSE_S
                    assert soon, f"{lane} of {family} has no turn"

    def meter_is_ready(self, lane: Lane) -> bool:
        meter = lane.gate.meter
        if meter is None:
            return True
        ready = meter.ready_at(self.now)
        if ready is None:
            assert lane.blocked or lane.places, f"{lane} was forgotten"
            assert meter.asked or meter.in_flight or not meter.blocked, f"nobody asks for {meter}"
        return ready is not None and ready <= self.now

    def waits_for_a_page(self, lane: Lane) -> bool:
        due, group, _ = lane.waiting[0]
        return bool(group) and lane.asked and lane.beyond <= due

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), seconds=st.sampled_from((1.0, 3.0)))
    def try_again_later(self, data: st.DataObject, seconds: float) -> None:
        self.land(data, "unknown", seconds)

    @precondition(lambda self: self.flying)
    @rule(
        data=st.data(),
        how=st.sampled_from(("ended", "again", "unknown", "held", "back", "stand")),
        delay=delays,
    )
    def land(self, data: st.DataObject, how: str, delay: float) -> None:
        deliveries = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        name = deliveries[0].connection
        alive = how not in {"again", "unknown"}
        self.lanes.answered(name, alive=alive, busy=not alive, latency=0.1, now=self.now)
        self.lanes.landed(deliveries)
        self.groups += 1
        due = self.now + max(delay, 1.0)
        group = f"g{self.groups}" if how == "unknown" and len(deliveries) > 1 else ""
        for one in deliveries:
            key = one.partition, one.connection
            if how == "ended" or one.removed:
                self.lanes.ended(one)
                self.end(key, one.offset)
            elif how in {"again", "unknown"}:
                tries = Tries(one.tries.attempts + 1, 0.0, group)
                if self.lanes.again(one, due, tries):
                    self.untold.append((key, one.offset, due, tries, ""))
            elif how == "held":
                if self.lanes.held(one):
                    self.untold.append((key, one.offset, inf, one.tries, "held"))
            else:
                if how == "stand":
                    self.lanes.stand(one.connection)
                    self.paused.add(one.connection)
                self.lanes.back(one)
        self.tell_put_off()

    @rule()
    def settle(self) -> None:
        """As the worker does: all that was put off and ended so far, in order."""
        for key, offset, due, tries, aside in self.untold:
            if aside and offset in self.redis[key]:
                self.redis[key][offset] = Stored(self.now, Tier.AGAIN, tries, aside)
            elif due == inf:
                over = self.redis[key].pop(offset, None)
                if over is not None and over.aside == "held":
                    self.let_go(key, offset)
            elif offset in self.redis[key]:
                self.redis[key][offset] = Stored(due, Tier.AGAIN, tries)
            self.lanes.settled(*key, {offset: due})
        self.untold.clear()

    def let_go(self, key: FamilyKey, held: int) -> None:
        """What waits behind one that was held follows it at once; its owner reads it anew."""
        n = 0
        for offset, one in sorted(self.redis[key].items()):
            if one.aside == "behind" and offset > held and offset // 3 == held // 3:
                n += 1
                self.redis[key][offset] = Stored(self.now + n * AFTER_S, Tier.AGAIN, one.tries)
        self.lanes.refill(LaneKey(*key, Tier.AGAIN))

    @rule()
    def release(self) -> None:
        """A person decided: all that is held is tried again."""
        for key, offsets in self.redis.items():
            for offset, one in sorted(offsets.items()):
                if one.aside == "held":
                    offsets[offset] = Stored(self.now, Tier.AGAIN, one.tries)
                    self.let_go(key, offset)

    @rule(settles=st.booleans(), seconds=st.sampled_from((0.0, 1.0)))
    def round(self, settles: bool, seconds: float) -> None:
        """What a worker does all the time."""
        self.now += seconds
        if settles:
            self.settle()
        for _ in range(4):
            self.page()
        self.start()

    @rule()
    def page(self) -> None:
        if (wanted := self.lanes.wanted()) is None:
            return
        key = wanted.partition, wanted.connection
        tier = {
            offset: one
            for offset, one in self.redis[key].items()
            if one.tier is wanted.tier and not one.aside
        }
        earliest = sorted(tier, key=lambda offset: (tier[offset].due, offset))[
            : self.lanes.known(wanted) + ROOM
        ]
        found = [self.delivery(key, offset) for offset in earliest if (key, offset) not in self.removed]
        for offset in earliest:
            if (key, offset) in self.removed and self.lanes.withdrawn(self.delivery(key, offset)):
                self.end(key, offset)
        behind = {}
        for one in found:
            late = [
                {"held": inf, "behind": 0.0}.get(stored.aside, stored.due)
                for offset, stored in self.redis[key].items()
                if stored.tier is Tier.AGAIN and offset < one.offset and offset // 3 == one.offset // 3
            ]
            if late:
                behind[one.offset] = max(late)
        self.lanes.page(wanted, found, behind, whole=len(earliest) == len(tier))
        self.tell_put_off()

    @rule()
    def page_unread(self) -> None:
        if (key := self.lanes.wanted()) is not None:
            self.lanes.still_wanted(key)

    @rule(partition=partitions)
    def retake(self, partition: int) -> None:
        """The partition was lost and is ours again; what others did to it meanwhile is nothing here."""
        self.lanes.drop(partition)
        for connection in CONNECTIONS:
            for tier in Tier:
                self.lanes.refill(LaneKey(partition, connection, tier))

    @rule(partition=partitions, connection=connections)
    def read_again(self, partition: int, connection: str) -> None:
        """Redis went back, and Kafka's records come a second time; intake knows which were removed."""
        key = partition, connection
        for offset, stored in list(self.redis.get(key, {}).items()):
            if (key, offset) not in self.removed and stored.tier is Tier.DUE:
                self.give(key, offset)

    @rule(partition=partitions, rest=st.integers(0, 2))
    def remove(self, partition: int, rest: int) -> None:
        gone = {offset for offset in range(self.offsets[partition]) if offset % 3 == rest}
        self.removed |= {((partition, name), offset) for name in CONNECTIONS for offset in gone}
        for delivery in self.lanes.take_out(partition, lambda delivery: delivery.offset in gone):
            self.end((partition, delivery.connection), delivery.offset)
        for name in CONNECTIONS:
            aside = [offset for offset, one in self.redis[partition, name].items() if one.aside]
            for offset in gone.intersection(aside):
                if self.lanes.withdrawn(self.delivery((partition, name), offset)):
                    self.end((partition, name), offset)
        for lane in self.lanes._lanes():
            if lane.family.partition == partition:
                assert all(lane.loaded[offset].removed for offset in gone & lane.loaded.keys())

    @rule(names=st.sets(connections))
    def pause(self, names: set[str]) -> None:
        self.paused = set(names)
        self.lanes.pause(names)

    @rule(connection=connections, delay=delays)
    def hold(self, connection: str, delay: float) -> None:
        self.lanes.hold(connection, self.now + delay)
        self.quiet[connection] = max(self.quiet[connection], self.now + delay)

    @rule(leases=st.sets(partitions))
    def lease(self, leases: set[int]) -> None:
        self.leases = leases

    @invariant()
    def memory_is_bounded(self) -> None:
        for lane in self.lanes._lanes():
            assert len(lane.loaded) <= ROOM
            assert lane.places == sorted(set(lane.places), reverse=True)
        assert len(self.lanes._heap) == sum(len(lane.places) for lane in self.lanes._lanes())

    @invariant()
    def nothing_is_forgotten(self) -> None:
        """What Redis has is in memory, or the lane knows from when on there is more; what is in memory is
        due before that, or a page is asked for.
        """
        for key, offsets in self.redis.items():
            family = self.lanes._family(*key)
            for tier, lane in family.lanes.items():
                mine = {at: one.due for at, one in offsets.items() if one.tier is tier and not one.aside}
                unknown = [offset for offset in mine if not family.knows(offset)]
                assert all(mine[offset] >= lane.beyond for offset in unknown), f"{key}: {unknown}"
                assert lane.asked or max(lane.waiting, default=(0.0, "", 0))[0] <= lane.beyond
            put_off = {offset: due for offset, (due, _) in family.settling.items() if due < inf}
            again = family.lanes[Tier.AGAIN]
            assert all(due >= again.beyond for at, due in put_off.items() if at not in again.loaded)
            untold = {(offset, due == inf) for where, offset, due, *_ in self.untold if where == key}
            assert {offset for offset, over in untold if over} <= family.settling.keys()
            assert family.settling.keys() <= {offset for offset, _ in untold}
        assert self.lanes.in_flight == sum(map(len, self.flying))

    @invariant()
    def requests_are_counted(self) -> None:
        for name, gate in self.lanes.gates.items():
            assert (gate.in_flight, gate.flying) == (len(self.of(name)), sum(map(len, self.of(name))))
            meter = gate.meter
            if meter is not None:
                assert meter.in_flight == sum(len(self.of(other)) for other in self.metered)
                assert meter.wanted == sum(lane.wants for lane in meter.blocked)

    def teardown(self) -> None:
        """With a receiver that takes everything, everything ends."""
        self.leases = set(PARTITIONS)
        self.configure(1, 1, self.metered)
        self.pause(set())
        for _ in range(ENOUGH):
            self.grant(100, 1, 0, 0.0, refused=False)
            self.start()
            while self.flying:
                deliveries = self.flying.pop(0)
                name = deliveries[0].connection
                self.lanes.answered(name, alive=True, busy=False, latency=0.1, now=self.now)
                self.lanes.landed(deliveries)
                for one in deliveries:
                    self.lanes.ended(one)
                    self.end((one.partition, one.connection), one.offset)
            self.settle()
            self.release()
            self.page()
            if not any(self.redis.values()):
                return
            due = self.lanes.next_due()
            if due is not None:
                self.now = max(self.now, due)
        raise AssertionError(f"not delivered: {dict(self.redis)}")

    def end(self, key: FamilyKey, offset: int) -> None:
        self.ended.add((key, offset))
        self.untold.append((key, offset, inf, NONE, ""))

    def of(self, connection: str) -> list[list[Delivery]]:
        return [deliveries for deliveries in self.flying if deliveries[0].connection == connection]

    def unsettled(self) -> int:
        told = {(key, offset) for key, offset, *_ in self.untold}
        return sum(map(len, self.flying)) + len(told)

    def delivery(self, key: FamilyKey, offset: int) -> Delivery:
        stored = self.redis[key][offset]
        referral = f"r{offset // 3}"
        return Delivery(*key, offset, stored.due, frozen(referral, offset % 3), stored.tries, stored.tier)


TestLanes = Worker.TestCase
TestLanes.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
