"""Redis lost, or gone back: the services stop with one line, and `referrals rebuild` makes its state anew.

What receivers got before and after has everything once; what is pushed again has its old key and body.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from console import connections, uncertain, windows
from console.rebuild import run as rebuilding
from consumer.folder import look
from consumer.keys import Role
from consumer.log import silent
from consumer.reading import committed
from consumer.run import Ground
from consumer.service import Stop
from deploy.embedded import people
from deploy.embedded.processes import StartError
from schemas import referral
from schemas.delivery import Outcome
from tests.support import oracle
from tests.support.deployment import (
    PARTITIONS,
    SFTP_USER,
    Deployment,
    deployment,
    email_connection,
    http_connection,
    sftp_connection,
    wait_until,
)
from tests.support.kafka import Kafka, Kind

ACCOUNTS = ["acc-0", "acc-1", "acc-2"]
#: Some lanes park.
CAP = 10
WITHIN = 60.0
NOWHERE = "    directory: nowhere\n"


class House:
    """A deployment with traffic; `published` by account, in order."""

    def __init__(self, running: Deployment) -> None:
        self.running = running
        self.published: list[dict[str, Any]] = []
        self.records = 0

    def set_up(self) -> None:
        crm, sftp = self.running.crm, self.running.sftp
        files = {
            "acc-0": sftp_connection(sftp, "acc-0-sftp"),
            "acc-1": email_connection("acc-1-mail", ["a@acc-1.example"], "hold"),
            "acc-2": sftp_connection(sftp, "acc-2-sftp") + NOWHERE,
        }
        for account, file in files.items():
            # One has its receiver forget who withdrew after being delivered.
            forget = f"{{url: 'http://127.0.0.1:{crm.port}/acc-2-crm/{{referral_id}}', method: DELETE}}"
            more = {"removal": forget} if account == "acc-2" else {}
            crms = http_connection(crm, f"{account}-crm", **more)
            self.running.write(account, f"account: {account}\nconnections:\n{crms}{file}")
        self.running.init()
        self.apply()

    def apply(self) -> None:
        connections.apply(self.running.settings, look(str(self.running.folder / "connections")).connections)

    def publish(self, seed: int, number: int) -> list[dict[str, Any]]:
        events = list(people.referrals(seed, number, ACCOUNTS, datetime.now(UTC)))
        self.published += events
        return self.again(events)

    def again(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.running.publish(events)
        self.records += len(events)
        return events

    def publish_at(self, when: datetime, account: str) -> str:
        """One record of another time; its id."""
        event = next(people.referrals(99, 1, [account], when)) | {"is_test": False}
        producer = Producer({"bootstrap.servers": self.running.settings.kafka, "logger": silent()})
        key, value = event["referral_id"], referral.encode(event)
        producer.produce(self.running.topics.referrals, value, key, timestamp=int(when.timestamp() * 1000))
        assert producer.flush(10) == 0
        self.published.append(event)
        self.records += 1
        return key

    def taken(self) -> None:
        for role in Role:
            self.until(lambda role=role: self.running.next_offsets(role) == self.records, f"{role} has all")

    def durable(self) -> None:
        """All commits bear witness that the records are on Redis's disk, whatever crashes."""
        settings, topic = self.running.settings, self.running.topics.referrals

        def told() -> bool:
            groups = [f"{settings.prefix}referral-{name}" for name in ("push", "collect")]
            found = [committed(settings.kafka, {}, topic, group, PARTITIONS) for group in groups]
            return all(sum(one.durable for one in each.values()) == self.records for each in found)

        self.until(told, "all is durable")

    def until(self, condition: Any, what: str) -> None:
        wait_until(condition, what, WITHIN, self.running)

    def flush(self, *names: str) -> None:
        self.running.flush(names)
        self.until(lambda: self.running.flushed(names), "the windows are closed")

    def hold(self, name: str) -> None:
        self.running.flush([name])
        self.until(lambda: (state := self.running.windows().state(name)) and state.held, "it is held")

    def pushed(self, *waiting: str) -> None:
        """Only these connections have deliveries pending."""

        def done() -> bool:
            with self.running.valkey.client() as client:
                found = {
                    key.decode().split(":")[-2]
                    for kind in ("body", "parked")
                    for key in client.keys(f"*:push:lane:*:{kind}")
                }
            return found <= set(waiting)

        self.until(done, "all is pushed")

    def wanted(self, account: str, *, since: int = 0, without: Sequence[str] = ()) -> list[str]:
        found = [e["referral_id"] for e in self.published[since:] if e["account_id"] == account]
        return [one for one in found if one not in without]

    def rebuild(self, *, replace: bool = False) -> rebuilding.Rebuilt:
        return rebuilding.rebuild(self.running.settings, yes=True, replace_state=replace, assume=False)

    def refused(self, match: str) -> None:
        for role in Role:
            with pytest.raises(Stop, match=match):
                Ground(self.running.settings, role)

    def crm(self, connection: str, wanted: Sequence[str]) -> oracle.Verdict:
        log = self.running.crm.folder / "effects.jsonl"
        assert {key for key, bodies in oracle.bodies_per_key(log).items() if len(bodies) > 1} == set()
        return oracle.crm(log, connection, wanted)

    def files(self, connection: str, wanted: Sequence[str], folder: str = "") -> oracle.Verdict:
        return oracle.files(self.running.sftp.folder / SFTP_USER / folder, connection, wanted)


