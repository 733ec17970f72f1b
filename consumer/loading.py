"""From Redis into the lanes and out of them again: pages, new deliveries, and those that were removed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from consumer import metrics
from consumer.keys import Keys
from consumer.lane import Delivery, LaneKey, Tier
from consumer.lanes import Lanes
from consumer.ownership import Owned
from consumer.pending import Mark, marks, page, removed
from consumer.sender import Sender
from consumer.store import Store, StoreUnavailable


class Loading:
    """Called from the worker's thread; what begins with an underscore runs in the loop."""

    def __init__(self, keys: Keys, lanes: Lanes, sender: Sender, clock: Callable[[], float]) -> None:
        self._keys, self._lanes, self._sender, self._clock = keys, lanes, sender, clock
        #: Partitions whose last owner did not give them back: what it had accepted up to this offset, due by
        #: then (seconds since the epoch), may have been under way.
        self._left: dict[int, tuple[int, float]] = {}

    def left(self, partition: int, upto: int) -> None:
        """The partition was taken without having been given back: requests may be on their way still."""
        self._left[partition] = upto, self._clock()

    def refill(self, partition: int, connections: Collection[str], *tiers: Tier) -> None:
        """Redis has deliveries of these that memory does not know."""
        for connection in connections:
            for tier in tiers or (Tier.DUE,):
                self._sender.call(self._lanes.refill, LaneKey(partition, connection, tier))

    def page(self, store: Store, key: LaneKey, owned: Owned) -> None:
        """Raises StoreUnavailable; then it is still wanted."""
        try:
            found = page(store, self._keys, key, owned.epoch, self._lanes.known(key))
            if found is None:
                return
            deliveries = found.deliveries
            ids = [one.referral_id for one in deliveries] if owned.marks else []
            marked = marks(store, self._keys, key.partition, ids)
        except StoreUnavailable:
            self._lanes.still_wanted(key)
            raise
        gone = [delivery for delivery in deliveries if removed(delivery, marked)]
        if gone:
            self.withdraw(gone)
            deliveries = [delivery for delivery in deliveries if not removed(delivery, marked)]
        self._sender.call(self._paged, key, deliveries, found.behind, found.whole)

    def pass_by(self, key: LaneKey) -> None:
        """No page for this lane now."""
        self._sender.call(self._paged, key, (), {}, True)

    def accept(self, deliveries: Sequence[Delivery]) -> None:
        """New ones, just taken in."""
        self._sender.call(self._accept, deliveries)

    def withdraw(self, deliveries: Collection[Delivery]) -> None:
        """Removed before memory held them."""
        self._sender.call(self._withdraw, deliveries)

    def take_out(self, partition: int, known: Mapping[str, Mark]) -> None:
        """End what waits of these referrals."""
        self._sender.call(self._take_out, partition, known)

    def observe(self) -> None:
        self._sender.call(self._observe)

    def _paged(
        self, key: LaneKey, deliveries: Sequence[Delivery], behind: Mapping[int, float], whole: bool
    ) -> None:
        self._lanes.page(key, deliveries, behind, whole=whole)

    def _accept(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.revision:
                # An earlier revision may wait where memory does not see it: Redis is asked.
                self._lanes.refill(LaneKey(delivery.partition, delivery.connection))
            else:
                self._lanes.accept(delivery)

    def _observe(self) -> None:
        metrics.PENDING.set(len(self._lanes))
        metrics.IN_FLIGHT.set(self._lanes.in_flight)
        oldest = self._lanes.oldest()
        metrics.OLDEST_PENDING.set(0 if oldest is None else oldest.frozen.produced_at_us / 1e6)
        for state, number in self._lanes.states(self._clock()).items():
            metrics.GATES.labels(state).set(number)

    def _take_out(self, partition: int, known: Mapping[str, Mark]) -> None:
        now = self._clock()
        for delivery in self._lanes.take_out(partition, lambda delivery: removed(delivery, known)):
            self._end(delivery, now)

    def _withdraw(self, deliveries: Collection[Delivery]) -> None:
        now = self._clock()
        for delivery in deliveries:
            if self._lanes.withdrawn(delivery):
                self._end(delivery, now)

    def _end(self, delivery: Delivery, now: float) -> None:
        upto, taken_at = self._left.get(delivery.partition, (0, 0.0))
        perhaps_made = delivery.offset < upto and delivery.due <= taken_at
        self._sender.attempts.withdraw(delivery, now, perhaps_made=perhaps_made)
