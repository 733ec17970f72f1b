"""`referrals rebuild`: the state of a lost Redis made anew from Kafka's log, manifests and receipts.

Until its last step nothing in Redis counts: services refuse to start on it, and a run that died is begun
anew.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event

from batcher.window import State, WindowState
from batcher.windows import Windows
from console.disk import room
from console.ground import plainly
from console.rebuild.replay import Deliveries, Replay, Scene, Seals, above
from console.rebuild.restored import Newest
from console.rebuild.survey import Known, Survey, known, learn
from console.rebuild.told import Told
from console.rebuild.vacant import clear, require_vacant
from console.show import count
from consumer import layout, registry
from consumer.keys import LAYOUT, Keys, Role
from consumer.reading import read_all
from consumer.service import Settings, Stop
from consumer.store import Argument, Store
from consumer.topics import Admin, Topics
from schemas.connection import FileBase, canonical, connection_digest
from schemas.manifest import Mark
from schemas.receipt import utc


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """`held`: windows that wait for a person's word; `remarks`: what could not be restored, a line each."""

    records: int
    pending: int
    rows: int
    held: tuple[str, ...]
    remarks: tuple[str, ...]


def rebuild(settings: Settings, *, yes: bool, replace_state: bool, assume: bool) -> Rebuilt:
    """`yes`: really; `replace_state`: what Redis holds may go; `assume`: records taken under a set of
    connections nobody remembers are routed by the oldest that is. Raises Stop.
    """
    topics, append_only = Topics(settings.prefix), not settings.allow_volatile_redis
    store = Store(settings.redis, append_only=append_only, replicas=settings.redis_replicas)
    with plainly(), closing(store), room(), closing(Told()) as told:
        layout.require_durable(store, volatile_ok=settings.allow_volatile_redis)
        admin = Admin(settings.kafka, settings.kafka_config)
        found = known(settings, admin, topics, secrets.token_bytes(32))
        partitions = found.layout.partitions
        require_vacant(store, topics.referrals, partitions, replace=replace_state)
        if found.history.unknown_before(found.begins) and not assume:
            raise Stop(
                f"Kafka remembers sets of connections from version {found.history.sets[0].version} on only: "
                "which connections earlier records went to is not known. `--assume` routes them by that one; "
                "an advertiser may then get what was not theirs yet, or miss what was"
            )
        if not yes:
            raise Stop(
                f"this makes the state of {topics.referrals} in Redis at {layout.shown(store.url)} anew. "
                "Where there is a copy of its newest append-only file, restore that instead. Else say --yes"
            )
        learn(told, settings, admin, topics)
        return _Work(settings, store, topics, found, told).done()


