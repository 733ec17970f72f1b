"""Postfix as Debian builds it, on loopback, with files of its own. Not installed: unpacked.

Its master process serves only the superuser, and the directory it queues in must let another user in.
"""

from __future__ import annotations

import base64
import os
import pwd
import shutil
import socketserver
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.embedded.processes import Command, free_port, port_open, start
from tests.support import debian

#: Not on a path, also where it is installed.
SBIN = Path("usr", "lib", "postfix", "sbin")
#: What every Debian has: the queue's owner, the group of its drop box, whose mailboxes they are.
OWNER, GROUP, NOBODY = "daemon", "mail", "nobody"
QUEUES = "active bounce corrupt defer deferred flush hold incoming maildrop pid private public saved trace"
DOMAIN = "acme.example"
#: What runs: service, type, whether private, unprivileged and in a jail, wake-up, most processes, program.
SERVICES = """
127.0.0.1:{port} inet n - n - - smtpd
postlog unix-dgram n - n - 1 postlogd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
virtual unix - n n - - virtual
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
"""


@dataclass(frozen=True)
class Postfix:
    """It asks for STARTTLS and a login, does not take mail for `later` now, and none that says "refuse me"."""

    port: int
    mailboxes: Path

    def delivered(self, mailbox: str) -> list[bytes]:
        """Every mail of an address, with LF, below what Postfix wrote over it."""
        folder = self.mailboxes / mailbox / "new"
        return [path.read_bytes() for path in sorted(folder.glob("*"))]


def find() -> Path | str:
    """The tree it stands in, or why there is none."""
    if os.geteuid() != 0:
        return "Postfix's master runs only as root"
    if Path("/", SBIN, "master").exists():
        return Path("/")
    tree = debian.unpack("postfix")
    if isinstance(tree, str):
        return tree
    whole = debian.complete(tree / SBIN / "smtpd", _libraries(tree))
    return tree if whole else "Postfix lacks libraries here"


@contextmanager
def postfix(tree: Path, certificate: Path, users: Mapping[str, str], size: int) -> Iterator[Postfix]:
    """One relay for DOMAIN, whose mailboxes are `ok` and `later`.

    `certificate`: with its key; `users`: who may log in with which password; `size`: of a mail, in bytes.
    """
    folder = Path(tempfile.mkdtemp(prefix="referrals-postfix-"))
    folder.chmod(0o711)
    port = free_port()
    try:
        with _logins(users) as logins:
            _prepare(folder, port)
            (folder / "conf" / "main.cf").write_text(_settings(folder, tree, certificate, logins, size))
            # In the foreground, with the output it was given.
            argv = (str(tree / SBIN / "master"), "-d", "-c", str(folder / "conf"))
            environment = {"MAIL_CONFIG": str(folder / "conf"), **_libraries(tree)}
            child = start(Command("postfix", argv, folder / "output", port_open(port), environment))
            try:
                yield Postfix(port, folder / "mail")
            finally:
                child.stop()
    finally:
        shutil.rmtree(folder)


def _prepare(folder: Path, port: int) -> None:
    for name in ("conf", "mail", "data", "queue", *(f"queue/{queue}" for queue in QUEUES.split())):
        (folder / name).mkdir()
        if name.startswith(("data", "queue")):
            shutil.chown(folder / name, OWNER)
    shutil.chown(folder / "mail", NOBODY)
    (folder / "conf" / "master.cf").write_text(SERVICES.format(port=port))
    (folder / "conf" / "refused").write_text("/^Subject: refuse me/ REJECT not wanted here\n")


def _settings(folder: Path, tree: Path, certificate: Path, logins: int, size: int) -> str:
    nobody = pwd.getpwnam(NOBODY)
    settings = {
        "compatibility_level": "3.6",
        "queue_directory": folder / "queue",
        "data_directory": folder / "data",
        "daemon_directory": tree / SBIN,
        "command_directory": tree / "usr" / "sbin",
        "shlib_directory": tree / SBIN.parent,
        "meta_directory": folder / "conf",
        "mail_owner": OWNER,
        "setgid_group": GROUP,
        "default_privs": NOBODY,
        "import_environment": "MAIL_CONFIG LD_LIBRARY_PATH",
        "maillog_file": "/dev/stdout",
        "inet_interfaces": "127.0.0.1",
        "inet_protocols": "ipv4",
        "myhostname": "relay.example",
        "mydestination": "",
        "local_recipient_maps": "",
        "alias_maps": "",
        "smtpd_peername_lookup": "no",
        "smtpd_error_sleep_time": "0",
        "smtpd_tls_chain_files": certificate,
        "smtpd_tls_security_level": "encrypt",
        "smtpd_sasl_auth_enable": "yes",
        "smtpd_sasl_type": "dovecot",
        "smtpd_sasl_path": f"inet:127.0.0.1:{logins}",
        "smtpd_tls_auth_only": "yes",
        "smtpd_recipient_restrictions": "reject_unlisted_recipient,"
        f" check_recipient_access inline:{{{{later@{DOMAIN} = 450 4.2.0 come back later}}}},"
        " permit_sasl_authenticated, reject",
        "header_checks": f"regexp:{folder / 'conf' / 'refused'}",
        "message_size_limit": size,
        "virtual_mailbox_domains": DOMAIN,
        "virtual_mailbox_maps": f"inline:{{ok@{DOMAIN}=ok/, later@{DOMAIN}=later/}}",
        "virtual_mailbox_base": folder / "mail",
        "virtual_uid_maps": f"static:{nobody.pw_uid}",
        "virtual_gid_maps": f"static:{nobody.pw_gid}",
    }
    return "".join(f"{name} = {value}\n" for name, value in settings.items())


def _libraries(tree: Path) -> Mapping[str, str]:
    return debian.libraries(tree, tree / SBIN.parent)


@contextmanager
def _logins(users: Mapping[str, str]) -> Iterator[int]:
    """Whom Postfix asks about a login, by Dovecot's protocol; its port."""

    class Asked(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t0\nDONE\n")
            for line in self.rfile:
                command, number, *given = line.decode().rstrip("\n").split("\t")
                if command == "AUTH":
                    response = next(each for each in given if each.startswith("resp=")).removeprefix("resp=")
                    _, name, password = base64.b64decode(response).decode().split("\0")
                    known = users.get(name) == password
                    answer = f"OK\t{number}\tuser={name}" if known else f"FAIL\t{number}\tuser={name}"
                    self.wfile.write(f"{answer}\n".encode())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Asked) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
