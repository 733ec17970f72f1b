"""Child processes: started, waited for, stopped.

Law: no child outlives its parent. Linux kills it when the thread that started it ends (so start
children from a thread that outlives them), and a normal interpreter exit kills what still runs.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: How often a condition is looked at: far below what a person notices, far above what it costs.
POLL_SECONDS = 0.02
#: Everything we start is ready within 5 s on two busy cores; past this it hangs.
READY_WITHIN = 60.0
#: A service drains within its own shorter deadline; past this it is killed.
STOP_WITHIN = 30.0
#: A "ready" line stands among the first output; a last line is never longer than this.
OUTPUT_BYTES = 65_536
#: A stack that runs for days must not fill the disk with its logs.
MAX_LOG_BYTES = 64 * 1024 * 1024
#: One connection per advertiser plus pools; the common soft limit of 1,024 is reached early.
OPEN_FILES = 65_536
#: Outside the ranges Linux and macOS use for outgoing connections: a client that keeps dialling a
#: dead server's port could otherwise connect to itself and hold the port.
PORTS = range(20_000, 30_000)
PORT_TRIES = 100

_PR_SET_PDEATHSIG = 1
#: Looked up here: between fork and exec the loader's lock may be held by a thread that is not there.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

#: Whether a child can be used, given what it has printed since this start.
Ready = Callable[[str], bool]
#: Sleeps so many seconds; may raise to give up waiting.
Pause = Callable[[float], None]


class StartError(RuntimeError):
    """A child did not become ready; the message ends with its last line of output."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to start. `environment` is added to this process's own; output is appended to `log`."""

    name: str
    argv: tuple[str, ...]
    log: Path
    ready: Ready
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    ready_within: float = READY_WITHIN
    stop_within: float = STOP_WITHIN


class Child:
    """A started command. `start` waits until it is ready, or raises StartError and leaves nothing."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self._begin = 0
        self._process = self._launch()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs, minus the signal's number when a signal ended it."""
        return self._process.poll()

    def start(self) -> None:
        """Start it again once it has ended, with the same command, and wait until it is ready."""
        if self.exit_code is not None:
            atexit.unregister(self.kill)
            self._process = self._launch()
        self.wait_ready()

    def wait_ready(self, pause: Pause = time.sleep) -> None:
        """Raises StartError, and what `pause` raises."""
        command = self.command
        deadline = time.monotonic() + command.ready_within
        while not command.ready(self.output()):
            code = self.exit_code
            if code is not None:
                raise StartError(
                    f"{command.name} ended with code {code} before it was ready: {self.last_line()}"
                )
            if time.monotonic() > deadline:
                self.kill()
                raise StartError(
                    f"{command.name} was not ready within {command.ready_within:g} s; it is stopped. "
                    f"Its last line: {self.last_line()}"
                )
            pause(POLL_SECONDS)

    def stop(self) -> int:
        """SIGTERM, then SIGKILL when it takes too long. Returns the exit code."""
        if self.exit_code is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self.command.stop_within)
        return self.kill()

    def kill(self) -> int:
        """SIGKILL, and wait until it is gone. Returns the exit code."""
        if self.exit_code is None:
            self._process.kill()
        code = self._process.wait()
        atexit.unregister(self.kill)
        return code

    def output(self) -> str:
        """The first output since this start."""
        with self.command.log.open("rb") as log:
            log.seek(self._begin)
            return log.read(OUTPUT_BYTES).decode("utf-8", "replace")

    def last_line(self) -> str:
        with self.command.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._begin, end - OUTPUT_BYTES))
            lines = log.read(OUTPUT_BYTES).decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "(it printed nothing)")

    def trim_log(self) -> None:
        """Empty the log when it has grown too long: the child appends, so it goes on at its start."""
        if self.command.log.stat().st_size > MAX_LOG_BYTES:
            os.truncate(self.command.log, 0)
            self._begin = 0

    def _launch(self) -> subprocess.Popen[bytes]:
        command = self.command
        command.log.parent.mkdir(parents=True, exist_ok=True)
        parent = os.getpid()
        with command.log.open("ab") as log:
            self._begin = log.tell()
            try:
                process = subprocess.Popen(
                    command.argv,
                    cwd=command.folder,
                    env={**os.environ, **command.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is the parent's: it stops children in their order
                    preexec_fn=None if _prctl is None else lambda: _die_with(parent),  # noqa: PLW1509 - one system call
                )
            except OSError as error:
                raise StartError(f"{command.name} cannot be started: {error}") from error
        atexit.register(self.kill)
        return process


def _die_with(parent: int) -> None:
    assert _prctl is not None
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call above
        os._exit(1)


def start(command: Command) -> Child:
    """Start `command` and wait until it is ready. Raises StartError, and then nothing runs."""
    child = Child(command)
    child.wait_ready()
    return child


def free_port() -> int:
    """A port of 127.0.0.1 nobody listens on, below the range of outgoing connections."""
    choice = random.SystemRandom()
    for _ in range(PORT_TRIES):
        port = choice.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise StartError(f"no free port found on 127.0.0.1 between {PORTS.start} and {PORTS.stop}")


def port_open(port: int) -> Ready:
    def ready(_output: str) -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    return ready


def printed(text: str) -> Ready:
    return lambda output: text in output


def raise_open_files() -> int:
    """Raise the soft limit of open files for this process and its children. Returns the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return soft
