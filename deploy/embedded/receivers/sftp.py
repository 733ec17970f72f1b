"""An SFTP server with one folder per user, renaming as OpenSSH does: never over an existing file.

Users stand in a JSON file: {"acme": {"password": "…"}, "globex": {"key": "ssh-ed25519 AAAA…"}}; a
user's folder is ROOT/<user>. Every rename is an effect in the log, with size and SHA-256.

    --take          take a file away, into ROOT/.taken/<user>, in the moment it gets its final name
    --quota BYTES   no file may grow beyond this
    --stuck STEP    never answer a `login`, or never start a `session`
    --no-rename     rename nothing, as servers do that keep files in an object store
    --endless       a listing never ends, and holds names that are paths
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import hashlib
import hmac
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from deploy.embedded.receivers import EffectLog, until_terminated


@dataclass(frozen=True, slots=True)
class House:
    """What all connections share."""

    root: Path
    log: EffectLog
    users: dict[str, dict[str, str]]
    take: bool = False
    quota: int | None = None
    stuck: str | None = None
    renames: bool = True
    endless: bool = False


class Logins(asyncssh.SSHServer):
    def __init__(self, house: House) -> None:
        self.house = house

    def begin_auth(self, _username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    async def validate_password(self, username: str, password: str) -> bool:
        if self.house.stuck == "login":
            await asyncio.Event().wait()
        known = self.house.users.get(username, {}).get("password")
        return known is not None and hmac.compare_digest(known.encode(), password.encode())

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: Any) -> bool:
        known = self.house.users.get(username, {}).get("key")
        return known is not None and asyncssh.import_public_key(known).public_data == key.public_data


class Folder(asyncssh.SFTPServer):
    """One user's session, confined to the user's folder."""

    def __init__(self, house: House, channel: Any) -> None:
        self.house = house
        self.user = str(channel.get_extra_info("username"))
        self.folder = house.root / self.user
        self.folder.mkdir(parents=True, exist_ok=True)
        super().__init__(channel, chroot=str(self.folder).encode())

    def write(self, file_obj: Any, offset: int, data: bytes) -> Any:
        if self.house.quota is not None and offset + len(data) > self.house.quota:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(file_obj, offset, data)

    async def scandir(self, path: bytes) -> AsyncIterator[Any]:
        async for name in super().scandir(path):
            yield name
        while self.house.endless:
            yield asyncssh.SFTPName(b".one.part/../../other", b"", asyncssh.SFTPAttrs())

    def rename(self, oldpath: bytes, newpath: bytes) -> None:
        """Link, then unlink: the link fails where the target exists, in one step."""
        if not self.house.renames:
            raise asyncssh.SFTPOpUnsupported("no rename here")
        old, new = Path(os.fsdecode(self.map_path(oldpath))), Path(os.fsdecode(self.map_path(newpath)))
        os.link(old, new)
        old.unlink()
        content = new.read_bytes()
        if self.house.take:
            taken = self.house.root / ".taken" / self.user
            taken.mkdir(parents=True, exist_ok=True)
            new.rename(taken / new.name)
        effect = {"kind": "rename", "user": self.user, "name": str(new.relative_to(self.folder))}
        digest = hashlib.sha256(content).hexdigest()
        self.house.log.append({**effect, "size": len(content), "sha256": digest})


def host_key(path: Path | None) -> Any:
    """The key in `path`, made there first if missing, so that a restart shows the same one."""
    if path is None:
        return asyncssh.generate_private_key("ssh-ed25519")
    if not path.exists():
        path.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
        path.chmod(0o600)
    return asyncssh.read_private_key(str(path))


async def serve(host: str, port: int, key: Any, house: House) -> None:
    async def never(_process: Any) -> None:
        await asyncio.Event().wait()

    server = await asyncssh.create_server(
        lambda: Logins(house),
        host,
        port,
        server_host_keys=[key],
        sftp_factory=None if house.stuck == "session" else lambda channel: Folder(house, channel),
        process_factory=never if house.stuck == "session" else None,
        encoding=None,
    )
    await until_terminated(f"{server.get_port()} {key.get_fingerprint()}")


def main() -> None:
    parser = argparse.ArgumentParser(description="An SFTP server that records every rename.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--users", type=Path, required=True, help="JSON: user to password or key")
    parser.add_argument("--host-key", type=Path, help="made if missing; without it a new one at each start")
    parser.add_argument("--take", action="store_true")
    parser.add_argument("--quota", type=int)
    parser.add_argument("--stuck", choices=["login", "session"])
    parser.add_argument("--no-rename", action="store_true")
    parser.add_argument("--endless", action="store_true")
    given = parser.parse_args()
    users = json.loads(given.users.read_text())
    house = House(
        given.root.resolve(),
        EffectLog(given.log),
        users,
        take=given.take,
        quota=given.quota,
        stuck=given.stuck,
        renames=not given.no_rename,
        endless=given.endless,
    )
    asyncio.run(serve(given.host, given.port, host_key(given.host_key), house))


if __name__ == "__main__":
    main()
