"""A batch deployment on real servers, whose rows enter through the intake script without a Kafka consumer.

Valkey writes through to disk, so that a barrier takes no time; Kafka has the topics that receipts and
manifests go to.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from batcher.collect import targets
from batcher.windows import State, Windows, WindowState
from console.begin import begin
from consumer import connection_sets, intake, layout
from consumer.intake import Accepted, Entry, Fingerprint, Taken
from consumer.keys import Keys, Role
from consumer.layout import Layout
from consumer.run import Ground
from consumer.service import Settings
from consumer.store import Store
from consumer.stream import Record, read_all
from consumer.topics import Topics
from deploy.embedded.processes import free_port
from schemas import manifest, receipt, referral
from schemas.connection import Account, ConnectionSet, EmailConnection, SftpConnection
from schemas.manifest import Kind, Manifest
from schemas.receipt import Receipt
from tests.support.receivers import Receiver, sftp_receiver, smtp_receiver
from tests.support.referral_events import event
from tests.support.valkey import Valkey, start_valkey

PARTITIONS = 2
ACCOUNT = "acme"
USER = "advertiser"
PASSWORD = "sesame"
SENDER = "referrals@market.example"
COLUMNS = ("referral_id", "email", "postal_code")
#: Everything asked for is done within a second or two.
WITHIN = 30.0

FileConnection = SftpConnection | EmailConnection


class Intake:
    """The owner of all partitions of a layout just written."""

    def __init__(self, store: Store, keys: Keys, partitions: int = PARTITIONS) -> None:
        self._store, self._keys = store, keys
        self.next = [0] * partitions
        taken = [
            intake.taken(store.call(intake.take(keys, p, "collect", 0))) for p in range(partitions)
        ]
        self._epochs = [owned.epoch for owned in taken if isinstance(owned, Taken)]
        assert len(self._epochs) == partitions

    def put(self, partition: int, connections: Sequence[FileConnection], *events: Mapping[str, Any]) -> list[bytes]:
        """One batch of records; their rows."""
        first, rows, entries = self.next[partition], [], []
        for offset, given in enumerate(events, first):
            decoded = referral.decode(value := referral.encode(given))
            record = Record(self._keys.topic, partition, offset, None, value, 0)
            wanted = targets(decoded, record, connections)
            once = Fingerprint(offset, 1, offset % 7)
            entries.append(Entry(offset, once, b"", decoded.referral_id, decoded.revision, wanted))
            rows.append(intake.row(offset, value))
        self.next[partition] += len(events)
        call = intake.intake(
            self._keys,
            partition,
            epoch=self._epochs[partition],
            prev=first,
            next_offset=self.next[partition],
            set_version=1 << 20,
            entries=entries,
        )
        assert isinstance(intake.accepted(self._store.call(call)), Accepted)
        return rows

    def remove(self, referral_id: str, *, erased: bool = False, revision: int = 0) -> None:
        """As collect spreads a removal: over every partition."""
        removal = intake.Removal(referral_id, erased, revision, f"removal of {referral_id}")
        for p in range(len(self.next)):
            self._store.call(intake.mark(self._keys, p, removal))


def write_layout(store: Store, topics: Topics, found: Layout) -> None:
    """An empty Redis as `init` leaves it."""
    store.command("FLUSHDB")
    layout._write(store, topics, found)
    store.command("HSET", Keys(topics.referrals, Role.PUSH).layout, "complete", "1")


def person(number: int, **changes: Any) -> dict[str, Any]:
    return event(referral_id=f"r-{number:06d}", email=f"p{number}@example.com", revision=0, **changes)


def chained(rows: Sequence[bytes]) -> str:
    """Each row's digest covers the one before."""
    digest = ""
    for row in rows:
        digest = hashlib.sha1(digest.encode() + row).hexdigest()
    return digest


def csv_of(people: Sequence[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> bytes:
    """The file these people make, written without the code under test."""
    lines = [columns, *([str(one[name]) for name in columns] for one in people)]
    return b"".join(",".join(f'"{cell}"' for cell in line).encode() + b"\r\n" for line in lines)


@dataclass
class House:
    """Servers and what stands on them. `empty` begins a test."""

    folder: Path
    settings: Settings
    environment: Mapping[str, str]
    valkey: Valkey
    sftp: Receiver
    smtp: Receiver
    found: Layout
    intake: Intake = field(init=False)

    @cached_property
    def ground(self) -> Ground:
        return Ground(self.settings, Role.BATCH)

    @cached_property
    def store(self) -> Store:
        return Store(self.valkey.url)

    @property
    def topics(self) -> Topics:
        return Topics(self.settings.prefix)

    @property
    def keys(self) -> Keys:
        return Keys(self.topics.referrals, Role.BATCH)

    @property
    def windows(self) -> Windows:
        return Windows(self.store, self.keys)

    def empty(self, *connections: FileConnection) -> None:
        """Nothing in Redis but the layout, an owner of the partitions, and these connections."""
        write_layout(self.store, self.topics, self.found)
        self.intake = Intake(self.store, self.keys)
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
        """What lies in the connection's folder on the SFTP server."""
        return {path.name: path.read_bytes() for path in (self.sftp.folder / USER / name).iterdir()}

    def renames(self, name: str) -> list[str]:
        """The final names files of the connection were ever given."""
        return [e["name"] for e in self.sftp.effects("rename") if e["name"].startswith(f"{name}/")]

    def mails(self, name: str) -> dict[str, list[dict[str, Any]]]:
        """The mails each recipient of the connection got, with their attachments' `content`."""
        got: dict[str, list[dict[str, Any]]] = {}
        for effect in self.smtp.effects("mail"):
            box, _, domain = effect["recipient"].partition("@")
            if domain == f"{name}.example":
                (file,) = effect["files"]
                content = (self.smtp.folder / "mail" / file).read_bytes()
                got.setdefault(box, []).append({**effect, "content": content})
        return got

    def receipts(self, name: str) -> list[Receipt]:
        """The first of each key."""
        found: dict[str, Receipt] = {}
        for record in read_all(self.settings.kafka, {}, self.topics.receipts):
            one = receipt.decode(record.value or b"")
            if one.connection == name:
                found.setdefault(one.subject_id, one)
        return list(found.values())

    def manifests(self, name: str) -> list[Manifest]:
        """The newest of each window, as compaction keeps them."""
        found: dict[str, Manifest] = {}
        for record in read_all(self.settings.kafka, {}, self.topics.manifests):
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
        variables = {
            "REFERRALS_KAFKA": bootstrap,
            "REFERRALS_REDIS": valkey.url,
            "REFERRALS_PREFIX": prefix,
            "REFERRALS_SMTP": f"127.0.0.1:{smtp.port}",
            "REFERRALS_SMTP_STARTTLS": "false",
            "REFERRALS_MAIL_FROM": SENDER,
        }
        given = {name.removeprefix("REFERRALS_").lower(): value for name, value in variables.items()}
        settings = Settings.model_validate(given)
        begun = begin(settings, "earliest", PARTITIONS, 1)
        assert begun.layout is not None
        environment = {**variables, "SFTP_PASSWORD": PASSWORD}
        yield House(folder, settings, environment, valkey, sftp, smtp, begun.layout)


def until(condition: Any, what: Any, within: float = WITHIN) -> None:
    """`what` is text, or makes it when it is needed."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what() if callable(what) else what}")
        time.sleep(0.02)
