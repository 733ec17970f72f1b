"""Removals on the push side: what waits is withdrawn, what was delivered is taken back where asked for.

A mark is noted in every partition's slot. Its owner takes waiting deliveries out of memory at once, has
the script turn each delivery made into one that takes it back, and sweeps what Redis alone knows of.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from consumer.keys import Keys
from consumer.lane import Delivery
from consumer.pending import (
    MAX_REMOVALS,
    Mark,
    found_by_sweep,
    lanes_of,
    pending_of,
    removals_since,
    sweep,
)
from consumer.store import Argument, Call, Script, Store, text

FOLLOW = Script("consumer", "follow")
#: Of a round, so much for sweeping; a slice is two milliseconds of Redis at most.
SWEEP_S = 0.01
#: Removals times lanes in one script call: Redis serves nobody else for some ten milliseconds.
MAX_LOOKUPS = 50_000


@dataclass(frozen=True, slots=True)
class Removed:
    """Marks of one partition that are news, and the lanes that got a delivery which takes one back."""

    marks: Mapping[str, Mark]
    lanes: Collection[str]


class TakingBack:
    """Of one worker; called from its thread."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        #: The last mark followed, by partition.
        self._followed: dict[int, int] = {}
        #: Lanes to be swept: the cursor, and whether marks came after it began.
        self._sweeping: dict[tuple[int, str], tuple[str, bool]] = {}
        #: What a sweep found and has not told, since Redis went away in the middle.
        self._found: list[Delivery] = []

    def owned(self, store: Store, partition: int) -> None:
        """The partition is ours: go on where the last owner stopped."""
        found = store.command("HGET", self._keys.head(partition), "followed")
        self._followed[partition] = int(found or 0)

    def gone(self, partition: int) -> None:
        self._followed.pop(partition, None)
        self._sweeping = {lane: where for lane, where in self._sweeping.items() if lane[0] != partition}
        self._found = [delivery for delivery in self._found if delivery.partition != partition]

    def follow(self, store: Store, partition: int, epoch: int, marks: int) -> Removed | None:
        """What is new up to mark number `marks`; None where nothing is, or `epoch` is not the owner's any
        more. Raises StoreUnavailable.
        """
        since = self._followed.get(partition)
        if since is None or marks <= since:
            # A Redis that went back counts its marks from there.
            if since is not None:
                self._followed[partition] = marks
            return None
        # All that ever had something: one whose file is away for a while must not miss a removal.
        names = lanes_of(store, self._keys, partition)
        most = max(1, min(MAX_REMOVALS, MAX_LOOKUPS // max(1, len(names))))
        known, upto = removals_since(store, self._keys, partition, since, most)
        args: list[Argument] = [self._keys.prefix(partition), epoch, since, upto, len(names), *names, *known]
        reply = store.call(Call(FOLLOW, self._keys.head(partition), args))
        if text(reply[0]) != "OK":
            return None
        pending = pending_of(store, self._keys, partition, names)
        self._followed[partition] = upto if known and upto < marks else marks
        for connection in pending:
            cursor, _ = self._sweeping.get((partition, connection), ("0", False))
            self._sweeping[partition, connection] = cursor, cursor != "0"
        return Removed(known, text(reply[1]).split())

    def sweep(self, store: Store) -> list[Delivery]:
        """A piece of the sweep: pending deliveries of removed referrals. Raises StoreUnavailable."""
        until = time.monotonic() + SWEEP_S
        while self._sweeping and time.monotonic() < until:
            lane, (cursor, anew) = next(iter(self._sweeping.items()))
            cursor, found = found_by_sweep(*lane, store.call(sweep(self._keys, *lane, cursor)))
            del self._sweeping[lane]
            if cursor != "0" or anew:
                self._sweeping[lane] = cursor, anew and cursor != "0"
            self._found += found
        found, self._found = self._found, []
        return found
