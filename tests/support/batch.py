"""A batch deployment on real servers, whose rows enter through the intake script without a Kafka consumer.

Valkey writes through to disk, so that a barrier takes no time; Kafka has the topics that receipts and
manifests go to.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from batcher.window import State, WindowState
from batcher.windows import Windows
from console.begin import begin
from consumer import connection_sets, manifests
from consumer.keys import Keys, Role
from consumer.layout import Layout
from consumer.reading import read_all
from consumer.run import Ground
from consumer.service import Settings
from consumer.store import Store
from consumer.topics import Topics
from deploy.embedded.processes import free_port
from schemas import manifest, receipt
from schemas.connection import Account, ConnectionSet, EmailConnection, FtpsConnection, SftpConnection
from schemas.manifest import Kind, Manifest
from schemas.receipt import Receipt
from tests.support.certificates import Authority
from tests.support.ftps_server import Server, ftps_server
from tests.support.receivers import Receiver, sftp_receiver, smtp_receiver
from tests.support.rows import COLUMNS, PARTITIONS, FileConnection, Intake, write_layout
from tests.support.valkey import Valkey, start_valkey

ACCOUNT = "acme"
USER = "advertiser"
PASSWORD = "sesame"
SENDER = "referrals@market.example"
#: A topic's end is told after this; every service reads the manifests to their end when it starts.
AT_ONCE = {"fetch.wait.max.ms": 10}
#: Everything asked for is done within a second or two.
WITHIN = 30.0


@dataclass
class House:
    """Servers and what stands on them. `empty` begins a test."""

    folder: Path
    settings: Settings
    environment: Mapping[str, str]
    valkey: Valkey
    sftp: Receiver
    smtp: Receiver
    ftps: Server
    found: Layout
    intake: Intake = field(init=False)

    @cached_property
    def ground(self) -> Ground:
        return Ground(self.settings, Role.BATCH)

    @cached_property
    def store(self) -> Store:
        return Store(self.valkey.url)

    def reconnect(self) -> None:
        """After Redis was restarted."""
        self.store.close()
        del self.store

    @property
    def topics(self) -> Topics:
        return Topics(self.settings.prefix)

    @property
    def keys(self) -> Keys:
        return Keys(self.topics.referrals, Role.BATCH)

    @property
    def windows(self) -> Windows:
        return Windows(self.store, self.keys)

    def empty(self, *connections: FileConnection, starts: Sequence[int] | None = None) -> None:
        """Begun anew: nothing in Redis but the layout, an owner of the partitions, and these connections.
        `starts`: the partitions' first offsets.
        """
        found = self.found if starts is None else replace(self.found, starts=tuple(starts))
        write_layout(self.store, self.topics, found)
        begun = Manifest(
            kind=Kind.INIT,
            at=datetime.now(UTC),
            topic=self.topics.referrals,
            topic_id=found.topic_id,
            starts=found.starts,
        )
        manifests.tell(self.ground.out, self.topics, begun)
        self.intake = Intake(self.store, self.keys, starts=starts)
        if connections:
            self.apply(*connections)

    def apply(self, *connections: FileConnection) -> None:
        wanted = ConnectionSet(accounts=(Account(account=ACCOUNT, connections=connections),))
        connection_sets.apply(self.store, self.ground.out, self.topics, wanted, PARTITIONS)

    def sftp_connection(self, name: str, **changes: Any) -> SftpConnection:
        """With a folder of its own on the server."""
        (self.sftp.folder / USER / name).mkdir(parents=True, exist_ok=True)
        given = {
            "name": name,
            "kind": "sftp",
            "host": "127.0.0.1",
            "port": self.sftp.port,
            "username": USER,
            "password": "${env:SFTP_PASSWORD}",
            "host_keys": (self.sftp.words[1],),
            "directory": name,
            "timeout": 5.0,
            "schedule": {"cron": "0 8 1 1 *", "zone": "Australia/Sydney"},
            "fields": COLUMNS,
        }
        return SftpConnection.model_validate({**given, **changes})

    def ftps_connection(self, name: str, **changes: Any) -> FtpsConnection:
        """With a folder of its own on the server."""
        (self.ftps.folder / name).mkdir(parents=True, exist_ok=True)
        given = {
            "name": name,
            "kind": "ftps",
            "host": "localhost",
            "port": self.ftps.port,
            "username": USER,
            "password": "${env:SFTP_PASSWORD}",
            "ca": "${env:FTPS_CA}",
            "directory": name,
            "timeout": 5.0,
            "schedule": {"cron": "0 8 1 1 *", "zone": "Australia/Sydney"},
            "fields": COLUMNS,
        }
        return FtpsConnection.model_validate({**given, **changes})

    def upload_connection(self, kind: str, name: str, **changes: Any) -> SftpConnection | FtpsConnection:
        made = self.ftps_connection if kind == "ftps" else self.sftp_connection
        return made(name, **changes)

    def email_connection(self, name: str, **changes: Any) -> EmailConnection:
        given = {
            "name": name,
            "kind": "email",
            "recipients": [f"a@{name}.example", f"b@{name}.example"],
            "schedule": {"cron": "0 8 1 1 *", "zone": "Europe/Berlin"},
            "fields": COLUMNS,
        }
        return EmailConnection.model_validate({**given, **changes})

    def ask(self, name: str) -> None:
        self.windows.ask(name, datetime.now(UTC))

    def state(self, name: str) -> WindowState | None:
        return self.windows.state(name)

    def closed(self, name: str, number: int) -> bool:
        window = self.state(name)
        return window is not None and window.number == number and window.state is State.CLOSED

    def later(self, name: str) -> None:
        """Time passes: whoever holds the window has lost it, and a pause between tries is over."""
        self.store.command("HSET", self.keys.window(name), "until", 0, "retry_at", 0)

    def files(self, name: str) -> dict[str, bytes]:
        """What lies in the connection's folder on its server."""
        ftps = self.ftps.folder / name
        folder = ftps if ftps.exists() else self.sftp.folder / USER / name
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    def file(self, name: str) -> bytes:
        """The one file there is, under its final name."""
        ((file, content),) = self.files(name).items()
        assert file.startswith(f"{name}-")
        return content

    def renames(self, name: str) -> list[str]:
        """The final names files of the connection were ever given."""
        given = [*(e["name"] for e in self.sftp.effects("rename")), *(file for file, _ in self.ftps.renamed)]
        return [file for file in given if file.startswith(f"{name}/")]

    def mails(self, name: str) -> dict[str, list[dict[str, Any]]]:
        """The mails each recipient of the connection got, with the `content` of what is attached first, and of
        all `attached`.
        """
        got: dict[str, list[dict[str, Any]]] = {}
        for effect in self.smtp.effects("mail"):
            box, _, domain = effect["recipient"].partition("@")
            if domain == f"{name}.example":
                attached = {
                    file.partition("-")[2]: (self.smtp.folder / "mail" / file).read_bytes()
                    for file in effect["files"]
                }
                content = next(iter(attached.values()), None)
                got.setdefault(box, []).append({**effect, "content": content, "attached": attached})
        return got

    def receipts(self, name: str) -> list[Receipt]:
        """The first of each key."""
        found: dict[str, Receipt] = {}
        for record in read_all(self.settings.kafka, AT_ONCE, self.topics.receipts):
            one = receipt.decode(record.value or b"")
            if one.connection == name:
                found.setdefault(one.subject_id, one)
        return list(found.values())

    def manifests(self, name: str) -> list[Manifest]:
        """The newest of each window, as compaction keeps them."""
        found: dict[str, Manifest] = {}
        for record in read_all(self.settings.kafka, AT_ONCE, self.topics.manifests):
            one = manifest.decode(record.value or b"")
            if one.kind is Kind.WINDOW and one.connection == name:
                found[one.key] = one
        return sorted(found.values(), key=lambda one: one.window or 0)


