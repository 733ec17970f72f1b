"""SIGKILL of every service and of Valkey at random moments while referrals flow: nothing lost, nothing doubled."""

from __future__ import annotations

import os
import random
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from console.reconcile.run import reconcile
from consumer.kafka_out import KafkaOut
from consumer.keys import Role
from deploy.embedded import people
from schemas.delivery import Outcome
from tests.support import oracle
from tests.support.deployment import (
    SFTP_USER,
    Deployment,
    deployment,
    email_connection,
    http_connection,
    sftp_connection,
    wait_until,
)
from tests.support.kafka import Kafka

PUBLISHED = 20_000
ROUNDS = 10
#: Small, so that the bound on repeats means something.
MAX_IN_FLIGHT = 32
ACCOUNTS = [f"acc-{i}" for i in range(8)]
#: One receiver honours no keys: its doubles are what a crash can repeat, and show that the oracle sees.
IGNORES = "acc-7"
SFTP = ["acc-0", "acc-1", "acc-2"]
HOLD, RESEND = "acc-3", "acc-4"


def set_up(running: Deployment) -> None:
    for account in ACCOUNTS:
        text = f"account: {account}\nconnections:\n" + http_connection(running.crm, f"{account}-crm")
        if account in SFTP:
            text += sftp_connection(running.sftp, f"{account}-sftp")
        if account in {HOLD, RESEND}:
            recipients = [f"a@{account}.example", f"b@{account}.example"]
            text += email_connection(f"{account}-mail", recipients, "hold" if account == HOLD else "resend")
        running.write(account, text)
    running.init()


@pytest.mark.timeout(600)
def test_nothing_is_lost_or_doubled_when_everything_is_killed(
    kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    seed = int(os.environ.get("TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}: TEST_SEED={seed} repeats the schedule")
    chance = random.Random(seed)
    events = list(people.referrals(seed, PUBLISHED, ACCOUNTS, datetime.now(UTC)))
    files = [f"{a}-sftp" for a in SFTP] + [f"{a}-mail" for a in (HOLD, RESEND)]
    with deployment(
        tmp_path, kafka.bootstrap, topic_prefix, REFERRALS_MAX_IN_FLIGHT=str(MAX_IN_FLIGHT)
    ) as running:
        set_up(running)
        running.crm.modes({f"/{IGNORES}-crm": "ignore-keys"})
        running.start()
        over = threading.Event()
        publisher = threading.Thread(target=publish, args=(running, events, over), daemon=True)
        publisher.start()
        kills = kill_all(running, files, chance)
        over.set()
        publisher.join(60)

        def taken(role: Role) -> bool:
            return running.next_offsets(role) == PUBLISHED

        wait_until(lambda: taken(Role.PUSH) and taken(Role.BATCH), "all records are taken", 120, running)
        wait_until(lambda: running.pending() == 0, "all pushes have ended", 120, running)
        wait_until(lambda: running.flushed(files), "no window is under way", 120, running)
        running.flush(files)
        wait_until(lambda: running.flushed(files), "the last windows are closed", 120, running)
        codes = running.stop()
        judge(running, events, kills)
        books_balance(running)
        assert codes == {"push": 0, "collect": 0, "flush": 0}


def books_balance(running: Deployment) -> None:
    """What the services say of themselves agrees with what the receivers saw."""
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    books = reconcile(running.settings, ((now - hour).isoformat(), (now + hour).isoformat()), None).books
    assert books.differences == []
    records = [number for (place, _), number in books.counts.items() if not place.connection]
    assert sum(records) == PUBLISHED


def publish(running: Deployment, events: list, over: threading.Event) -> None:
    """A batch each tenth of a second while the kills go on, then the rest."""
    out = KafkaOut(running.settings.kafka, {})
    at = 0
    while at < len(events):
        running.publish(events[at : at + 20], out)
        at += 20
        if not over.is_set():
            over.wait(0.1)


def kill_all(running: Deployment, files: list[str], chance: random.Random) -> dict[str, int]:
    kills = dict.fromkeys(("push", "collect", "flush", "valkey"), 0)
    for _ in range(ROUNDS):
        before = running.next_offsets(Role.PUSH)
        running.flush(files)
        victims = list(kills)
        chance.shuffle(victims)
        for victim in victims:
            time.sleep(chance.uniform(0.0, 0.8))  # the moment is what is random here, not a wait for anything
            if victim == "valkey":
                running.valkey.kill()
                running.valkey.restart()
            else:
                running.children[victim].kill()
                running.start(victim)
            kills[victim] += 1
        wait_until(lambda since=before: running.next_offsets(Role.PUSH) > since, "push goes on", 60, running)
    return kills


def judge(running: Deployment, events: list, kills: dict[str, int]) -> None:
    wanted = {a: [e["referral_id"] for e in events if e["account_id"] == a] for a in ACCOUNTS}
    log = running.crm.folder / "effects.jsonl"
    bound = (kills["push"] + kills["valkey"]) * MAX_IN_FLIGHT
    assert bound > 0, "no push was killed: this run proves nothing"
    repeats = 0
    for account in ACCOUNTS:
        verdict = oracle.crm(log, f"{account}-crm", wanted[account])
        print(account, verdict)
        assert verdict.lost == 0
        assert verdict.mismatches == 0
        if account == IGNORES:
            repeats += verdict.duplicates
        else:
            assert verdict.duplicates == 0
            repeats += verdict.repeats
    print(f"kills {kills}, repeats {repeats}, bound {bound}")
    assert repeats <= bound
    assert {key: bodies for key, bodies in oracle.bodies_per_key(log).items() if len(bodies) > 1} == {}
    for account in SFTP:
        verdict = oracle.files(running.sftp.folder / SFTP_USER, f"{account}-sftp", wanted[account])
        print(account, verdict)
        assert (verdict.lost, verdict.duplicates) == (0, 0)
        assert list((running.sftp.folder / SFTP_USER).glob(".*.part")) == []
    receipts = running.receipts()
    judge_mail(running, wanted, receipts)
    ended = [r for r in receipts if r.connection and r.connection.endswith("-crm")]
    assert len(ended) == PUBLISHED
    assert {r.outcome for r in ended} == {Outcome.DELIVERED}


def judge_mail(running: Deployment, wanted: dict, receipts: list) -> None:
    log = running.smtp.folder / "effects.jsonl"
    for account in (HOLD, RESEND):
        windows = [r for r in receipts if r.connection == f"{account}-mail"]
        uncertain = oracle.uncertain(windows)
        lost = duplicates = 0
        for recipient in (f"a@{account}.example", f"b@{account}.example"):
            verdict = oracle.mailed(log, recipient, wanted[account])
            print(recipient, verdict, f"uncertain {uncertain}")
            mails = oracle.mails(log, recipient)
            arrived = {m[1:].split("@")[0].rsplit(".", 1)[0] for m, _ in mails}
            missing = {r.subject_id for r in windows if r.rows} - arrived
            if account == HOLD:
                assert verdict.duplicates == 0
                assert missing <= {r.subject_id for r in windows if r.outcome is Outcome.UNCERTAIN}
                lost += verdict.lost
            else:
                assert verdict.lost == 0
                duplicates += len(mails) - len({m for m, _ in mails})
        if account == HOLD and lost:
            assert uncertain > 0
        assert duplicates <= uncertain
