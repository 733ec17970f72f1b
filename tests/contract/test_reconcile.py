"""`referrals reconcile` on the three services: the books balance, and what is lost, doubled or contradicted is found."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from console import connections
from console.__main__ import main
from console.reconcile.books import Books
from console.reconcile.run import reconcile
from consumer.ending import receipt_of
from consumer.frozen import thaw
from consumer.kafka_out import KafkaOut, Out
from consumer.keys import Role
from consumer.receipts import entry
from schemas import referral as referrals
from schemas.delivery import Outcome, delivery_id
from schemas.receipt import Receipt, Subject
from tests.support.deployment import (
    PARTITIONS,
    Deployment,
    deployment,
    http_connection,
    sftp_connection,
    wait_until,
)
from tests.support.kafka import Kafka
from tests.support.referral_events import PERSONAL_VALUES, event

WITHIN = 30.0
HOUR = timedelta(hours=1)


@dataclass
class Market:
    """The deployment after a day's business; ids by what became of them."""

    running: Deployment
    out: KafkaOut
    ids: dict[str, list[str]] = field(default_factory=dict)
    published: int = 0

    def publish(self, what: str, count: int, account: str = "acme", **changes: Any) -> None:
        ids = changes.pop("ids", None) or self.ids.setdefault(what, [str(uuid.uuid4()) for _ in range(count)])
        now = datetime.now(UTC)
        self.send(
            *(
                (i, referrals.encode(event(referral_id=i, account_id=account, produced_at=now, **changes)))
                for i in ids
            )
        )

    def send(self, *records: tuple[str, bytes]) -> None:
        self.out.send([Out(self.running.topics.referrals, key, value) for key, value in records])
        self.published += len(records)

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        wait_until(condition, what, WITHIN, self.running)

    def wait_taken(self) -> None:
        for role in Role:
            self.wait(lambda role=role: self.running.next_offsets(role) == self.published, f"{role} took all")

    def books(self, account: str | None = None) -> Books:
        now = datetime.now(UTC)
        times = (now - HOUR).isoformat(), (now + HOUR).isoformat()
        return reconcile(self.running.settings, times, account).books

    def tell(self, receipt: Receipt) -> None:
        self.out.send([Out(self.running.topics.receipts, receipt.subject_id, receipt.encode())])

    def states(self, books: Books, connection: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for (place, state), number in books.counts.items():
            if place.connection == connection:
                found[str(state)] = found.get(str(state), 0) + number
        return found


@pytest.fixture(scope="module")
def market(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    folder: Path = tmp_path_factory.mktemp("reconcile")
    with deployment(folder, kafka.bootstrap, f"rec-{uuid.uuid4().hex[:8]}.") as running:
        acme = http_connection(running.crm, "acme-crm") + sftp_connection(running.sftp, "acme-files")
        running.write("acme", f"account: acme\nconnections:\n{acme}")
        slow = http_connection(running.crm, "slow-crm")
        running.write("slow", f"account: slow\nconnections:\n{slow}")
        running.init()
        files = connections.read(running.settings, str(folder / "connections"))
        connections.apply(running.settings, files)
        connections.pause(running.settings, "slow-crm", "for the test")
        running.start()
        made = Market(running, KafkaOut(running.settings.kafka, {}))
        made.publish("delivered", 6, revision=0)
        made.publish("twice", 1, revision=0)
        made.publish("twice", 1, revision=0, ids=made.ids["twice"])
        made.publish("corrected", 1, revision=1)
        made.publish("corrected", 1, revision=2, event_type="CORRECTED", ids=made.ids["corrected"])
        made.publish("withdrawn", 1, revision=1)
        made.wait_taken()
        made.wait(lambda: not running.pending(), "all is delivered")
        made.publish("withdrawn", 1, revision=1, event_type="WITHDRAWN", ids=made.ids["withdrawn"])
        made.publish("test", 2, is_test=True)
        made.publish("unrouted", 3, account="nobody")
        made.publish("pending", 2, account="slow")
        made.send(("broken", b"not an event"))
        made.wait_taken()
        running.flush(["acme-files"])
        made.wait(lambda: running.flushed(["acme-files"]), "the window is closed")
        made.publish("late", 2, revision=0)
        made.wait_taken()
        made.wait(lambda: running.pending() == 2, "only what is paused waits")
        yield made


def test_the_books_balance_until_something_is_planted(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    every_record_and_delivery_is_in_one_place(market)
    for name, value in market.running.environment.items():
        monkeypatch.setenv(name, value)
    files = tmp_path / "books.json", tmp_path / "referrals.prom"
    the_command_says_so_and_names_nobody(files, capfd)
    market.running.stop()
    whatever_is_open_is_seen_where_it_is(market)
    what_was_planted_is_found_by_its_id(market)
    assert command(files)[0] == 1
    assert 'referral_reconcile_difference{trouble="missing"} 2\n' in files[1].read_text()


def every_record_and_delivery_is_in_one_place(market: Market) -> None:
    books = market.books()
    assert books.differences == []
    assert books.balanced
    assert market.states(books, "") == {
        "ROUTED": 14,
        "DUPLICATE_UPSTREAM": 1,
        "REMOVAL": 1,
        "TEST": 2,
        "UNROUTED": 3,
        "UNDECODABLE": 1,
    }
    assert sum(market.states(books, "").values()) == market.published
    assert market.states(books, "acme-crm") == {"DELIVERED": 12}
    assert market.states(books, "slow-crm") == {"PENDING": 2}
    assert market.states(books, "acme-files") == {
        "DELIVERED": 8,
        "SUPERSEDED": 1,
        "WITHDRAWN": 1,
        "PENDING": 2,
    }
    assert market.states(market.books("slow"), "") == {"ROUTED": 2}


def command(files: tuple[Path, Path]) -> tuple[int, str]:
    """As an operator runs it; the exit code, and the document it wrote."""
    now = datetime.now(UTC)
    times = "--from", (now - HOUR).isoformat(), "--to", (now + HOUR).isoformat()
    with pytest.raises(SystemExit) as ended:
        main(["reconcile", *times, "--json", str(files[0]), "--textfile", str(files[1])])
    return int(ended.value.code or 0), files[0].read_text()


def the_command_says_so_and_names_nobody(files: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    code, written = command(files)
    said = capfd.readouterr()
    assert (code, said.err.strip()) == (0, "0 missing, 0 doubled, 0 conflicting")
    assert json.loads(written)["balanced"]
    assert 'referral_reconcile_difference{trouble="missing"} 0\n' in files[1].read_text()
    for value in PERSONAL_VALUES:
        if len(value) > 4:
            assert value not in said.out + written


def whatever_is_open_is_seen_where_it_is(market: Market) -> None:
    """One delivery on its way from the parked over the pending to the outbox; the other waits for a person."""
    keys = market.running.keys(Role.PUSH)
    with market.running.valkey.client() as client:
        prefixes = [keys.prefix(p) for p in range(PARTITIONS)]
        bodies = [
            (p, o, raw)
            for p in prefixes
            for o, raw in sorted(client.hgetall(f"{p}lane:slow-crm:body").items())
        ]
        (prefix, offset, raw), (other, its, _) = bodies
        lane, others = f"{prefix}lane:slow-crm", f"{other}lane:slow-crm"
        client.rpush(f"{lane}:parked", offset)
        client.zadd(f"{others}:held", {its: 1})
        assert opened(market) == {"PENDING": 1, "UNCERTAIN": 1}, "seen in both places, it is one"
        client.hdel(f"{lane}:body", offset)
        client.zrem(f"{others}:held", its)
        client.zadd(f"{others}:behind", {its: 1})
        assert opened(market) == {"PARKED": 1, "HELD": 1}
        client.zrem(f"{others}:behind", its)
        client.delete(f"{lane}:parked")
        frozen = thaw(raw)
        ended = receipt_of(frozen, "slow-crm", frozen.delivery_id, Outcome.REJECTED, 1, time.time())
        client.rpush(f"{prefix}outbox", entry(ended))
        assert opened(market) == {"REJECTED": 1, "PENDING": 1}
        client.delete(f"{prefix}outbox")
        client.hset(f"{lane}:body", offset, raw)


def opened(market: Market) -> dict[str, int]:
    books = market.books("slow")
    assert books.differences == []
    return market.states(books, "slow-crm")


def what_was_planted_is_found_by_its_id(market: Market) -> None:
    running = market.running
    told = {receipt.subject_id: receipt for receipt in running.receipts()}
    delivered, other = (delivery_id("acme-crm", i, 0) for i in market.ids["delivered"][:2])
    waiting = [delivery_id("slow-crm", i, 2) for i in market.ids["pending"]]
    market.tell(replace(told[delivered], at=datetime.now(UTC)))  # a repeat, harmless
    market.tell(replace(told[other], outcome=Outcome.REJECTED))
    test = next(r for r in told.values() if r.outcome is Outcome.TEST)
    market.tell(replace(test, outcome=Outcome.UNROUTED))
    (window,) = (r for r in told.values() if r.subject is Subject.WINDOW)
    market.tell(replace(window, outcome=Outcome.UNCERTAIN))
    keys = running.keys(Role.PUSH)
    with running.valkey.client() as client:
        lanes = [f"{keys.prefix(p)}lane:slow-crm:body" for p in range(PARTITIONS)]
        bodies = [(lane, offset, raw) for lane in lanes for offset, raw in client.hgetall(lane).items()]
        (lane, offset, _), (twice, _, raw) = sorted(bodies, key=lambda one: waiting[0].encode() not in one[2])
        client.hdel(lane, offset)
        client.hset(twice, 1_000_000, raw)
        batch = running.keys(Role.BATCH)
        opened = [f"{batch.prefix(p)}open:acme-files" for p in range(PARTITIONS)]
        client.lpop(next(key for key in opened if client.llen(key)))
    found = {(one.trouble, one.id) for one in market.books().differences}
    assert found == {
        ("conflicting", other),
        ("conflicting", test.subject_id),
        ("conflicting", window.subject_id),
        ("missing", waiting[0]),
        ("doubled", waiting[1]),
        ("missing", "acme-files, open window"),
    }
    assert {one.trouble for one in market.books("acme").differences} == {"conflicting", "missing"}
