"""Records taken in once more, by the real intake script, as they were before Redis was lost.

Each under the set of connections it was taken under, up to where intake had come; windows that were told are
sealed at the offset they were sealed at. Deliveries that have ended are left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from batcher.collect import targets as rows_for
from batcher.windows import SEAL
from console.rebuild.told import Told
from consumer import intake
from consumer.ending import ended
from consumer.frozen import Frozen
from consumer.history import History
from consumer.intake import (
    DEDUPE_SHARDS,
    MAX_BATCH,
    MAX_BATCH_BYTES,
    Accepted,
    Entry,
    LaneTarget,
    Taken,
    WindowTarget,
)
from consumer.keys import Keys
from consumer.plan import Planner, Targets
from consumer.push import frozen
from consumer.remake import since
from consumer.route import AnyConnection
from consumer.service import Stop
from consumer.store import Call, Store
from consumer.stream import Record
from schemas.delivery import Action, Outcome, delivery_id
from schemas.push import PushBase
from schemas.receipt import coordinates
from schemas.referral import Referral, SchemaById

#: How workers see us in the head of a partition.
OWNER = "rebuild"
#: Slots of fingerprints that may still decide something: the newest and the one before.
SLOTS = 2
OVERTAKEN = "a later revision of the referral was delivered before Redis was lost"

Seals = Mapping[int, Sequence[tuple[str, int]]]
"""By offset: windows, as connection and number, that are sealed there."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What both roles replay with. `caps`: deliveries and bytes a lane may hold."""

    store: Store
    topic: str
    history: History
    told: Told
    fingerprint_key: bytes
    caps: tuple[int, int]
    by_id: SchemaById | None
    clock: Callable[[], float] = time.time


@dataclass(slots=True)
class Deliveries:
    """What push makes of a record: what has not ended, with the doubt that an attempt was made; and what the
    receiver was given and may have to forget one day.
    """

    scene: Scene
    keys: Keys
    pending: int = 0
    #: Of these no receipt would be left, had they ended.
    unknown: int = 0

    def targets(
        self, referral: Referral, record: Record, connections: Sequence[AnyConnection]
    ) -> Sequence[LaneTarget]:
        pushed = [one for one in connections if isinstance(one, PushBase)]
        found = [self._target(one, referral, record) for one in pushed]
        return [target for target in found if target is not None]

    def _target(self, connection: PushBase, referral: Referral, record: Record) -> LaneTarget | None:
        told, name, now = self.scene.told, connection.name, self.scene.clock()
        ids = referral.referral_id, referral.revision
        made = told.ended(name, *ids)
        if made is not None:
            if made and connection.takes_back:
                self._keep(frozen(connection, referral), name, record)
            return None
        if told.delivery_ended(f"{coordinates(record.topic, record.partition, record.offset)}:{name}"):
            return None
        doubt = since(record, referral)
        if doubt < told.left_out_before:
            self.unknown += 1
            return None
        once = replace(frozen(connection, referral), doubt=doubt)
        if told.newer(name, *ids):
            end = ended(once, name, Outcome.SUPERSEDED, 0, now, reason=OVERTAKEN)
            self.scene.store.command("RPUSH", f"{self.keys.prefix(record.partition)}outbox", end.entry)
            return None
        self.pending += 1
        return LaneTarget(name, once.freeze(), int(now * 1000))

    def _keep(self, made: Frozen, name: str, record: Record) -> None:
        """As `settle.lua` keeps what takes a delivery back; not where that was done."""
        back = made.taken_back(name)
        undone = delivery_id(name, made.referral_id, made.revision, Action.REMOVE)
        if back is None or self.scene.told.delivery_ended(undone):
            return
        prefix = self.keys.prefix(record.partition)
        lane, raw = f"{prefix}lane:{name}", back.freeze()
        known = self.scene.store.command("HGET", f"{lane}:made", made.referral_id) or b""
        known += f"{record.offset} {made.revision} {len(raw)}\n".encode() + raw
        self.scene.store.commands(
            [
                ("SADD", f"{prefix}lanes", name),
                ("HSET", f"{lane}:made", made.referral_id, known),
                ("ZADD", f"{lane}:made-at", record.timestamp_ms, made.referral_id),
            ]
        )


