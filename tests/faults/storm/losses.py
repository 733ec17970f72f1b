"""Redis emptied, or an older copy in its place: everything stops and says so, and is rebuilt from Kafka.

Before each, windows under way are let end: whether one that Redis forgot has left is a person's to find out.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from consumer.keys import Role
from deploy.embedded.receivers import read_effects
from tests.faults.storm.house import ROOT
from tests.faults.storm.schedule import SERVICES
from tests.support.deployment import PARTITIONS

if TYPE_CHECKING:
    from tests.faults.storm.storm import Storm

#: Services notice within seconds, and end within their own limit.
STOP_S = 90.0
#: The state of some hundred thousand records, at three thousand a second on busy cores.
REBUILD_S = 1_200.0
#: What happens after the copy was made, and is lost with what came later.
BETWEEN_S = 12.0
#: Times in receivers' logs are rounded.
ROUNDED_S = 0.1
WORD = "run `referrals rebuild`"
LOOK_S = 0.05


def emptied(storm: Storm) -> None:
    """FLUSHALL while everything runs. What has a receipt in Kafka does not come again."""
    storm.quiet_windows()
    running = storm.house.running
    since = time.time() - ROUNDED_S
    outboxes = [f"{running.keys(role).prefix(p)}outbox" for role in Role for p in range(PARTITIONS)]
    with storm.house.client() as client, client.pipeline() as whole:
        for outbox in outboxes:
            whole.llen(outbox)
        whole.flushall()
        *waiting, _ = whole.execute()
    _all_refuse(storm)
    left = sum(1 for effect in read_effects(running.crm.folder / "effects.jsonl") if effect["at"] >= since)
    storm.bound += sum(waiting) + left
    _rebuild(storm)


def older(storm: Storm) -> None:
    """A copy of the file put back after more has happened, while no service ran."""
    storm.quiet_windows()
    stop_all(storm)
    valkey = storm.house.running.valkey
    data, copy = storm.house.folder / "valkey" / "data", storm.house.folder / "valkey" / "copy"
    valkey.stop()
    shutil.copytree(data, copy)
    valkey.restart()
    storm.house.launch_all()
    storm.go_on(BETWEEN_S)
    storm.quiet_windows()
    stop_all(storm)
    valkey.stop()
    shutil.rmtree(data)
    copy.rename(data)
    valkey.restart()
    storm.house.launch_all()
    _all_refuse(storm)
    _rebuild(storm, "--replace")


def unasked(storm: Storm, name: str, line: str) -> None:
    """A service says that Redis was lost or went back although it only lost what a crash explains."""
    storm.troubles.append(f"{name} asked for a rebuilding: {line}")
    stop_all(storm)
    _rebuild(storm, "--replace")


def _all_refuse(storm: Storm) -> None:
    """Every service ends with the word of what to do, and none goes on."""
    deadline = time.monotonic() + STOP_S
    waiting = set(SERVICES)
    while waiting:
        for name in sorted(waiting):
            service = storm.house.services[name]
            code = service.exit_code
            if code is None:
                continue
            if code == -signal.SIGKILL:
                # It was to die at a point, and met that first.
                storm.note_kill(name)
                storm.house.launch(name)
                continue
            if WORD not in service.output().splitlines()[-1]:
                storm.troubles.append(f"{name} did not say what to do: {service.output().splitlines()[-1]}")
            waiting.discard(name)
        if time.monotonic() > deadline:
            storm.troubles.append(f"went on without their Redis: {', '.join(sorted(waiting))}")
            break
        time.sleep(LOOK_S)
    for name in waiting:
        storm.house.services[name].send(signal.SIGKILL)
        storm.house.services[name].wait(STOP_S)


def stop_all(storm: Storm) -> None:
    """As a deployment is scaled to nothing."""
    for name, service in list(storm.house.services.items()):
        storm.thaw(name)
        if service.exit_code is None:
            service.send(signal.SIGTERM)
    for name, service in list(storm.house.services.items()):
        code = service.wait(STOP_S)
        if code == -signal.SIGKILL:
            storm.note_kill(name)
        elif code not in {0, -signal.SIGTERM} and WORD not in service.output():
            storm.troubles.append(f"{name}, told to end, ended with {code}: {service.output()[-300:]}")
        if name not in SERVICES:
            del storm.house.services[name]


def _rebuild(storm: Storm, *more: str) -> None:
    begun = time.monotonic()
    done = subprocess.run(
        (sys.executable, "-m", "console", "rebuild", "--yes", *more),
        cwd=ROOT,
        env={**os.environ, **storm.house.running.environment},
        capture_output=True,
        text=True,
        timeout=REBUILD_S,
        check=False,
    )
    said = " ".join((done.stdout + done.stderr).split())
    storm.say(f"rebuilt in {time.monotonic() - begun:.0f} s: {said}")
    if done.returncode:
        storm.troubles.append(f"referrals rebuild: {said}")
    storm.done["rebuilt"] += 1
    storm.house.launch_all()
