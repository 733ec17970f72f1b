"""The rebuild model's stories on the real `referrals rebuild`, over a real Redis and a Kafka that is told to it.

What Kafka knows is made of the model's state: commits, receipts and manifests as the services write them. A
rebuilding that dies is one whose next stage raises. Whether Redis went back is asked of those who judge it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from unittest import mock

from batcher.window import State as Stage
from batcher.window import parsed
from batcher.witness import require_windows
from console.rebuild import run, survey
from console.rebuild.run import rebuild
from consumer import intake, layout
from consumer.keys import Keys, Role
from consumer.manifests import Remembered
from consumer.ownership import Ownership
from consumer.service import Settings, Stop
from consumer.store import Store, text
from consumer.stream import Record, Witness
from consumer.topics import Topics
from schemas import referral
from schemas.connection import ConnectionSet, SftpConnection, connection_digest
from schemas.delivery import Outcome, delivery_id
from schemas.manifest import Kind, Manifest, Mark
from schemas.receipt import Receipt, Subject
from tests.invariants.drive import same
from tests.invariants.explore import Label
from tests.invariants.model_rebuild import CAP, REMOVAL, ROWS, Kafka, Redis, Rows, State, went_back
from tests.support.referral_events import event
from tests.support.rows import chained

TOPICS = Topics()
PUSH, BATCH = (Keys(TOPICS.referrals, role) for role in Role)
AT = datetime(2026, 6, 1, tzinfo=UTC)
CRM, FILE = "crm", "file"
EACH = [
    {"name": CRM, "kind": "http", "url": "https://crm.example/leads", "fields": ["email"]},
    {
        "name": FILE,
        "kind": "sftp",
        "host": "sftp.example.com",
        "username": "acme",
        "password": "${env:PASSWORD}",
        "host_keys": ["SHA256:" + "A" * 43],
        "schedule": {"cron": "0 8 * * *", "zone": "UTC"},
        "fields": ["email"],
    },
]
CONNECTIONS = ConnectionSet.model_validate({"accounts": [{"account": "acme", "connections": EACH}]})


class Died(Exception):  # noqa: N818 - what the rebuilding did
    """Here it ends."""


#: Where the rebuilding of each stage begins.
PLACES: Mapping[str, tuple[Any, str]] = {
    "survey": (run.Survey, "read"),
    "floors": (run._Work, "_floors"),
    "push": (run._Work, "_replay"),
    "batch": (run.Replay, "finish"),
    "windows": (run._Work, "_restore_windows"),
    "complete": (run._Work, "_restore_sets"),
}


def _record(offset: int) -> Record:
    removes = offset == REMOVAL
    number, kind = (0, "WITHDRAWN") if removes else (offset, "CREATED")
    value = referral.encode(event(referral_id=f"r-{number}", revision=0, event_type=kind))
    return Record(TOPICS.referrals, 0, offset, f"r-{number}".encode(), value, int(AT.timestamp() * 1000))


RECORDS = [_record(offset) for offset in (*ROWS, REMOVAL)]


class RebuildDriver:
    def __init__(self, store: Store) -> None:
        self._store = store
        self.rebuilt = self.judged = 0
        store.command("FLUSHDB")

    def step(self, label: Label, before: State, after: State) -> None:
        match label:
            case ("begin",) if before.redis is not None and before.redis.building:
                self._dies(before)
            case ("rebuild", "complete"):
                self._rebuild(before)
                assert after.redis is not None
                self._compare(after.redis)
                self.rebuilt += 1
            case ("look" | "start",) if before.redis is not None:
                self._judge(before.redis, before.kafka)
                self.judged += 1
            case _:
                pass  # the services' own affair, and other models'

    def _rebuild(self, state: State) -> None:
        with _told(state):
            rebuild(self._settings(), yes=True, replace_state=True, assume=False)

    def _dies(self, state: State) -> None:
        assert state.redis is not None
        place, name = PLACES[str(state.redis.building)]
        self._leases_end()
        with _told(state), mock.patch.object(place, name, side_effect=Died), suppress(Died):
            rebuild(self._settings(), yes=True, replace_state=True, assume=False)
        self._leases_end()
        try:
            layout.read(self._store, TOPICS)
        except Stop:
            return
        same("what a rebuilding left that died", "accepted", "refused")

    def _leases_end(self) -> None:
        for keys in (PUSH, BATCH):
            if self._store.command("EXISTS", keys.head(0)):
                self._store.command("HSET", keys.head(0), "lease", 0)

    def _settings(self) -> Settings:
        return Settings(redis=self._store.url, lane_deliveries=CAP, allow_volatile_redis=True)

    def _judge(self, redis: Redis, kafka: Kafka) -> None:
        remembered = Remembered(windows=_windows(kafka))
        try:
            for keys, at, commit in ((PUSH, redis.push, kafka.push), (BATCH, redis.batch, kafka.batch)):
                half: Any = SimpleNamespace()
                judge = Ownership(self._store, keys, half, remembered, "me", lambda: False)
                judge.judge(0, at, Witness(*commit))
            states = {FILE: _window(redis)} if redis.window else {}
            require_windows(remembered, {name: parsed(name, fields) for name, fields in states.items()})
        except Stop:
            same("whether Redis went back", True, went_back(redis, kafka))
        else:
            same("whether Redis went back", False, went_back(redis, kafka))

    def _compare(self, redis: Redis) -> None:
        heads = [self._store.command("HGET", keys.head(0), "next") for keys in (PUSH, BATCH)]
        same("next offsets", tuple(map(int, heads)), (redis.push, redis.batch))
        lane = f"{PUSH.prefix(0)}lane:{CRM}"
        same("pending", self._offsets("HKEYS", f"{lane}:body"), redis.pending)
        same("parked", self._offsets("LRANGE", f"{lane}:parked", 0, -1), redis.parked)
        same("open", self._rows(f"{BATCH.prefix(0)}open:{FILE}"), redis.open)
        # Removals are applied when a window is rendered.
        rows = self._rows(f"{BATCH.prefix(0)}sealed:{FILE}:{redis.window}")
        same("sealed", tuple(row for row in rows if row != 0 or not redis.removed_batch), redis.sealed)
        last, to = self._store.command("HMGET", f"{BATCH.prefix(0)}seals:{FILE}", "last", "to")
        same("the last window, and its end", (int(last or 0), int(to or 0)), (redis.window, redis.to))
        for keys, removed in ((PUSH, redis.removed), (BATCH, redis.removed_batch)):
            found = bool(self._store.command("HEXISTS", f"{keys.prefix(0)}removed", "r-0"))
            same(f"the removal, {keys.role}", found, removed)
        fields = self._store.hash(BATCH.window(FILE))
        stage, held = fields.get("state", Stage.CLOSED).lower(), fields.get("held") == "1"
        same("the window", (int(fields.get("n", 0)), stage, held), (redis.window, redis.stage, redis.held))
        same("whether it waits for a word", bool(fields.get("unsure")), redis.held)
        assert layout.read(self._store, TOPICS) is not None

    def _offsets(self, *command: str | int) -> Rows:
        return tuple(sorted(int(text(one)) for one in self._store.command(*command)))

    def _rows(self, key: str) -> Rows:
        return tuple(int.from_bytes(row[:8], "big") for row in self._store.command("LRANGE", key, 0, -1))


def _window(redis: Redis) -> dict[str, str]:
    fields = {"n": redis.window, "state": Stage(redis.stage.upper()), "slot": "", "token": 0, "since": 0}
    return {name: str(value) for name, value in fields.items()}


def _windows(kafka: Kafka) -> dict[str, dict[int, Manifest]]:
    found = {}
    file = CONNECTIONS.by_name()[FILE][1]
    assert isinstance(file, SftpConnection)
    for number, told in enumerate(kafka.manifests, 1):
        rows = [intake.row(row, RECORDS[row].value or b"") for row in ROWS if told.start <= row < told.to]
        mark = Mark(
            partition=0, start=told.start, to=told.to, rows=len(rows), digest=chained(rows), removals=0
        )
        found[number] = Manifest(
            kind=Kind.WINDOW,
            at=AT,
            connection=FILE,
            connection_digest=connection_digest(file),
            window=number,
            slot="asked:2026",
            marks=(mark,),
            outcome="DELIVERED" if told.ended else None,
            account_id="acme",
            sealed_at=AT,
        )
    return {FILE: found} if found else {}


def _receipts(state: State) -> Iterator[Record]:
    for offset, row in enumerate(state.kafka.receipts):
        made = state.effects[row] > 0
        receipt = Receipt(
            subject=Subject.DELIVERY,
            subject_id=delivery_id(CRM, f"r-{row}", 0),
            outcome=Outcome.DELIVERED if made else Outcome.WITHDRAWN,
            service="push",
            at=AT,
            connection=CRM,
            referral_id=f"r-{row}",
            revision=0,
            attempts=int(made),
        )
        yield Record(TOPICS.receipts, 0, offset, None, receipt.encode(), 0)


def _told(state: State) -> ExitStack:
    """Until it is closed, this is what Kafka says."""
    init = Manifest(
        kind=Kind.INIT, at=AT, layout=layout.LAYOUT, topic=TOPICS.referrals, topic_id="topic", starts=(0,)
    )
    one_set = Manifest(
        kind=Kind.CONNECTIONS,
        at=AT,
        set_version=1,
        set_digest=CONNECTIONS.digest,
        definition=CONNECTIONS.definition(),
        starts=(0, 0),
    )
    commits = {TOPICS.group("push"): state.kafka.push, TOPICS.group("collect"): state.kafka.batch}

    def committed(_kafka: str, _config: Any, _topic: str, group: str, _partitions: int) -> list[Witness]:
        return [Witness(*commits[group])]

    def read_all(_kafka: str, _config: Any, topic: str, _begin: Any = None) -> Iterator[Record]:
        yield from RECORDS if topic == TOPICS.referrals else _receipts(state)

    admin = SimpleNamespace(
        describe=lambda _topic: SimpleNamespace(partitions=1, topic_id="topic"),
        reading=lambda _group: False,
        earliest=lambda _topic, _partitions: {0: 0},
        setting=lambda _topic, _name: None,
    )
    remembered = Remembered(init, one_set, _windows(state.kafka))
    told = SimpleNamespace(remember=lambda *_: remembered, sets=lambda *_: [one_set])
    stack = ExitStack()
    places: Sequence[tuple[Any, str, Any]] = (
        (run, "Admin", lambda *_: admin),
        (run, "read_all", read_all),
        (survey, "read_all", read_all),
        (survey, "committed", committed),
        (survey, "manifests", told),
    )
    for place, name, other in places:
        stack.enter_context(mock.patch.object(place, name, other))
    return stack