class Replay:
    """One role, partition after partition. Raises Stop where somebody else takes the partition."""

    def __init__(self, scene: Scene, keys: Keys, targets: Targets, *, whole: bool) -> None:
        self._scene, self._keys = scene, keys
        self._planner = Planner(keys.role.service, scene.fingerprint_key, whole, targets, scene.by_id)
        self.records = 0

    def begin(self, partition: int, start: int, upto: int, seals: Seals) -> None:
        """Take the partition, whose head stands at `start`."""
        store, keys = self._scene.store, self._keys
        taken = intake.taken(store.call(intake.take(keys, partition, OWNER, 0)))
        if not isinstance(taken, Taken) or taken.next_offset != start:
            raise Stop(_overtaken(keys, partition))
        self._partition, self._epoch, self._prev, self._seals = partition, taken.epoch, start, seals
        cuts = self._scene.history.cuts(keys.role, partition) | seals.keys() | {upto}
        self._cuts = sorted(cut for cut in cuts if start < cut <= upto)
        self._chunk: list[Record] = []
        self._size, self._slots = 0, set[int]()
        for offset in sorted(one for one in seals if one <= start):
            self._seal(offset)

    def feed(self, record: Record) -> None:
        while self._cuts and record.offset >= self._cuts[0]:
            self._flush(self._cuts.pop(0))
        if not self._cuts:
            return
        size = len(record.value or b"")
        if self._chunk and (len(self._chunk) == MAX_BATCH or self._size + size > MAX_BATCH_BYTES):
            self._flush(record.offset)
        self._chunk.append(record)
        self._size += size

    @property
    def done(self) -> bool:
        return not self._cuts

    def finish(self) -> None:
        """The rest, and the partition given back."""
        while self._cuts:
            self._flush(self._cuts.pop(0))
        self._scene.store.call(intake.give_back(self._keys, self._partition, self._epoch))

    def _flush(self, upto: int) -> None:
        scene, partition = self._scene, self._partition
        one = scene.history.at(self._keys.role, partition, self._prev)
        plan = self._planner.plan(self._chunk, one.router, scene.clock())
        call = intake.intake(
            self._keys,
            partition,
            epoch=self._epoch,
            prev=self._prev,
            next_offset=upto,
            set_version=one.version,
            entries=[self._quiet(entry) for entry in plan.entries],
            lane_deliveries=scene.caps[0],
            lane_bytes=scene.caps[1],
        )
        if not isinstance(intake.accepted(scene.store.call(call)), Accepted):
            raise Stop(_overtaken(self._keys, partition))
        self._forget(plan.entries)
        self.records += len(self._chunk)
        self._prev, self._chunk, self._size = upto, [], 0
        self._seal(upto)

    def _quiet(self, entry: Entry) -> Entry:
        """Without the receipt that was written already."""
        where = coordinates(self._scene.topic, self._partition, entry.offset)
        told = entry.note and self._scene.told.noted(self._keys.role.service, where)
        return replace(entry, note=b"") if told else entry

    def _forget(self, entries: Sequence[Entry]) -> None:
        """Fingerprints of past hours: Redis would keep those of the whole log at once."""
        self._slots |= {entry.fingerprint.slot for entry in entries if entry.fingerprint}
        old = {slot for slot in self._slots if slot <= max(self._slots) - SLOTS}
        self._slots -= old
        prefix = self._keys.prefix(self._partition)
        self._scene.store.commands(
            [("UNLINK", *(f"{prefix}seen:{slot}:{n}" for n in range(DEDUPE_SHARDS))) for slot in sorted(old)]
        )

    def _seal(self, offset: int) -> None:
        prefix = self._keys.prefix(self._partition)
        for name, number in self._seals.get(offset, ()):
            self._scene.store.call(Call(SEAL, self._keys.head(self._partition), (prefix, name, number)))


def above(floors: Mapping[tuple[int, str], int]) -> Targets:
    """What collect makes of a record, without rows below their connection's floor, which left long ago."""

    def targets(
        referral: Referral, record: Record, connections: Sequence[AnyConnection]
    ) -> Sequence[LaneTarget | WindowTarget]:
        open_for = [c for c in connections if record.offset >= floors.get((record.partition, c.name), 0)]
        return rows_for(referral, record, open_for)

    return targets


def _overtaken(keys: Keys, partition: int) -> str:
    return (
        f"a {keys.role} worker took {keys.topic}/{partition} meanwhile: stop all services, then run "
        "`referrals rebuild` again"
    )
