"""What the bench runs on: a broker, a Valkey that writes through, a receiver, and sites that use them.

A site is a deployment under a prefix of its own: topics, connections, services. Everything but the
measured process shares the other core.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from console.begin import begin
from consumer.kafka_out import KafkaOut, Out
from consumer.keys import Keys, Role
from consumer.service import Settings
from consumer.topics import Admin, Topics
from deploy.embedded.processes import Child, Command, start
from tests.bench import harness
from tests.bench.nginx import Nginx
from tests.bench.receiver import Receiver
from tests.bench.record import Made
from tests.support.kafka import Kafka, start_kafka
from tests.support.valkey import Valkey, start_valkey

ROOT = Path(__file__).parents[2]
PARTITIONS = 8
#: Records produced at a time.
CHUNK = 10_000
#: A service that is started takes its partitions within this, and ends within the other.
START_S, STOP_S = 60.0, 40.0
#: Ten thousand accounts' files are read and checked before the service says that it runs.
READY_S = 300.0


@dataclass
class Stage:
    folder: Path
    kafka: Kafka
    valkey: Valkey
    receiver: Nginx | Receiver
    log_level: str
    out: KafkaOut
    children: list[Child] = field(default_factory=list)

    def site(self, accounts: Mapping[str, str], **environment: str) -> Site:
        """A new deployment: its accounts' files by name, its topics made, its offsets at 0."""
        prefix = f"b{uuid.uuid4().hex[:10]}."
        folder = self.folder / prefix
        (folder / "connections").mkdir(parents=True)
        for account, text in accounts.items():
            (folder / "connections" / f"{account}.yaml").write_text(text)
        variables = {
            "REFERRALS_KAFKA": self.kafka.bootstrap,
            "REFERRALS_REDIS": self.valkey.url,
            "REFERRALS_PREFIX": prefix,
            "REFERRALS_CONNECTIONS": str(folder / "connections"),
            "REFERRALS_LOG_LEVEL": self.log_level,
            "REFERRALS_ALLOW_HTTP": "true",
            "REFERRALS_ALLOWED_NETWORKS": "127.0.0.0/8",
            "BENCH_SECRET": "sesame",
            **environment,
        }
        given: dict[str, Any] = {
            name.removeprefix("REFERRALS_").lower(): value
            for name, value in variables.items()
            if name.startswith("REFERRALS_")
        }
        settings = Settings.model_validate(
            {**given, "kafka_config": json.loads(given.get("kafka_config", "{}"))}
        )
        begin(settings, "earliest", PARTITIONS, 1)
        return Site(self, folder, settings, variables)

    def clear(self) -> None:
        """Nothing of an earlier run is left in Valkey's memory."""
        with self.valkey.client() as client:
            client.flushall()

    @contextmanager
    def listening(self) -> Iterator[Receiver]:
        """A receiver that remembers what came when."""
        folder = self.folder / f"receiver-{uuid.uuid4().hex[:10]}"
        receiver = Receiver(folder)
        try:
            yield receiver
        finally:
            receiver.stop()

    def loop(self, name: str, within: float, **given: Any) -> dict[str, Any]:
        """Run a loop of `loops` on the measured core; what it found."""
        argv = (sys.executable, "-m", "tests.bench.loops", name, json.dumps(given))
        with harness.pinned(harness.MEASURED):
            told = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, timeout=within, check=True)
        found: dict[str, Any] = json.loads(told.stdout)
        return found


@dataclass
class Site:
    stage: Stage
    folder: Path
    settings: Settings
    environment: Mapping[str, str]

    @property
    def topics(self) -> Topics:
        return Topics(self.settings.prefix)

    @cached_property
    def admin(self) -> Admin:
        return Admin(self.settings.kafka, {})

    def keys(self, role: Role) -> Keys:
        return Keys(self.topics.referrals, role)

    def publish(self, records: Iterable[Made]) -> int:
        """How many; all are acknowledged."""
        count, rest = 0, iter(records)
        while chunk := [Out(self.topics.referrals, r.referral_id, r.value) for r in islice(rest, CHUNK)]:
            self.stage.out.send(chunk)
            count += len(chunk)
        return count

    def taken(self, role: Role) -> int:
        """Records that intake has taken."""
        with self.stage.valkey.client() as client, client.pipeline(transaction=False) as many:
            for partition in range(PARTITIONS):
                many.hget(self.keys(role).head(partition), "next")
            return sum(int(value or 0) for value in many.execute())

    def receipts(self) -> int:
        """Receipts that stand in Kafka."""
        return sum(self.admin.latest(self.topics.receipts, PARTITIONS).values())

    def start(self, name: str, *argv: str, cores: frozenset[int] = harness.MEASURED) -> Service:
        """A service, on the measured core unless told otherwise."""
        log = self.folder / f"{name}.log"
        command = Command(
            name,
            (sys.executable, "-m", *argv),
            log,
            lambda output: "service.started" in output,
            self.environment,
            folder=ROOT,
            ready_within=READY_S,
            stop_within=STOP_S,
        )
        with harness.pinned(cores):
            child = start(command)
        self.stage.children.append(child)
        return Service(child)


@dataclass
class Service:
    child: Child

    @property
    def pid(self) -> int:
        return self.child.pid

    @cached_property
    def port(self) -> int:
        line = next(one for one in self.child.output().splitlines() if "service.started" in one)
        return int(json.loads(line)["port"])

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def metric(self, line: str) -> float:
        """The value of a metric with its labels; 0 where it is not told."""
        found = re.search(rf"^{re.escape(line)} (\S+)$", self.get("/metrics"), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def ready(self) -> str:
        """What it says of itself; "" where it is not ready."""
        try:
            return self.get("/readyz")
        except urllib.error.HTTPError as error:
            error.close()
            return ""

    def alive(self) -> bool:
        """Raises TooLate with its last line where it ended by itself."""
        if self.child.exit_code is not None:
            raise harness.TooLate(f"{self.child.command.name} ended: {self.child.last_line()}")
        return True

    def stop(self) -> None:
        self.child.stop()
        self.child.command.log.unlink(missing_ok=True)


@contextmanager
def stage(folder: Path, receiver: Path | None, log_level: str) -> Iterator[Stage]:
    """Everything runs; in the end nothing does. `receiver`: nginx, where there is one."""
    with ExitStack() as stack, harness.pinned(harness.OTHERS):
        kafka = start_kafka(folder / "kafka")
        stack.callback(kafka.stop)
        valkey = start_valkey(folder / "valkey")
        stack.callback(valkey.stop)
        crm = Receiver(folder / "receiver") if receiver is None else Nginx(receiver, folder / "nginx")
        stack.callback(crm.stop)
        made = Stage(folder, kafka, valkey, crm, log_level, KafkaOut(kafka.bootstrap, {}))
        try:
            yield made
        finally:
            for child in made.children:
                child.kill()
