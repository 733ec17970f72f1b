"""The `referrals` command on a real Kafka and a real Valkey, as an operator would use it."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from console.__main__ import main
from consumer import intake
from consumer.intake import Removal
from consumer.kafka_out import KafkaOut, Out
from consumer.keys import Keys, Role
from consumer.reading import read_all
from consumer.registry import Registry
from consumer.store import Store
from consumer.stream import Record
from consumer.topics import Admin, Topics
from deploy.embedded.processes import Command, free_port, start
from schemas import referral
from tests.support.kafka import Kafka
from tests.support.referral_events import event
from tests.support.valkey import Valkey, start_valkey

ROOT = Path(__file__).parents[2]
PARTITIONS = 3
#: A command waits for Kafka or Redis at most about 20 s before it gives up.
SECONDS = 60

ACME = """\
account: acme
connections:
  - name: acme-drop
    kind: sftp
    host: sftp.acme.example
    username: acme
    password: ${env:ACME_PASSWORD}
    host_keys: ["SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]
    campaigns: [c-1]
    fields: [referral_id, first_name, {name: zip, from: postal_code}, ad_response]
    schedule: {cron: "30 3 * * *", zone: Australia/Sydney}
    file: {delimiter: ";"}
"""
CRM = """\
  - name: acme-crm
    kind: http
    url: https://crm.acme.example/leads
    fields: [referral_id, email]
"""


CRM_AS_HUBSPOT = """\
  - name: acme-crm
    kind: hubspot
    auth: {kind: bearer, token: "${env:HUBSPOT_TOKEN}"}
    fields: [email]
"""


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@dataclass
class Deployment:
    """A Kafka, a Redis and a prefix of their own; `run` is the command line."""

    kafka: Kafka
    valkey: Valkey
    prefix: str
    environment: dict[str, str]
    run: Callable[..., Said]
    folder: Path

    @property
    def topics(self) -> Topics:
        return Topics(self.prefix)

    def init(self) -> None:
        said = self.run("init", "--from", "earliest", "--partitions", str(PARTITIONS))
        assert said.code == 0, said

    def connect(self, text: str = ACME) -> Path:
        self.folder.mkdir(exist_ok=True)
        (self.folder / "acme.yaml").write_text(text, "utf-8")
        said = self.run("connections", "apply", str(self.folder))
        assert said.code == 0, said
        return self.folder

    def produce(self, *events: dict[str, Any], at: datetime | None = None) -> None:
        stamp = 0 if at is None else int(at.timestamp() * 1000)
        out = KafkaOut(self.kafka.bootstrap, {})
        out.send(
            [
                Out(self.topics.referrals, e["referral_id"], referral.encode(e), timestamp_ms=stamp)
                for e in events
            ]
        )

    def records(self) -> list[Record]:
        return list(read_all(self.kafka.bootstrap, {}, self.topics.referrals))


@pytest.fixture
def deployment(
    kafka: Kafka,
    valkey: Valkey,
    topic_prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Deployment:
    settings = {"KAFKA": kafka.bootstrap, "REDIS": valkey.url, "PREFIX": topic_prefix}
    environment = {f"REFERRALS_{name}": value for name, value in settings.items()}
    for name in os.environ:
        if name.startswith("REFERRALS_"):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Said:
        """In this process, which saves a second each; others run it as its own."""
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        found = capfd.readouterr()
        return Said(int(ended.value.code or 0), found.out, found.err)

    return Deployment(kafka, valkey, topic_prefix, environment, run, tmp_path / "connections")


def clean(**more: str) -> dict[str, str]:
    """This process's environment without settings of ours, and `more`."""
    return {name: value for name, value in os.environ.items() if not name.startswith("REFERRALS_")} | more


# --- Every mistake is one clear line. -----------------------------------------------------------------

#: Everything that stands on the same ground: each must refuse alike.
SERVICES = {
    "push": ("consumer",),
    "collect": ("batcher", "collect"),
    "flush": ("batcher", "flush"),
}
COMMANDS = {
    "referrals init": ("init", "--from", "earliest"),
    "referrals apply": ("connections", "apply", "{folder}"),
    "referrals pause": ("connections", "pause", "acme-drop"),
    "referrals export": (
        "export", "--account", "acme", "--from", "2026-01-01T00:00Z", "--to", "2026-01-02T00:00Z",
    ),
    "referrals windows": ("windows",),
}  # fmt: skip
ALL = (*SERVICES, *COMMANDS)
#: `init` mends some of what the others refuse.
BUT_INIT = tuple(name for name in ALL if name != "referrals init")
#: These ask Redis alone.
WITHOUT_KAFKA = ("referrals pause", "referrals windows")


def refusals(deployment: Deployment, *names: str, **changes: str) -> dict[str, list[str]]:
    """What these say on standard error, log lines aside. Each must end with code 1 and no traceback."""
    environment = deployment.environment | changes
    running = {
        name: subprocess.Popen(
            [sys.executable, "-m", *SERVICES[name]],
            cwd=ROOT, env=clean(**environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
        if name in SERVICES
    }  # fmt: skip
    said = {}
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            for name in names:
                if name in COMMANDS:
                    done = deployment.run(*(part.format(folder=deployment.folder) for part in COMMANDS[name]))
                    assert (done.code, done.out) == (1, ""), (name, done)
                    said[name] = done.err.splitlines()
        for name, process in running.items():
            out, err = process.communicate(timeout=SECONDS)
            assert "Traceback" not in out + err, (name, err)
            assert process.returncode == 1, (name, process.returncode, err)
            said[name] = [line for line in err.splitlines() if not line.startswith('{"')]
    finally:
        for process in running.values():
            with process:
                process.kill()
    return said


def all_say(said: dict[str, list[str]], *parts: str) -> None:
    for name, lines in said.items():
        assert len(lines) == 1, (name, lines)
        assert [part for part in parts if part not in lines[0]] == [], (name, lines)


def test_an_unreachable_redis(deployment: Deployment) -> None:
    url = f"redis://:hunter2@127.0.0.1:{free_port()}/0"
    deployment.folder.mkdir()
    (deployment.folder / "acme.yaml").write_text(ACME)
    said = refusals(deployment, *ALL, REFERRALS_REDIS=url)
    all_say(said, "is not reachable: check REFERRALS_REDIS and that it runs")
    assert not [line for lines in said.values() for line in lines if "hunter2" in line]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param(
            ("--appendonly", "no"),
            "set appendonly yes (for play only: REFERRALS_ALLOW_VOLATILE_REDIS=1)",
            id="no AOF",
        ),
        pytest.param(
            ("--maxmemory-policy", "allkeys-lru"),
            "Redis evicts keys (allkeys-lru): set maxmemory-policy",
            id="evicts",
        ),
    ],
)
def test_a_redis_that_forgets(
    deployment: Deployment, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    deployment.folder.mkdir()
    (deployment.folder / "acme.yaml").write_text(ACME)
    forgetful = start_valkey(tmp_path / "forgetful", extra=options)
    try:
        all_say(refusals(deployment, *ALL, REFERRALS_REDIS=forgetful.url), says)
    finally:
        forgetful.stop()


def test_a_redis_without_aof_is_taken_for_play(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgetful = start_valkey(tmp_path / "forgetful", extra=("--appendonly", "no"))
    try:
        monkeypatch.setenv("REFERRALS_REDIS", forgetful.url)
        monkeypatch.setenv("REFERRALS_ALLOW_VOLATILE_REDIS", "1")
        deployment.init()
        deployment.connect()
    finally:
        forgetful.stop()


@pytest.mark.parametrize(
    ("version", "says"),
    [
        pytest.param("0", "older than this release's layout 1: migrate it", id="n-1"),
        pytest.param("2", "newer than this release's layout 1: run the release that wrote it", id="n+1"),
    ],
)
def test_another_layout(deployment: Deployment, version: str, says: str) -> None:
    deployment.init()
    deployment.connect()
    with deployment.valkey.client() as client:
        client.hset(f"{deployment.topics.referrals}:layout", "layout", version)
    all_say(refusals(deployment, *ALL), f"Redis holds layout {version}", says)


def test_never_initialised(deployment: Deployment) -> None:
    deployment.folder.mkdir()
    (deployment.folder / "acme.yaml").write_text(ACME)
    all_say(
        refusals(deployment, *BUT_INIT), "never initialised", "`referrals init --from earliest|latest|TIME`"
    )
    admin = Admin(deployment.kafka.bootstrap, {})
    for topic in (deployment.topics.referrals, deployment.topics.manifests):
        admin.create(topic, 1, {}, 1)
    all_say(
        refusals(deployment, "push", "referrals apply", "referrals pause"),
        f"{deployment.topics.referrals} was never initialised: run `referrals init",
    )


def test_an_initialisation_that_died_half_way(deployment: Deployment) -> None:
    deployment.init()
    deployment.connect()
    with deployment.valkey.client() as client:
        client.hset(f"{deployment.topics.referrals}:layout", "complete", "0")
    all_say(refusals(deployment, "push", "referrals apply"), "did not finish: run `referrals init` again")


def test_lost(deployment: Deployment) -> None:
    deployment.init()
    deployment.connect()
    with deployment.valkey.client() as client:
        client.flushall()
    all_say(
        refusals(deployment, *BUT_INIT),
        "which was initialised on",
        "Redis was lost or is another one",
        "REFERRALS_REDIS",
    )
    all_say(
        refusals(deployment, "referrals init"),
        "starting over could send everything twice",
        "append-only file",
    )


def test_an_unknown_topic(deployment: Deployment) -> None:
    deployment.init()
    deployment.connect()
    deleted(deployment, deployment.topics.referrals)
    asking_kafka = [name for name in BUT_INIT if name not in WITHOUT_KAFKA]
    all_say(refusals(deployment, *asking_kafka), "is not in Kafka any more: check REFERRALS_KAFKA")
    # Made anew it is another topic: its offsets are not those that Redis holds.
    Admin(deployment.kafka.bootstrap, {}).create(deployment.topics.referrals, PARTITIONS, {}, 1)
    all_say(
        refusals(deployment, "push", "referrals init"),
        "was deleted and made again",
        "`referrals init`",
    )


def test_an_unreachable_kafka(deployment: Deployment) -> None:
    deployment.folder.mkdir()
    (deployment.folder / "acme.yaml").write_text(ACME)
    bootstrap = f"127.0.0.1:{free_port()}"
    all_say(
        refusals(deployment, *SERVICES, "referrals init", REFERRALS_KAFKA=bootstrap),
        f"Kafka at {bootstrap} does not answer", "check REFERRALS_KAFKA and that the broker runs",
    )  # fmt: skip


MALFORMED = {
    "acme.yaml": (ACME.replace("kind: sftp", "kind: stfp"), ["acme.yaml:4: connections[0].kind: "]),
    "globex.yaml": ("account: globex\nconnections: [\n", ["globex.yaml:"]),
    "initech.yaml": (b"account: \xff", ["initech.yaml:1: not UTF-8 text; save the file as UTF-8"]),
    "umbrella.yaml": (
        "account: umbrella\nconnections:\n  - name: crm\n    kind: http\n    url: ftp://x.example\n    fields: [emial]\n",
        ["umbrella.yaml:5: connections[0].url: ", "umbrella.yaml:6: connections[0].fields[0]"],
    ),
}


def test_malformed_files_are_told_whole_with_file_and_line(deployment: Deployment) -> None:
    deployment.init()
    deployment.connect()
    for name, (text, _) in MALFORMED.items():
        (deployment.folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    expected = [begin for _, begins in MALFORMED.values() for begin in begins]
    everywhere = refusals(
        deployment,
        "push",
        "collect",
        "flush",
        "referrals apply",
        REFERRALS_CONNECTIONS=str(deployment.folder),
    )
    checked = deployment.run("connections", "check", str(deployment.folder))
    assert (checked.code, checked.out) == (1, "")
    for name, lines in {**everywhere, "check": checked.err.splitlines()}.items():
        assert len(lines) == len(expected), (name, lines)
        assert all(line.startswith(begin) for line, begin in zip(lines, expected, strict=True)), (name, lines)
    listed = deployment.run("connections", "list")
    assert "acme-drop" in listed.out
    assert "version 1: 1 account, 1 connection" in listed.err


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        pytest.param(
            "REDIS", "localhost:6379", "REFERRALS_REDIS: Value error, give it as redis://", id="not a URL"
        ),
        pytest.param("REDIS", "redis://localhost:port", "REFERRALS_REDIS: ", id="not a port"),
        pytest.param("KAFKA_CONFIG", "{", "REFERRALS_KAFKA_CONFIG is not a JSON object", id="not JSON"),
        pytest.param(
            "KAFKA_CONFIG", '{"no.such": 1}', 'No such configuration property: "no.such', id="not a property"
        ),
        pytest.param("KAKFA", "x", "REFERRALS_KAKFA: Extra inputs are not permitted", id="no such setting"),
        pytest.param(
            "SCHEMA_REGISTRY", "registry", "REFERRALS_SCHEMA_REGISTRY: ", id="registry without http"
        ),
        pytest.param("PREFIX", "Ünder", "REFERRALS_PREFIX: ", id="a prefix no topic can have"),
    ],
)
def test_a_wrong_setting_is_named_and_its_value_is_not(
    deployment: Deployment, name: str, value: str, says: str
) -> None:
    deployment.folder.mkdir()
    (deployment.folder / "acme.yaml").write_text(ACME)
    said = refusals(deployment, "push", "referrals init", **{f"REFERRALS_{name}": value})
    all_say(said, says)


def deleted(deployment: Deployment, topic: str) -> None:
    client = AdminClient({"bootstrap.servers": deployment.kafka.bootstrap})
    client.delete_topics([topic])[topic].result(20)
    admin = Admin(deployment.kafka.bootstrap, {})
    eventually(lambda: admin.describe(topic) is None)


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.02)


# --- Usage. ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("bogus",), id="no such command"),
        pytest.param(("init",), id="an option is missing"),
        pytest.param(("init", "--from", "latest", "--partitions", "many"), id="not a number"),
        pytest.param(("init", "--from", "latest", "--partitions", "0"), id="out of range"),
        pytest.param(("connections", "pause"), id="an argument is missing"),
        pytest.param(("export", "--acount", "acme"), id="no such option"),
    ],
)
def test_usage_errors_are_plain(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "console", *arguments],
        cwd=ROOT, env=clean(FORCE_COLOR="1"), capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: " in done.stderr
    assert done.stderr.isascii(), "no boxes"
    assert "\x1b" not in done.stderr
    assert "Traceback" not in done.stderr


