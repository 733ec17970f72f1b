"""Windows while Redis has no room, and while it fails over to a replica that is behind."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from batcher.window import State
from consumer import store as redis_client
from consumer.store import StoreRefused
from schemas.delivery import Outcome
from tests.support.batch import House, house
from tests.support.beside import replica_of
from tests.support.desk import Worker, state
from tests.support.figures import figure, watched
from tests.support.kafka import Kafka
from tests.support.proxy import proxy
from tests.support.receivers import eventually
from tests.support.rows import Intake, csv_of, person
from tests.support.sides import WITHIN

FULL = 'referral_flush_artefacts_total{channel="sftp",outcome="delivered"}'


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, kafka: Kafka) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("house"), kafka.bootstrap, "flush-cases.") as running:
        yield running


@pytest.mark.case(16)
def test_a_full_redis_lets_windows_leave(place: House) -> None:
    """By a worker that was started when it was full already, too."""
    file, mail = place.sftp_connection("full"), place.email_connection("full-mail")
    place.empty(file, mail)
    first = Worker(place, {})
    first.go()
    people = [person(n) for n in range(4)]
    place.intake.put(0, [file, mail], *people)
    for name in ("full", "full-mail"):
        place.ask(name)
    second = Worker(place, {})
    try:
        with place.valkey.client() as client:
            client.set("ballast", "x" * 2_000_000)
            client.config_set("maxmemory", "1mb")
            with pytest.raises(StoreRefused):
                place.intake.put(0, [file, mail], person(9))
            delivered = figure(FULL)
            second.go()
            assert state(place, "full") == (State.CLOSED, "")
            assert state(place, "full-mail") == (State.CLOSED, "")
            assert client.keys("*:sealed:*") == [], "its rows are gone: there is room"
        assert place.file("full") == csv_of(people)
        assert {box: len(mails) for box, mails in place.mails("full-mail").items()} == {"a": 1, "b": 1}
        assert [one.outcome for one in place.receipts("full")] == [Outcome.DELIVERED]
        assert figure(FULL) == delivered + 1
        assert watched("ReferralFlushOverdue", "referral_flush_overdue") == 0
    finally:
        with place.valkey.client() as client:
            client.config_set("maxmemory", "0")
            client.delete("ballast")
        first.close()
        second.close()


@pytest.mark.case(13)
def test_nothing_leaves_that_a_failover_could_take_back(
    place: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a replica to wait for, what was sent is known to whoever becomes the master."""
    monkeypatch.setattr(redis_client, "BARRIER_TIMEOUT_MS", 1_500)
    stalled, go = threading.Event(), threading.Event()
    with (
        replica_of(place.valkey, tmp_path / "replica") as (replica, following),
        proxy(place.valkey.port) as line,
    ):
        following.tells = lambda _data: stalled.is_set() and go.wait(WITHIN)
        url = f"redis://127.0.0.1:{line.port}/0"
        settings = place.settings.model_copy(update={"redis": url, "redis_replicas": 1})
        behind = dataclasses.replace(place, settings=settings)
        connection = behind.sftp_connection("failover")
        behind.empty(connection)
        worker = Worker(behind, {})
        people = [person(n) for n in range(4)]
        behind.intake.put(0, [connection], *people)
        behind.ask("failover")
        worker.go()
        assert state(behind, "failover") == (State.CLOSED, "")
        with replica.client() as client:
            key = behind.keys.window("failover")
            eventually(lambda: client.hget(key, "state") == b"CLOSED", "the replica has all")
        stalled.set()
        behind.intake.put(0, [connection], person(4))
        behind.ask("failover")
        worker.go()
        assert len(behind.renames("failover")) == 1, "not a byte of the second has left"
        with replica.client() as client, place.valkey.client() as former:
            client.replicaof("NO", "ONE")
            go.set()
            former.replicaof("127.0.0.1", replica.port)
            eventually(lambda: former.info("replication")["master_link_status"] == "up", "it follows now")
        behind.valkey, line.target = replica, replica.port
        line.cut()
        behind.reconnect()
        state_before = behind.state("failover")
        assert state_before is not None
        assert (state_before.number, state_before.state) == (1, State.CLOSED)
        # As collect does: what Redis does not have is read again.
        intake = Intake(behind.store, behind.keys, starts=[4, 0])
        intake.put(0, [connection], person(4))
        behind.ask("failover")
        eventually(lambda: worker.go() or behind.closed("failover", 2), "the second leaves")
        with place.valkey.client() as former:
            former.replicaof("NO", "ONE")
        contents = [content for _, content in sorted(behind.files("failover").items())]
        assert contents == [csv_of(people), csv_of([person(4)])]
        assert len(behind.renames("failover")) == 2
        worker.close()
