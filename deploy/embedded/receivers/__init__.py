"""Real receivers for the demo, `make up` and the tests: a CRM, an SFTP server and an inbox.

Each is a process of its own, prints `ready <port> …` when it takes connections and ends on SIGTERM.
The law: an effect is one JSON line in the log file, written before the sender learns of it, so that
what was received can be compared with what was published, also after a SIGKILL on either side.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class EffectLog:
    """Appends one JSON line per effect; each is with the kernel when `append` returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            os.write(self._file, b"\n")  # a line torn by a kill must not swallow the next one

    def append(self, effect: Mapping[str, Any]) -> None:
        line = json.dumps({"at": round(time.time(), 3), **effect}, separators=(",", ":"))
        os.write(self._file, line.encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


def read_effects(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of an effect log, oldest first; a line torn by a kill is no effect."""
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):
                yield json.loads(line)


async def until_terminated(ready: str) -> None:
    """Say that the receiver takes connections, then wait for SIGTERM or Ctrl-C."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    print(f"ready {ready}", flush=True)
    await ended.wait()