def test_help_needs_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "console", "--help"], cwd=ROOT, env=clean(), capture_output=True, text=True, timeout=SECONDS, check=True,
    )  # fmt: skip
    commands = ("init", "connections", "publish", "export", "windows", "flush")
    assert [name for name in commands if f"\n  {name} " not in done.stdout] == []


# --- init --------------------------------------------------------------------------------------------


def test_init_says_what_it_made_and_twice_that_it_stands(deployment: Deployment) -> None:
    first = deployment.run("init", "--from", "latest", "--partitions", str(PARTITIONS))
    names = ("referrals", "referral-receipts", "referral-dead-letters", "referral-manifests")
    assert first == Said(
        0,
        "".join(f"made topic {deployment.prefix}{name}\n" for name in names)
        + f"initialised {deployment.topics.referrals}, 3 partitions; reading begins at 0, 0, 0\n",
        "",
    )
    before = content(deployment)
    second = deployment.run("init", "--from", "earliest", "--partitions", "8")
    assert second == Said(
        0, f"{deployment.topics.referrals}, 3 partitions: initialised before, nothing to do\n", ""
    )
    assert content(deployment) == before


def content(deployment: Deployment) -> dict[bytes, bytes]:
    with deployment.valkey.client() as client:
        return {key: client.dump(key) for key in sorted(client.keys("*"))}


