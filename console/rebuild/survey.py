"""What Kafka says of a deployment whose Redis was lost: what was in force, sealed and taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

from console.rebuild import restored
from console.rebuild.restored import Newest
from console.rebuild.told import Told, whole_since
from consumer import intake, manifests
from consumer.history import History, InForce, history
from consumer.intake import Removal
from consumer.keys import LAYOUT, Keys, Role
from consumer.layout import Layout, require_topic
from consumer.reading import committed, read_all
from consumer.service import Settings, Stop
from consumer.store import Call, Store
from consumer.stream import Record
from consumer.topics import Admin, Topics
from schemas import referral as referrals
from schemas.codec import Undecodable
from schemas.connection import ConnectionSet
from schemas.push import PushBase
from schemas.receipt import coordinates
from schemas.referral import EventType, Referral, SchemaById

#: Marks written in one round trip.
MARKS = 2_000


@dataclass(slots=True)
class Known:
    """`begins`: per partition, the first record there is; `upto`: by role, the first that was not taken."""

    layout: Layout
    history: History
    newest: Sequence[Newest]
    begins: tuple[int, ...]
    upto: dict[Role, list[int]]

    @property
    def cut_off(self) -> list[int]:
        """Partitions whose first records Kafka has deleted."""
        starts = self.layout.starts
        return [p for p, begin in enumerate(self.begins) if begin > starts[p]]


def known(settings: Settings, admin: Admin, topics: Topics, fingerprint_key: bytes) -> Known:
    """What manifests and commits say. Raises Stop."""
    remembered = manifests.remember(settings.kafka, settings.kafka_config, topics)
    init = remembered.init
    if init is None or init.starts is None:
        raise Stop(
            f"{topics.referrals} was never initialised: run `referrals init --from earliest|latest|TIME`"
        )
    if init.layout not in {None, LAYOUT}:
        raise Stop(
            f"{topics.referrals} was initialised with layout {init.layout}, not {LAYOUT}: run its release"
        )
    partitions = len(init.starts)
    layout = Layout(str(init.topic_id), partitions, init.starts, fingerprint_key)
    require_topic(admin, topics, layout)
    _require_nobody(topics, admin)
    past = history(manifests.sets(settings.kafka, settings.kafka_config, topics, init))
    if past is None:
        past = History([InForce(0, init.at, "", ConnectionSet().definition(), ())])
    _require_ours(past)
    earliest = admin.earliest(topics.referrals, partitions)
    begins = tuple(max(start, earliest[p]) for p, start in enumerate(init.starts))
    upto = {}
    for role in Role:
        group = topics.group(role.service)
        told = committed(settings.kafka, settings.kafka_config, topics.referrals, group, partitions)
        upto[role] = [max(begins[p], told[p].offset) for p in range(partitions)]
    for p in range(partitions):
        upto[Role.BATCH][p] = max(upto[Role.BATCH][p], remembered.floor(p)[0])
    return Known(layout, past, restored.newest(remembered), begins, upto)


def _require_ours(past: History) -> None:
    for one in past.sets:
        try:
            one.set  # noqa: B018 - it is read, or refused
        except ValueError as error:
            raise Stop(
                f"the set of connections with version {one.version} was written by another release, which "
                "has to do this"
            ) from error


def _require_nobody(topics: Topics, admin: Admin) -> None:
    for role in Role:
        if admin.reading(topics.group(role.service)):
            raise Stop(f"{role.service} still runs: stop all services, then run this again")


def learn(told: Told, settings: Settings, admin: Admin, topics: Topics) -> None:
    """Read all receipts."""
    firsts: dict[int, float] = {}

    def noted() -> Iterator[Record]:
        for record in read_all(settings.kafka, settings.kafka_config, topics.receipts):
            firsts.setdefault(record.partition, record.timestamp_ms / 1000)
            yield record

    described = admin.describe(topics.receipts)
    if described is None:
        raise Stop(f"topic {topics.receipts} is not in Kafka any more: without it all would be pushed again")
    told.learn(noted())
    lows = admin.earliest(topics.receipts, described.partitions)
    kept = admin.setting(topics.receipts, "retention.ms")
    told.left_out_before = whole_since(lows, firsts, kept, datetime.now(UTC))


class Survey:
    """One reading of the log: removals noted in every partition, and how far push had come at least."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        topics: Topics,
        found: Known,
        told: Told,
        by_id: SchemaById | None,
    ) -> None:
        self._store, self._settings, self._topics = store, settings, topics
        self._known, self._told, self._by_id = found, told, by_id
        self._marks: list[Call] = []

    def read(self) -> None:
        """Raises StreamFailed, StoreUnavailable, StoreRefused."""
        for (role, partition), reach in self._told.reach.items():
            if partition < len(self._known.begins):
                upto = self._known.upto[role]
                upto[partition] = max(upto[partition], reach)
        topic, config = self._topics.referrals, self._settings.kafka_config
        for partition, begin in enumerate(self._known.begins):
            with closing(read_all(self._settings.kafka, config, topic, {partition: begin})) as records:
                for record in records:
                    self._look(record)
        self._write()

    def _look(self, record: Record) -> None:
        try:
            referral = referrals.decode(record.value, self._by_id, routing_only=True)
        except Undecodable:
            return
        if referral.is_test or referral.event_type is EventType.UNKNOWN:
            return
        if referral.event_type.removes:
            where = coordinates(record.topic, record.partition, record.offset)
            erased = referral.event_type is EventType.ERASED
            self._remove(Removal(referral.referral_id, erased, referral.revision, where))
        elif record.offset >= self._known.upto[Role.PUSH][record.partition] and self._pushed(
            record, referral
        ):
            self._known.upto[Role.PUSH][record.partition] = record.next_offset

    def _pushed(self, record: Record, referral: Referral) -> bool:
        """Whether a receipt shows that the record was taken."""
        router = self._known.history.at(Role.PUSH, record.partition, record.offset).router
        return any(
            self._told.ended(one.name, referral.referral_id, referral.revision) is not None
            for one in router.connections(referral)
            if isinstance(one, PushBase)
        )

    def _remove(self, removal: Removal) -> None:
        every = range(len(self._known.begins))
        self._marks += [
            intake.mark(Keys(self._topics.referrals, role), p, removal) for role in Role for p in every
        ]
        if len(self._marks) >= MARKS:
            self._write()

    def _write(self) -> None:
        self._store.calls(self._marks)
        self._marks.clear()
