"""A whole deployment as processes: Valkey, receivers and the three services, on a given Kafka."""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from batcher.window import State
from batcher.windows import Windows
from console.begin import begin
from consumer.kafka_out import KafkaOut, Out
from consumer.keys import Keys, Role
from consumer.reading import read_all
from consumer.service import Settings
from consumer.store import Store
from consumer.topics import Topics
from deploy.embedded.processes import Child, Command, free_port, start
from schemas import receipt as receipts
from schemas import referral as referrals
from schemas.receipt import Receipt
from tests.support.receivers import Receiver, receiver, sftp_receiver, smtp_receiver
from tests.support.valkey import Valkey, start_valkey

ROOT = Path(__file__).parents[2]
SERVICES: Mapping[str, tuple[str, ...]] = {
    "push": ("consumer",),
    "collect": ("batcher", "collect"),
    "flush": ("batcher", "flush"),
}
SFTP_USER = "advertiser"
PARTITIONS = 4


@dataclass
class Deployment:
    """`children` by service name; `settings` as the services have them."""

    folder: Path
    settings: Settings
    environment: Mapping[str, str]
    valkey: Valkey
    crm: Receiver
    sftp: Receiver
    smtp: Receiver
    children: dict[str, Child] = field(default_factory=dict)

    @property
    def topics(self) -> Topics:
        return Topics(self.settings.prefix)

    def keys(self, role: Role) -> Keys:
        return Keys(self.topics.referrals, role)

    def write(self, account: str, text: str) -> None:
        """One account's file."""
        (self.folder / "connections").mkdir(exist_ok=True)
        (self.folder / "connections" / f"{account}.yaml").write_text(text)

    def init(self) -> None:
        begin(self.settings, "earliest", PARTITIONS, 1)

    def start(self, *names: str) -> None:
        """Start services, or those that ended again."""
        for name in names or SERVICES:
            if name in self.children:
                self.children[name].start()
                continue
            argv = (sys.executable, "-m", *SERVICES[name])
            log = self.folder / f"{name}.log"
            command = Command(
                name, argv, log, lambda out: "service.started" in out, self.environment, folder=ROOT
            )
            self.children[name] = start(command)

    def stop(self) -> dict[str, int]:
        """End the services in an orderly way; their exit codes."""
        return {name: child.stop() for name, child in self.children.items()}

    def publish(self, events: Sequence[Mapping[str, Any]], out: KafkaOut | None = None) -> None:
        producer = out or KafkaOut(self.settings.kafka, {})
        producer.send([Out(self.topics.referrals, e["referral_id"], referrals.encode(e)) for e in events])

    def next_offsets(self, role: Role) -> int:
        """The sum over all partitions of what intake has taken; -1 while Redis is away."""
        with self.valkey.client() as client:
            try:
                found = [client.hget(self.keys(role).head(p), "next") for p in range(PARTITIONS)]
            except Exception:
                return -1
        return sum(int(value or 0) for value in found)

    def pending(self) -> int:
        """Deliveries push has not ended."""
        with self.valkey.client() as client:
            keys = client.keys(f"*{self.keys(Role.PUSH).topic}*:push:lane:*:body")
            return sum(client.hlen(key) for key in keys)

    def open_rows(self) -> int:
        """Rows collect has put into windows that are not sealed yet."""
        with self.valkey.client() as client:
            keys = client.keys(f"*{self.keys(Role.BATCH).topic}*:batch:open:*")
            return sum(client.llen(key) for key in keys)

    def windows(self) -> Windows:
        return Windows(Store(self.valkey.url), self.keys(Role.BATCH))

    def flush(self, connections: Sequence[str]) -> None:
        """Ask for a window of each."""
        windows = self.windows()
        for name in connections:
            windows.ask(name, datetime.now(UTC))
        windows.store.close()

    def flushed(self, connections: Sequence[str]) -> bool:
        """Nothing asked for, no window under way."""
        windows = self.windows()
        try:
            states = windows.states(connections)
            return not windows.asked() and all(s.state is State.CLOSED for s in states.values())
        finally:
            windows.store.close()

    def receipts(self) -> list[Receipt]:
        """The first of each key."""
        first: dict[str, Receipt] = {}
        for record in read_all(self.settings.kafka, {}, self.topics.receipts):
            found = receipts.decode(record.value or b"")
            first.setdefault(found.subject_id, found)
        return list(first.values())

    def page(self, name: str, page: str) -> str:
        """What a service's own port answers."""
        lines = self.children[name].output().splitlines()
        started = [line for line in lines if '"service.started"' in line]
        url = f"http://127.0.0.1:{json.loads(started[-1])['port']}/{page}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return str(error.read().decode())

    def metric(self, series: str, name: str) -> float:
        """A service's own figure, by the metric's name and labels; it must be there."""
        found = re.search(rf"^{re.escape(series)} (\S+)$", self.page(name, "metrics"), re.MULTILINE)
        assert found, f"no metric {series}"
        return float(found[1])

    def last_lines(self) -> str:
        return "\n".join(f"{name}: {child.last_line()}" for name, child in self.children.items())