def heads(deployment: Deployment) -> list[int]:
    with deployment.valkey.client() as client:
        keys = Keys(deployment.topics.referrals, Role.PUSH)
        return [int(client.hget(keys.head(p), "next")) for p in range(PARTITIONS)]


@pytest.mark.parametrize("start", ["earliest", "latest", "TIME"])
def test_init_begins_where_it_is_told(deployment: Deployment, start: str) -> None:
    Admin(deployment.kafka.bootstrap, {}).create(deployment.topics.referrals, PARTITIONS, {}, 1)
    noon = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3)
    for hour, count in ((0, 6), (1, 12)):
        stamp = noon + timedelta(hours=hour)
        deployment.produce(*(event(referral_id=f"r{hour}-{n}") for n in range(count)), at=stamp)
    before: list[int] = [0] * PARTITIONS
    ends: list[int] = [0] * PARTITIONS
    for record in deployment.records():
        ends[record.partition] = record.next_offset
        if record.timestamp_ms < (noon + timedelta(hours=1)).timestamp() * 1000:
            before[record.partition] = record.next_offset
    said = deployment.run(
        "init", "--from", (noon + timedelta(hours=1)).isoformat() if start == "TIME" else start
    )
    assert said.code == 0, said
    assert heads(deployment) == {"earliest": [0] * PARTITIONS, "latest": ends, "TIME": before}[start]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        pytest.param(
            "yesterday", "'yesterday' is not a time: use earliest, latest or one such as", id="not a time"
        ),
        pytest.param("2026-01-31T08:00", "does not say which zone: add an offset", id="no offset"),
    ],
)
def test_init_refuses_what_is_no_moment_before_it_makes_anything(
    deployment: Deployment, given: str, says: str
) -> None:
    said = deployment.run("init", "--from", given)
    assert said.code == 1
    assert says in said.err
    assert Admin(deployment.kafka.bootstrap, {}).describe(deployment.topics.manifests) is None


