"""vsftpd as Debian builds it, on loopback, for the user who runs the tests. Not installed: unpacked."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.embedded.processes import Command, free_port, port_open, start

ROOT = Path(__file__).parents[2]
UNPACKED = ROOT / ".cache" / "vsftpd"
#: A package of 140 kB, over a slow line.
FETCH_SECONDS = 60


@dataclass(frozen=True)
class Vsftpd:
    port: int
    #: Users begin in its parent, where nobody may write.
    folder: Path


def find() -> Path | str:
    """The program, or why there is none."""
    installed = shutil.which("vsftpd", path="/usr/sbin:/usr/local/sbin")
    program = Path(installed) if installed else UNPACKED / "usr" / "sbin" / "vsftpd"
    if not program.exists():
        try:
            _fetch()
        except (OSError, subprocess.SubprocessError) as error:
            if program.exists():  # another run was faster
                return program
            return f"vsftpd is not installed here and cannot be fetched from Debian ({type(error).__name__})"
    linked = subprocess.run(("ldd", str(program)), capture_output=True, check=False, timeout=20, text=True)
    if linked.returncode or "not found" in linked.stdout:
        return "vsftpd lacks libraries here"
    return program


def _fetch() -> None:
    """It appears whole or not at all."""
    fetching = UNPACKED.with_name(f"vsftpd.{uuid.uuid4().hex}")
    fetching.mkdir(parents=True)
    try:
        _run("apt-get", "download", "vsftpd", folder=fetching)
        (package,) = fetching.glob("*.deb")
        _run("dpkg", "-x", package.name, "unpacked", folder=fetching)
        if not UNPACKED.exists():
            (fetching / "unpacked").rename(UNPACKED)
    finally:
        shutil.rmtree(fetching, ignore_errors=True)


def _run(*argv: str, folder: Path) -> None:
    subprocess.run(argv, cwd=folder, capture_output=True, check=True, timeout=FETCH_SECONDS)


@contextmanager
def vsftpd(program: Path, folder: Path, certificate: Path, *, implicit: bool = False) -> Iterator[Vsftpd]:
    """Anonymous users may do everything below folder/root/files. `certificate`: with its key."""
    files = folder / "root" / "files"
    files.mkdir(parents=True)
    (folder / "empty").mkdir()
    port = free_port()
    settings = {
        "listen": "YES",
        "listen_address": "127.0.0.1",
        "listen_port": port,
        "background": "NO",
        "run_as_launching_user": "YES",
        "ftp_username": getpass.getuser(),
        "seccomp_sandbox": "NO",
        "secure_chroot_dir": folder / "empty",
        "anonymous_enable": "YES",
        "local_enable": "NO",
        "anon_root": folder / "root",
        "anon_world_readable_only": "NO",
        "anon_upload_enable": "YES",
        "anon_mkdir_write_enable": "YES",
        "anon_other_write_enable": "YES",
        "write_enable": "YES",
        "ssl_enable": "YES",
        "implicit_ssl": "YES" if implicit else "NO",
        "allow_anon_ssl": "YES",
        "force_anon_logins_ssl": "YES",
        "force_anon_data_ssl": "YES",
        "require_ssl_reuse": "YES",
        "ssl_ciphers": "HIGH",
        "rsa_cert_file": certificate,
        "rsa_private_key_file": certificate,
    }
    (folder / "conf").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    argv = (str(program), str(folder / "conf"))
    child = start(Command("vsftpd", argv, folder / "output", port_open(port)))
    try:
        yield Vsftpd(port, files)
    finally:
        child.kill()
