"""The compare-and-set at the heart of it: rows and next offset enter Redis in one step.

`take` makes a worker the owner of a partition and tells where to read. `Intake` then offers one
batch after another; the script answers OK (a repeat word for word), or names the difference. Pure
but for the calls: arguments in, replies out, so that a worker can send many in one round trip.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from consumer.frozen import Frozen
from consumer.keys import Keys
from consumer.store import Argument, Call, Reply, Script, text

TAKE = Script("consumer", "take")
INTAKE = Script("consumer", "intake")
GIVE_BACK = Script("consumer", "give_back")
MARK = Script("consumer", "mark")

#: Records per script call: keeps a call under a few milliseconds, since Redis serves nobody else meanwhile.
MAX_BATCH = 500
#: Bytes of rows per script call, for the same reason.
MAX_BATCH_BYTES = 1 << 20
#: A worker that misses this long may not start requests; below Kafka's session timeout.
LEASE_MS = 5_000
#: Upstream's second publication of a referral within this is dropped.
DEDUPE_HORIZON_S = 3_600
#: Sets per slot, so that each stays near 400 integers, Redis's compact form, at 110 records/s a partition.
DEDUPE_SHARDS = 1_024
#: A lane holds so much in one partition; over it, it parks. Redis stays bounded, Kafka has the rest.
LANE_DELIVERIES = 100_000
LANE_BYTES = 128 << 20
#: A removal acts on whatever is still undelivered; nothing waits longer than this.
MARKS_KEPT_MS = 14 * 86_400_000


class Verdict(StrEnum):
    ACCEPTED = "A"
    REMOVED = "R"
    DUPLICATE = "D"
    NOTED = "N"


@dataclass(frozen=True, slots=True)
class LaneTarget:
    """A delivery for a push lane: the frozen bytes, due at once. `frozen`: what they hold, if at hand."""

    connection: str
    body: bytes
    due_ms: int
    frozen: Frozen | None = None

    def arguments(self) -> tuple[Argument, ...]:
        return ("L", self.connection, self.body, self.due_ms)


@dataclass(frozen=True, slots=True)
class WindowTarget:
    """A row for a file connection's open window."""

    connection: str
    row: bytes

    def arguments(self) -> tuple[Argument, ...]:
        return ("W", self.connection, self.row, "")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What makes two records the same publication: 64 bits, keyed, and where they are remembered."""

    value: int
    slot: int
    shard: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One record's share of a batch.

    `note` is the outbox entry for a record that becomes no delivery: always where there is no
    fingerprint (b"" for none), else in case it turns out to be a duplicate.
    """

    offset: int
    fingerprint: Fingerprint | None
    note: bytes
    referral_id: str = ""
    revision: int = 0
    targets: Sequence[LaneTarget | WindowTarget] = ()

    def arguments(self) -> list[Argument]:
        mark = self.fingerprint
        args: list[Argument] = [self.offset]
        args += [mark.value, mark.slot, mark.shard] if mark else ["", 0, 0]
        args += [self.note, self.referral_id, self.revision, len(self.targets)]
        for target in self.targets:
            args.extend(target.arguments())
        return args


@dataclass(frozen=True, slots=True)
class Removal:
    """A WITHDRAWN or ERASED event: `coordinates` name the record it came from."""

    referral_id: str
    erased: bool
    revision: int
    coordinates: str


@dataclass(frozen=True, slots=True)
class Taken:
    """We are the owner. `wait_ms`: how long an earlier owner may still start requests."""

    epoch: int
    next_offset: int
    wait_ms: int
    marks: int
    set_version: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The partition has no head: never initialised, or Redis was lost."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """`parked`: by connection, from which offset on its deliveries were parked."""

    verdicts: str
    marks: int
    parked: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fenced:
    """Somebody took the partition; with a lower epoch than ours, Redis went back."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Moved:
    """Still the owner, but Redis stands at another offset: read on from there."""

    next_offset: int


@dataclass(frozen=True, slots=True)
class StaleSet:
    """A newer set of connections is in force; reload it and route the batch again."""

    version: int


def take(keys: Keys, partition: int, owner: str, min_epoch: int, lease_ms: int = LEASE_MS) -> Call:
    """`min_epoch`: the highest epoch this worker ever had here, lest Redis hand it out twice."""
    return Call(TAKE, keys.head(partition), (owner, lease_ms, min_epoch))


def taken(reply: Reply) -> Taken | Lost:
    if text(reply[0]) == "LOST":
        return Lost()
    epoch, next_offset, wait_ms, marks, set_version = (int(item) for item in reply[1:6])
    return Taken(epoch, next_offset, wait_ms, marks, set_version)


def give_back(keys: Keys, partition: int, epoch: int) -> Call:
    return Call(GIVE_BACK, keys.head(partition), (epoch,))


def intake(
    keys: Keys,
    partition: int,
    *,
    epoch: int,
    prev: int,
    next_offset: int,
    set_version: int,
    entries: Sequence[Entry],
    lease_ms: int = LEASE_MS,
    lane_deliveries: int = LANE_DELIVERIES,
    lane_bytes: int = LANE_BYTES,
) -> Call:
    """Offer the records from `prev` up to before `next_offset`; `entries` in offset order."""
    args: list[Argument] = [keys.prefix(partition), epoch, prev, next_offset, set_version, lease_ms]
    args += [2 * DEDUPE_HORIZON_S, lane_deliveries, lane_bytes, len(entries)]
    for entry in entries:
        args.extend(entry.arguments())
    return Call(INTAKE, keys.head(partition), args)


def accepted(reply: Reply) -> Accepted | Fenced | Moved | StaleSet | Lost:
    match text(reply[0]):
        case "OK":
            names = text(reply[3]).split()
            parked = {name: int(offset) for name, offset in zip(names[::2], names[1::2], strict=True)}
            return Accepted(text(reply[1]), int(reply[2]), parked)
        case "FENCED":
            return Fenced(int(reply[1]))
        case "MOVED":
            return Moved(int(reply[1]))
        case "STALE":
            return StaleSet(int(reply[1]))
        case _:
            return Lost()


def mark(keys: Keys, partition: int, removal: Removal) -> Call:
    """Note a removal in one partition. It goes to every partition before its own offset advances."""
    kind = "E" if removal.erased else "W"
    args = (
        keys.prefix(partition),
        removal.referral_id,
        kind,
        removal.revision,
        removal.coordinates,
        MARKS_KEPT_MS,
    )
    return Call(MARK, keys.head(partition), args)


def fingerprint(key: bytes, referral_id: str, revision: int, kind: str, timestamp_ms: int) -> Fingerprint:
    """The fingerprint of a record; the slot follows the record's own time, so a re-read decides alike."""
    digest = hashlib.blake2b(f"{referral_id}\n{revision}\n{kind}".encode(), digest_size=8, key=key).digest()
    value = int.from_bytes(digest, "big", signed=True)
    return Fingerprint(value, timestamp_ms // (DEDUPE_HORIZON_S * 1000), value % DEDUPE_SHARDS)


def row(offset: int, value: bytes) -> bytes:
    """A window's row: the offset, eight bytes big-endian, then the record's value as it came."""
    return offset.to_bytes(8, "big") + value