def test_init_refuses_a_topic_that_forgets_too_soon(deployment: Deployment) -> None:
    Admin(deployment.kafka.bootstrap, {}).create(
        deployment.topics.referrals, 1, {"retention.ms": "3600000"}, 1
    )
    if (
        Admin(deployment.kafka.bootstrap, {}).setting(deployment.topics.referrals, "retention.ms")
        != "3600000"
    ):
        pytest.skip("this broker keeps no topic settings")
    said = deployment.run("init", "--from", "earliest")
    assert said.code == 1
    assert "keeps records for 1.0 h" in said.err
    assert "raise retention.ms to at least" in said.err


# --- connections -------------------------------------------------------------------------------------


def test_check_needs_no_server_and_shows_what_accounts_get(tmp_path: Path) -> None:
    (tmp_path / "acme.yaml").write_text(ACME + CRM)
    nowhere = f"127.0.0.1:{free_port()}"
    done = subprocess.run(
        [sys.executable, "-m", "console", "connections", "check"], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=True,
        env=clean(REFERRALS_KAFKA=nowhere, REFERRALS_REDIS=f"redis://{nowhere}", REFERRALS_CONNECTIONS=str(tmp_path)),
    )  # fmt: skip
    header, drop, crm = (line.split() for line in done.stdout.splitlines())
    assert header == ["account", "connection", "kind", "to", "campaigns", "fields", "when"]
    assert drop[:5] == ["acme", "acme-drop", "sftp", "sftp.acme.example:22", "c-1"]
    assert crm == ["acme", "acme-crm", "http", "POST", "https://crm.acme.example", "all", "2", "at", "once"]
    assert done.stderr == "1 account, 2 connections: no errors\n"


def test_apply_shows_what_it_changes(deployment: Deployment) -> None:
    deployment.init()
    folder = deployment.connect(ACME + CRM)
    again = deployment.run("connections", "apply", str(folder))
    assert again == Said(0, "1 account, 2 connections: in force already as version 1, nothing to do\n", "")
    (folder / "acme.yaml").write_text(ACME.replace("c-1", "c-2"))
    (folder / "globex.yaml").write_text(f"account: globex\nconnections:\n{CRM.replace('acme', 'globex')}")
    assert deployment.run("connections", "apply", str(folder)).out == (
        "+ globex-crm\n~ acme-drop: campaigns\n- acme-crm\n"
        "2 accounts, 2 connections: in force as version 2; 1 added, 1 changed, 1 removed\n"
    )


def test_apply_tells_what_waits_for_a_connection_taken_out(deployment: Deployment) -> None:
    deployment.init()
    folder = deployment.connect(ACME + CRM)
    with deployment.valkey.client() as client:
        push = Keys(deployment.topics.referrals, Role.PUSH).prefix(0)
        batch = Keys(deployment.topics.referrals, Role.BATCH).prefix(1)
        client.hset(f"{push}lane:acme-crm:body", "7", "frozen")
        client.rpush(f"{batch}open:acme-crm", "row", "row")
    (folder / "acme.yaml").write_text(ACME)
    out = deployment.run("connections", "apply", str(folder)).out
    assert "- acme-crm: 3 referrals wait until a connection has that name again\n" in out


