"""Starts the real flush service, in which a named step ends or stops the process.

Law: production code holds no switch. `batcher.__main__.flush` runs as it is; only the `step` of what it
sends with is another one, and it looks for work more often. A parent that has imported everything forks
once per service, since the imports take longer than a window does.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
#: A service that is told to end has ended.
END_WITHIN = 25.0


class Flush:
    """A running flush service."""

    def __init__(self, parent: Parent, pid: int, log: Path) -> None:
        self._parent, self.pid, self.log = parent, pid, log
        self._port = 0

    def output(self) -> str:
        return self.log.read_text("utf-8", "replace")

    @property
    def port(self) -> int:
        """Of /metrics, or 0 before it has started."""
        if not self._port:
            found = re.search(r'"port": (\d+)[^\n]*service.started', self.output())
            self._port = int(found[1]) if found else 0
        return self._port

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, line: str) -> float:
        """The value of a metric with its labels; it must be there."""
        found = re.search(rf"^{re.escape(line)} (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        assert found, f"no metric {line}"
        return float(found[1])

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def ended(self, within: float = END_WITHIN) -> int:
        """The exit code once it has ended, minus the signal's number when a signal ended it."""
        code = self._parent.ask({"wait": self.pid, "within": within})["code"]
        assert code is not None, f"still running after {within:g} s:\n{self.output()[-2000:]}"
        return int(code)

    def stop(self) -> int:
        self.send(signal.SIGTERM)
        return self.ended()


class Parent:
    """Forks services. Every one that still runs dies with it."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self._folder, self._process, self._count = folder, process, 0

    def ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def flush(
        self,
        environment: Mapping[str, str],
        step: str = "",
        occurrence: int = 1,
        number: int = signal.SIGKILL,
        join_s: float = 20.0,
    ) -> Flush:
        """Start one; at the n-th occurrence of `step` it sends itself the signal `number`."""
        self._count += 1
        log = self._folder / f"flush-{self._count}.log"
        log.touch()
        given = {
            "environment": dict(environment),
            "step": step,
            "occurrence": occurrence,
            "signal": int(number),
        }
        answer = self.ask({**given, "join_s": join_s, "log": str(log)})
        return Flush(self, answer["pid"], log)


@contextmanager
def parent(folder: Path) -> Iterator[Parent]:
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        (sys.executable, "-m", "tests.support.flush_entry"),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Parent(folder, process)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


def stepping(name: str, occurrence: int, number: int) -> Callable[[str], None]:
    """The step that ends or stops this process."""
    left = [occurrence]
    lock = threading.Lock()

    def step(done: str) -> None:
        if done != name:
            return
        with lock:
            left[0] -= 1
            now = left[0] == 0
        if now:
            os.kill(os.getpid(), number)

    return step


def _run(command: Mapping[str, Any]) -> None:
    """In the child: the service, to its exit code."""
    from batcher import __main__ as entry
    from batcher import desk, turn
    from batcher.deliver import Sending
    from consumer import service

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    out = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.update(command["environment"])
    step = stepping(command["step"], command["occurrence"], command["signal"])
    entry.Sending = lambda **given: Sending(**{**given, "step": step})  # type: ignore[assignment,misc]
    entry.LOOK_S = 0.05
    turn.INTERRUPTED_S = 0.1
    desk.JOIN_S = command["join_s"]
    sys.exit(service.run(entry.flush))


def _wait(pid: int, within: float) -> int | None:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


def main() -> None:
    import batcher.__main__  # noqa: F401 - imported before the forks

    running: set[int] = set()
    for line in sys.stdin:
        command = json.loads(line)
        if "wait" in command:
            code = _wait(command["wait"], command["within"])
            if code is not None:
                running.discard(command["wait"])
            print(json.dumps({"code": code}), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _run(command)
        running.add(pid)
        print(json.dumps({"pid": pid}), flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