@contextmanager
def deployment(folder: Path, bootstrap: str, prefix: str, **environment: str) -> Iterator[Deployment]:
    """Everything but the services is running; end with everything stopped."""
    with ExitStack() as stack:
        valkey = start_valkey(folder / "valkey")
        stack.callback(valkey.stop)
        crm = stack.enter_context(receiver("crm", folder / "crm", port=free_port()))
        users = {SFTP_USER: {"password": "sesame"}}
        (folder / "sftp" / SFTP_USER).mkdir(parents=True)
        sftp = stack.enter_context(sftp_receiver(folder / "sftp", users, port=free_port()))
        smtp = stack.enter_context(smtp_receiver(folder / "smtp", port=free_port()))
        variables = {
            "REFERRALS_KAFKA": bootstrap,
            "REFERRALS_REDIS": valkey.url,
            "REFERRALS_PREFIX": prefix,
            "REFERRALS_CONNECTIONS": str(folder / "connections"),
            "REFERRALS_SMTP": f"127.0.0.1:{smtp.port}",
            "REFERRALS_SMTP_STARTTLS": "false",
            "REFERRALS_MAIL_FROM": "referrals@market.example",
            "REFERRALS_SESSION_TIMEOUT_MS": "6000",
            "REFERRALS_ALLOW_HTTP": "true",
            "REFERRALS_ALLOWED_NETWORKS": "127.0.0.0/8,::1/128",
            "SFTP_PASSWORD": "sesame",
            **environment,
        }
        given = {
            n.removeprefix("REFERRALS_").lower(): v for n, v in variables.items() if n != "SFTP_PASSWORD"
        }
        running = Deployment(folder, Settings.model_validate(given), variables, valkey, crm, sftp, smtp)
        try:
            yield running
        finally:
            for child in running.children.values():
                child.kill()


def http_connection(crm: Receiver, name: str, port: int | None = None, **options: str) -> str:
    """`port`: of a line that leads to the CRM, instead of its own."""
    more = "".join(f"\n    {key}: {value}" for key, value in options.items())
    return f"""  - name: {name}
    kind: http
    url: http://127.0.0.1:{port or crm.port}/{name}
    fields: [referral_id, email, first_name, {{name: sex, from: gender, values: {{M: Male}}}}]{more}
"""


def sftp_connection(sftp: Receiver, name: str, port: int | None = None) -> str:
    """`port`: of a line that leads to the server, instead of its own."""
    return f"""  - name: {name}
    kind: sftp
    host: 127.0.0.1
    port: {port or sftp.port}
    username: {SFTP_USER}
    password: ${{env:SFTP_PASSWORD}}
    host_keys: ["{sftp.words[1]}"]
    schedule: {{cron: "0 8 1 1 *", zone: Australia/Sydney}}
    fields: [referral_id, email, postal_code]
"""


def email_connection(name: str, recipients: Sequence[str], on_uncertain: str) -> str:
    return f"""  - name: {name}
    kind: email
    recipients: [{", ".join(recipients)}]
    on_uncertain: {on_uncertain}
    schedule: {{cron: "0 8 1 1 *", zone: Europe/Berlin}}
    fields: [referral_id, email]
"""


def wait_until(condition: Any, what: str, within: float, deployment: Deployment) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}\n{deployment.last_lines()}"
        time.sleep(0.05)
