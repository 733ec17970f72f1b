"""The push half: bodies made at intake, requests while the lease holds, facts back to Redis.

The worker's thread, whose methods these are, owns Redis; the sender's loop owns the lanes. Facts come
back in two deques a partition and stay there until Redis has them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from math import inf

from consumer import held
from consumer.addresses import Policy
from consumer.brakes import Brakes
from consumer.connection_sets import StoredSet
from consumer.crm import BY_KIND
from consumer.frozen import Frozen, thaw
from consumer.intake import LEASE_MS, Entry, LaneTarget, Verdict, WindowTarget
from consumer.keys import Keys
from consumer.lane import Delivery, Tier
from consumer.lanes import Lanes
from consumer.loading import Loading
from consumer.ownership import Owned
from consumer.parked import Parked
from consumer.pending import lanes_of
from consumer.route import AnyConnection
from consumer.sender import Sender
from consumer.service import Stop
from consumer.settling import Settling
from consumer.store import Call, Reply, Store, text
from consumer.stream import Record
from consumer.taking_back import TakingBack
from schemas.delivery import delivery_id
from schemas.push import PushBase
from schemas.referral import Referral

#: The lease is renewed when this much of it is gone, whether there is something to settle or not.
RENEW_AFTER_S = 1.0
#: At a rebalance others wait for us; requests slower than this are repeated by the next owner.
REVOKE_DRAIN_S = 3.0
#: At the end of the process nobody waits: longer than most timeouts, within the service's own limit.
STOP_DRAIN_S = 20.0
#: Pages loaded in one round, so that a take-over of many lanes does not delay intake.
PAGES_A_ROUND = 16


class Push:
    """Implements `ownership.Half`. `worker`: this process among all. `clock`: seconds since the epoch."""

    def __init__(
        self,
        keys: Keys,
        max_in_flight: int,
        stopping: Callable[[], bool],
        policy: Policy,
        worker: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys, self._stopping, self._clock = keys, stopping, clock
        self._owned: dict[int, Owned] = {}
        self._halted: set[int] = set()
        self._settling = Settling(keys)
        #: Partitions whose inherited deliveries wait for a former owner's lease.
        self._inherit: set[int] = set()
        self._lanes = Lanes(self._may_start, max_in_flight)
        self.sender = Sender(self._lanes, self._settling.outgoing, policy, clock)
        self._brakes = Brakes(keys, self._lanes, self.sender, worker, clock)
        self._taking_back = TakingBack(keys)
        self._loading = Loading(keys, self._lanes, self.sender, clock)
        #: The connection to Redis that memory was read over.
        self._connection = 0
        #: Lanes that are parked, for the thread that refills them.
        self.parked = Parked()

    def targets(
        self, referral: Referral, _record: Record, connections: Sequence[AnyConnection]
    ) -> Sequence[LaneTarget]:
        """A frozen body for every push connection that wants the referral, due now."""
        due_ms = int(self._clock() * 1000)
        rendered = [(c.name, frozen(c, referral)) for c in connections if isinstance(c, PushBase)]
        return [LaneTarget(name, one.freeze(), due_ms, one) for name, one in rendered]

    def owned(self, owned: Owned) -> None:
        self._owned[owned.partition] = owned
        self._halted.discard(owned.partition)
        self._inherit.add(owned.partition)
        if owned.inherit_at > time.monotonic():
            self._loading.left(owned.partition, owned.next_offset)
        self.parked.gone(owned.partition)
        self._taking_back.gone(owned.partition)
        self.sender.call(self._lanes.drop, owned.partition)

    def gone(self, partition: int) -> None:
        self._owned.pop(partition, None)
        self._inherit.discard(partition)
        self.parked.gone(partition)
        self._taking_back.gone(partition)
        self.sender.call(self._lanes.drop, partition)

    def drain(self, partitions: Sequence[int]) -> Collection[int]:
        self._halted.update(partitions)
        deadline = time.monotonic() + (STOP_DRAIN_S if self._stopping() else REVOKE_DRAIN_S)
        while time.monotonic() < deadline and self.sender.ask(lambda: self._lanes.flying(partitions)):
            time.sleep(0.01)
        return [p for p in partitions if not self.sender.ask(partial(self._lanes.flying, (p,)))]

    def connections(self, stored: StoredSet) -> None:
        found = {name: c for name, (_, c) in stored.set.by_name().items() if isinstance(c, PushBase)}
        self._brakes.connections(found)
        self.parked.connections = found
        self.sender.call(self.sender.attempts.connections, found)

    def accepted(
        self, owned: Owned, entries: Sequence[Entry], verdicts: str, parked: Mapping[str, int]
    ) -> None:
        self.parked.parked(owned.partition, parked)
        deliveries: list[Delivery] = []
        withdrawn: list[Delivery] = []
        for entry, verdict in zip(entries, verdicts, strict=True):
            if verdict not in {Verdict.ACCEPTED, Verdict.REMOVED}:
                continue
            for target in entry.targets:
                if isinstance(target, WindowTarget) or entry.offset >= parked.get(target.connection, inf):
                    continue
                place = (owned.partition, target.connection, entry.offset, target.due_ms / 1000)
                delivery = Delivery(*place, target.frozen or thaw(target.body))
                (deliveries if verdict == Verdict.ACCEPTED else withdrawn).append(delivery)
        if deliveries:
            self._loading.accept(deliveries)
        if withdrawn:
            self._loading.withdraw(withdrawn)

    def settle(self, owned: Owned) -> Call | None:
        renew = owned.lease_until - time.monotonic() < LEASE_MS / 1000 - RENEW_AFTER_S
        return self._settling.call(owned.partition, owned.epoch, renew=renew)

    def settled(self, owned: Owned, reply: Reply) -> None:
        self._written(owned.partition)
        owned.marks = int(reply[2])
        self._loading.refill(owned.partition, text(reply[5]).split(), *Tier)

    def after(self, store: Store) -> None:
        if self.sender.failure is not None:
            raise Stop(self.sender.failure)
        self._orphans(store)
        if store.connection != self._connection:
            # Redis may have died and lost its last second: what memory takes for ended, held or followed may
            # stand there as it was, known to nobody.
            self._connection = store.connection
            self._inherit.update(self._owned)
        self._discover(store)
        for partition, connection in self.parked.to_tell():
            self._loading.refill(partition, [connection])
        self._follow(store)
        for _ in range(PAGES_A_ROUND):
            key = self._lanes.wanted()
            if key is None:
                break
            if key.partition in self._owned and key.partition not in self._inherit:
                self._loading.page(store, key, self._owned[key.partition])
            else:
                # Nothing to read now: what is there is discovered, or somebody else's.
                self._loading.pass_by(key)
        if self._brakes.after(store):
            self._look_at_released(store)
            self._loading.observe()

    def _may_start(self, partition: int) -> bool:
        """Asked by the loop for each request: the lease holds, nobody is about to take over, and what other
        workers learned of receivers is known here.
        """
        owned = self._owned.get(partition)
        if owned is None or partition in self._halted or not self._brakes.fresh():
            return False
        return time.monotonic() < owned.lease_until

    def _written(self, partition: int) -> None:
        for connection, dues in self._settling.written(partition).items():
            self.sender.call(self._lanes.settled, partition, connection, dues)

    def _orphans(self, store: Store) -> None:
        for partition, call in self._settling.orphans(self._owned):
            if call is not None:
                store.call(call)
            self._written(partition)

    def _discover(self, store: Store) -> None:
        """Once a former owner may start nothing any more, what it left is ours."""
        now = time.monotonic()
        for partition in [p for p in self._inherit if now >= self._owned[p].inherit_at]:
            self._taking_back.owned(store, partition)
            lanes = lanes_of(store, self._keys, partition)
            self._loading.refill(partition, lanes, *Tier)
            self.parked.owned(partition, self._owned[partition].epoch, lanes)
            self._inherit.discard(partition)

    def _follow(self, store: Store) -> None:
        """Removals: what waits is withdrawn, what was delivered is taken back where that is asked for."""
        for partition, owned in self._owned.items():
            news = self._taking_back.follow(store, partition, owned.epoch, owned.marks)
            if news is not None:
                self._loading.take_out(partition, news.marks)
                self._loading.refill(partition, news.lanes)
        gone = self._taking_back.sweep(store)
        if gone:
            self._loading.withdraw(gone)

    def _look_at_released(self, store: Store) -> None:
        """What an operator let go is in Redis alone."""
        found = held.released(store, self._keys, self._owned)
        for partition, connection in found:
            self._loading.refill(partition, [connection], Tier.AGAIN)
        held.noticed(store, self._keys, found)


def frozen(connection: PushBase, referral: Referral) -> Frozen:
    """The delivery of a referral to a connection, rendered once and for ever."""
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
