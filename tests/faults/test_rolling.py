"""An old and a new release side by side under load, the old one told to end and killed at its grace limit."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from batcher.window import State
from batcher.windows import SEAL
from console import connections
from consumer.folder import look
from consumer.intake import INTAKE
from consumer.kafka_out import KafkaOut
from consumer.keys import Role
from deploy.embedded.processes import Command, start
from schemas.delivery import Outcome
from tests.support import oracle
from tests.support.beside import repeating
from tests.support.deployment import (
    PARTITIONS,
    ROOT,
    SERVICES,
    SFTP_USER,
    Deployment,
    deployment,
    http_connection,
    sftp_connection,
    wait_until,
)
from tests.support.kafka import Kafka
from tests.support.push_entry import made

STEADY, STUCK = "steady", "stuck"
FILE = f"{STEADY}-sftp"
#: Seconds; busy machines are slow, a lost delivery never comes.
WITHIN = 60.0
#: What the platform gives a service that was told to end.
GRACE_S = 2.0
#: The new release comes with another setting, too.
MAX_IN_FLIGHT, NEW_MAX_IN_FLIGHT = 32, 48
OLD_COLUMNS, NEW_COLUMNS = "referral_id, email, postal_code", "referral_id, city"
#: A batch of each account so often.
BATCH, PAUSE_S = 5, 0.1


class Rolling:
    """`published`: the ids by account."""

    def __init__(self, running: Deployment) -> None:
        self.running = running
        self.published: dict[str, list[str]] = {STEADY: [], STUCK: []}

    def write(self, columns: str) -> None:
        crm, sftp = self.running.crm, self.running.sftp
        patient = {"retry_seconds": f"[{', '.join(['1'] * 40)}]"}
        steady = http_connection(crm, f"{STEADY}-crm") + sftp_connection(sftp, FILE)
        steady = steady.replace(OLD_COLUMNS, columns)
        self.running.write(STEADY, f"account: {STEADY}\nconnections:\n{steady}")
        stuck = http_connection(crm, f"{STUCK}-crm", **patient)
        self.running.write(STUCK, f"account: {STUCK}\nconnections:\n{stuck}")

    def until(self, condition: Any, what: str) -> None:
        wait_until(condition, what, WITHIN, self.running)

    def next_release(self, name: str) -> None:
        argv = (sys.executable, "-m", "tests.support.next_version", name)
        environment = {**self.running.environment, "REFERRALS_MAX_IN_FLIGHT": str(NEW_MAX_IN_FLIGHT)}
        log = self.running.folder / f"{name}-next.log"
        command = Command(
            f"{name}-next", argv, log, lambda out: "service.started" in out, environment, folder=ROOT
        )
        self.running.children[f"{name}-next"] = start(command)

    def state(self) -> tuple[int, State | None]:
        windows = self.running.windows()
        try:
            found = windows.state(FILE)
            return (found.number, found.state) if found else (0, None)
        finally:
            windows.store.close()

    def total(self) -> int:
        return sum(map(len, self.published.values()))

    @contextmanager
    def load(self) -> Iterator[None]:
        out = KafkaOut(self.running.settings.kafka, {})

        def publish() -> None:
            events = [made(account) for account in self.published for _ in range(BATCH)]
            self.running.publish(events, out)
            for event in events:
                self.published[event["account_id"]].append(event["referral_id"])

        with repeating(publish, PAUSE_S):
            yield


@pytest.mark.case(30)
@pytest.mark.long
@pytest.mark.timeout(240)
def test_two_releases_side_by_side_lose_and_double_nothing(
    kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    limit = {"REFERRALS_MAX_IN_FLIGHT": str(MAX_IN_FLIGHT)}
    with deployment(tmp_path, kafka.bootstrap, topic_prefix, **limit) as running:
        rolling = Rolling(running)
        rolling.write(OLD_COLUMNS)
        running.init()
        running.start()
        with rolling.load():
            rolling.until(lambda: running.open_rows() > 0, "rows wait")
            running.flush([FILE])
            rolling.until(lambda: rolling.state() == (1, State.CLOSED), "the first window is closed")
            # The second is under way and stays there; rows of the third come in under both definitions.
            running.sftp.freeze()
            rolling.running.crm.modes({f"/{STUCK}-crm": "hang"})
            rolling.until(lambda: running.open_rows() > 0, "rows wait again")
            running.flush([FILE])
            rolling.until(lambda: rolling.state() == (2, State.SEALED), "the second window is sealed")
            rolling.until(lambda: running.open_rows() > 0, "rows of the third wait")
            rolling.write(NEW_COLUMNS)
            connections.apply(running.settings, look(str(tmp_path / "connections")).connections)

            for name in SERVICES:
                rolling.next_release(name)
            share = f"{PARTITIONS // 2} partitions\n"
            readers = [f"{name}{which}" for name in ("push", "collect") for which in ("", "-next")]
            rolling.until(
                lambda: all(running.page(name, "readyz") == share for name in readers), "both releases read"
            )
            before = rolling.total()
            rolling.until(
                lambda: all(running.next_offsets(role) > before for role in Role), "both take under load"
            )
            codes = told_to_end_and_killed(running)
            running.sftp.thaw()
            rolling.running.crm.modes({f"/{STUCK}-crm": "ok"})
            rolling.until(lambda: rolling.state() == (2, State.CLOSED), "the second window is taken over")
        assert codes == {"push": -signal.SIGKILL, "collect": 0, "flush": -signal.SIGKILL}
        for role in Role:
            rolling.until(lambda role=role: running.next_offsets(role) == rolling.total(), f"{role} has all")
        rolling.until(lambda: running.pending() == 0, "all is pushed")
        running.flush([FILE])
        rolling.until(lambda: rolling.state() == (3, State.CLOSED), "the last window is closed")
        judge(rolling)
        rest = {name: running.children[name].stop() for name in running.children if name.endswith("-next")}
        assert rest == {f"{name}-next": 0 for name in SERVICES}


def told_to_end_and_killed(running: Deployment) -> dict[str, int]:
    """The old release's exit codes."""
    for name in SERVICES:
        os.kill(running.children[name].pid, signal.SIGTERM)
    limit = time.monotonic() + GRACE_S
    while time.monotonic() < limit and any(running.children[name].exit_code is None for name in SERVICES):
        time.sleep(0.02)
    return {name: running.children[name].kill() for name in SERVICES}


