"""Which open windows have as many rows or bytes as their schedule waits for.

Law: a figure answers the look it was read in, after that look read the windows' states. A window opened by
somebody else in between has a number the claim does not expect; an older figure could open an empty one.
"""

from __future__ import annotations

from collections.abc import Mapping

from batcher.windows import Windows
from consumer.keys import Keys
from consumer.store import Argument
from schemas.connection import Schedule

#: Slots of windows opened for their size begin so; the schedule does not count them.
FULL = "full:"
#: No figure of a connection is read more often.
AGAIN_S = 1.0
#: Hashes read in one look, in one round trip: 35 ms of this process, for 64 connections in 64 partitions. Of
#: more connections those not read for longest come first: 1,000 have had their turn after 16 looks.
MOST_READS = 4_096


class Full:
    """Of one desk. `among` raises StoreUnavailable."""

    def __init__(self, windows: Windows, partitions: int) -> None:
        self._windows, self._partitions = windows, partitions
        self._read: dict[str, float] = {}

    def among(self, schedules: Mapping[str, Schedule], now: float) -> set[str]:
        """Those that are full, of connections whose next window may be opened. `now`: monotonic seconds."""
        limited = {name: one for name, one in schedules.items() if one.limited}
        self._read = {name: self._read[name] for name in limited if name in self._read}
        turn = _turn(limited, self._read, now, max(1, MOST_READS // self._partitions))
        if not turn:
            return set()
        found = iter(self._windows.store.commands(_reads(self._windows.keys, turn, self._partitions)))
        full = set()
        for name in turn:
            sizes = [next(found) for _ in range(self._partitions)]
            rows, size = (sum(int(figure or 0) for figure in figures) for figures in zip(*sizes, strict=True))
            self._read[name] = now
            if limited[name].reached(rows, size):
                full.add(name)
        return full


def _turn(limited: Mapping[str, Schedule], read: Mapping[str, float], now: float, most: int) -> list[str]:
    """Whose figures to read now: those not read for longest."""
    due = [name for name in limited if now - read.get(name, now - AGAIN_S) >= AGAIN_S]
    return sorted(due, key=lambda name: read.get(name, 0.0))[:most]


def _reads(keys: Keys, names: list[str], partitions: int) -> list[list[Argument]]:
    return [
        ["HMGET", f"{keys.prefix(p)}seals:{name}", "rows", "bytes"]
        for name in names
        for p in range(partitions)
    ]
