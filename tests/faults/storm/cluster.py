"""The storm's Kafka: brokers that each side of the services meets only through its own links.

Law: a broker tells a client the address that belongs to the listener the client came by, so one that
enters through a side's links stays on them. The direct listener is for who must not feel the faults:
the publisher and the oracle.

Three brokers of Apache Kafka where there is Java. The embedded broker is one, tells everybody the same
address and loses its topics when killed: there one link, `kafka-1`, carries everybody, the publisher and
the oracle too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from deploy.embedded import broker
from deploy.embedded.processes import Child, Command, StartError
from tests.faults.storm.links import LinkTo, free_ports
from tests.faults.storm.schedule import SIDES
from tests.support.apache_kafka import JAVA, PROPERTIES, VERSION, cluster_id, formatted, java_version
from tests.support.kafka import NAMES, Kind, choice

#: A restarted broker replays its log and catches up, with everything else running on the same cores.
SERVING_SECONDS = 60.0
#: An answer from loopback, or from a broker that is about to be given up.
ASK_SECONDS = 2.0
POLL_SECONDS = 0.1

#: Three must fit beside everything else on a small machine.
JVM = ("-Xms64m", "-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
#: What differs from a broker alone.
SHARED: Mapping[str, str] = {
    **PROPERTIES,
    # Long enough for a machine with more to do than cores; a killed leader is replaced after it.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "unclean.leader.election.enable": "false",
    # After a restart leaders go home within this, so that no broker ends with all of them.
    "leader.imbalance.check.interval.seconds": "10",
    # Four listeners with threads of their own, and a cleaner that asks for 128 MiB at once.
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.dedupe.buffer.size": "4194304",
}
_COPIED = ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic", "default")
_IN_SYNC = ("transaction.state.log.min.isr", "share.coordinator.state.topic.min.isr", "min.insync.replicas")

_quiet = logging.getLogger("kafka-cluster-probe")
_quiet.setLevel(logging.CRITICAL)


class Cluster:
    """Running brokers, numbered from 1. Made by `start`; the caller stops them."""

    def __init__(
        self,
        name: str,
        *,
        durable: bool,
        direct: Mapping[int, int],
        links: Mapping[str, Mapping[int, LinkTo]],
        commands: Mapping[int, Command],
    ) -> None:
        """Raises StartError, and then nothing runs."""
        #: Which Kafka it is, for the report.
        self.name = name
        #: Whether a killed broker comes back with its topics.
        self.durable = durable
        self._direct, self._links, self._commands = direct, links, commands
        self.children: dict[int, Child] = {}
        try:
            self.restart(*commands)
        except StartError:
            self.stop()
            raise

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(self._direct)

    @property
    def bootstrap(self) -> str:
        """The direct listeners."""
        return _bootstrap(self._direct.values())

    def links(self) -> list[LinkTo]:
        """What must be started before a client of a side comes: `a-kafka-1` and so on."""
        return list({link.name: link for side in self._links.values() for link in side.values()}.values())

    def listen_ports(self, side: str) -> list[int]:
        """Where that side's links listen, which is what its brokers tell its clients."""
        return [link.port for link in self._links[side].values()]

    def side_bootstrap(self, side: str) -> str:
        return _bootstrap(self.listen_ports(side))

    @property
    def running(self) -> set[int]:
        return {number for number, child in self.children.items() if child.exit_code is None}

    def kill(self, number: int) -> None:
        self.children[number].kill()

    def restart(self, *numbers: int) -> None:
        """Start brokers that have ended, together, with what their disks hold. Raises StartError."""
        for number in numbers:
            self.launch(number)
        for number in numbers:
            self.children[number].wait_ready()

    def launch(self, number: int) -> None:
        """Start a broker that has ended, without waiting for it. Raises StartError."""
        self.children[number] = Child(self._commands[number])

    def stop(self) -> None:
        """For good, all at once: the last ones would wait in vain for the others' votes."""
        for child in self.children.values():
            child.kill()

    def wait_serving(self, within: float = SERVING_SECONDS) -> None:
        """Until every running broker sees all of them, a leader and all their replicas everywhere.

        Raises TimeoutError.
        """
        deadline = time.monotonic() + within
        while not all(self._complete(self._view(number)) for number in self.running):
            if time.monotonic() > deadline:
                raise TimeoutError(f"brokers {sorted(self.running)} did not agree within {within:g} s")
            time.sleep(POLL_SECONDS)

    def leader(self, topic: str, partition: int) -> int | None:
        """The leader's number as any running broker sees it; None while there is none."""
        for number in self.running:
            view = self._view(number, topic)
            if view is not None and (found := view.topics[topic].partitions.get(partition)) is not None:
                return found.leader if found.leader in view.brokers else None
        return None

    def _view(self, number: int, topic: str | None = None) -> Any:
        admin = AdminClient({"bootstrap.servers": _bootstrap([self._direct[number]])}, logger=_quiet)
        try:
            return admin.list_topics(topic, timeout=ASK_SECONDS)
        except KafkaException:
            return None

    def _complete(self, view: Any) -> bool:
        if view is None or len(view.brokers) != len(self.running):
            return False
        partitions = [one for topic in view.topics.values() for one in topic.partitions.values()]
        return all(
            one.leader in view.brokers and set(one.isrs) >= set(one.replicas) & set(view.brokers)
            for one in partitions
        )


