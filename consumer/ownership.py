"""Which partitions are ours, since when, and whether Redis can be believed.

A partition is taken inside the rebalance callback: Redis raises the epoch and says where to read. It
may stand behind what it confirmed only by what a crash under `appendfsync everysec` can explain;
more means an older copy, and everything stops.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from consumer import intake, log, metrics
from consumer.connection_sets import StoredSet
from consumer.intake import Entry, Lost
from consumer.keys import Keys, Role
from consumer.layout import REBUILD
from consumer.manifests import Remembered
from consumer.service import Stop
from consumer.store import Call, Reply, Store, StoreRefused, StoreUnavailable
from consumer.stream import Record, Witness

#: Redis may be restarted under us; longer, and an operator should see a process that ends.
REDIS_PATIENCE_S = 120.0
#: First and longest pause between two tries to reach Redis.
REDIS_PAUSE_S = (0.05, 1.0)
#: Under `appendfsync everysec` a write is on disk after at most two seconds; half a second of reserve.
DURABLE_AFTER_S = 2.5
#: Confirmed offsets remembered, at most one each tenth of a second.
CONFIRM_EVERY_S = 0.1

T = TypeVar("T")


@dataclass(slots=True)
class Owned:
    """A partition of ours. `next_offset` is Redis's, as last confirmed; times are monotonic seconds.

    `inherit_at`: from when deliveries of former owners may be loaded. `lease_until`: until when
    requests may start. `durable`: an offset that surely survives a crash of Redis.
    """

    partition: int
    epoch: int
    next_offset: int
    marks: int
    inherit_at: float
    lease_until: float
    durable: int
    confirmed: deque[tuple[float, int]] = field(default_factory=deque)
    backlog: deque[Record] = field(default_factory=deque)
    fenced_since: float | None = None
    #: Records below it that had to be dead letters are.
    buried: int = 0

    def confirm(self, next_offset: int, asked: float, answered: float) -> None:
        """Redis stands at `next_offset`. What it had confirmed long enough before it was asked is on disk."""
        self.next_offset = next_offset
        while self.confirmed and asked - self.confirmed[0][0] >= DURABLE_AFTER_S:
            self.durable = max(self.durable, self.confirmed.popleft()[1])
        if not self.confirmed or answered - self.confirmed[-1][0] >= CONFIRM_EVERY_S:
            self.confirmed.append((answered, next_offset))

    @property
    def witness(self) -> Witness:
        return Witness(self.next_offset, self.durable)


class Half(Protocol):
    """What push and collect do differently. Called from the worker's thread only."""

    def owned(self, owned: Owned) -> None:
        """A partition is ours, or ours anew: what memory held of it is void."""

    def gone(self, partition: int) -> None:
        """It is not ours any more: start nothing of it."""

    def drain(self, partitions: Sequence[int]) -> Collection[int]:
        """These are about to be given back: finish what is under way, within a bound. Returns those of which
        nothing is under way any more.
        """

    def connections(self, stored: StoredSet) -> None:
        """This set is in force from now on."""

    def accepted(
        self, owned: Owned, entries: Sequence[Entry], verdicts: str, parked: Mapping[str, int]
    ) -> None:
        """Redis took these entries; `verdicts` has a letter each. `parked`: by connection, from which offset
        on it took only the offsets.
        """

    def settle(self, owned: Owned) -> Call | None:
        """What to write in this round trip, if anything. Asked again until `settled`."""

    def settled(self, owned: Owned, reply: Reply) -> None:
        """The reply to the last `settle`: it was written."""

    def after(self, store: Store) -> None:
        """Reads and writes of its own, once a round."""


def patiently(stopping: Callable[[], bool], call: Callable[[], T]) -> T:
    """Repeat a repeatable call until Redis answers and takes it. Raises Stop after REDIS_PATIENCE_S,
    StoreUnavailable or StoreRefused when told to stop meanwhile.
    """
    deadline, pause = time.monotonic() + REDIS_PATIENCE_S, REDIS_PAUSE_S[0]
    while True:
        try:
            return call()
        except (StoreUnavailable, StoreRefused) as error:
            if stopping():
                raise
            if time.monotonic() > deadline:
                lasted = f"{error}, for {REDIS_PATIENCE_S:.0f} s"
                raise Stop(f"{lasted}: check REFERRALS_REDIS and start again") from error
            time.sleep(pause)
            pause = min(2 * pause, REDIS_PAUSE_S[1])


