"""Workers of either half on real servers: round by round in this process, or as services of their own.

A `Place` is one topic with an account that has a CRM and a daily file; what stands in Redis's open windows
and in the CRM's log is held against what was published.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from batcher import collect
from console.begin import begin
from consumer import connection_sets, layout, manifests, metrics
from consumer.kafka_out import KafkaOut, Out
from consumer.keys import Keys, Role
from consumer.ownership import Ownership
from consumer.plan import Planner
from consumer.push import Push
from consumer.reading import committed
from consumer.service import Health, Settings
from consumer.store import Store
from consumer.stream import Stream, Witness
from consumer.topics import Admin, Topics
from consumer.worker import Worker
from schemas import referral
from schemas.connection import ConnectionSet
from tests.support import oracle
from tests.support.kafka import Kafka
from tests.support.peers import LOCAL
from tests.support.receivers import Receiver, receiver
from tests.support.referral_events import event
from tests.support.valkey import Valkey

WITHIN = 40.0
#: A topic's end is told after this; every side reads the manifests to their end when it is made.
AT_ONCE = {"fetch.wait.max.ms": 10}
#: Small, so that a bound on repeats means something.
MAX_IN_FLIGHT = 32
BOTH = pytest.mark.parametrize("role", list(Role))
PROTOCOLS = pytest.mark.parametrize("protocol", ["classic", "consumer"])


class Place:
    """A topic of its own on the run's Kafka."""

    def __init__(self, kafka: str, valkey: Valkey, crm: Receiver, partitions: int = 2) -> None:
        metrics.start(range(partitions))
        tag = f"t{uuid.uuid4().hex[:12]}"
        self.kafka, self.valkey, self.crm, self.partitions = kafka, valkey, crm, partitions
        self.settings = Settings(kafka=kafka, redis=valkey.url, prefix=f"{tag}.")
        self.topics = Topics(self.settings.prefix)
        self.connection, self.daily = f"{tag}-crm", f"{tag}-daily"
        self.published: list[str] = []
        begun = begin(self.settings, "earliest", partitions, 1)
        assert begun.layout is not None
        self.out = KafkaOut(kafka, {})
        with self.store() as store:
            connection_sets.apply(store, self.out, self.topics, self._connections(), partitions)

    def _connections(self) -> ConnectionSet:
        crm = {
            "name": self.connection,
            "kind": "http",
            "url": f"http://127.0.0.1:{self.crm.port}/{self.connection}",
            "fields": ["referral_id"],
            "retry_seconds": [1] * 40,
        }
        file = {
            "name": self.daily,
            "kind": "sftp",
            "host": "127.0.0.1",
            "username": "nobody",
            "password": "${env:NOBODY}",
            "host_keys": ["SHA256:" + "A" * 43],
            "schedule": {"cron": "0 8 1 1 *", "zone": "Australia/Sydney"},
            "fields": ["referral_id"],
        }
        account = {"account": "acme", "connections": [crm, file]}
        return ConnectionSet.model_validate({"accounts": [account]})

    @contextmanager
    def store(self) -> Iterator[Store]:
        made = Store(self.valkey.url)
        yield made
        made.close()

    def keys(self, role: Role) -> Keys:
        return Keys(self.topics.referrals, role)

    def publish(self, count: int, *ids: str) -> None:
        """So many new referrals, and those of these ids."""
        now = datetime.now(UTC)
        ids = (*(str(uuid.uuid4()) for _ in range(count)), *ids)
        events = [event(referral_id=i, account_id="acme", produced_at=now, revision=1) for i in ids]
        self.out.send([Out(self.topics.referrals, e["referral_id"], referral.encode(e)) for e in events])
        self.published += ids

    def heads(self, role: Role, field: str) -> list[str]:
        with self.valkey.client() as client:
            found = [client.hget(self.keys(role).head(p), field) for p in range(self.partitions)]
        return [(one or b"").decode() for one in found]

    def next(self, role: Role) -> int:
        """Over all partitions, what intake has taken."""
        return sum(int(one or 0) for one in self.heads(role, "next"))

    def pending(self) -> int:
        keys = self.keys(Role.PUSH)
        with self.valkey.client() as client:
            names = [f"{keys.prefix(p)}lane:{self.connection}:body" for p in range(self.partitions)]
            return sum(int(client.hlen(name)) for name in names)

    def rows(self) -> Counter[str]:
        """What stands in open windows, by referral."""
        keys = self.keys(Role.BATCH)
        found: Counter[str] = Counter()
        with self.valkey.client() as client:
            for p in range(self.partitions):
                for row in client.lrange(f"{keys.prefix(p)}open:{self.daily}", 0, -1):
                    found[referral.decode(row[8:]).referral_id] += 1
        return found

    def done(self, role: Role) -> bool:
        """All that was published is taken, and delivered where it is pushed; not while Redis is away."""
        with suppress(redis.ConnectionError):
            return self._done(role)
        return False

    def _done(self, role: Role) -> bool:
        return self.next(role) >= len(self.published) and (role is Role.BATCH or self.pending() == 0)

    def judge(self, role: Role, repeats: int = 0) -> None:
        """Everything once. `repeats`: how often the CRM may have got the same again under its key."""
        if role is Role.BATCH:
            assert self.rows() == Counter(self.published)
            return
        verdict = oracle.crm(self.crm.folder / "effects.jsonl", self.connection, self.published)
        print(verdict)
        assert (verdict.lost, verdict.duplicates, verdict.mismatches) == (0, 0, 0)
        assert verdict.repeats <= repeats

    def committed(self, role: Role) -> list[Witness]:
        group = self.topics.group(role.service)
        return list(committed(self.kafka, {}, self.topics.referrals, group, self.partitions).values())

    def mode(self, mode: str) -> None:
        """What the CRM does."""
        self.crm.modes({f"/{self.connection}": mode})


