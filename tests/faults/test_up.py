"""`make up` under fire: what is killed comes back, nothing is lost or doubled; without its broker it ends."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from consumer import service
from consumer.service import Settings
from consumer.store import StoreUnavailable
from deploy.embedded import received, reconcile
from deploy.embedded.accounts import plan
from deploy.embedded.processes import StartError
from deploy.embedded.publisher import Published, Publisher
from deploy.embedded.reconcile import Row
from deploy.embedded.stack import PARTITIONS, Stack
from deploy.embedded.standing import Standing

ROOT = Path(__file__).parents[2]
COUNT = 60
WITHIN = 60.0
ENDS_WITHIN = 40.0


class Up:
    """A started `make up` without referrals of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "up"
        self.log = folder / "up.out"
        argv = (
            sys.executable,
            "-m",
            "deploy.embedded.up",
            "--rate",
            "0",
            "--referrals",
            "0",
            "--out",
            str(self.folder),
        )
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def pids(self) -> dict[str, int]:
        return json.loads((self.folder / "pids.json").read_text())

    def settings(self, monkeypatch: pytest.MonkeyPatch) -> Settings:
        """As whoever sources the file `env` has them."""
        for line in (self.folder / "env").read_text().splitlines():
            monkeypatch.setenv(*shlex.split(line)[1].split("=", 1))
        return service.settings()

    def until(self, condition: Callable[[], bool], what: str, within: float = WITHIN) -> None:
        deadline = time.monotonic() + within
        while not condition():
            assert time.monotonic() < deadline, f"not within {within:g} s: {what}\n{self.said}"
            time.sleep(0.05)

    def kill(self, name: str) -> None:
        """SIGKILL, and wait until it runs again."""
        before = self.pids[name]
        os.kill(before, signal.SIGKILL)
        self.until(lambda: self.pids[name] != before, f"{name} is restarted")
        assert f"{name} was killed by SIGKILL; starting it again" in self.said


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path)
    try:
        running.until(
            lambda: "running until Ctrl-C" in running.said or running.process.poll() is not None, "it is up"
        )
        assert running.process.poll() is None, running.said
        running.until((running.folder / "pids.json").exists, "it tells its processes")
        yield running
    finally:
        running.process.terminate()
        running.process.wait(ENDS_WITHIN)


@pytest.mark.timeout(180)
def test_what_is_killed_comes_back_and_all_arrives_once_until_the_broker_dies(
    up: Up, monkeypatch: pytest.MonkeyPatch
):
    planned, settings = plan(), up.settings(monkeypatch)
    standing = Standing(settings, PARTITIONS)
    publisher = Publisher(settings, planned, lambda: datetime.now(UTC))
    files = [p.name for p in planned.connections if p.kind != "http"]
    hanging = next(p.name for p in planned.connections if p.behaviour == "hanging")
    published: list[Published] = []

    def answers(condition: Callable[[], bool]) -> Callable[[], bool]:
        def asked() -> bool:
            try:
                return condition()
            except StoreUnavailable:
                return False

        return asked

    for name in ("push", "collect", "valkey", "flush"):
        published += publisher.publish(COUNT)
        if name == "flush":
            standing.ask(files, datetime.now(UTC))
            up.until(answers(lambda: not standing.flushed(files)), "windows are under way")
        up.kill(name)
        published += publisher.publish(COUNT)

    up.until(answers(lambda: standing.taken() == (len(published),) * 2), "all is taken")
    up.until(answers(lambda: set(standing.waiting()) <= {hanging}), "all but the hanging CRM's is pushed")
    standing.ask(files, datetime.now(UTC))
    up.until(answers(lambda: standing.flushed(files) and not standing.rows(files)), "all windows have left")

    expected: dict[str, list[Row]] = {"http": [], "sftp": [], "email": []}
    for one in published:
        for p in one.wanted_by:
            expected[p.kind] += [(p.name, box, one.referral_id) for box in p.recipients or ("",)]
    received_by = up.folder / "received"
    requests = [r for _, r in received.requests(received_by / "crm.jsonl")]
    sent = list(received.files(received_by / "sftp.jsonl", received_by / "files", planned))
    mails = list(received.mails(received_by / "smtp.jsonl", received_by / "mails", planned))
    _, ends = standing.receipts()

    pushed = reconcile.push(expected["http"], requests, standing.pending())
    assert pushed.right, pushed
    assert set(pushed.pending_at) == {hanging}
    assert pushed.repeats <= settings.max_in_flight
    filed = reconcile.files(expected["sftp"], sent, (), ends)
    assert filed.right, filed
    assert filed.delivered == filed.expected > 0
    mailed = reconcile.files(expected["email"], mails, (), ends)
    assert mailed.right, mailed
    assert mailed.delivered + mailed.uncertain == mailed.expected > 0

    pids = up.pids
    os.kill(pids["broker"], signal.SIGKILL)
    assert up.process.wait(ENDS_WITHIN) == 1
    last = up.said.splitlines()[-1]
    assert "ended with code 1: " in last, up.said
    assert "topic referrals" in last
    assert "Traceback" not in up.said
    assert not any(Path(f"/proc/{pid}").exists() for pid in {*pids.values(), *up.pids.values()})


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists a process's children in /proc")
def test_ctrl_c_while_it_starts_leaves_nothing_running(tmp_path: Path):
    running = Up(tmp_path)
    try:
        running.until(lambda: "starting the services" in running.said, "it starts")
        children = (
            Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
        )
        assert len(children) >= 5
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(ENDS_WITHIN) == 0, running.said
        assert not any(Path(f"/proc/{pid}").exists() for pid in children)
        assert "Traceback" not in running.said
    finally:
        running.process.kill()
        running.process.wait()


def test_two_runs_do_not_share_a_folder(tmp_path: Path):
    first = Stack(tmp_path / "same", print, time.sleep)
    second = Stack(tmp_path / "same", print, time.sleep)
    try:
        first.take_folder()
        with pytest.raises(StartError, match="same is in use by another run: stop that one first"):
            second.start()
    finally:
        first.kill()
        second.kill()
