"""Lanes under any order of events, beside a model of what Redis has.

Laws: never more requests than a connection allows or a crash may repeat; nothing starts before its time,
while its connection is paused or quiet, without a lease, while it is already in flight, or after it ended;
memory and heap stay bounded; nothing is lost: in the end everything that was accepted has ended.
"""

from __future__ import annotations

from collections import defaultdict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consumer.lane import Delivery, LaneKey
from consumer.lanes import LEASE_PAUSE_S, Lanes

PARTITIONS = (0, 1)
CONNECTIONS = ("a", "b")
ROOM = 4
PAGE = 2 * ROOM
UNSETTLED = 6
#: Far more steps than anything the machine can have piled up needs.
ENOUGH = 2_000

partitions = st.sampled_from(PARTITIONS)
connections = st.sampled_from(CONNECTIONS)
#: Mostly now and soon, sometimes far away.
delays = st.sampled_from((0.0, 0.0, 0.0, 1.0, 3.0, 1_000.0))


class Worker(RuleBasedStateMachine):
    """A worker's loop and its Redis: `redis` is what is pending there, by lane and offset, with its due time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1.0
        self.leases = set(PARTITIONS)
        self.lanes = Lanes(lambda partition: partition in self.leases, UNSETTLED, ROOM)
        self.redis: defaultdict[LaneKey, dict[int, float]] = defaultdict(dict)
        self.offsets = dict.fromkeys(PARTITIONS, 0)
        self.flying: list[Delivery] = []
        self.ended: set[tuple[LaneKey, int]] = set()
        self.removed: set[tuple[LaneKey, int]] = set()
        #: Not yet in Redis: (lane, offset, due), None where it ended.
        self.untold: list[tuple[LaneKey, int, float | None]] = []
        self.limits: dict[str, int] = {}
        self.paused: set[str] = set()
        self.quiet = dict.fromkeys(CONNECTIONS, 0.0)

    @initialize(a=st.integers(1, 3), b=st.integers(1, 3))
    def configured(self, a: int, b: int) -> None:
        self.configure(a, b)

    @rule(a=st.integers(0, 3), b=st.integers(0, 3))
    def configure(self, a: int, b: int) -> None:
        self.limits = {"a": a, "b": b}
        self.lanes.configure(self.limits)

    @rule(partition=partitions, connection=connections, delay=delays, count=st.integers(1, ROOM + 2))
    def accept(self, partition: int, connection: str, delay: float, count: int) -> None:
        for _ in range(count):
            offset = self.offsets[partition]
            self.offsets[partition] += 1
            self.redis[partition, connection][offset] = self.now + delay
            self.lanes.accept(self.delivery((partition, connection), offset))

    @rule(seconds=st.sampled_from((0.0, 1.0, 3.0, 2_000.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def start(self) -> None:
        while (delivery := self.lanes.start(self.now)) is not None:
            key, offset = (delivery.partition, delivery.connection), delivery.offset
            assert delivery.due <= self.now
            assert self.quiet[delivery.connection] <= self.now
            assert delivery.connection not in self.paused
            assert delivery.partition in self.leases
            assert (key, offset) not in self.ended | self.removed
            assert all((other.partition, other.offset) != (key[0], offset) for other in self.of(key[1]))
            assert len(self.of(key[1])) < self.limits[key[1]]
            assert len(self.flying) + len(self.untold) < UNSETTLED
            self.flying.append(delivery)
        if len(self.flying) + len(self.untold) < UNSETTLED:
            self.nothing_waits_without_a_reason()

    def nothing_waits_without_a_reason(self) -> None:
        """Where a request may run, what is due in memory does; a lane without a lease looks again soon."""
        for (partition, name), lane in self.lanes._lanes.items():
            may = name not in self.paused and len(self.of(name)) < self.limits[name]
            if may and partition in self.leases and lane.waiting and lane.due <= self.now:
                assert lane.places[-1] <= self.now + LEASE_PAUSE_S

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), how=st.sampled_from(("ended", "again", "back", "stand")), delay=delays)
    def land(self, data: st.DataObject, how: str, delay: float) -> None:
        delivery = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        key, offset = (delivery.partition, delivery.connection), delivery.offset
        if how == "ended" or delivery.removed:
            self.lanes.ended(delivery)
            self.end(key, offset)
        elif how == "again":
            due = self.now + max(delay, 1.0)
            if self.lanes.again(delivery, due):
                self.untold.append((key, offset, due))
        else:
            if how == "stand":
                self.lanes.stand(delivery.connection)
                self.paused.add(delivery.connection)
            self.lanes.back(delivery)

    @rule()
    def settle(self) -> None:
        """As the worker does: all that ended and was put off so far, in order."""
        for key, offset, due in self.untold:
            if due is None:
                self.redis[key].pop(offset, None)
            elif offset in self.redis[key]:
                self.redis[key][offset] = due
            self.lanes.settled(key, **{"ended" if due is None else "put_off": [offset]})
        self.untold.clear()

    @rule()
    def page(self) -> None:
        if (key := self.lanes.wanted()) is not None:
            earliest = sorted(self.redis[key], key=lambda offset: (self.redis[key][offset], offset))[:PAGE]
            found = [self.delivery(key, offset) for offset in earliest if (key, offset) not in self.removed]
            for offset in earliest:
                if (key, offset) in self.removed and self.lanes.withdrawn(self.delivery(key, offset)):
                    self.end(key, offset)
            self.lanes.page(key, found, len(self.redis[key]))

    @rule()
    def page_unread(self) -> None:
        if (key := self.lanes.wanted()) is not None:
            self.lanes.still_wanted(key)

    @rule(partition=partitions)
    def retake(self, partition: int) -> None:
        """The partition was lost and is ours again; what others did to it meanwhile is nothing here."""
        self.lanes.drop(partition)
        for connection in CONNECTIONS:
            self.lanes.refill((partition, connection))

    @rule(partition=partitions, connection=connections)
    def read_again(self, partition: int, connection: str) -> None:
        """Redis went back, and Kafka's records come a second time; intake knows which were removed."""
        key = partition, connection
        for offset in list(self.redis.get(key, ())):
            if (key, offset) not in self.removed:
                self.lanes.accept(self.delivery(key, offset))

    @rule(partition=partitions, rest=st.integers(0, 2))
    def remove(self, partition: int, rest: int) -> None:
        gone = {offset for offset in range(self.offsets[partition]) if offset % 3 == rest}
        self.removed |= {((partition, name), offset) for name in CONNECTIONS for offset in gone}
        for delivery in self.lanes.take_out(partition, lambda delivery: delivery.offset in gone):
            self.end((partition, delivery.connection), delivery.offset)
        for lane in self.lanes._lanes.values():
            if lane.partition == partition:
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
        for lane in self.lanes._lanes.values():
            assert len(lane.loaded) <= ROOM
            assert lane.places == sorted(set(lane.places), reverse=True)
        assert len(self.lanes._heap) == sum(len(lane.places) for lane in self.lanes._lanes.values())

    @invariant()
    def nothing_is_forgotten(self) -> None:
        """What Redis has is in memory, or the lane knows from when on there is more; what is in memory is
        due before that, or a page is asked for.
        """
        for key, offsets in self.redis.items():
            lane = self.lanes._lane(key)
            unknown = offsets.keys() - lane.loaded.keys() - lane.settling.keys() - lane.flying
            assert all(offsets[offset] >= lane.beyond for offset in unknown), f"{key}: {unknown}"
            put_off = lane.settling.keys() - lane.loaded.keys()
            assert all(lane.settling[offset] >= lane.beyond for offset in put_off)
            assert lane.asked or max(lane.waiting, default=(0.0, 0))[0] <= lane.beyond
            untold = {(offset, due is None) for where, offset, due in self.untold if where == key}
            assert {offset for offset, ended in untold if ended} <= lane.settling.keys()
            assert lane.settling.keys() <= {offset for offset, _ in untold}
        assert self.lanes.in_flight == len(self.flying)

    def teardown(self) -> None:
        """With a receiver that takes everything, everything ends."""
        self.leases = set(PARTITIONS)
        self.configure(1, 1)
        self.pause(set())
        for _ in range(ENOUGH):
            self.start()
            while self.flying:
                self.lanes.ended(self.flying[0])
                delivery = self.flying.pop(0)
                self.end((delivery.partition, delivery.connection), delivery.offset)
            self.settle()
            self.page()
            if not any(self.redis.values()):
                return
            due = self.lanes.next_due()
            if due is not None:
                self.now = max(self.now, due)
        raise AssertionError(f"not delivered: {dict(self.redis)}")

    def end(self, key: LaneKey, offset: int) -> None:
        self.ended.add((key, offset))
        self.untold.append((key, offset, None))

    def of(self, connection: str) -> list[Delivery]:
        return [delivery for delivery in self.flying if delivery.connection == connection]

    def delivery(self, key: LaneKey, offset: int) -> Delivery:
        return Delivery(*key, offset, self.redis[key][offset], 0, b"", f"r{offset}", 0)


TestLanes = Worker.TestCase
TestLanes.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
