"""The receivers as processes of their own: started, frozen, killed, restarted on the same port."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.embedded.processes import Child, Command, start
from deploy.embedded.receivers import read_effects

ROOT = Path(__file__).parents[2]
WITHIN = 20.0


@dataclass(frozen=True)
class Receiver:
    """`folder` holds its log and whatever it keeps; `words` is what it printed when ready."""

    child: Child
    folder: Path
    words: tuple[str, ...]

    @property
    def port(self) -> int:
        return int(self.words[0])

    def effects(self, kind: str) -> list[dict[str, Any]]:
        return [effect for effect in read_effects(self.folder / "effects.jsonl") if effect["kind"] == kind]

    def modes(self, modes: Mapping[str, str]) -> dict[str, Counter[str]]:
        """Set what paths of a CRM do; how often each connection did what so far."""
        url = f"http://127.0.0.1:{self.port}/_control"
        with urllib.request.urlopen(url, json.dumps(modes).encode(), timeout=WITHIN) as answer:
            return {name: Counter(counts) for name, counts in json.load(answer).items()}

    def freeze(self) -> None:
        os.kill(self.child.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.child.pid, signal.SIGCONT)

    def kill(self) -> None:
        self.child.kill()

    def restart(self) -> None:
        """On the same port, with what it remembers. It must have ended."""
        self.child.start()


@contextmanager
def receiver(name: str, folder: Path, *options: str, port: int = 0) -> Iterator[Receiver]:
    """One of `crm`, `sftp`, `smtp`. With a port it can be restarted."""
    folder.mkdir(parents=True, exist_ok=True)
    argv = (sys.executable, "-m", f"deploy.embedded.receivers.{name}", "--port", str(port))
    log = ("--log", str(folder / "effects.jsonl"))
    command = Command(
        name, (*argv, *log, *options), folder / "output", lambda out: _ready(out) is not None, folder=ROOT
    )
    child = start(command)
    words = _ready(child.output())
    assert words is not None
    try:
        yield Receiver(child, folder, words)
    finally:
        child.kill()


def sftp_receiver(folder: Path, users: Mapping[str, Mapping[str, str]], *options: str, port: int = 0) -> Any:
    """Files lie in folder/<user>; the second word it prints is the host key's fingerprint."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "users.json").write_text(json.dumps(users))
    fixed = (
        "--root",
        str(folder),
        "--users",
        str(folder / "users.json"),
        "--host-key",
        str(folder / "host_key"),
    )
    return receiver("sftp", folder, *fixed, *options, port=port)


def smtp_receiver(folder: Path, *options: str, port: int = 0) -> Any:
    """Attachments lie in folder/mail."""
    return receiver("smtp", folder, "--store", str(folder / "mail"), *options, port=port)


def eventually(condition: Callable[[], object], what: str, within: float = WITHIN) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.01)


def _ready(output: str) -> tuple[str, ...] | None:
    for line in output.splitlines(keepends=True):
        if line.startswith("ready ") and line.endswith("\n"):
            return tuple(line.split()[1:])
    return None