def test_apply_refuses_another_kind_while_something_waits(deployment: Deployment) -> None:
    deployment.init()
    folder = deployment.connect(ACME + CRM)
    lane = f"{Keys(deployment.topics.referrals, Role.PUSH).prefix(0)}lane:acme-crm:body"
    with deployment.valkey.client() as client:
        client.hset(lane, "7", "frozen")
    (folder / "acme.yaml").write_text(ACME + CRM_AS_HUBSPOT)
    said = deployment.run("connections", "apply", str(folder))
    assert (said.code, said.out) == (1, "")
    assert said.err == (
        "acme-crm has 1 delivery waiting, made for its present kind, and another kind cannot send them: "
        "let them end first, or give the new connection a name of its own\n"
    )
    with deployment.valkey.client() as client:
        client.delete(lane)
    assert "~ acme-crm: " in deployment.run("connections", "apply", str(folder)).out


def test_init_refuses_a_compacted_topic(deployment: Deployment) -> None:
    admin = Admin(deployment.kafka.bootstrap, {})
    admin.create(deployment.topics.referrals, 1, {"cleanup.policy": "compact"}, 1)
    said = deployment.run("init", "--from", "earliest")
    assert said.code == 1
    assert "is compacted" in said.err


def test_apply_without_a_folder_asks_for_one(deployment: Deployment) -> None:
    assert deployment.run("connections", "apply") == Said(
        1, "", "which folder? name it, or set REFERRALS_CONNECTIONS\n"
    )
    said = deployment.run("connections", "apply", str(deployment.folder / "none"))
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "is not a folder: check the path or REFERRALS_CONNECTIONS" in said.err


def test_pause_and_resume_are_in_redis_and_in_the_list(deployment: Deployment) -> None:
    deployment.init()
    deployment.connect(ACME + CRM)
    paused = Keys(deployment.topics.referrals, Role.PUSH).paused

    def stored() -> dict[bytes, bytes]:
        with deployment.valkey.client() as client:
            return client.hgetall(paused)

    assert deployment.run("connections", "pause", "acme-crm", "--reason", "Umzug nach Köln") == Said(
        0, "acme-crm is paused\n", ""
    )
    assert stored() == {b"acme-crm": "Umzug nach Köln".encode()}
    assert deployment.run("connections", "pause", "acme-crm").out == (
        "acme-crm was paused already; the reason is noted\n"
    )
    assert stored() == {b"acme-crm": b"by an operator"}
    listed = deployment.run("connections", "list")
    assert [line for line in listed.out.splitlines() if "by an operator" in line][0].startswith(
        "acme     acme-crm"
    )
    assert "1 paused" in listed.err
    assert deployment.run("connections", "resume", "acme-crm") == Said(0, "acme-crm goes on\n", "")
    assert stored() == {}
    assert deployment.run("connections", "resume", "acme-crm") == Said(0, "acme-crm was not paused\n", "")


def test_an_unknown_connection_is_told_with_a_guess(deployment: Deployment) -> None:
    deployment.init()
    deployment.connect(ACME + CRM)
    for arguments in (("connections", "pause"), ("connections", "resume"), ("flush",), ("windows",)):
        said = deployment.run(*arguments, "acme-dorp")
        assert (said.code, said.out) == (1, "")
        assert "'acme-dorp': did you mean acme-drop?" in said.err
    assert deployment.run("connections", "pause", "acme-drop", "--reason", "two\nlines").code == 1


def test_a_pause_needs_no_kafka(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment.init()
    deployment.connect()
    monkeypatch.setenv("REFERRALS_KAFKA", f"127.0.0.1:{free_port()}")
    assert deployment.run("connections", "pause", "acme-drop").code == 0
    assert "by an operator" in deployment.run("connections", "list").out


# --- publish -----------------------------------------------------------------------------------------


def jsonl(path: Path, *events: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(e, ensure_ascii=False) + "\n" for e in events), "utf-8")
    return str(path)


def as_json(referral_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "event_id": f"e-{referral_id}",
        "referral_id": referral_id,
        "event_type": "CREATED",
        "account_id": "acme",
        "campaign_id": "c-1",
        "campaign_type": "LEAD",
        "first_name": "Nguyễn Zoë",
        "email": "zoe@example.com",
        "postal_code": "00123",
        "ad_response": "=cmd()",
        "bid_price": "1.2500",
        "birth_date": "1990-12-31",
        "opted_in_at": "2026-03-08T12:30:00+10:00",
        "produced_at": "2026-03-08T02:30:00.123457Z",
        **changes,
    }