class Side:
    """One worker of a half; nothing happens but in `round`."""

    def __init__(
        self,
        place: Place,
        role: Role,
        name: str = "a",
        *,
        url: str | None = None,
        kafka: str | None = None,
        protocol: str = "classic",
        session_ms: int = 6_000,
    ) -> None:
        self.place, self.role = place, role
        self.stopping = threading.Event()
        self.store = Store(url or place.settings.redis)
        keys, bootstrap = place.keys(role), kafka or place.kafka
        half: Any = collect.Collect()
        targets: Any = collect.targets
        if role is Role.PUSH:
            self.push = half = Push(keys, MAX_IN_FLIGHT, self.stopping.is_set, LOCAL, name)
            targets = half.targets
        remembered = manifests.remember(bootstrap, AT_ONCE, place.topics)
        found = layout.require(self.store, Admin(bootstrap, {}), place.topics, remembered)
        self.ownership = Ownership(self.store, keys, half, remembered, name, self.stopping.is_set)
        self.service = SimpleNamespace(health=Health(), stopping=self.stopping)
        planner = Planner(role.service, found.fingerprint_key, role is Role.PUSH, targets)
        self.worker = Worker(
            self.service,  # type: ignore[arg-type]
            self.store,
            KafkaOut(bootstrap, {}),
            keys,
            place.topics,
            place.partitions,
            planner,
            half,
            self.ownership,
        )
        if role is Role.PUSH:
            self.push.sender.start()
        #: Partitions the group took away without asking.
        self.lost: list[int] = []
        self.stream = Stream(
            bootstrap,
            {},
            topic=place.topics.referrals,
            group=place.topics.group(role.service),
            session_timeout_ms=session_ms,
            group_protocol=protocol,
            assigned=self.ownership.assigned,
            revoked=self.ownership.revoked,
            lost=self._lost,
        )

    def _lost(self, partitions: list[int]) -> None:
        self.lost += partitions
        self.ownership.lost(partitions)

    @property
    def owns(self) -> int:
        return len(self.ownership.owned)

    @property
    def ready(self) -> tuple[bool, str]:
        return self.service.health.readiness()

    def round(self) -> None:
        self.worker.round(self.stream)

    def close(self) -> None:
        """Finish, give back and leave the group. Safe to call twice."""
        if self.stopping.is_set():
            return
        self.stopping.set()
        self.stream.close()
        if self.role is Role.PUSH:
            self.push.sender.close()
        self.store.close()


def run(condition: Callable[[], object], what: str, *sides: Side, within: float = WITHIN) -> None:
    """Have these go round until it is so."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        for side in sides:
            side.round()
        if not sides:
            time.sleep(0.02)


def drive(seconds: float, *sides: Side) -> None:
    """Have these go round for so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for side in sides:
            side.round()


Join = Callable[..., Side]


@pytest.fixture(scope="module")
def crm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with receiver("crm", tmp_path_factory.mktemp("crm")) as running:
        yield running


@pytest.fixture
def place(kafka: Kafka, valkey: Valkey, crm: Receiver) -> Place:
    return Place(kafka.bootstrap, valkey, crm)


@pytest.fixture
def join() -> Iterator[Join]:
    """Makes sides, which end with the test."""
    with ExitStack() as stack:

        def joined(*args: Any, **options: Any) -> Side:
            side = Side(*args, **options)
            stack.callback(side.close)
            return side

        yield joined


def quick_group(kafka: str, group: str, session_ms: int = 2_000) -> None:
    """Under the new protocol the broker decides when a member is gone, and how often one beats."""
    settings = {"consumer.heartbeat.interval.ms": 500, "consumer.session.timeout.ms": session_ms}
    values = [
        ConfigEntry(name, str(value), incremental_operation=AlterConfigOpType.SET)
        for name, value in settings.items()
    ]
    resource = ConfigResource(ConfigResource.Type.GROUP, group, incremental_configs=values)
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.incremental_alter_configs([resource])[resource].result(timeout=WITHIN)
