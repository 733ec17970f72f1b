"""The Valkey the tests run on: a real server, with its append-only file, on a port of its own."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from deploy.embedded import valkey as embedded
from deploy.embedded.processes import Child, free_port, start

VERSION_SECONDS = 20


class Valkey:
    """A running server. `url` stays the same over a restart, and so does what its disk holds."""

    def __init__(
        self,
        folder: Path,
        fsync: embedded.Fsync = "always",
        extra: tuple[str, ...] = (),
        wrap: tuple[str, ...] = (),
    ) -> None:
        self.port = free_port()
        self.url = embedded.url(self.port)
        folder.mkdir(parents=True, exist_ok=True)
        command = embedded.command(folder / "data", folder / "valkey.log", self.port, fsync, extra)
        self.child: Child = start(replace(command, argv=(*wrap, *command.argv)))

    def client(self) -> redis.Redis:
        """A client of the test's own, outside the services' store."""
        return redis.Redis.from_url(self.url, decode_responses=False)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.child.kill()

    def restart(self) -> None:
        self.child.start()

    def stop(self) -> None:
        self.child.stop()


def start_valkey(
    folder: Path,
    fsync: embedded.Fsync = "always",
    extra: tuple[str, ...] = (),
    wrap: tuple[str, ...] = (),
) -> Valkey:
    """A server with its files in `folder`; `extra` options such as ("--appendonly", "no"); `wrap`: a command
    that becomes the server, given its own as arguments. The caller stops it.
    """
    return Valkey(folder, fsync, extra, wrap)


@functools.cache
def describe() -> str:
    told = subprocess.run(
        (embedded.binary(), "--version"), capture_output=True, timeout=VERSION_SECONDS, check=True
    )
    version = told.stdout.decode().partition(" v=")[2].split()[0]
    return f"Valkey {version} (embedded)"


def pytest_report_header() -> str:
    return f"valkey: {describe()}"


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture
def valkey(valkey_server: Valkey) -> Valkey:
    """The run's server, emptied for this test. A test that kills one starts its own with `start_valkey`."""
    with valkey_server.client() as client:
        client.flushall()
        client.script_flush()
    return valkey_server
