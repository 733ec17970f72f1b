"""vsftpd as Debian builds it, on loopback, for the user who runs the tests. Not installed: unpacked."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.embedded.processes import Command, free_port, port_open, start
from tests.support import debian


@dataclass(frozen=True)
class Vsftpd:
    port: int
    #: Users begin in its parent, where nobody may write.
    folder: Path


def find() -> Path | str:
    """The program, or why there is none."""
    return debian.server("vsftpd")


@contextmanager
def vsftpd(
    program: Path, folder: Path, certificate: Path, *, implicit: bool = False, **settings: str
) -> Iterator[Vsftpd]:
    """Anonymous users may do everything below folder/root/files, unless `settings` of its own say otherwise.

    `certificate`: with its key.
    """
    files = folder / "root" / "files"
    files.mkdir(parents=True)
    (folder / "empty").mkdir()
    port = free_port()
    given: dict[str, object] = {
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
        **settings,
    }
    (folder / "conf").write_text("".join(f"{name}={value}\n" for name, value in given.items()))
    argv = (str(program), str(folder / "conf"))
    libraries = debian.libraries(program.parents[2])
    child = start(Command("vsftpd", argv, folder / "output", port_open(port), libraries))
    try:
        yield Vsftpd(port, files)
    finally:
        child.kill()
