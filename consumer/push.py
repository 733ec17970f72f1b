"""The push half: bodies made at intake, requests while the lease holds, facts back to Redis.

The worker's thread, whose methods these are, owns Redis; the sender's loop owns the lanes. Facts come
back in two deques a partition and stay there until Redis has them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from consumer import metrics
from consumer.connection_sets import StoredSet
from consumer.crm import BY_KIND
from consumer.frozen import Frozen, thaw
from consumer.intake import LEASE_MS, Entry, LaneTarget, Verdict, WindowTarget
from consumer.keys import Keys
from consumer.lane import Delivery, LaneKey
from consumer.lanes import MAX_LOADED, Lanes
from consumer.ownership import Owned
from consumer.pending import Fact, Mark, Reschedule, lanes_of, marks, page, removals_since, removed, settle
from consumer.route import AnyConnection
from consumer.sender import Outgoing, Sender
from consumer.service import Stop
from consumer.store import Call, Reply, Store, StoreRefused, StoreUnavailable, text
from consumer.stream import Record
from schemas.delivery import delivery_id
from schemas.push import PushBase
from schemas.referral import Referral

#: Facts and reschedules in one script call: some ten milliseconds of Redis at most.
MAX_SETTLE = 2_000
#: The lease is renewed when this much of it is gone, whether there is something to settle or not.
RENEW_AFTER_S = 1.0
#: At a rebalance others wait for us; requests slower than this are repeated by the next owner.
REVOKE_DRAIN_S = 3.0
#: At the end of the process nobody waits: longer than most timeouts, within the service's own limit.
STOP_DRAIN_S = 20.0
#: Paused connections are looked up this often.
PAUSED_EVERY_S = 1.0
#: No owner's epoch: facts are written, nothing else.
NOBODY = -1
#: Pages loaded in one round, so that a take-over of many lanes does not delay intake.
PAGES_A_ROUND = 16


class Push:
    """Implements `ownership.Half`."""

    def __init__(self, keys: Keys, max_in_flight: int, stopping: Callable[[], bool]) -> None:
        self._keys, self._stopping = keys, stopping
        self._owned: dict[int, Owned] = {}
        self._halted: set[int] = set()
        self._out: dict[int, Outgoing] = {}
        self._unsettled: dict[int, tuple[list[Fact], list[Reschedule]]] = {}
        #: Partitions whose inherited deliveries wait for a former owner's lease.
        self._inherit: set[int] = set()
        self._seen_marks: dict[int, int] = {}
        self._paused_at = 0.0
        self._lanes = Lanes(self._may_start, max_in_flight)
        self.sender = Sender(self._lanes, self._outgoing)

    def targets(
        self, referral: Referral, _record: Record, connections: Sequence[AnyConnection]
    ) -> Sequence[LaneTarget]:
        """A frozen body for every push connection that wants the referral, due now."""
        due_ms = int(time.time() * 1000)
        return [
            LaneTarget(c.name, self._frozen(referral, c).freeze(), due_ms)
            for c in connections
            if isinstance(c, PushBase)
        ]

    def owned(self, owned: Owned) -> None:
        self._owned[owned.partition] = owned
        self._halted.discard(owned.partition)
        self._inherit.add(owned.partition)
        self._seen_marks[owned.partition] = owned.marks
        self.sender.call(self._lanes.drop, owned.partition)

    def gone(self, partition: int) -> None:
        self._owned.pop(partition, None)
        self._inherit.discard(partition)
        self.sender.call(self._lanes.drop, partition)

    def drain(self, partitions: Sequence[int]) -> None:
        self._halted.update(partitions)
        deadline = time.monotonic() + (STOP_DRAIN_S if self._stopping() else REVOKE_DRAIN_S)
        while time.monotonic() < deadline and self.sender.ask(lambda: self._lanes.flying(partitions)):
            time.sleep(0.01)

    def connections(self, stored: StoredSet) -> None:
        found = {name: c for name, (_, c) in stored.set.by_name().items() if isinstance(c, PushBase)}
        self.sender.call(self.sender.connections, found)

    def accepted(self, owned: Owned, entries: Sequence[Entry], verdicts: str) -> None:
        deliveries: list[Delivery] = []
        withdrawn: list[Delivery] = []
        for entry, verdict in zip(entries, verdicts, strict=True):
            if verdict not in {Verdict.ACCEPTED, Verdict.REMOVED}:
                continue
            for target in entry.targets:
                if isinstance(target, WindowTarget):
                    continue
                place = (owned.partition, target.connection, entry.offset)
                ids = (entry.referral_id, entry.revision)
                delivery = Delivery(*place, target.due_ms / 1000, 0, target.body, *ids)
                (deliveries if verdict == Verdict.ACCEPTED else withdrawn).append(delivery)
        if deliveries:
            self.sender.call(self._accept, deliveries)
        if withdrawn:
            self.sender.call(self._withdraw, withdrawn)

    def settle(self, owned: Owned) -> Call | None:
        facts, later = self._taken(owned.partition)
        renew = owned.lease_until - time.monotonic() < LEASE_MS / 1000 - RENEW_AFTER_S
        if not (facts or later or renew):
            return None
        return settle(self._keys, owned.partition, owned.epoch, facts, later)

    def settled(self, owned: Owned, reply: Reply) -> None:
        self._written(owned.partition)
        owned.marks = int(reply[2])
        # A Redis that went back counts its marks from there.
        seen = self._seen_marks.get(owned.partition, 0)
        self._seen_marks[owned.partition] = min(seen, owned.marks)

    def after(self, store: Store) -> None:
        if self.sender.failure is not None:
            raise Stop(self.sender.failure)
        self._orphans(store)
        self._discover(store)
        for partition, owned in self._owned.items():
            if owned.marks > self._seen_marks[partition]:
                self._remove(store, partition)
        for _ in range(PAGES_A_ROUND):
            key = self._lanes.wanted()
            if key is None:
                break
            if key[0] in self._owned and key[0] not in self._inherit:
                self._page(store, key)
            else:
                # Nothing to read now: what is there is discovered, or somebody else's.
                self.sender.call(self._lanes.page, key, (), 0)
        if time.monotonic() >= self._paused_at:
            self._paused_at = time.monotonic() + PAUSED_EVERY_S
            self._pauses(store)

    def _frozen(self, referral: Referral, connection: PushBase) -> Frozen:
        rendered = BY_KIND[connection.kind].render(connection, referral)
        return Frozen(
            delivery_id(connection.name, referral.referral_id, referral.revision),
            referral.referral_id,
            referral.revision,
            referral.account_id,
            referral.campaign_id,
            referral.produced_at_us,
            rendered.body,
            rendered.values,
            rendered.removal,
        )

    def _may_start(self, partition: int) -> bool:
        """Asked by the loop for each request: the lease holds, and nobody is about to take over."""
        owned = self._owned.get(partition)
        return owned is not None and partition not in self._halted and time.monotonic() < owned.lease_until

    def _outgoing(self, partition: int) -> Outgoing:
        return self._out.setdefault(partition, Outgoing())

    def _taken(self, partition: int) -> tuple[list[Fact], list[Reschedule]]:
        """What Redis is to be told next. It is kept until `_written`."""
        facts, later = self._unsettled.setdefault(partition, ([], []))
        out = self._outgoing(partition)
        while out.facts and len(facts) < MAX_SETTLE:
            facts.append(out.facts.popleft())
        while out.later and len(later) < MAX_SETTLE:
            later.append(out.later.popleft())
        return facts, later

    def _written(self, partition: int) -> None:
        facts, later = self._unsettled.pop(partition, ([], []))
        by_lane: dict[str, tuple[list[int], list[int]]] = {}
        for fact in facts:
            by_lane.setdefault(fact.connection, ([], []))[0].append(fact.offset)
        for reschedule in later:
            by_lane.setdefault(reschedule.connection, ([], []))[1].append(reschedule.offset)
        for connection, (ended, put_off) in by_lane.items():
            self.sender.call(self._lanes.settled, (partition, connection), ended, put_off)

    def _orphans(self, store: Store) -> None:
        """Facts of partitions that are not ours any more: still true."""
        for partition in list(self._out):
            if partition in self._owned:
                continue
            facts, later = self._taken(partition)
            if facts:
                store.call(settle(self._keys, partition, NOBODY, facts, []))
            if facts or later:
                self._written(partition)

    def _discover(self, store: Store) -> None:
        """Once a former owner may start nothing any more, what it left is ours."""
        now = time.monotonic()
        for partition in [p for p in self._inherit if now >= self._owned[p].inherit_at]:
            for connection in lanes_of(store, self._keys, partition):
                self.sender.call(self._lanes.refill, (partition, connection))
            self._inherit.discard(partition)

    def _remove(self, store: Store, partition: int) -> None:
        known, self._seen_marks[partition] = removals_since(
            store, self._keys, partition, self._seen_marks[partition]
        )
        self.sender.call(self._take_out, partition, known)

    def _page(self, store: Store, key: LaneKey) -> None:
        try:
            found = page(store, self._keys, key, self._owned[key[0]].epoch, MAX_LOADED)
            if found is None:
                return
            deliveries, pending = found
            ids = [delivery.referral_id for delivery in deliveries] if self._owned[key[0]].marks else []
            known = marks(store, self._keys, key[0], ids)
        except StoreUnavailable:
            self._lanes.still_wanted(key)
            raise
        gone = [delivery for delivery in deliveries if removed(delivery, known)]
        if gone:
            self.sender.call(self._withdraw, gone)
            deliveries = [delivery for delivery in deliveries if not removed(delivery, known)]
        self.sender.call(self._lanes.page, key, deliveries, pending)

    def _pauses(self, store: Store) -> None:
        while self.sender.pauses:
            connection, reason = self.sender.pauses[0]
            try:
                store.command("HSETNX", self._keys.paused, connection, reason)
            except StoreRefused:
                break  # Redis is full: the pause holds in memory until it can be written
            self.sender.pauses.popleft()
        paused = [text(name) for name in store.command("HKEYS", self._keys.paused)]
        metrics.PAUSED.set(len(paused))
        self.sender.call(self._observe, paused)

    # Inside the loop.

    def _accept(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._lanes.accept(delivery)

    def _observe(self, paused: Sequence[str]) -> None:
        self._lanes.pause([*paused, *(name for name, _ in self.sender.pauses)])
        metrics.PENDING.set(len(self._lanes))
        metrics.IN_FLIGHT.set(self._lanes.in_flight)
        oldest = self._lanes.oldest()
        metrics.OLDEST_PENDING.set(0 if oldest is None else thaw(oldest.raw).produced_at_us / 1e6)

    def _take_out(self, partition: int, known: Mapping[str, Mark]) -> None:
        now = time.time()
        for delivery in self._lanes.take_out(partition, lambda delivery: removed(delivery, known)):
            self.sender.withdraw(delivery, thaw(delivery.raw), now)

    def _withdraw(self, deliveries: Collection[Delivery]) -> None:
        now = time.time()
        for delivery in deliveries:
            if self._lanes.withdrawn(delivery):
                self.sender.withdraw(delivery, thaw(delivery.raw), now)
