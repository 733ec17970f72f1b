"""The Kafka the tests run on: the first of these that this machine can have.

1. Apache Kafka in a container, where a Docker engine answers;
2. Apache Kafka from Maven's central repository, where Java and Maven (or jars fetched before) are;
3. the embedded broker.

Law: where the first or second can be expected to work and does not, the run fails; it never falls
back in silence. TEST_KAFKA=docker|java|embedded overrides the choice.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from deploy.embedded import broker
from deploy.embedded.processes import POLL_SECONDS, READY_WITHIN, Child, Command, StartError, free_port, start
from tests.support import apache_kafka
from tests.support.apache_kafka import JARS, JAVA, PROPERTIES, VERSION, serves

#: An engine that takes longer to say that it is there is not one to run tests on.
DOCKER_SECONDS = 20
DELETE_SECONDS = 20


class Kind(StrEnum):
    DOCKER = "docker"
    JAVA = "java"
    EMBEDDED = "embedded"


NAMES = {
    Kind.DOCKER: f"Apache Kafka {VERSION} (container)",
    Kind.JAVA: f"Apache Kafka {VERSION} (java)",
    Kind.EMBEDDED: "embedded broker (Tansu)",
}


#: What the embedded broker cannot do, and so cannot show.
LACKS = {
    "consumer": "the embedded broker knows the classic protocol only",
    "transactions": "the embedded broker has no transactions: offsets without a record are made with one",
    "deletion": "the embedded broker deletes no records",
    "range": "the embedded broker does not refuse an offset outside its log",
    "size": "the embedded broker takes records of any size",
    "anew": "a client does not outlive a topic that the embedded broker makes anew",
    "join": "a first join at the embedded broker takes longer than what a killed worker leaves is left alone",
}


class Kafka(Protocol):
    """A running broker. Only the embedded one loses its topics when killed."""

    kind: Kind
    bootstrap: str

    def kill(self) -> None:
        """End it as a power cut would."""

    def restart(self) -> None:
        """Start it again at the same address, with what its disk holds, and wait until it is ready."""

    def stop(self) -> None:
        """End it for good. Safe to call twice."""


def choose() -> tuple[Kind, str]:
    """Which Kafka this machine gets, and why not a better one ('' for the best)."""
    if given := os.environ.get("TEST_KAFKA"):
        return Kind(given), "as TEST_KAFKA asks"
    if _docker_answers():
        return Kind.DOCKER, ""
    java = apache_kafka.java_version()
    if java < JAVA:
        return (
            Kind.EMBEDDED,
            f"no Docker engine, and {f'Java {java}' if java else 'no Java'} (Kafka 4 needs {JAVA})",
        )
    if not JARS.is_dir() and shutil.which("mvn") is None:
        return Kind.EMBEDDED, "no Docker engine, and no Maven to fetch Apache Kafka with"
    return Kind.JAVA, ""


@functools.cache
def choice() -> tuple[Kind, str]:
    return choose()


def describe() -> str:
    kind, reason = choice()
    return f"{NAMES[kind]}: {reason}" if reason else NAMES[kind]


def needs(kafka: Kafka, what: str) -> None:
    """Skip a test that the run's broker cannot carry, and say why."""
    if kafka.kind is Kind.EMBEDDED:
        pytest.skip(LACKS[what])


def supports(kafka: Kafka, protocol: str) -> None:
    """The same for a group protocol, as librdkafka names them."""
    if protocol == "consumer":
        needs(kafka, protocol)


def delete_records(kafka: Kafka, topic: str, before: Mapping[int, int]) -> None:
    """Those below an offset, by partition; skips the test where the broker cannot."""
    needs(kafka, "deletion")
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    wanted = [TopicPartition(topic, partition, offset) for partition, offset in before.items()]
    for future in admin.delete_records(wanted).values():
        future.result(timeout=DELETE_SECONDS)


def start_kafka(folder: Path, kind: Kind | None = None) -> Kafka:
    """Start a broker with its files in `folder`. Raises StartError. The caller stops it."""
    match kind or choice()[0]:
        case Kind.DOCKER:
            return Container()
        case Kind.JAVA:
            return Process(Kind.JAVA, folder, apache_kafka.command)
        case Kind.EMBEDDED:
            return Process(
                Kind.EMBEDDED, folder, lambda folder, port: broker.command(folder / "broker.log", port)
            )


class Process:
    """A broker that is a child process."""

    def __init__(self, kind: Kind, folder: Path, command: Callable[[Path, int], Command]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.kind = kind
        port = free_port()
        self.bootstrap = f"127.0.0.1:{port}"
        self.child: Child = start(command(folder, port))

    def kill(self) -> None:
        self.child.kill()

    def restart(self) -> None:
        self.child.start()

    def stop(self) -> None:
        self.child.stop()


class Container:
    """A broker in a container, on a port of its own that stays the same over a restart."""

    kind = Kind.DOCKER

    def __init__(self) -> None:
        from testcontainers.core.container import DockerContainer
        from testcontainers.core.docker_client import DockerClient

        host, port = DockerClient().host(), free_port()
        properties = {
            **PROPERTIES,
            "listeners": f"PLAINTEXT://0.0.0.0:{port},CONTROLLER://127.0.0.1:9093",
            "advertised.listeners": f"PLAINTEXT://{host}:{port}",
            "controller.quorum.voters": "1@127.0.0.1:9093",
        }
        variables = {f"KAFKA_{name.replace('.', '_').upper()}": value for name, value in properties.items()}
        self.bootstrap = f"{host}:{port}"
        self._container = (
            DockerContainer(f"apache/kafka:{VERSION}").with_envs(**variables).with_bind_ports(port, port)
        )
        self._container.start()
        self._stopped = False
        self._wait()

    def kill(self) -> None:
        self._container.get_wrapped_container().kill()

    def restart(self) -> None:
        self._container.get_wrapped_container().start()
        self._wait()

    def stop(self) -> None:
        if not self._stopped:
            self._container.stop()
            self._stopped = True

    def _wait(self) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while not serves(self.bootstrap):
            if time.monotonic() > deadline:
                self.stop()
                raise StartError(f"Kafka's container was not ready within {READY_WITHIN:g} s")
            time.sleep(POLL_SECONDS)


def _docker_answers() -> bool:
    """Asked in a process of its own: the Docker library leaks a socket when no engine answers."""
    if not (os.environ.get("DOCKER_HOST") or Path("/var/run/docker.sock").exists()):
        return False
    ask = "import docker; docker.from_env(timeout=10).ping()"
    try:
        asked = subprocess.run(
            (sys.executable, "-c", ask), capture_output=True, timeout=DOCKER_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0


def pytest_report_header() -> str:
    return f"kafka: {describe()}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Said again at the end: -q prints no header."""
    terminalreporter.write_line(f"kafka: {describe()}")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """The run's broker, started when the first test asks. Use `topic_prefix`: it is everybody's."""
    folder = tmp_path_factory.mktemp("kafka")
    running = start_kafka(folder)
    yield running
    running.stop()
    shutil.rmtree(folder / "data", ignore_errors=True)


@pytest.fixture
def topic_prefix() -> str:
    """What this test's topics, groups and keys begin with."""
    return f"t{uuid.uuid4().hex[:12]}."
