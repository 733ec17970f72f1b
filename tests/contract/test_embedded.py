"""The embedded parts keep what their start functions promise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from deploy.embedded.processes import (
    MAX_LOG_BYTES,
    Command,
    StartError,
    free_port,
    port_open,
    printed,
    start,
)
from deploy.embedded.supervisor import MAX_RESTARTS, RESTART_WINDOW, Supervisor
from tests.support.apache_kafka import fetch_jars, serves
from tests.support.kafka import Kafka, Kind, choice, start_kafka
from tests.support.valkey import Valkey, start_valkey

WITHIN = 20.0


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.02)


def python(tmp_path: Path, code: str, name: str = "child", **more) -> Command:
    return Command(
        name, (sys.executable, "-u", "-c", code), tmp_path / f"{name}.log", **{"ready": printed("up"), **more}
    )


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


SERVE = "import time; print('up'); time.sleep(600)"


def round_trip(kafka: Kafka, topic: str, count: int) -> list[bytes]:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for created in admin.create_topics([NewTopic(topic, 1, 1)]).values():
        created.result(10)
    failed = []
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "enable.idempotence": True})
    for number in range(count):
        producer.produce(
            topic, str(number).encode(), on_delivery=lambda error, _: failed.append(error) if error else None
        )
    assert producer.flush(20) == 0
    assert failed == []
    return read(kafka, topic, count)


def read(kafka: Kafka, topic: str, count: int) -> list[bytes]:
    consumer = Consumer(
        {"bootstrap.servers": kafka.bootstrap, "group.id": topic, "auto.offset.reset": "error"}
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    values: list[bytes] = []
    deadline = time.monotonic() + WITHIN
    try:
        while len(values) < count and time.monotonic() < deadline:
            values += [record.value() for record in consumer.consume(500, 0.2) if record.error() is None]
    finally:
        consumer.close()
    return values


def test_the_runs_kafka_carries_records(kafka: Kafka, topic_prefix: str):
    assert round_trip(kafka, f"{topic_prefix}records", 200) == [str(n).encode() for n in range(200)]


def test_the_embedded_broker_carries_records_and_forgets_them_when_killed(tmp_path: Path):
    broker = start_kafka(tmp_path, Kind.EMBEDDED)
    try:
        assert round_trip(broker, "records", 200) == [str(n).encode() for n in range(200)]
        broker.kill()
        broker.restart()
        assert serves(broker.bootstrap)
        assert (
            "records"
            not in AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=10).topics
        )
    finally:
        broker.stop()


def test_apache_kafka_keeps_records_when_killed(tmp_path: Path):
    if choice()[0] is Kind.EMBEDDED:
        pytest.skip("this machine has no Apache Kafka")
    broker = start_kafka(tmp_path)
    try:
        written = round_trip(broker, "records", 50)
        broker.kill()
        assert not serves(broker.bootstrap)
        broker.restart()
        assert read(broker, "records", 50) == written == [str(n).encode() for n in range(50)]
    finally:
        broker.kill()
        broker.stop()


def test_kafkas_jars_are_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if choice()[0] is not Kind.JAVA:
        pytest.skip("this run's Kafka needs no jars")
    jars = fetch_jars()
    monkeypatch.setenv("PATH", str(tmp_path))  # no Maven from here on
    assert fetch_jars() == jars
    assert any(jars.glob("kafka_2.13-*.jar"))
    assert [left for left in jars.parent.iterdir() if left.name.startswith(f"{jars.name}.")] == []


def test_valkey_is_configured_for_deliveries(valkey: Valkey):
    with valkey.client() as client:
        settings = client.config_get("append*", "maxmemory-policy", "save")
    assert settings["appendonly"] == "yes"
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["save"] == ""


def test_valkey_keeps_what_it_acknowledged_when_killed(tmp_path: Path):
    server = start_valkey(tmp_path, fsync="always")
    try:
        with server.client() as client:
            client.set("referral", "kept")
        server.kill()
        server.restart()
        with server.client() as client:
            assert client.get("referral") == b"kept"
    finally:
        server.stop()


def test_a_stopped_child_is_gone(tmp_path: Path):
    child = start(python(tmp_path, SERVE))
    assert child.exit_code is None
    assert child.stop() == -signal.SIGTERM
    assert not runs(child.pid)
    assert child.stop() == -signal.SIGTERM, "stopping twice is harmless"


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path):
    deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SERVE}"
    child = start(python(tmp_path, deaf, stop_within=0.2))
    assert child.stop() == -signal.SIGKILL


def test_a_child_that_fails_tells_its_last_line(tmp_path: Path):
    with pytest.raises(StartError, match="broken ended with code 3 before it was ready: the reason"):
        start(python(tmp_path, "print('the reason'); raise SystemExit(3)", name="broken"))


def test_a_child_that_never_becomes_ready_is_killed(tmp_path: Path):
    with pytest.raises(StartError, match="slow was not ready within 0.5 s") as raised:
        start(
            python(
                tmp_path,
                "import os,time; print(os.getpid()); time.sleep(600)",
                "slow",
                ready=lambda _: False,
                ready_within=0.5,
            )
        )
    assert not runs(int(str(raised.value).rsplit(" ", 1)[1]))


def test_a_command_that_does_not_exist_is_told(tmp_path: Path):
    with pytest.raises(StartError, match="nothing cannot be started"):
        start(Command("nothing", (str(tmp_path / "nothing"),), tmp_path / "log", printed("up")))


def test_readiness_counts_only_what_this_start_printed(tmp_path: Path):
    (tmp_path / "child.log").write_text("up from an earlier life\n")
    with pytest.raises(StartError, match="it printed nothing"):
        start(python(tmp_path, "raise SystemExit(1)"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_no_child_outlives_a_killed_parent(tmp_path: Path):
    parent_code = (
        "import sys, time; from pathlib import Path\n"
        "from deploy.embedded.processes import Command, printed, start\n"
        f"child = start(Command('c', (sys.executable, '-u', '-c', {SERVE!r}), Path(sys.argv[1]), printed('up')))\n"
        "print(child.pid, flush=True); time.sleep(600)\n"
    )
    argv = (sys.executable, "-c", parent_code, str(tmp_path / "c.log"))
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert runs(child)
        parent.kill()
    eventually(lambda: not runs(child))


def test_the_supervisor_starts_again_what_was_killed(tmp_path: Path):
    said: list[str] = []
    stack = Supervisor(said.append)
    try:
        child = stack.start(python(tmp_path, SERVE, name="service"))
        before = child.pid
        os.kill(before, signal.SIGKILL)
        eventually(lambda: child.exit_code is not None)
        assert stack.check(now=0.0) is None
        assert said == ["service was killed by SIGKILL; starting it again"]
        assert child.pid != before
        assert child.exit_code is None
    finally:
        stack.stop()
    assert not runs(child.pid)


def test_the_supervisor_ends_the_stack_when_a_service_fails(tmp_path: Path):
    stack = Supervisor(print)
    try:
        failing = stack.start(
            python(tmp_path, "print('up'); print('no such topic: t'); raise SystemExit(2)", "service")
        )
        eventually(lambda: failing.exit_code is not None)
        assert stack.check(now=0.0) == "service ended with code 2: no such topic: t"
    finally:
        stack.stop()


@pytest.mark.parametrize(
    ("seconds_apart", "gives_up"),
    [
        pytest.param(0.01, True, id="a crash loop ends the stack"),
        pytest.param(RESTART_WINDOW, False, id="rare deaths never do"),
    ],
)
def test_the_supervisor_bounds_restarts(tmp_path: Path, seconds_apart: float, gives_up: bool):
    stack = Supervisor(lambda _: None)
    try:
        child = stack.start(
            Command("service", ("sh", "-c", "echo up; exec sleep 600"), tmp_path / "log", printed("up"))
        )
        verdicts = []
        for death in range(MAX_RESTARTS + 1):
            os.kill(child.pid, signal.SIGKILL)
            eventually(lambda: child.exit_code is not None)
            verdicts.append(stack.check(now=death * seconds_apart))
        assert verdicts[:-1] == [None] * MAX_RESTARTS
        assert (verdicts[-1] is not None) is gives_up
    finally:
        stack.stop()


def test_a_log_is_emptied_before_it_fills_the_disk(tmp_path: Path):
    child = start(python(tmp_path, "import sys; print('up')\nfor line in sys.stdin: pass\n" + SERVE))
    try:
        os.truncate(tmp_path / "child.log", MAX_LOG_BYTES + 1)
        child.trim_log()
        assert (tmp_path / "child.log").stat().st_size == 0
    finally:
        child.kill()


def test_free_ports_are_free_and_not_for_outgoing_connections():
    ports = {free_port() for _ in range(20)}
    assert all(20_000 <= port < 30_000 for port in ports)
    assert not any(port_open(port)("") for port in ports)