class Ownership:
    """The partitions of one worker."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        half: Half,
        remembered: Remembered,
        owner: str,
        stopping: Callable[[], bool],
    ) -> None:
        self._store, self._keys, self._half = store, keys, half
        self._remembered, self._owner, self._stopping = remembered, owner, stopping
        #: The highest epoch ever had, lest a Redis that went back hands it out twice.
        self._epochs: dict[int, int] = {}
        self.owned: dict[int, Owned] = {}

    def assigned(self, witnesses: dict[int, Witness]) -> dict[int, int]:
        """Take the partitions and say where each starts. Raises Stop."""
        return {p: self.take(p, witness).next_offset for p, witness in witnesses.items()}

    def revoked(self, partitions: list[int]) -> None:
        """Finish, settle and give back: the next owner need not wait for the lease, but where requests are
        still under way.
        """
        mine = [p for p in partitions if p in self.owned]
        done = self._half.drain(mine)
        for p in mine:
            owned = self.owned[p]
            try:
                self._settle_all(owned)
                if p in done:
                    self._store.call(intake.give_back(self._keys, p, owned.epoch))
            except (StoreUnavailable, StoreRefused):
                # The lease ends by itself; what is unsettled is sent again under its key.
                log.trouble("partition.not_given_back", partition=p)
            self._drop(p)

    def _settle_all(self, owned: Owned) -> None:
        while (call := self._half.settle(owned)) is not None:
            sent = time.monotonic()
            reply = self._store.call(call)
            self._half.settled(owned, reply)
            if reply[0] != b"OK":
                return
            owned.lease_until = sent + intake.LEASE_MS / 1000

    def lost(self, partitions: list[int]) -> None:
        """The group went on without us: write nothing."""
        for p in partitions:
            self._drop(p)

    def take(self, partition: int, witness: Witness) -> Owned:
        """Become the owner. Raises Stop where Redis cannot be believed."""
        call = intake.take(self._keys, partition, self._owner, self._epochs.get(partition, 0))

        def timed() -> tuple[float, Reply]:
            # The lease counts from when the call that granted it was sent.
            return time.monotonic(), self._store.call(call)

        sent, reply = patiently(self._stopping, timed)
        taken = intake.taken(reply)
        if isinstance(taken, Lost):
            raise Stop(self.lost_line(partition))
        self.judge(partition, taken.next_offset, witness)
        self._epochs[partition] = taken.epoch
        owned = Owned(
            partition=partition,
            epoch=taken.epoch,
            next_offset=taken.next_offset,
            marks=taken.marks,
            inherit_at=time.monotonic() + taken.wait_ms / 1000,
            lease_until=sent + intake.LEASE_MS / 1000,
            durable=min(witness.durable, taken.next_offset),
        )
        self.owned[partition] = owned
        self._half.owned(owned)
        log.event("partition.taken", partition=partition, epoch=taken.epoch, next_offset=taken.next_offset)
        return owned

    def lost_line(self, partition: int) -> str:
        return (
            f"Redis has no state of {self._keys.topic}/{partition}: partitions were added to a topic whose "
            f"count is fixed, or Redis was lost: restore its newest append-only file, or {REBUILD}; nothing "
            "is read or sent until then"
        )

    def _drop(self, partition: int) -> None:
        if self.owned.pop(partition, None) is not None:
            self._half.gone(partition)

    def retake(self, owned: Owned) -> Owned:
        """Redis forgot our epoch: take the partition again, above it."""
        self._half.gone(owned.partition)
        return self.take(owned.partition, owned.witness)

    def judge(self, partition: int, at: int, witness: Witness) -> None:
        """Whether Redis may stand at offset `at`. Raises Stop; counts what a crash explains."""
        floor, window = self._remembered.floor(partition) if self._keys.role is Role.BATCH else (0, "")
        for least, who in ((floor, f"{window} was sealed up to"), (witness.durable, "it had confirmed")):
            if at < least:
                raise Stop(
                    f"Redis went back: it stands at offset {at} of {self._keys.topic}/{partition}, but "
                    f"{who} {least}. It was restored from an older copy: restore the newest append-only "
                    f"file, or {REBUILD}; nothing is read or sent until then"
                )
        if at < witness.offset:
            metrics.REDIS_REWIND.inc()
            log.trouble("redis.rewind", partition=partition, at=at, confirmed=witness.offset)
