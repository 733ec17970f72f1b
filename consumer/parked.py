"""Parked lanes: which there are, and what may be brought back of them.

A lane over its cap keeps only the offsets that intake accepted for it. What intake decided stands; nothing
of such a delivery was ever sent, so its body is made when it comes back. Parked is told by the worker's
thread and asked by the one that refills; the rest here is pure.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from consumer.intake import MAX_BATCH, MAX_BATCH_BYTES
from consumer.keys import Keys
from consumer.store import Argument, Call, Script
from consumer.stream import Record
from schemas.delivery import Outcome
from schemas.push import PushBase

REFILL = Script("consumer", "refill")
#: A lane is refilled when it holds less than its cap divided by this: neither idle nor always full.
LOW = 2
#: So long before Kafka may delete a record, its delivery is given up and kept as a dead letter: time for
#: somebody to be paged and to come.
MARGIN_S = 12 * 3_600.0
#: But never more than this part of what Kafka keeps.
MARGIN_PART = 0.25


class Place(NamedTuple):
    """One connection's lane in one partition."""

    partition: int
    connection: str


@dataclass(frozen=True, slots=True)
class Standing:
    """A lane in Redis: offsets parked, the first of them, and what it holds of deliveries and bytes."""

    parked: int
    first: int
    pending: int
    size: int


@dataclass(frozen=True, slots=True)
class Room:
    """So much may be brought back in one call; at least one delivery of any size."""

    deliveries: int
    size: int


@dataclass(frozen=True, slots=True)
class Item:
    """What becomes of a parked offset: a frozen delivery, due in ms since the epoch; or it is passed by
    (`body` empty) with an outbox entry that says how it ended.
    """

    offset: int
    body: bytes = b""
    due_ms: int = 0
    entry: bytes = b""
    outcome: Outcome | None = None
    reason: str = ""
    #: Kafka had deleted its record.
    lost: bool = False

    @property
    def letter(self) -> bool:
        """Whether it leaves a dead letter."""
        return self.entry[:1] == b"X"


class Parked:
    """What the two threads tell each other. Bounded by the lanes there are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epochs: dict[int, int] = {}
        self._told: set[Place] = set()
        self._refilled: set[Place] = set()
        #: Those in force, by name; replaced whole.
        self.connections: Mapping[str, PushBase] = {}

    def owned(self, partition: int, epoch: int, connections: Iterable[str]) -> None:
        """The partition is ours; any of these lanes of it may be parked."""
        with self._lock:
            self._epochs[partition] = epoch
            self._told.update(Place(partition, name) for name in connections)

    def gone(self, partition: int) -> None:
        with self._lock:
            self._epochs.pop(partition, None)

    def parked(self, partition: int, connections: Iterable[str]) -> None:
        """Intake parked deliveries of these lanes."""
        with self._lock:
            self._told.update(Place(partition, name) for name in connections)

    def news(self) -> tuple[dict[int, int], set[Place]]:
        """The owner's epoch of each partition of ours, and lanes named since the last call."""
        with self._lock:
            told, self._told = self._told, set()
            return dict(self._epochs), told

    def refilled(self, place: Place) -> None:
        """Redis may hold deliveries of it that memory does not know."""
        with self._lock:
            self._refilled.add(place)

    def to_tell(self) -> Collection[Place]:
        """The lanes refilled since the last call."""
        with self._lock:
            refilled, self._refilled = self._refilled, set()
            return refilled


def room(lane: Standing, most: int, most_bytes: int) -> Room | None:
    """What a parked lane has room for; None until it holds less than half of its caps in both."""
    if not lane.parked or lane.pending * LOW >= most or lane.size * LOW >= most_bytes:
        return None
    return Room(min(MAX_BATCH, most - lane.pending), min(MAX_BATCH_BYTES, most_bytes - lane.size))


def fitting(items: Sequence[Item], size: int) -> list[Item]:
    """The first items whose bodies fit `size`, at least one."""
    found: list[Item] = []
    for item in items:
        size -= len(item.body)
        if found and size < 0:
            break
        found.append(item)
    return found


def old_before(now: float, retention_ms: str | None) -> float:
    """Kafka may soon delete records from before this, in seconds since the epoch; 0 where it deletes none.

    `retention_ms`: as the topic's setting says it.
    """
    if retention_ms is None or int(retention_ms) < 0:
        return 0.0
    kept_s = int(retention_ms) / 1000
    return now - kept_s + min(MARGIN_S, kept_s * MARGIN_PART)


def is_old(record: Record | None, before: float) -> bool:
    """Whether Kafka may soon delete it. Without a time of its own nothing says so."""
    return record is not None and 0 < record.timestamp_ms < before * 1000


def look(keys: Keys, place: Place) -> list[tuple[Argument, ...]]:
    """The commands that `standings` understands, for one lane."""
    lane = _lane(keys, place)
    return [
        ("LLEN", f"{lane}:parked"),
        ("LINDEX", f"{lane}:parked", 0),
        ("HLEN", f"{lane}:body"),
        ("GET", f"{lane}:bytes"),
    ]


def standings(replies: Sequence[Any]) -> Iterator[Standing]:
    """A lane each four replies."""
    for number, offset, pending, size in zip(*(replies[i::4] for i in range(4)), strict=True):
        yield Standing(int(number), int(offset or 0), int(pending), int(size or 0))


def first(keys: Keys, place: Place, number: int) -> tuple[Argument, ...]:
    """The command for the first parked offsets."""
    return ("LRANGE", f"{_lane(keys, place)}:parked", 0, number - 1)


def _lane(keys: Keys, place: Place) -> str:
    return f"{keys.prefix(place.partition)}lane:{place.connection}"


def refill(keys: Keys, place: Place, epoch: int, items: Sequence[Item]) -> Call:
    """Bring the first of a lane's parked offsets back, or pass them by; OK only from the owner."""
    args: list[Argument] = [keys.prefix(place.partition), epoch, place.connection, len(items)]
    for item in items:
        args += [item.offset, item.body, item.due_ms, item.entry]
    return Call(REFILL, keys.head(place.partition), args)
