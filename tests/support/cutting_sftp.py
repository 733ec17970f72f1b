"""An SFTP server in this process that cuts the line, or refuses, at a named request.

Law: it cuts before the request is applied, or after it was and before it is answered; everything else is
asyncssh's own, with the renames of the receiver the demo runs. The faults hold until `mend`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncssh

from deploy.embedded.receivers import EffectLog
from deploy.embedded.receivers.sftp import Folder, House, Logins

#: An event loop that takes longer to start or end hangs.
WITHIN_S = 20.0


class CuttingSftp:
    """`asked` are the requests that came, in order, by the server's names for them."""

    def __init__(self, root: Path, users: dict[str, dict[str, str]]) -> None:
        self.root, self.port, self.fingerprint = root, 0, ""
        self.asked: list[str] = []
        #: The request to cut at once, as (name, occurrence), and whether it is applied before.
        self.cut: tuple[str, int] | None = None
        self.applied = False
        #: What to answer to a request of this name.
        self.refuse: dict[str, Exception] = {}
        self.lines: set[asyncssh.SSHServerConnection] = set()
        self._house = House(root, EffectLog(root / "effects.jsonl"), users)
        self._ready, self._over = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def mend(self) -> None:
        self.cut, self.refuse = None, {}
        self.asked.clear()

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(WITHIN_S), "the server did not start"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(WITHIN_S)
        self._house.log.close()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        key = asyncssh.generate_private_key("ssh-ed25519")
        server = await asyncssh.create_server(
            lambda: Logins(self._house),
            "127.0.0.1",
            0,
            server_host_keys=[key],
            sftp_factory=lambda channel: _Cutting(self, self._house, channel),
            encoding=None,
        )
        self.port, self.fingerprint = server.get_port(), key.get_fingerprint()
        self._ready.set()
        await self._over.wait()
        server.close()
        for line in self.lines:
            line.abort()
        await asyncio.gather(server.wait_closed(), *(line.wait_closed() for line in self.lines))

    def meets(self, name: str) -> bool:
        """Whether this request is the one to cut at; it is cut once."""
        self.asked.append(name)
        if self.cut is None or self.cut != (name, self.asked.count(name)):
            return False
        self.cut = None
        return True


class _Cutting(Folder):
    def __init__(self, server: CuttingSftp, house: House, channel: Any) -> None:
        super().__init__(house, channel)
        self._server, self._line = server, channel.get_connection()
        server.lines.add(self._line)

    async def _do(self, name: str, apply: Callable[[], Any]) -> Any:
        if name in self._server.refuse:
            self._server.asked.append(name)
            raise self._server.refuse[name]
        cut = self._server.meets(name)
        if cut and not self._server.applied:
            self._line.abort()
            raise asyncssh.SFTPConnectionLost("cut before it was applied")
        found = apply()
        found = await found if asyncio.iscoroutine(found) else found
        if cut:
            self._line.abort()
        return found

    async def open(self, path: bytes, pflags: int, attrs: Any) -> Any:
        return await self._do("open", lambda: super(_Cutting, self).open(path, pflags, attrs))

    async def write(self, file_obj: Any, offset: int, data: bytes) -> Any:
        return await self._do("write", lambda: super(_Cutting, self).write(file_obj, offset, data))

    async def fsync(self, file_obj: Any) -> Any:
        return await self._do("fsync", lambda: super(_Cutting, self).fsync(file_obj))

    async def close(self, file_obj: Any) -> Any:
        try:
            return await self._do("close", lambda: super(_Cutting, self).close(file_obj))
        except asyncssh.SFTPConnectionLost:
            # Whose line is gone has no open files.
            super().close(file_obj)
            raise

    async def stat(self, path: bytes) -> Any:
        return await self._do("stat", lambda: super(_Cutting, self).stat(path))

    async def rename(self, oldpath: bytes, newpath: bytes) -> Any:
        return await self._do("rename", lambda: super(_Cutting, self).rename(oldpath, newpath))


@contextmanager
def cutting_sftp(root: Path, users: dict[str, dict[str, str]]) -> Iterator[CuttingSftp]:
    root.mkdir(parents=True, exist_ok=True)
    server = CuttingSftp(root, users)
    server.start()
    try:
        yield server
    finally:
        server.stop()
