"""Removals and order as advertisers see them: the push service on a real Kafka, Valkey and CRM."""

from __future__ import annotations

import json
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from console import connections
from consumer.keys import Role
from deploy.embedded.receivers import read_effects
from schemas.delivery import Action, Outcome, delivery_id
from schemas.receipt import Receipt
from tests.support.deployment import PARTITIONS, Deployment, deployment, http_connection, wait_until
from tests.support.kafka import Kafka, needs
from tests.support.referral_events import event

WITHIN = 30.0
#: Each partition's lane has more than memory holds of it.
MANY = 1_300
#: A receiver may be in trouble for a while, and is asked again soon.
SOON = f"[{', '.join(['1'] * 40)}]"
#: Account (its connection is <account>-crm) to when it is tried again: in tests of waiting, not soon.
ACCOUNTS = {
    "taken": SOON,
    "lost": "[60, 60]",
    "given-up": "[]",
    "crashed": SOON,
    "waiting": SOON,
    "restarted": SOON,
    "ordered": SOON,
}


@dataclass
class Bench:
    running: Deployment
    published: int = 0

    def publish(self, account: str, ids: Sequence[str], **changes: Any) -> None:
        now = datetime.now(UTC)
        self.running.publish(
            [event(referral_id=i, account_id=account, produced_at=now, **changes) for i in ids]
        )
        self.published += len(ids)

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        wait_until(condition, what, WITHIN, self.running)

    def wait_taken(self) -> None:
        self.wait(lambda: self.running.next_offsets(Role.PUSH) == self.published, "all records are taken")

    def pending(self, account: str) -> set[str]:
        """Ids of its deliveries that have not ended, as Redis has them."""
        keys, found = self.running.keys(Role.PUSH), set()
        with self.running.valkey.client() as client:
            for partition in range(PARTITIONS):
                for raw in client.hvals(f"{keys.prefix(partition)}lane:{account}-crm:body"):
                    found.add(json.loads(raw.partition(b"\n")[0])[1])
        return found

    def wait_ended(self, account: str) -> None:
        self.wait_taken()
        self.wait(lambda: not self.pending(account), f"every delivery of {account} has ended")

    def receipts(self, account: str, count: int) -> dict[str, Receipt]:
        """So many receipts of its deliveries, by key."""
        found: dict[str, Receipt] = {}

        def all_there() -> bool:
            mine = [one for one in self.running.receipts() if one.connection == f"{account}-crm"]
            found.update((one.subject_id, one) for one in mine)
            return len(mine) >= count

        self.wait(all_there, f"{count} receipts of {account}")
        assert len(found) == count
        return found

    def wait_paused(self) -> None:
        """Its one paused connection: a pause may take most of a second."""
        output = self.running.children["push"].output()
        started = next(line for line in output.splitlines() if '"service.started"' in line)
        address = f"http://127.0.0.1:{json.loads(started)['port']}/metrics"

        def known() -> bool:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return b"\nreferral_connections_paused 1.0\n" in answer.read()

        self.wait(known, "the worker knows of the pause")

    def mode(self, path: str, mode: str) -> Counter[str]:
        """Set what a path does; what its connection did so far."""
        return self.running.crm.modes({path: mode}).get(path.split("/")[1], Counter())

    def log(self, account: str, *kinds: str) -> list[tuple[str, str]]:
        """Key and referral of what its receiver logged, in order."""
        log = read_effects(self.running.crm.folder / "effects.jsonl")
        mine = (one for one in log if one["connection"] == f"{account}-crm" and one["kind"] in kinds)
        return [(one["key"], one["referral_id"]) for one in mine]


