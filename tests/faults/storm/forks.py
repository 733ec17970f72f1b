"""The process that forks services: `python -m tests.faults.storm.forks`, driven by `entry.Parent`.

Law: it has imported everything and starts no thread, so that what libraries start, they start in the child.
A command is a line of JSON, and so is its answer.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import random
import secrets
import signal as signals
import sys
import threading
from collections.abc import Mapping
from typing import Any

_PR_SET_PDEATHSIG = 1


def named(where: str) -> Any:
    """What a dotted name stands for. Raises LookupError."""
    module, _, name = where.rpartition(".")
    found = vars(importlib.import_module(module)).get(name)
    if found is None:
        raise LookupError(f"{where} is not there")
    return found


def put(where: str, value: float) -> None:
    """Another value for module:NAME. Raises LookupError where there is no such constant."""
    module, _, name = where.partition(":")
    if name not in vars(importlib.import_module(module)):
        raise LookupError(f"{where} is not there any more")
    setattr(importlib.import_module(module), name, value)


def _hit(name: str, occurrence: int, number: int, points: str) -> Any:
    """Counts; at the n-th occurrence notes it, which outlives this process, and sends the signal."""
    left, lock = [occurrence], threading.Lock()

    def hit() -> None:
        with lock:
            left[0] -= 1
            if left[0]:
                return
        out = os.open(points, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(out, f"{name}\n".encode())
        os.close(out)
        os.kill(os.getpid(), number)

    return hit


def _run(command: Mapping[str, Any], parent_pid: int) -> None:
    """In the child: the service, to its exit code."""
    from batcher import __main__ as batch
    from consumer import __main__ as push
    from consumer import run, service
    from tests.faults.storm.points import POINTS

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signals.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)
    for number in (signals.SIGTERM, signals.SIGINT):
        signals.signal(number, signals.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    out = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.update(command["environment"])
    # What a process draws when it begins, siblings would share.
    random.seed()
    run._STARTED = secrets.token_hex(4)
    for where, value in command["constants"].items():
        put(where, value)
    if command["planted"]:
        named(command["planted"])()
    if command["point"]:
        name = command["point"]
        POINTS[name].put(_hit(name, command["occurrence"], command["number"], command["points"]))
    mains = {"push": push.main, **batch.SERVICES}
    sys.exit(service.run(mains[command["start"]]))


class _Children:
    """Of the parent process: those that run, and how the others ended."""

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._codes: dict[int, int] = {}

    def born(self, pid: int) -> None:
        self._codes.pop(pid, None)
        self._running.add(pid)

    def code(self, pid: int) -> int | None:
        if pid in self._running:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self._running.discard(pid)
                self._codes[pid] = os.waitstatus_to_exitcode(status)
        return self._codes.get(pid)

    def send(self, pid: int, number: int) -> None:
        if self.code(pid) is None:
            os.kill(pid, number)

    def end(self) -> None:
        for pid in list(self._running):
            self.send(pid, signals.SIGKILL)
        for pid in self._running:
            os.waitpid(pid, 0)


def main() -> None:
    for everything in ("batcher.__main__", "consumer.__main__", "tests.faults.storm.points"):
        importlib.import_module(everything)
    assert len(os.listdir("/proc/self/task")) == 1, "a thread was started before the forks"
    children, me = _Children(), os.getpid()
    print("ready", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer: dict[str, Any] = {}
        if "start" in command:
            pid = os.fork()
            if pid == 0:
                _run(command, me)
            children.born(pid)
            answer = {"pid": pid}
        elif "code" in command:
            answer = {"code": children.code(command["code"])}
        else:
            children.send(command["signal"], command["number"])
        print(json.dumps(answer), flush=True)
    children.end()


if __name__ == "__main__":
    main()