@contextmanager
def house(folder: Path, bootstrap: str, prefix: str) -> Iterator[House]:
    with ExitStack() as stack:
        valkey = start_valkey(folder / "valkey", "always")
        stack.callback(valkey.stop)
        users = {USER: {"password": PASSWORD}}
        sftp = stack.enter_context(sftp_receiver(folder / "sftp", users, port=free_port()))
        smtp = stack.enter_context(smtp_receiver(folder / "smtp", port=free_port()))
        authority = Authority(folder)
        context = authority.server("localhost")
        ftps = stack.enter_context(ftps_server(folder / "ftps", context, {USER: PASSWORD}))
        variables = {
            "REFERRALS_KAFKA": bootstrap,
            "REFERRALS_REDIS": valkey.url,
            "REFERRALS_PREFIX": prefix,
            "REFERRALS_KAFKA_CONFIG": json.dumps(AT_ONCE),
            "REFERRALS_SMTP": f"127.0.0.1:{smtp.port}",
            "REFERRALS_SMTP_STARTTLS": "false",
            "REFERRALS_MAIL_FROM": SENDER,
            "REFERRALS_ALLOWED_NETWORKS": "127.0.0.0/8,::1/128",
        }
        given = {name.removeprefix("REFERRALS_").lower(): value for name, value in variables.items()}
        settings = Settings.model_validate({**given, "kafka_config": AT_ONCE})
        begun = begin(settings, "earliest", PARTITIONS, 1)
        assert begun.layout is not None
        environment = {**variables, "SFTP_PASSWORD": PASSWORD, "FTPS_CA": authority.pem.decode()}
        yield House(folder, settings, environment, valkey, sftp, smtp, ftps, begun.layout)


def until(condition: Any, what: Any, within: float = WITHIN) -> None:
    """`what` is text, or makes it when it is needed."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what() if callable(what) else what}")
        time.sleep(0.02)