def start(folder: Path, brokers: int = 3) -> Cluster:
    """The cluster this machine can have, its files in `folder`. Raises StartError."""
    if choice()[0] is Kind.EMBEDDED or java_version() < JAVA:
        return embedded(folder)
    return apache(folder, brokers)


def apache(folder: Path, brokers: int = 3) -> Cluster:
    """One or three brokers, each its own controller and server. Raises StartError."""
    numbers, port = range(1, brokers + 1), free_ports()
    direct, inner, votes = ({n: port() for n in numbers} for _ in range(3))
    links = {
        side: {n: LinkTo(f"{side}-kafka-{n}", target=port(), port=port()) for n in numbers} for side in SIDES
    }
    shared = {
        **SHARED,
        "listener.security.protocol.map": ",".join(
            f"{name}:PLAINTEXT" for name in ("CONTROLLER", "INTERNAL", "DIRECT", *map(_listener, SIDES))
        ),
        "inter.broker.listener.name": "INTERNAL",
        "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{votes[n]}" for n in numbers),
        **{f"{topic}.replication.factor": str(brokers) for topic in _COPIED},
        **dict.fromkeys(_IN_SYNC, str(min(2, brokers))),
    }
    cluster = cluster_id()

    def command(n: int) -> Command:
        clients = {"INTERNAL": inner[n], "DIRECT": direct[n]}
        listens = clients | {_listener(side): links[side][n].target for side in SIDES}
        told = clients | {_listener(side): links[side][n].port for side in SIDES}
        own = {
            "node.id": str(n),
            "listeners": _addresses(listens | {"CONTROLLER": votes[n]}),
            "advertised.listeners": _addresses(told),
        }
        place = folder / f"kafka-{n}"
        place.mkdir(parents=True)
        return formatted(f"kafka-{n}", place, direct[n], {**shared, **own}, cluster, JVM)

    with ThreadPoolExecutor(brokers) as pool:  # each formats its disk with a Java of its own
        commands = dict(zip(numbers, pool.map(command, numbers), strict=True))
    name = f"Apache Kafka {VERSION} ({brokers} brokers, java)"
    return Cluster(name, durable=True, direct=direct, links=links, commands=commands)


def embedded(folder: Path) -> Cluster:
    """The embedded broker behind one link that everybody shares. Raises StartError."""
    port = free_ports()
    link = LinkTo("kafka-1", target=port(), port=port())
    command = broker.command(folder / "broker.log", link.target, advertised=link.port)
    return Cluster(
        NAMES[Kind.EMBEDDED],
        durable=False,
        direct={1: link.target},
        links={side: {1: link} for side in SIDES},
        commands={1: command},
    )


def _listener(side: str) -> str:
    return f"SIDE{side.upper()}"


def _addresses(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())


def _bootstrap(ports: Iterable[int]) -> str:
    return ",".join(f"127.0.0.1:{port}" for port in ports)