@pytest.fixture
def house(kafka: Kafka, topic_prefix: str, tmp_path: Path) -> Any:
    # The embedded broker tells too late where its log ends: there, nothing parks.
    cap = 1_000 if kafka.kind is Kind.EMBEDDED else CAP
    with deployment(tmp_path, kafka.bootstrap, topic_prefix, REFERRALS_LANE_DELIVERIES=str(cap)) as running:
        yield House(running)


@pytest.mark.timeout(180)
@pytest.mark.case(14)
def test_an_emptied_redis_is_rebuilt_and_everything_arrives_once(house: House) -> None:
    running = house.running
    house.set_up()
    connections.pause(running.settings, "acc-1-crm", "their server moves")
    running.start()
    first = house.publish(1, 240)
    house.taken()
    house.pushed("acc-1-crm")
    house.flush("acc-0-sftp", "acc-1-mail")
    house.hold("acc-2-sftp")

    # From now on acc-0 has one more, which never gets what came before it.
    before_late = len(house.published)
    text = (running.folder / "connections" / "acc-0.yaml").read_text()
    running.write("acc-0", text + http_connection(running.crm, "acc-0-late"))
    house.apply()
    last = house.publish(2, 120)
    gone = [e for e in first if e["account_id"] == "acc-1"][:2]
    house.again([{**e, "event_type": "WITHDRAWN"} for e in gone])
    house.taken()
    house.pushed("acc-1-crm")

    with pytest.raises(Stop, match="stop all services"):
        house.rebuild()
    with running.valkey.client() as client:
        house.until(lambda: not client.keys("*:outbox"), "receipts are in Kafka")
        client.flushall()
    for name, child in running.children.items():
        house.until(lambda child=child: child.exit_code is not None, f"{name} has stopped")
        assert child.exit_code == 1
        assert "run `referrals rebuild`" in child.last_line(), child.last_line()
    house.refused("run `referrals rebuild`")
    with pytest.raises(Stop, match="say --yes"):
        rebuilding.rebuild(running.settings, yes=False, replace_state=False, assume=False)
    done = house.rebuild()
    assert done.held == ("acc-2-sftp-000001",)
    assert done.pending == len(house.wanted("acc-1", without=[e["referral_id"] for e in gone]))
    with pytest.raises(Stop, match="nothing to rebuild"):
        house.rebuild()

    # Paused again by hand, since Kafka does not know of it; what was published before the loss comes again.
    connections.pause(running.settings, "acc-1-crm", "their server still moves")
    running.start()
    house.again(last[-20:])
    delivered = next(e for e in first if e["account_id"] == "acc-2")
    house.again([{**delivered, "event_type": "WITHDRAWN"}])
    house.publish(3, 60)
    house.taken()
    house.pushed("acc-1-crm")
    connections.resume(running.settings, "acc-1-crm")
    house.pushed()
    house.flush("acc-0-sftp", "acc-1-mail")
    assert [e["referral_id"] for e in running.crm.effects("removal")] == [delivered["referral_id"]]

    withdrawn = [e["referral_id"] for e in gone]
    for connection, wanted in {
        "acc-0-crm": house.wanted("acc-0"),
        "acc-0-late": house.wanted("acc-0", since=before_late),
        "acc-1-crm": house.wanted("acc-1", without=withdrawn),
        "acc-2-crm": house.wanted("acc-2"),
    }.items():
        verdict = house.crm(connection, wanted)
        assert (verdict.lost, verdict.duplicates, verdict.mismatches) == (0, 0, 0), (connection, verdict)
        # The emptied Redis knew of no pause: what push sent until it stopped has no receipt, and is repeated.
        assert verdict.repeats == 0 or connection == "acc-1-crm"
    verdict = house.files("acc-0-sftp", house.wanted("acc-0"))
    assert (verdict.lost, verdict.duplicates) == (0, 0)
    # The first window left before the two were withdrawn.
    verdict = oracle.mailed(running.smtp.folder / "effects.jsonl", "a@acc-1.example", house.wanted("acc-1"))
    assert (verdict.lost, verdict.duplicates) == (0, 0)

    # Nobody knows whether that window left: it waits for a word, and then leaves with the rows it had.
    state = running.windows().state("acc-2-sftp")
    assert state is not None
    assert (state.held, state.damaged) == (True, False)
    (running.sftp.folder / SFTP_USER / "nowhere").mkdir()
    running.flush(["acc-2-sftp"])
    house.until(lambda: running.windows().state("acc-2-sftp").tries >= 2, "it was tried")
    assert list((running.sftp.folder / SFTP_USER / "nowhere").iterdir()) == []
    with pytest.raises(Stop, match="does not wait for that word"):
        windows.release(running.settings, "acc-0-sftp-000001")
    windows.release(running.settings, "acc-2-sftp-000001")
    house.until(lambda: running.windows().state("acc-2-sftp").state == "CLOSED", "it left")
    house.flush("acc-2-sftp")
    verdict = house.files("acc-2-sftp", house.wanted("acc-2"), "nowhere")
    assert (verdict.lost, verdict.duplicates) == (0, 0)
    ends = {
        r.outcome for r in running.receipts() if r.referral_id in withdrawn and r.connection == "acc-1-crm"
    }
    assert ends == {Outcome.WITHDRAWN}
    assert running.stop() == {"push": 0, "collect": 0, "flush": 0}


