"""Apache Kafka as a Java process: its jars from Maven's central repository, fetched once per checkout."""

from __future__ import annotations

import base64
import fcntl
import logging
import re
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from deploy.embedded.processes import Command, Ready, StartError, free_port, port_open

ROOT = Path(__file__).parents[2]
POM = Path(__file__).with_name("pom.xml")
_FOUND = re.search(r"<kafka.version>(.+)</kafka.version>", POM.read_text("utf-8"))
assert _FOUND is not None
VERSION = _FOUND[1]
JARS = ROOT / ".cache" / f"kafka-{VERSION}"

#: 45 jars of 43 MB in all, over a slow line.
FETCH_SECONDS = 600
FORMAT_SECONDS = 60
VERSION_SECONDS = 20
#: The oldest Java a Kafka 4 broker runs on.
JAVA = 17
#: Enough for tens of thousands of records; several suites may run at once. The optimising compiler would
#: cost more than it brings in a few minutes.
JVM = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

#: One broker that is its own controller. One partition for its own topics: fifty slow the first join.
PROPERTIES: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    # A killed broker may come back once its former session has ended.
    "broker.session.timeout.ms": "1000",
    "broker.heartbeat.interval.ms": "250",
    "auto.create.topics.enable": "false",
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.min.heartbeat.interval.ms": "500",
}


def serves(bootstrap: str) -> bool:
    """Whether a broker answers there and takes part in its cluster."""
    quiet = logging.getLogger("kafka-probe")
    quiet.setLevel(logging.CRITICAL)
    try:
        admin = AdminClient({"bootstrap.servers": bootstrap, "socket.timeout.ms": 1000}, logger=quiet)
        return bool(admin.list_topics(timeout=1).brokers)
    except KafkaException:
        return False


def command(folder: Path, port: int) -> Command:
    """A new broker on 127.0.0.1:`port` with its files in `folder`. Raises StartError."""
    controller = free_port()
    properties = {
        **PROPERTIES,
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
    }
    return formatted("kafka", folder, port, properties, cluster_id())


def cluster_id() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def formatted(
    name: str,
    folder: Path,
    port: int,
    properties: Mapping[str, str],
    cluster: str,
    jvm: Sequence[str] = JVM,
) -> Command:
    """A new broker of the cluster `cluster`, ready when it serves at 127.0.0.1:`port`. Raises StartError."""
    jars, settings = fetch_jars(), folder / "server.properties"
    properties = {**properties, "log.dirs": str(folder / "data")}
    settings.write_text("".join(f"{key}={value}\n" for key, value in properties.items()), "utf-8")
    java = ("java", *jvm, "-cp", f"{jars}/*")
    _run(
        (*java, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(settings)),
        FORMAT_SECONDS,
    )
    return Command(
        name=name,
        argv=(*java, "kafka.Kafka", str(settings)),
        log=folder / "kafka.log",
        ready=_open_and_serving(port),
    )


def _open_and_serving(port: int) -> Ready:
    is_open = port_open(port)
    return lambda output: is_open(output) and serves(f"127.0.0.1:{port}")


def fetch_jars() -> Path:
    """The folder of Kafka's jars, fetched once: it appears whole or not at all. Raises StartError."""
    JARS.parent.mkdir(parents=True, exist_ok=True)
    with JARS.with_name("kafka.lock").open("w") as lock:
        # Processes that begin together must not download into Maven's one repository together.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not JARS.is_dir():
            _fetch()
    return JARS


def _fetch() -> None:
    fetching = JARS.with_name(f"{JARS.name}.{uuid.uuid4().hex}")
    try:
        # -C: a jar whose checksum is wrong fails the run.
        maven = (
            "mvn",
            "-q",
            "-B",
            "-C",
            "-Dstyle.color=never",
            "-f",
            str(POM),
            "dependency:copy-dependencies",
        )
        _run((*maven, f"-DoutputDirectory={fetching}", "-DincludeScope=runtime"), FETCH_SECONDS)
        fetching.rename(JARS)
    finally:
        shutil.rmtree(fetching, ignore_errors=True)


def _run(argv: tuple[str, ...], seconds: float) -> None:
    try:
        subprocess.run(argv, check=True, capture_output=True, timeout=seconds, stdin=subprocess.DEVNULL)
    except subprocess.CalledProcessError as error:
        said = (error.stdout + error.stderr).decode("utf-8", "replace")[-2000:]
        raise StartError(f"{' '.join(argv[:1])} failed with code {error.returncode}:\n{said}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StartError(f"{argv[0]} failed: {error}") from error


def java_version() -> int:
    """The major version of the `java` on the path, 0 when there is none."""
    try:
        told = subprocess.run(
            ("java", "-version"), capture_output=True, timeout=VERSION_SECONDS, check=False
        ).stderr
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(rb'version "(?:1\.)?(\d+)', told)
    return int(found[1]) if found else 0
