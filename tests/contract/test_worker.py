"""The worker's loop with its push half, round by round in this process, on a real Kafka, Valkey and CRM."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from console.begin import begin
from consumer import attempts, connection_sets, layout, manifests, metrics, receipts
from consumer.crm import BY_KIND
from consumer.crm.port import Sending
from consumer.kafka_out import KafkaOut, Out
from consumer.keys import Keys, Role
from consumer.ownership import Ownership
from consumer.plan import Planner
from consumer.push import Push
from consumer.reading import read_all
from consumer.service import Health, Settings, Stop
from consumer.store import Store
from consumer.stream import Stream
from consumer.topics import Admin, Topics
from consumer.worker import Worker
from schemas import receipt as codec
from schemas import referral as referrals
from schemas.connection import ConnectionSet
from schemas.delivery import Outcome
from tests.support.kafka import Kafka
from tests.support.peers import LOCAL
from tests.support.receivers import Receiver, receiver
from tests.support.referral_events import event
from tests.support.valkey import Valkey, start_valkey

WITHIN = 40.0


@dataclass
class Bench:
    """One worker on one partition; `run` goes round until something is so."""

    kafka: Kafka
    valkey: Valkey
    crm: Receiver
    settings: Settings
    options: dict[str, Any] = field(default_factory=dict)
    applied: bool = True

    def __post_init__(self) -> None:
        self.topics = Topics(self.settings.prefix)
        self.keys = Keys(self.topics.referrals, Role.PUSH)
        begin(self.settings, "earliest", 1, 1)
        self.out = KafkaOut(self.kafka.bootstrap, {})
        self.store = Store(self.valkey.url)
        self.client: redis.Redis = self.valkey.client()
        self.stopping = threading.Event()
        if self.applied:
            self.apply()
        self.push = Push(self.keys, 100, self.stopping.is_set, LOCAL, "me")
        self._start()

    def apply(self) -> None:
        connection = {
            "name": "acme-crm",
            "kind": "http",
            "url": f"http://127.0.0.1:{self.crm.port}/acme",
            "fields": ["referral_id"],
            "retry_seconds": [1] * 20,
            **self.options,
        }
        wanted = ConnectionSet.model_validate(
            {"accounts": [{"account": "acme", "connections": [connection]}]}
        )
        connection_sets.apply(self.store, self.out, self.topics, wanted, 1)

    def _start(self) -> None:
        self.push.sender.start()
        admin = Admin(self.kafka.bootstrap, {})
        remembered = manifests.remember(self.kafka.bootstrap, {}, self.topics)
        found = layout.require(self.store, admin, self.topics, remembered)
        self.ownership = Ownership(self.store, self.keys, self.push, remembered, "me", self.stopping.is_set)
        self.worker = Worker(
            SimpleNamespace(health=Health(), stopping=self.stopping),  # type: ignore[arg-type]
            self.store,
            self.out,
            self.keys,
            self.topics,
            1,
            Planner("push", found.fingerprint_key, True, self.push.targets),
            self.push,
            self.ownership,
        )
        self.stream = Stream(
            self.kafka.bootstrap,
            {},
            topic=self.topics.referrals,
            group=f"{self.settings.prefix}push",
            session_timeout_ms=6_000,
            group_protocol="classic",
            assigned=self.ownership.assigned,
            revoked=self.ownership.revoked,
            lost=self.ownership.lost,
        )

    def close(self) -> None:
        self.stopping.set()
        self.stream.close()
        self.push.sender.close()
        self.store.close()
        self.client.close()

    def publish(self, *ids: str, **changes: Any) -> None:
        now = datetime.now(UTC)
        events = [event(referral_id=i, account_id="acme", produced_at=now, **changes) for i in ids]
        self.out.send([Out(self.topics.referrals, e["referral_id"], referrals.encode(e)) for e in events])

    def run(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + WITHIN
        while not condition():
            assert time.monotonic() < deadline, f"not within {WITHIN:g} s: {what}"
            self.worker.round(self.stream)

    @property
    def next(self) -> int:
        return int(self.client.hget(self.keys.head(0), "next") or 0)

    @property
    def pending(self) -> int:
        return int(self.client.hlen(f"{self.keys.prefix(0)}lane:acme-crm:body"))

    @property
    def seen(self) -> Counter[str]:
        """Effects and repeats at the CRM by referral."""
        effects = [*self.crm.effects("effect"), *self.crm.effects("repeat")]
        return Counter(e["referral_id"] for e in effects if e["connection"] == "acme")

    def mode(self, mode: str) -> int:
        """Set the CRM's; how many requests it refused so far."""
        return self.crm.modes({"/acme": mode}).get("acme", Counter())["refused"]

    def outcomes(self) -> dict[str, Outcome]:
        """By referral, once all receipts are in Kafka."""
        while receipts.relay(self.store, self.out, self.keys, self.topics, 0, time.time()):
            pass
        told = [
            codec.decode(r.value or b"") for r in read_all(self.kafka.bootstrap, {}, self.topics.receipts)
        ]
        return {str(receipt.referral_id): receipt.outcome for receipt in told}