@pytest.mark.case(32)
@pytest.mark.timeout(180)
def test_an_older_copy_is_refused_and_replaced(house: House, tmp_path: Path) -> None:
    running = house.running
    house.set_up()
    connections.pause(running.settings, "acc-1-crm", "their server moves")
    running.start()
    house.publish(1, 60)
    house.taken()
    house.pushed("acc-1-crm")
    house.flush("acc-0-sftp", "acc-1-mail")
    running.stop()
    data, copy = running.folder / "valkey" / "data", tmp_path / "copy"
    running.valkey.stop()
    shutil.copytree(data, copy)
    running.valkey.restart()

    running.start()
    house.publish(2, 60)
    old = house.publish_at(datetime.now(UTC) - timedelta(days=2), "acc-1")
    house.taken()
    house.pushed("acc-1-crm")
    house.flush("acc-0-sftp", "acc-1-mail")
    house.durable()
    running.stop()
    running.valkey.stop()
    shutil.rmtree(data)
    shutil.copytree(copy, data)
    running.valkey.restart()

    running.start("push", "collect")
    for name in ("push", "collect"):
        child = running.children[name]
        # An alert looks at what does not answer, or is started again and again.
        house.until(lambda child=child: child.exit_code is not None, f"{name} has stopped")
        assert child.exit_code == 1
        assert "Redis went back" in child.last_line()
        assert "run `referrals rebuild`" in child.last_line()
    with pytest.raises(StartError, match="Redis went back"):
        running.start("flush")
    with pytest.raises(Stop, match="`--replace` removes it"):
        house.rebuild()
    # As a run leaves it that died early: nothing starts on it, and the next one begins anew.
    with running.valkey.client() as client:
        client.hset(running.keys(Role.PUSH).layout, mapping={"rebuilding": "1", "complete": "0"})
    house.refused("did not finish: run `referrals rebuild` again")
    done = house.rebuild()
    assert done.held == ()
    assert done.pending == len(house.wanted("acc-1"))

    running.start()
    house.publish(3, 30)
    house.taken()
    house.pushed("acc-1-crm")
    # It was paused in the copy, too; the receiver forgets keys after a day, and nobody knows of attempts.
    connections.resume(running.settings, "acc-1-crm")
    house.until(lambda: uncertain.show(running.settings, "acc-1-crm").count == 1, "the old one waits")
    uncertain.give_up(running.settings, "acc-1-crm", None)
    house.pushed()
    house.flush("acc-0-sftp", "acc-1-mail")
    for account in ("acc-0", "acc-1", "acc-2"):
        wanted = house.wanted(account, without=[old])
        verdict = house.crm(f"{account}-crm", wanted)
        assert (verdict.lost, verdict.duplicates, verdict.repeats) == (0, 0, 0), (account, verdict)
    verdict = house.files("acc-0-sftp", house.wanted("acc-0"))
    assert (verdict.lost, verdict.duplicates) == (0, 0)
    verdict = oracle.mailed(running.smtp.folder / "effects.jsonl", "a@acc-1.example", house.wanted("acc-1"))
    assert (verdict.lost, verdict.duplicates) == (0, 0)
    assert running.stop() == {"push": 0, "collect": 0, "flush": 0}