def murmur2(key: bytes) -> int:
    """Java's, as its clients choose partitions."""
    m, h = 0x5BD1E995, 0x9747B28C ^ len(key)
    whole = len(key) // 4 * 4
    for i in range(0, whole, 4):
        k = int.from_bytes(key[i : i + 4], "little") * m & 0xFFFFFFFF
        k = (k ^ k >> 24) * m & 0xFFFFFFFF
        h = (h * m & 0xFFFFFFFF) ^ k
    if rest := key[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * m & 0xFFFFFFFF
    h = (h ^ h >> 13) * m & 0xFFFFFFFF
    return (h ^ h >> 15) & 0x7FFFFFFF


def test_publish_keeps_the_contract(deployment: Deployment, tmp_path: Path) -> None:
    deployment.init()
    count = 2_345
    path = jsonl(tmp_path / "events.jsonl", *(as_json(f"r-{n}") for n in range(count)))
    said = deployment.run("publish", path)
    assert said.code == 0, said
    assert said.out.startswith(f"published 2,345 referral events to {deployment.topics.referrals}\n")
    assert "within an hour" in said.err
    assert "dropped as duplicates" in said.err
    records = deployment.records()
    assert sorted(record.key or b"" for record in records) == sorted(f"r-{n}".encode() for n in range(count))
    by_partition = [0] * PARTITIONS
    for record in records:
        found = referral.decode(record.value)
        assert record.key == found.referral_id.encode()
        assert record.partition == murmur2(record.key) % PARTITIONS
        assert found.fields["first_name"] == "Nguyễn Zoë"
        by_partition[record.partition] += 1
    shown = [line.split() for line in said.out.splitlines()[2:]]
    assert shown == [[str(p), f"{number:,}"] for p, number in enumerate(by_partition)]


def test_publish_reads_standard_input(deployment: Deployment, tmp_path: Path) -> None:
    deployment.init()
    done = subprocess.run(
        [sys.executable, "-m", "console", "publish", "-"],
        cwd=ROOT, env=clean(**deployment.environment), capture_output=True, text=True, timeout=SECONDS, check=True,
        input=json.dumps(as_json("r-1")),
    )  # fmt: skip
    assert "published 1 referral event to" in done.stdout
    assert [record.key for record in deployment.records()] == [b"r-1"]


def test_one_wrong_line_and_nothing_is_published(deployment: Deployment, tmp_path: Path) -> None:
    deployment.init()
    path = jsonl(
        tmp_path / "events.jsonl",
        as_json("r-1"), as_json("r-2", age="35", email=7), as_json("r-3"), as_json("", nmae="Zoë"), as_json("r-5", bid_price=1.5),
    )  # fmt: skip
    said = deployment.run("publish", path)
    assert (said.code, said.out) == (1, "")
    second, fourth, fifth, last = said.err.splitlines()
    assert second.startswith(f"{path}:2: ")
    assert "age must be a whole number" in second
    assert "email must be text" in second
    assert "nmae is unknown" in fourth
    assert "bid_price must be a decimal number" in fifth
    assert last == "nothing was published: 3 lines are not a referral event"
    assert deployment.records() == []


def test_a_hundred_faults_are_shown_and_the_rest_counted(deployment: Deployment, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "events.jsonl", *(as_json(f"r-{n}", age="old") for n in range(130)))
    lines = deployment.run("publish", path).err.splitlines()
    assert len(lines) == 102
    assert lines[-2:] == ["and 30 more lines", "nothing was published: 130 lines are not a referral event"]


def test_publish_refuses_no_file_no_event_and_no_topic(deployment: Deployment, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    good = jsonl(tmp_path / "good.jsonl", as_json("r-1"))
    for path, says in (
        (str(tmp_path / "none.jsonl"), "cannot be read: No such file or directory"),
        (str(tmp_path), "cannot be read: Is a directory"),
        (str(tmp_path / "empty.jsonl"), "holds no event: give one JSON object a line"),
        (good, f"topic {deployment.topics.referrals} is not in Kafka"),
    ):
        said = deployment.run("publish", path)
        assert (said.code, said.out, said.err.count("\n")) == (1, "", 1)
        assert says in said.err


class FakeRegistry:
    """A Schema Registry of one schema, over HTTP. `answers`: status and body that overrule it."""

    def __init__(self) -> None:
        self.schemas: list[str] = []
        self.asked: list[str] = []
        self.answers: tuple[int, bytes] | None = None

    def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        self.asked.append(path)
        if self.answers is not None:
            return self.answers
        if path.startswith("/schemas/ids/7"):
            return 200, json.dumps({"schema": self.schemas[0]}).encode()
        subject = path.split("/")[2].partition("?")[0]
        if path.partition("?")[0].endswith("/versions"):
            self.schemas.append(json.loads(body)["schema"])
            return 200, b'{"id": 7}'
        if not self.schemas:
            return 404, b'{"error_code": 40401, "message": "Subject not found"}'
        found = {"subject": subject, "id": 7, "version": 1, "schema": self.schemas[0]}
        return 200, json.dumps(found).encode()


@contextmanager
def registry() -> Iterator[tuple[str, FakeRegistry]]:
    fake = FakeRegistry()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, body = fake.answer(self.path, self.rfile.read(int(self.headers.get("Content-Length", 0))))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *_: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_with_a_registry_records_carry_its_schema_id(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.init()
    deployment.connect()
    path = jsonl(tmp_path / "events.jsonl", as_json("r-1"), as_json("r-2"))
    with registry() as (url, fake):
        monkeypatch.setenv("REFERRALS_SCHEMA_REGISTRY", url)
        for _ in range(2):
            said = deployment.run("publish", path)
            assert said.code == 0, said
        assert len(fake.schemas) == 1, "registered once, looked up after that"
        assert {path.partition("?")[0] for path in fake.asked} == {
            f"/subjects/{deployment.topics.referrals}-value",
            f"/subjects/{deployment.topics.referrals}-value/versions",
        }
        for record in deployment.records():
            assert (record.value or b"")[:5] == b"\x00\x00\x00\x00\x07"
            assert (
                referral.decode(record.value, Registry(url, threading.Event().wait)).fields["first_name"]
                == "Nguyễn Zoë"
            )
        rows, _ = exported(deployment)
        assert sorted(row["referral_id"] for row in rows) == ["r-1", "r-2"]


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        pytest.param((409, b'{"error_code": 409, "message": "x"}'), "refuses the schema", id="incompatible"),
        pytest.param((503, b"<html>"), "is in trouble (HTTP 503", id="in trouble"),
        pytest.param((200, b"<html>welcome</html>"), "is not a Schema Registry", id="not a registry"),
        pytest.param(None, "the Schema Registry does not answer", id="nobody there"),
    ],
)
def test_a_registry_in_trouble_is_one_line(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers, says: str
) -> None:
    deployment.init()
    path = jsonl(tmp_path / "events.jsonl", as_json("r-1"))
    with registry() as (url, fake):
        fake.answers = answers
        monkeypatch.setenv("REFERRALS_SCHEMA_REGISTRY", url if answers else f"http://127.0.0.1:{free_port()}")
        said = deployment.run("publish", path)
    assert (said.code, said.out, said.err.count("\n")) == (1, "", 1)
    assert says in said.err
    assert deployment.records() == []


# --- export ------------------------------------------------------------------------------------------

#: Kafka counts milliseconds.
NOW = datetime.now(UTC).replace(microsecond=0)


def hours(number: float) -> datetime:
    return NOW + timedelta(hours=number)


def exported(
    deployment: Deployment, *more: str, start: float = -24, end: float = 24
) -> tuple[list[dict], list[str]]:
    """The rows, and what was said about them."""
    span = ("--from", hours(start).isoformat(), "--to", hours(end).isoformat())
    said = deployment.run("export", "--account", "acme", *span, *more)
    assert said.code == 0, said
    return list(csv.DictReader(io.StringIO(said.out, newline=""), delimiter=";")), said.err.splitlines()


def test_an_export_is_what_a_file_would_hold(deployment: Deployment, tmp_path: Path) -> None:
    deployment.init()
    deployment.connect()
    path = jsonl(
        tmp_path / "events.jsonl",
        as_json("r-1", first_name="Old"),
        as_json("r-1", event_type="CORRECTED", revision=1),
        as_json("r-2"),
        as_json("r-2", event_type="WITHDRAWN"),
        as_json("r-3"),
        as_json("r-3", event_type="ERASED"),
        as_json("r-4", is_test=True),
        as_json("r-5", campaign_id="c-2"),
        as_json("r-6", account_id="globex"),
        as_json("r-7", event_type="WITHDRAWN"),
        as_json("r-7", event_type="CORRECTED", revision=1, first_name='Zoë; "die" Zweite'),
    )  # fmt: skip
    assert deployment.run("publish", path).code == 0
    KafkaOut(deployment.kafka.bootstrap, {}).send([Out(deployment.topics.referrals, "r-8", b"not Avro")])
    rows, said = exported(deployment)
    assert sorted(rows, key=lambda row: row["referral_id"]) == [
        {"referral_id": "r-1", "first_name": "Nguyễn Zoë", "zip": "00123", "ad_response": "=cmd()"},
        {"referral_id": "r-7", "first_name": 'Zoë; "die" Zweite', "zip": "00123", "ad_response": "=cmd()"},
    ]
    assert said[0].startswith("exported 2 referrals of acme as for acme-drop, ")
    assert sorted(said[1:]) == [
        "left out 1: earlier or repeated revisions",
        "left out 1: erased",
        "left out 1: of campaigns the connection does not get",
        "left out 1: tests",
        "left out 1: withdrawn",
        "undecodable records of the range, of any account: 1; see the dead letters",
    ]
    assert exported(deployment)[0] == rows, "the same range gives the same file"
    guarded, _ = exported(deployment, "--formula-guard")
    assert {row["ad_response"] for row in guarded} == {"'=cmd()"}


def test_a_range_is_by_kafkas_time_and_removals_by_none(deployment: Deployment) -> None:
    deployment.init()
    deployment.connect()
    deployment.produce(event(referral_id="before", campaign_id="c-1"), at=hours(-4))
    deployment.produce(event(referral_id="gone-before", event_type="ERASED"), at=hours(-4))
    deployment.produce(event(referral_id="first", campaign_id="c-1"), at=hours(-3))
    deployment.produce(event(referral_id="revised", campaign_id="c-1"), at=hours(-2))
    deployment.produce(event(referral_id="gone-after", campaign_id="c-1"), at=hours(-2))
    deployment.produce(event(referral_id="gone-before", campaign_id="c-1"), at=hours(-2))
    deployment.produce(
        event(referral_id="revised", campaign_id="c-1", event_type="CORRECTED", revision=3), at=hours(-1)
    )
    deployment.produce(event(referral_id="gone-after", event_type="WITHDRAWN", revision=2), at=hours(0))
    rows, said = exported(deployment, start=-3, end=-1)
    assert sorted(row["referral_id"] for row in rows) == ["first", "revised"], (
        "no services ever ran: all is read"
    )
    assert "left out 1: erased" in said
    assert "left out 1: withdrawn" in said
    assert exported(deployment, start=-1, end=-0.5)[0][0]["referral_id"] == "revised"
    assert exported(deployment, start=1, end=2)[0] == []


def test_removals_before_the_range_are_known_from_redis(deployment: Deployment) -> None:
    """As it stands once intake has read them: then the topic is not read from before the range."""
    deployment.init()
    deployment.connect()
    deployment.produce(
        event(referral_id="r-1", campaign_id="c-1"), event(referral_id="r-2", campaign_id="c-1"), at=hours(-1)
    )
    removals = [
        Removal("r-1", erased=True, revision=0, coordinates="x"),
        Removal("r-2", erased=False, revision=1, coordinates="y"),
    ]
    store = Store(deployment.valkey.url)
    keys = Keys(deployment.topics.referrals, Role.BATCH)
    for p in range(PARTITIONS):
        for removal in removals:
            store.call(intake.mark(keys, p, removal))
        store.command("HSET", keys.head(p), "next", 1_000_000)
    store.close()
    rows, said = exported(deployment)
    assert [row["referral_id"] for row in rows] == ["r-2"], "withdrawn at a lower revision than it has"
    assert "left out 1: erased" in said


def test_an_export_moves_nothing(deployment: Deployment, tmp_path: Path) -> None:
    deployment.init()
    deployment.connect()
    deployment.produce(*(event(referral_id=f"r-{n}", campaign_id="c-1") for n in range(50)))

    client = AdminClient({"bootstrap.servers": deployment.kafka.bootstrap})

    def groups() -> set[str]:
        listed = client.list_consumer_groups().result(20)
        assert listed.errors == []
        return {group.group_id for group in listed.valid}

    before = content(deployment), groups()
    rows, _ = exported(deployment)
    assert len(rows) == 50
    assert (content(deployment), groups()) == before


def test_a_reader_that_leaves_early_is_no_error_to_tell(deployment: Deployment) -> None:
    deployment.init()
    deployment.connect()
    deployment.produce(*(event(referral_id=f"r-{n}", campaign_id="c-1") for n in range(50)))
    command = ("export", "--account", "acme", "--from", "2020-01-01", "--to", "2099-01-01")
    with subprocess.Popen(
        [sys.executable, "-m", "console", *command],
        cwd=ROOT, env=clean(**deployment.environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(SECONDS) == 1
        assert process.stderr.read() == ""


def test_a_file_appears_whole_for_its_owner_or_not_at_all(deployment: Deployment, tmp_path: Path) -> None:
    deployment.init()
    deployment.connect(ACME + CRM)
    deployment.produce(event(referral_id="r-1", campaign_id="c-1"))
    out = tmp_path / "out"
    out.mkdir()
    (out / "acme.csv").write_text("yesterday's")
    span = ("--from", "2020-01-01", "--to", "2099-01-01", "--connection", "acme-drop")
    said = deployment.run("export", "--account", "acme", *span, "--out", str(out / "acme.csv"))
    assert (said.code, said.out) == (0, "")
    assert "2020-01-01T00:00:00+11:00" in said.err, "in the connection's own zone"
    assert (out / "acme.csv").read_bytes() == (
        '"referral_id";"first_name";"zip";"ad_response"\r\n"r-1";"Zoë";"02650";"Yes, please"\r\n'.encode()
    )
    assert (out / "acme.csv").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in out.iterdir()] == ["acme.csv"]
    nowhere = deployment.run("export", "--account", "acme", *span, "--out", str(out / "none" / "acme.csv"))
    assert nowhere.code == 1
    assert nowhere.err.endswith("acme.csv: cannot be written: No such file or directory\n")


def test_what_to_export_must_be_clear(deployment: Deployment) -> None:
    deployment.init()
    deployment.connect(ACME + CRM)
    zoned = ("--from", "2026-01-01T00:00Z", "--to", "2026-01-02T00:00Z")
    bare = ("--from", "2026-01-01", "--to", "2026-01-02")
    for arguments, says in (
        (("acme", *zoned), "say --connection acme-crm or acme-drop"),
        (("acne", *zoned), "there is no account 'acne': did you mean acme?"),
        (
            ("acme", "--connection", "acme-cmr", *zoned),
            "acme has no connection 'acme-cmr': did you mean acme-crm?",
        ),
        (("acme", "--connection", "acme-crm", *bare), "does not say which zone: add an offset"),
        (
            ("acme", "--connection", "acme-drop", *zoned[:3], "2025-12-31T00:00Z"),
            "--from must be earlier than --to",
        ),
    ):
        said = deployment.run("export", "--account", *arguments)
        assert (said.code, said.out, said.err.count("\n")) == (1, "", 1)
        assert says in said.err


# --- windows and flush -------------------------------------------------------------------------------


def test_a_flush_on_request_and_its_end(deployment: Deployment, tmp_path: Path) -> None:
    deployment.init()
    deployment.connect(ACME + CRM)
    assert deployment.run("windows", "acme-drop").out.splitlines()[1].split() == ["acme-drop", "none", "yet"]
    late = deployment.run("flush", "acme-drop", "--wait", "0.1")
    assert late.code == 1
    assert "nobody has begun the window of acme-drop yet: does `python -m batcher flush` run?" in late.err
    assert "a flush was asked for at" in deployment.run("windows").out
    assert deployment.run("flush", "acme-drop").out.startswith("asked for a window of acme-drop: ")
    service = start(
        Command(
            name="flush",
            argv=(sys.executable, "-m", "batcher", "flush"),
            log=tmp_path / "flush.log",
            ready=lambda output: "service.started" in output,
            environment=deployment.environment,
            folder=ROOT,
        )
    )
    try:
        ended = deployment.run("flush", "acme-drop", "--wait", "30")
        assert ended.code == 0, (ended, service.output())
        # Nothing came in and the connection wants no empty files: so it ended without a server.
        assert "DELIVERED, 0 rows (nothing new, no file wanted)" in ended.out
        name, number, state, slot, rows, *_ = deployment.run("windows").out.splitlines()[1].split()
        assert (name, state, rows) == ("acme-drop", "CLOSED", "0")
        assert int(number) >= 1
        assert slot.startswith("asked:")
    finally:
        service.stop()