@pytest.fixture
def make(kafka: Kafka, valkey: Valkey, topic_prefix: str, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []
    with receiver("crm", tmp_path / "crm") as crm:

        def made(server: Valkey = valkey, *, applied: bool = True, **options: Any) -> Bench:
            settings = Settings(kafka=kafka.bootstrap, redis=server.url, prefix=topic_prefix)
            benches.append(Bench(kafka, server, crm, settings, options, applied))
            return benches[-1]

        yield made
        for bench in benches:
            bench.close()


@pytest.mark.case(12, 13)
def test_an_idle_owner_notices_that_redis_went_back(make: Callable[..., Bench]) -> None:
    """Nothing new is published: what Redis lost comes in again nevertheless."""
    bench = make()
    bench.publish("r0", "r1", "r2")
    bench.run(lambda: bench.next == 3, "all are taken")
    before = metrics.REDIS_REWIND._value.get()
    # As a crash leaves it: the offset, and with it rows and fingerprints, as they were.
    bench.client.hset(bench.keys.head(0), mapping={"next": 1, "prev": -1})
    bench.client.delete(*bench.client.keys(f"{bench.keys.prefix(0)}seen:*"))
    bench.run(lambda: bench.next == 3, "they are taken again")
    bench.run(lambda: bench.pending == 0, "all have ended")
    assert bench.seen.keys() == {"r0", "r1", "r2"}
    assert metrics.REDIS_REWIND._value.get() == before + 1


@pytest.mark.case(12, 13)
def test_ends_that_redis_lost_are_made_again_at_once(make: Callable[..., Bench]) -> None:
    """Offset and epoch stand as they were: only what was told of deliveries is lost, and the connection."""
    bench = make()
    bench.mode("503")
    bench.publish("r0")
    bench.run(lambda: bench.client.keys(f"{bench.keys.prefix(0)}lane:*:again"), "it is put off")
    names = bench.client.keys(f"{bench.keys.prefix(0)}lane:*")
    before = {name: bench.client.dump(name) for name in names}
    bench.mode("ok")
    bench.run(lambda: bench.pending == 0, "it has ended")
    for name, found in before.items():
        bench.client.restore(name, 0, found, replace=True)
    bench.client.client_kill_filter(_type="normal", skipme=True)
    assert bench.pending == 1
    bench.run(lambda: bench.pending == 0, "it has ended again")
    assert bench.seen == Counter({"r0": 2})


@pytest.mark.case(12, 13, 32)
def test_a_redis_that_went_back_further_than_a_crash_explains_stops_it(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.publish("r0", "r1")
    bench.run(lambda: bench.next == 2, "all are taken")
    bench.run(lambda: bench.ownership.owned[0].durable == 2, "it is surely on disk")
    bench.client.hset(bench.keys.head(0), mapping={"next": 1, "prev": -1})
    with pytest.raises(Stop, match="Redis went back: it stands at offset 1 of .*/0, but it had confirmed 2"):
        bench.run(lambda: False, "it stops")


@pytest.mark.case(16)
def test_a_full_redis_takes_nothing_in_and_drains(make: Callable[..., Bench], tmp_path: Path) -> None:
    server = start_valkey(tmp_path / "valkey")
    try:
        bench = make(server)
        bench.mode("503")
        bench.publish(*(f"a{n}" for n in range(50)))
        bench.run(lambda: bench.next == 50, "the first are taken")
        bench.client.set("ballast", "x" * 2_000_000)
        bench.client.config_set("maxmemory", "1mb")
        bench.publish("late")
        bench.run(lambda: not bench.worker._service.health.readiness()[0], "it is refused")
        bench.mode("ok")
        bench.run(lambda: bench.pending == 0, "what it had has ended")
        assert bench.next == 50
        bench.client.delete("ballast")
        bench.client.config_set("maxmemory", "0")
        bench.run(lambda: bench.next == 51 and bench.pending == 0, "the rest follows")
        assert bench.seen == Counter(["late", *(f"a{n}" for n in range(50))])
        bench.run(lambda: bench.worker._service.health.readiness()[0], "it is well again")
    finally:
        server.kill()


def test_nothing_is_taken_before_connections_are_in_force(make: Callable[..., Bench]) -> None:
    bench = make(applied=False)
    bench.publish("a", "b")

    def waiting() -> bool:
        return any(len(owned.backlog) == 2 for owned in bench.ownership.owned.values())

    bench.run(waiting, "they are read")
    bench.run(lambda: "apply" in bench.worker._service.health.readiness()[1], "it says what is missing")
    assert bench.next == 0
    bench.apply()
    bench.run(lambda: bench.next == 2 and bench.pending == 0, "they are delivered")
    assert bench.seen == Counter(["a", "b"])


def test_what_is_withdrawn_in_flight_is_not_tried_again(make: Callable[..., Bench]) -> None:
    bench = make(timeout=1.0)
    bench.mode("hang")
    bench.publish("r0", "r1")
    bench.run(lambda: bench.mode("hang") == 2, "both are in flight")
    bench.publish("r0", event_type="WITHDRAWN")
    bench.run(lambda: bench.next == 3, "the removal is taken")
    bench.run(lambda: bench.pending == 1, "its attempt has failed")
    bench.mode("ok")
    bench.run(lambda: bench.pending == 0, "the other is delivered")
    assert bench.seen == Counter(["r1"])
    assert bench.outcomes() == {"r0": Outcome.WITHDRAWN, "r1": Outcome.DELIVERED}


def test_a_defect_met_by_one_delivery_is_one_failed_attempt(make: Callable[..., Bench], monkeypatch) -> None:
    """A CRM's own code that raises: nothing is lost, nobody waits, and it ends as any failure does."""
    crm = BY_KIND["http"]

    def defective(connection: Any, secrets: Any, sending: Sending, now: float) -> Any:
        if b"broken" in sending.rows[0].body:
            raise KeyError("a body nobody may see")
        return crm.request(connection, secrets, sending, now)

    monkeypatch.setitem(attempts.BY_KIND, "http", replace(crm, request=defective))
    bench = make(retry_seconds=[1], max_in_flight=1)
    bench.publish("broken", "r1", "r2")
    bench.run(lambda: bench.next == 3 and bench.pending == 0, "all have ended")
    assert bench.seen == Counter(["r1", "r2"])
    assert bench.outcomes() == {"broken": Outcome.EXHAUSTED, "r1": Outcome.DELIVERED, "r2": Outcome.DELIVERED}


def test_a_defect_in_the_loop_of_requests_stops_the_worker(make: Callable[..., Bench]) -> None:
    bench = make()

    def broken() -> None:
        raise KeyError("a body nobody may see")

    bench.push.sender.call(broken)
    with pytest.raises(Stop, match=r"requests: KeyError at test_worker.py:\d+") as stopped:
        bench.run(lambda: False, "it stops")
    assert "nobody" not in str(stopped.value)