@pytest.fixture(scope="module")
def bench(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    prefix, folder = f"t{uuid.uuid4().hex[:12]}.", tmp_path_factory.mktemp("taking-back")
    with deployment(folder, kafka.bootstrap, prefix) as running:
        for account, retry_seconds in ACCOUNTS.items():
            name = f"{account}-crm"
            url = f"http://127.0.0.1:{running.crm.port}/{name}/people/{{referral_id}}"
            removal = f'{{url: "{url}", method: DELETE}}'
            connection = http_connection(running.crm, name, retry_seconds=retry_seconds, removal=removal)
            running.write(account, f"account: {account}\nconnections:\n{connection}")
        running.init()
        running.start("push")
        yield Bench(running)


def new(count: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(count)]


def removal_of(account: str, referral_id: str, revision: int = 2) -> tuple[str, str]:
    """As the receiver logs it."""
    return delivery_id(f"{account}-crm", referral_id, revision, Action.REMOVE), referral_id


def test_what_was_delivered_is_taken_back_once_under_its_own_key(bench: Bench) -> None:
    withdrawn, erased, corrected, kept = new(10), new(5), new(3), new(5)
    bench.publish("taken", [*withdrawn, *erased, *corrected, *kept])
    bench.publish("taken", corrected, event_type="CORRECTED", revision=3)
    bench.wait_ended("taken")
    bench.publish("taken", [*withdrawn, *corrected], event_type="WITHDRAWN")
    bench.publish("taken", erased, event_type="ERASED", revision=0)
    expected = {removal_of("taken", i) for i in (*withdrawn, *corrected, *erased)}
    bench.wait(lambda: len(bench.log("taken", "removal")) >= len(expected), "they are taken back")
    # Said once more, it is true already; and of the revisions only those withdrawn were taken back.
    bench.publish("taken", withdrawn, event_type="WITHDRAWN", event_id="another")
    bench.publish("taken", corrected, event_type="WITHDRAWN", revision=3)
    expected |= {removal_of("taken", i, 3) for i in corrected}
    bench.wait(lambda: len(bench.log("taken", "removal")) >= len(expected), "the corrections too")
    bench.wait_ended("taken")
    logged = bench.log("taken", "removal", "removal-repeat", "repeat", "mismatch")
    assert (len(logged), set(logged)) == (len(expected), expected)
    receipts = bench.receipts("taken", 26 + len(expected))
    for key, _ in expected:
        assert (receipts[key].action, receipts[key].outcome) == (Action.REMOVE, Outcome.DELIVERED)
    assert sum(one.action is Action.DELIVER for one in receipts.values()) == 26


def test_one_whose_answer_was_lost_is_withdrawn_and_taken_back(bench: Bench) -> None:
    bench.mode("/lost-crm", "lost")
    bench.mode("/lost-crm/people", "ok")
    ids = new(3)
    bench.publish("lost", ids)
    bench.wait(lambda: len(bench.log("lost", "effect")) == 3, "they are applied")
    assert bench.pending("lost") == set(ids)
    bench.publish("lost", ids, event_type="WITHDRAWN")
    bench.wait_ended("lost")
    assert sorted(bench.log("lost", "removal", "repeat")) == sorted(removal_of("lost", i) for i in ids)
    receipts = bench.receipts("lost", 6)
    for i in ids:
        first = receipts[delivery_id("lost-crm", i, 2)]
        assert (first.outcome, first.attempts) == (Outcome.WITHDRAWN, 1)
        assert receipts[removal_of("lost", i)[0]].outcome is Outcome.DELIVERED


def test_one_given_up_after_its_answer_was_lost_is_taken_back_when_it_is_withdrawn(bench: Bench) -> None:
    bench.mode("/given-up-crm", "lost")
    bench.mode("/given-up-crm/people", "ok")
    [referral_id] = new(1)
    bench.publish("given-up", [referral_id])
    bench.wait_ended("given-up")
    [given_up] = bench.receipts("given-up", 1).values()
    assert given_up.outcome is Outcome.EXHAUSTED
    bench.publish("given-up", [referral_id], event_type="WITHDRAWN")
    bench.wait(lambda: bench.log("given-up", "removal"), "it is taken back")
    bench.wait_ended("given-up")
    assert bench.log("given-up", "removal", "removal-repeat") == [removal_of("given-up", referral_id)]


def test_a_removal_reaches_what_memory_does_not_hold_of_a_paused_connection(bench: Bench) -> None:
    assert connections.pause(bench.running.settings, "waiting-crm", "the test says so")
    bench.wait_paused()
    ids = new(MANY)
    bench.publish("waiting", ids)
    bench.wait_taken()
    gone = {*ids[:3], *ids[MANY // 2 : MANY // 2 + 3], *ids[-30:]}
    withdrawn = sorted(gone)[:20]
    bench.publish("waiting", withdrawn, event_type="WITHDRAWN")
    bench.publish("waiting", sorted(gone - set(withdrawn)), event_type="ERASED", revision=0)
    bench.wait(lambda: not gone & bench.pending("waiting"), "their bodies leave Redis")
    assert bench.pending("waiting") == set(ids) - gone
    receipts = bench.receipts("waiting", len(gone))
    assert {one.referral_id for one in receipts.values()} == gone
    assert {(one.outcome, one.attempts) for one in receipts.values()} == {(Outcome.WITHDRAWN, 0)}
    assert connections.resume(bench.running.settings, "waiting-crm")
    bench.wait_ended("waiting")
    logged = bench.log("waiting", "effect", "repeat", "removal")
    assert Counter(i for _, i in logged) == Counter(set(ids) - gone)


def test_a_restart_between_delivery_and_removal(bench: Bench) -> None:
    before, pending = new(5), new(5)
    bench.publish("restarted", [*before, *pending])
    bench.wait_ended("restarted")
    bench.mode("/restarted-crm/people", "503")
    bench.publish("restarted", pending, event_type="WITHDRAWN")
    bench.wait(lambda: bench.pending("restarted") == set(pending), "removals wait")
    assert bench.running.children["push"].stop() == 0
    bench.publish("restarted", before, event_type="WITHDRAWN")
    bench.mode("/restarted-crm/people", "ok")
    bench.running.start("push")
    both = [*before, *pending]
    bench.wait(lambda: len(bench.log("restarted", "removal")) >= len(both), "they are taken back")
    bench.wait_ended("restarted")
    logged = bench.log("restarted", "removal", "removal-repeat", "repeat")
    assert sorted(logged) == sorted(removal_of("restarted", i) for i in both)


def test_one_under_way_as_the_worker_was_killed_is_taken_back_when_it_is_withdrawn(
    kafka: Kafka, bench: Bench
) -> None:
    """Nobody knows what came of its attempt: that counts as made. What came later was never tried."""
    needs(kafka, "join")
    bench.mode("/crashed-crm", "slow:15000")
    bench.mode("/crashed-crm/people", "ok")
    [referral_id], [after] = new(1), new(1)
    bench.publish("crashed", [referral_id])
    bench.wait(lambda: bench.log("crashed", "effect"), "it is applied, and not answered")
    bench.running.children["push"].kill()
    bench.publish("crashed", [referral_id], event_type="WITHDRAWN")
    bench.publish("crashed", [after], event_type="WITHDRAWN")
    bench.publish("crashed", [after])
    bench.running.start("push")
    bench.wait(lambda: bench.log("crashed", "removal"), "it is taken back")
    bench.wait_ended("crashed")
    assert bench.log("crashed", "effect", "repeat", "removal", "removal-repeat") == [
        (delivery_id("crashed-crm", referral_id, 2), referral_id),
        removal_of("crashed", referral_id),
    ]


def test_revisions_arrive_in_order_through_trouble(bench: Bench) -> None:
    ids = new(40)
    # Busy: each is tried and put off. Then it fails: the connection stands while later revisions come.
    bench.mode("/ordered-crm", "429")
    bench.publish("ordered", ids, revision=0)
    bench.wait(lambda: bench.mode("/ordered-crm", "429")["refused"] >= 20, "some are put off")
    bench.publish("ordered", ids, event_type="CORRECTED", revision=1)
    bench.wait(lambda: bench.mode("/ordered-crm", "429")["refused"] >= 60, "all are, some again")
    refused = bench.mode("/ordered-crm", "503")["refused"]
    bench.publish("ordered", ids, event_type="CORRECTED", revision=2)
    bench.wait_taken()
    bench.wait(lambda: bench.mode("/ordered-crm", "503")["refused"] > refused, "it fails")
    bench.mode("/ordered-crm", "ok")
    bench.wait_ended("ordered")
    arrived: dict[str, list[str]] = {}
    for key, referral_id in bench.log("ordered", "effect", "repeat", "mismatch"):
        arrived.setdefault(referral_id, []).append(key)
    assert arrived == {i: [delivery_id("ordered-crm", i, n) for n in range(3)] for i in ids}