def judge(rolling: Rolling) -> None:
    running = rolling.running
    log = running.crm.folder / "effects.jsonl"
    assert {key for key, bodies in oracle.bodies_per_key(log).items() if len(bodies) > 1} == set()
    repeats = 0
    for account, wanted in rolling.published.items():
        verdict = oracle.crm(log, f"{account}-crm", wanted)
        print(account, verdict)
        assert (verdict.delivered, verdict.lost, verdict.duplicates) == (len(wanted), 0, 0)
        assert verdict.mismatches == 0
        repeats += verdict.repeats
    # Only what was in flight in the one that was killed.
    assert repeats <= MAX_IN_FLIGHT
    folder = running.sftp.folder / SFTP_USER
    verdict = oracle.files(folder, FILE, rolling.published[STEADY])
    print(FILE, verdict)
    assert (verdict.lost, verdict.duplicates) == (0, 0)
    files = sorted(folder.glob(f"{FILE}-*.csv"))
    headers = [path.read_text().splitlines()[0].replace('"', "") for path in files]
    old, new = (columns.replace(" ", "") for columns in (OLD_COLUMNS, NEW_COLUMNS))
    assert headers == [old, old, new]
    assert list(folder.glob(".*.part")) == []
    ends = {r.outcome for r in running.receipts() if r.connection and r.connection.endswith("-crm")}
    assert ends == {Outcome.DELIVERED}
    # Redis ran both releases' scripts.
    with running.valkey.client() as client:
        for script in (INTAKE, SEAL):
            texts = (script.source(), f"{script.source()}\n-- the next release\n")
            assert all(client.script_exists(*(hashlib.sha1(text.encode()).hexdigest() for text in texts)))
