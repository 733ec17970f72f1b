"""Starts the real services, one of which ends or stops itself at a named crash point.

Law: production code holds no switch; what stands in the place of its functions is put there in the child. A
parent that has imported everything, and started no thread, forks once per service: a restart costs a tenth
of a second. Every service dies with its parent, and the parent with whoever made it.
"""

from __future__ import annotations

import json
import re
import signal as signals
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parents[3]
#: Imports of everything, on a busy machine.
READY_WITHIN = 60.0
#: A service that is told to end has ended: its own limit is 25 s.
STOP_WITHIN = 30.0
#: How often a condition is looked at.
LOOK_S = 0.02


class Service:
    """A running service of a Parent. `output` is what it wrote since this start."""

    def __init__(self, parent: Parent, name: str, pid: int, log: Path, begin: int) -> None:
        self._parent, self.name, self.pid, self.log, self._begin = parent, name, pid, log, begin
        self._port = 0

    def output(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self._begin)
            return log.read().decode("utf-8", "replace")

    def last_line(self) -> str:
        return next((line for line in reversed(self.output().splitlines()) if line.strip()), "(nothing)")

    @property
    def port(self) -> int:
        """Of /metrics, or 0 before it has started."""
        if not self._port:
            found = re.search(r'"port": (\d+)[^\n]*"service.started"', self.output())
            self._port = int(found[1]) if found else 0
        return self._port

    def metrics(self) -> str:
        """The text of /metrics. Raises OSError where nothing answers."""
        return self.get("/metrics")[1]

    def metric(self, line: str) -> float:
        """The value of a metric with its labels; it must be there."""
        found = re.search(rf"^{re.escape(line)} (\S+)$", self.metrics(), re.MULTILINE)
        assert found, f"no metric {line}"
        return float(found[1])

    def get(self, path: str) -> tuple[int, str]:
        """Status and text."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def send(self, signal: int) -> None:
        """Nothing where it has ended: its number may be another's by now."""
        self._parent.ask({"signal": self.pid, "number": int(signal)})

    @property
    def exit_code(self) -> int | None:
        """None while it runs, minus the signal's number when a signal ended it."""
        code: int | None = self._parent.ask({"code": self.pid})["code"]
        return code

    @property
    def state(self) -> str:
        """The kernel's letter: T for one a signal froze, Z or "" for one that has ended."""
        try:
            told = Path(f"/proc/{self.pid}/stat").read_text()
        except FileNotFoundError:
            return ""
        return told.rsplit(")", 1)[1].split()[0]

    def wait(self, within: float = STOP_WITHIN) -> int:
        """The exit code once it has ended. Raises AssertionError where it has not."""
        deadline = time.monotonic() + within
        while (code := self.exit_code) is None:
            assert time.monotonic() < deadline, f"{self.name} runs on after {within:g} s: {self.last_line()}"
            time.sleep(LOOK_S)
        return code

    def wait_started(self, within: float = READY_WITHIN) -> Service:
        deadline = time.monotonic() + within
        while not self.port:
            assert self.exit_code is None, f"{self.name} ended before it had started: {self.last_line()}"
            assert time.monotonic() < deadline, f"{self.name} has not started: {self.last_line()}"
            time.sleep(LOOK_S)
        return self

    def stop(self) -> int:
        self.send(signals.SIGTERM)
        return self.wait()

    def kill(self) -> int:
        self.send(signals.SIGKILL)
        return self.wait()


class Parent:
    """Forks services; may be used from many threads. `covered`: how often each point was reached."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self._folder, self._process, self._lock = folder, process, threading.Lock()
        self._points = folder / "points"

    def ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def start(
        self,
        service: str,
        name: str,
        environment: Mapping[str, str],
        *,
        point: str = "",
        occurrence: int = 1,
        signal: int = signals.SIGKILL,
        planted: str = "",
        constants: Mapping[str, float] | None = None,
    ) -> Service:
        """`service`: push, collect or flush; its output goes to <name>.log.

        At the n-th occurrence of `point` it sends itself `signal`. `planted`: dotted name of a function called
        before the service starts. `constants`: other values for constants of modules, by module:NAME.
        """
        log = self._folder / f"{name}.log"
        log.touch()
        begin = log.stat().st_size
        command = {
            "start": service,
            "environment": dict(environment),
            "log": str(log),
            "point": point,
            "occurrence": occurrence,
            "number": int(signal),
            "planted": planted,
            "constants": dict(constants or {}),
            "points": str(self._points),
        }
        return Service(self, name, self.ask(command)["pid"], log, begin)

    def covered(self) -> Counter[str]:
        return Counter(self._points.read_text().split()) if self._points.exists() else Counter()


P = TypeVar("P", bound=Parent)


@contextmanager
def parent(folder: Path, kind: type[P] = Parent) -> Iterator[P]:  # type: ignore[assignment]
    """Logs and the list of points reached lie in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        (sys.executable, "-m", "tests.faults.storm.forks"),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield kind(folder, process)
    finally:
        process.stdin.close()
        process.wait(STOP_WITHIN)
        process.stdout.close()