class _Work:
    def __init__(self, settings: Settings, store: Store, topics: Topics, found: Known, told: Told) -> None:
        self._settings, self._store, self._topics = settings, store, topics
        self._known, self._told = found, told
        self._push, self._batch = Keys(topics.referrals, Role.PUSH), Keys(topics.referrals, Role.BATCH)
        self._by_id = registry.waiting(settings.schema_registry, Event().wait)
        self._windows = Windows(store, self._batch)

    def done(self) -> Rebuilt:
        found, store = self._known, self._store
        marker: tuple[Argument, ...] = ("rebuilding", 1, "complete", 0, "layout", LAYOUT)
        store.command("HSET", self._push.layout, *marker)
        store.barrier()
        clear(store, self._topics.referrals)
        layout.write(store, self._topics, found.layout, found.begins)
        Survey(store, self._settings, self._topics, found, self._told, self._by_id).read()
        self._floors()
        deliveries, records = self._replay()
        held = self._restore_windows()
        self._restore_sets()
        rows = self._open_rows()
        store.barrier()
        rebuilt = ",".join(map(str, found.upto[Role.PUSH]))
        store.command("HSET", self._push.layout, "rebuilt", rebuilt, "complete", 1)
        store.command("HDEL", self._push.layout, "rebuilding")
        store.barrier()
        remarks = tuple(_remarks(found, self._told, deliveries, sorted(store.hash(self._push.paused))))
        return Rebuilt(records, deliveries.pending, rows, held, remarks)

    def _floors(self) -> None:
        """Below them nothing enters a window again."""
        every = range(self._known.layout.partitions)
        self._store.commands(
            [
                ("HSET", f"{self._batch.prefix(p)}seals:{one.name}", *_flat(one.seals(p)))
                for one in self._known.newest
                for p in every
                if p in one.floors
            ]
        )

    def _replay(self) -> tuple[Deliveries, int]:
        found, settings = self._known, self._settings
        caps = settings.lane_deliveries, settings.lane_bytes
        topic, key = self._topics.referrals, found.layout.fingerprint_key
        scene = Scene(self._store, topic, found.history, self._told, key, caps, self._by_id)
        deliveries = Deliveries(scene, self._push)
        floors = {(p, one.name): floor for one in found.newest for p, floor in one.floors.items()}
        push = Replay(scene, self._push, deliveries.targets, whole=True)
        batch = Replay(scene, self._batch, above(floors), whole=False)
        for p, begin in enumerate(found.begins):
            push.begin(p, begin, found.upto[Role.PUSH][p], {})
            batch.begin(p, begin, found.upto[Role.BATCH][p], seals(found.newest, p))
            with closing(read_all(settings.kafka, settings.kafka_config, topic, {p: begin})) as records:
                for record in records:
                    push.feed(record)
                    batch.feed(record)
                    if push.done and batch.done:
                        break
            push.finish()
            batch.finish()
        return deliveries, max(push.records, batch.records)

    def _restore_windows(self) -> tuple[str, ...]:
        """The newest of each connection; returns those that wait for a person."""
        held = []
        digests = {
            connection_digest(connection)
            for one in self._known.history.sets
            for _, connection in one.set.by_name().values()
        }
        for one in self._known.newest:
            sealed: Sequence[Mark] = ()
            digest = str(one.told.connection_digest)
            if one.open:
                window = WindowState(one.name, one.number, State.SEALED, "", 0, utc(0), "", 0, 0.0, {})
                sealed = self._windows.seal(window, self._known.layout.partitions)
                held.append(window.id)
            whole = not one.open or (one.same(sealed) and digest in digests)
            if digest not in digests:
                same_name = self._known.history.definitions(one.name)
                digest = connection_digest(same_name[-1][1]) if same_name else digest
            fields = one.fields(sealed, digest, whole=whole)
            self._store.command("HSET", self._batch.window(one.name), *_flat(fields))
        if began := self._began():
            self._store.command("HSET", self._batch.windows_began, *_flat(began))
        return tuple(held)

    def _began(self) -> dict[str, str | int]:
        """Since when schedules count, where nothing says more."""
        past = self._known.history
        found: dict[str, str | int] = {
            one.name: _iso(one.told.sealed_at or one.told.at) for one in self._known.newest
        }
        files = [n for n, (_, one) in past.now.set.by_name().items() if isinstance(one, FileBase)]
        return {name: _iso(came) for name, came in past.came(files).items()} | found

    def _restore_sets(self) -> None:
        """Last: a flush that was not stopped finds no connections until all else is there."""
        past, keys = self._known.history, self._push
        if not past.now.version:
            return
        commands: list[tuple[Argument, ...]] = []
        facts: dict[str, str | int] = {}
        for one in past.sets:
            named = one.set.by_name()
            texts = {connection_digest(c): canonical(c.model_dump(mode="json")) for _, c in named.values()}
            if named:
                commands.append(("HSET", keys.definitions, *_flat(texts)))
                commands.append(
                    ("HSET", keys.owners, *_flat({n: account for n, (account, _) in named.items()}))
                )
            facts[f"known:{one.digest}"] = one.version
        now = past.now
        for role in Role:
            for p in range(self._known.layout.partitions):
                start = now.start(role, p) if now.starts else self._known.upto[role][p]
                head = Keys(self._topics.referrals, role).head(p)
                commands.append(("HSET", head, "set", now.version, "set-from", start))
        facts |= {"version": now.version, "digest": now.digest, "definition": now.definition}
        commands.append(("HSET", keys.connections, *_flat(facts)))
        self._store.commands(commands)

    def _open_rows(self) -> int:
        names = list(self._known.history.now.set.by_name())
        every = range(self._known.layout.partitions)
        asked = [("LLEN", f"{self._batch.prefix(p)}open:{name}") for name in names for p in every]
        return sum(int(found) for found in self._store.commands(asked))


def seals(newest: Sequence[Newest], partition: int) -> Seals:
    """Where windows that have not ended were sealed in a partition. Pure."""
    found: dict[int, list[tuple[str, int]]] = {}
    for one in newest:
        for mark in one.told.marks if one.open else ():
            if mark.partition == partition:
                found.setdefault(mark.to, []).append((one.name, one.number))
    return found


def _remarks(found: Known, told: Told, deliveries: Deliveries, paused: Sequence[str]) -> Iterator[str]:
    if found.cut_off:
        where = ", ".join(f"{p} from offset {found.begins[p]} on" for p in found.cut_off)
        yield (
            "Kafka has deleted the first records of its log; what still waited of them is not restored, nor "
            f"removals among them: partition {where}"
        )
    if deliveries.unknown:
        yield (
            f"{count(deliveries.unknown, 'delivery', 'deliveries')} of records from before "
            f"{utc(told.left_out_before):%Y-%m-%d %H:%M} UTC are not restored: receipts are not kept for so "
            "long, so nobody knows which of them ended; `referrals export` has them"
        )
    yield (
        "Kafka does not know who was paused, nor which flushes and resends were asked for: pause whom you "
        "had paused before you start the services"
        + (f" (still paused: {', '.join(paused)})" if paused else "")
    )


def _flat(fields: dict[str, str | int] | dict[str, str]) -> tuple[Argument, ...]:
    return tuple(item for pair in fields.items() for item in pair)


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat()
