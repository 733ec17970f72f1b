"""OpenSSH's own sshd with internal-sftp, on loopback, for the user who runs the tests."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.embedded.processes import Command, free_port, port_open, start

SSHD = Path("/usr/sbin/sshd")
MISSING = None if SSHD.exists() and shutil.which("ssh-keygen") else "OpenSSH's sshd is not installed here"


@dataclass(frozen=True)
class Sshd:
    port: int
    folder: Path
    username: str
    #: Of every key it has, by type.
    fingerprints: dict[str, str]
    private_key: str


@contextmanager
def sshd(folder: Path, *options: str) -> Iterator[Sshd]:
    """Its users' files lie in folder/files, which is where a session starts. `options` of internal-sftp."""
    files = folder / "files"
    files.mkdir(parents=True)
    fingerprints = {}
    for kind in ("ed25519", "rsa"):
        _keygen("-q", "-t", kind, "-N", "", "-f", str(folder / kind))
        fingerprints[kind] = _keygen("-lf", str(folder / f"{kind}.pub")).split()[1]
    _keygen("-q", "-t", "ed25519", "-N", "", "-f", str(folder / "login"))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd's fixed place for its unprivileged half
    port = free_port()
    (folder / "config").write_text(
        f"ListenAddress 127.0.0.1:{port}\n"
        f"HostKey {folder / 'ed25519'}\nHostKey {folder / 'rsa'}\n"
        f"AuthorizedKeysFile {folder / 'login.pub'}\nPidFile none\nUsePAM no\nStrictModes no\n"
        "PasswordAuthentication no\nPermitRootLogin yes\nKbdInteractiveAuthentication no\n"
        f"Subsystem sftp internal-sftp -d {files} {' '.join(options)}\n"
    )
    argv = (str(SSHD), "-D", "-e", "-f", str(folder / "config"))
    child = start(Command("sshd", argv, folder / "output", port_open(port)))
    try:
        yield Sshd(port, files, getpass.getuser(), fingerprints, (folder / "login").read_text())
    finally:
        child.kill()


def _keygen(*options: str) -> str:
    return subprocess.run(
        ("ssh-keygen", *options), capture_output=True, check=True, timeout=30, text=True
    ).stdout
