"""Everything a storm needs, running: brokers, Valkey, receivers, six services, and a link between each two.

A service's side decides by which links it reaches the others; upstream and whoever judges go around them.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import redis
from confluent_kafka import Consumer, KafkaException, TopicPartition

from console.begin import begin
from consumer.keys import Role
from consumer.log import silent
from deploy.embedded.processes import Child, start
from tests.faults.storm import cluster, upstream
from tests.faults.storm.cluster import Cluster
from tests.faults.storm.entry import Parent, Service, parent
from tests.faults.storm.links import Links, LinkTo
from tests.faults.storm.schedule import SERVICES, SIDES
from tests.support.deployment import (
    PARTITIONS,
    Deployment,
    deployment,
    email_connection,
    http_connection,
    sftp_connection,
)

ROOT = Path(__file__).parents[3]
#: Small, so that the bound on repeats means something.
MAX_IN_FLIGHT = 128
ACCOUNTS = tuple(f"acc-{number}" for number in range(12))
#: Each gets everything by push; some in a second way, too. The first have the most.
SFTP = ACCOUNTS[0:3]
HOLD, RESEND = ACCOUNTS[3], ACCOUNTS[4]
#: What this one's CRM answers changes; that one's honours no keys, so that its doubles are what can repeat.
FLAKY, IGNORES = ACCOUNTS[5], ACCOUNTS[6]
FILES = (*(f"{account}-sftp" for account in SFTP), f"{HOLD}-mail", f"{RESEND}-mail")
#: Seconds; longer than links stall, so that what a storm leaves behind is soon tried again. Never used up.
PUSH_RETRIES = "[1, 1, 2, 2, 4, 4, 8, 8, 15, 15, 30, 30, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60]"
REQUEST_TIMEOUT = "10"
#: What a broker is asked is answered by then, or there is no leader.
ASKED_S = 10
#: Leaders go home within ten seconds of a restart, and clients learn of it.
LEADERS_S, LOOK_S = 60.0, 0.5


@dataclass
class House:
    """`running` is the way around all links. `services` are the newest lives; those `armed` will die at a crash
    point. `waiting`: upstream is made to.
    """

    folder: Path
    running: Deployment
    kafka: Cluster
    links: Links
    parent: Parent
    services: dict[str, Service] = field(default_factory=dict)
    lives: Counter[str] = field(default_factory=Counter)
    armed: set[str] = field(default_factory=set)
    publisher: Child | None = None
    waiting: bool = False

    def launch(self, name: str, point: str = "", occurrence: int = 1) -> None:
        """Start a service, which dies at the n-th occurrence of `point` if one is given."""
        (self.armed.add if point else self.armed.discard)(name)
        service, _, side = name.partition("-")
        self.lives[name] += 1
        own = side if side in SIDES else SIDES[0]
        self.services[name] = self.parent.start(
            service,
            f"{name}-{self.lives[name]}",
            self.environment(own),
            point=point,
            occurrence=occurrence,
        )

    def environment(self, side: str) -> dict[str, str]:
        through = self.links.port
        return {
            **self.running.environment,
            "REFERRALS_KAFKA": self.kafka.side_bootstrap(side),
            "REFERRALS_REDIS": f"redis://127.0.0.1:{through(f'{side}-valkey')}/0",
            "REFERRALS_SMTP": f"127.0.0.1:{through(f'{side}-smtp')}",
        }

    def launch_all(self) -> None:
        for name in SERVICES:
            self.launch(name)

    def publish(self, seed: int, rate: float) -> None:
        settings = self.running.settings
        self.publisher = start(
            upstream.command(self.folder, settings.kafka, settings.prefix, ACCOUNTS, seed, rate)
        )

    def hold_upstream(self, *, waits: bool) -> None:
        if waits != self.waiting and self.publisher is not None:
            os.kill(self.publisher.pid, signal.SIGSTOP if waits else signal.SIGCONT)
            self.waiting = waits

    def windows_at_once(self) -> None:
        """Those that failed are tried again now, not in minutes. Raises RedisError."""
        keys = self.running.keys(Role.BATCH)
        with self.client() as client:
            for name in FILES:
                if client.hget(keys.window(name), "retry_at"):
                    client.hset(keys.window(name), "retry_at", 0)

    def silence(self) -> None:
        """Upstream ends; what it had under way reaches Kafka."""
        if self.publisher is not None and self.publisher.exit_code is None:
            code = self.publisher.stop()
            assert code == 0, f"upstream ended with {code}: {self.publisher.last_line()}"

    def client(self) -> redis.Redis:
        return self.running.valkey.client()

    def records(self) -> int:
        """Upstream's publications, the second ones too. Raises KafkaException where no leader answers."""
        if not self.kafka.durable:
            # Such a broker's look-ups are not to be trusted; it never failed upstream either.
            return upstream.count(self.folder)
        topic = self.running.topics.referrals
        found = [
            self.watermarks.get_watermark_offsets(TopicPartition(topic, p), timeout=ASKED_S)
            for p in range(PARTITIONS)
        ]
        return sum(high for _low, high in found)

    def all_records(self) -> int:
        """The same, of brokers whose leaders may be on their way home. Raises KafkaException."""
        self.kafka.wait_serving()
        deadline = time.monotonic() + LEADERS_S
        while True:
            try:
                return self.records()
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(LOOK_S)

    @cached_property
    def watermarks(self) -> Consumer:
        given = {"bootstrap.servers": self.kafka.bootstrap, "group.id": "storm", "logger": silent()}
        return Consumer(given)

    def answers(self, account: str, mode: str) -> None:
        """What an account's CRM does from now on."""
        self.running.crm.modes({f"/{account}-crm": mode})


def _connections(running: Deployment, crm: int, sftp: int) -> None:
    tries = {"timeout": REQUEST_TIMEOUT, "retry_seconds": PUSH_RETRIES}
    for account in ACCOUNTS:
        text = f"account: {account}\nconnections:\n"
        text += http_connection(running.crm, f"{account}-crm", crm, **tries)
        if account in SFTP:
            text += sftp_connection(running.sftp, f"{account}-sftp", sftp)
        if account in {HOLD, RESEND}:
            recipients = [f"a@{account}.example", f"b@{account}.example"]
            text += email_connection(f"{account}-mail", recipients, "hold" if account == HOLD else "resend")
        running.write(account, text)


def _links(running: Deployment) -> Iterator[LinkTo]:
    """A connection's address is the same for both sides: one link leads to each CRM and server."""
    yield LinkTo("crm", running.crm.port)
    yield LinkTo("sftp", running.sftp.port)
    for side in SIDES:
        yield LinkTo(f"{side}-valkey", running.valkey.port)
        yield LinkTo(f"{side}-smtp", running.smtp.port)


@contextmanager
def house(folder: Path, brokers: int) -> Iterator[House]:
    """Everything but upstream and the services runs; initialised, and its connections written."""
    with ExitStack() as stack:
        kafka = cluster.start(folder / "kafka", brokers)
        stack.callback(kafka.stop)
        running = stack.enter_context(
            deployment(folder, kafka.bootstrap, "", REFERRALS_MAX_IN_FLIGHT=str(MAX_IN_FLIGHT))
        )
        links = Links.start(folder, [*kafka.links(), *_links(running)])
        stack.callback(links.stop)
        _connections(running, links.port("crm"), links.port("sftp"))
        kafka.wait_serving()
        begin(running.settings, "earliest", PARTITIONS, len(kafka.numbers))
        found = House(folder, running, kafka, links, stack.enter_context(parent(folder / "services")))
        stack.callback(lambda: found.publisher and found.publisher.kill())
        yield found
