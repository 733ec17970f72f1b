"""The example connections, Docker Compose and the images fit the code; pages name what exists."""

import json
import re
import shutil
import subprocess
import tomllib
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import asyncssh
import pytest
import yaml

from consumer import folder
from consumer.service import DRAIN_S
from deploy.compose import prepare
from deploy.compose.referrals import line
from deploy.embedded.people import referrals
from schemas import referral, referral_json
from schemas.connection import Account
from schemas.connection_file import parse
from tests.support.deploy_files import (
    COMPOSE,
    DEPLOY,
    DOCKERFILE,
    ROOT,
    SERVICES,
    modules,
    named,
    settings_from,
)

EXAMPLES = sorted((DEPLOY / "connections.example").glob("*.yaml"))


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in EXAMPLES])
def test_an_example_is_an_account_named_as_its_file(path: Path):
    found = parse(path.read_text("utf-8"), path.name)
    assert isinstance(found, Account), "\n".join(map(str, found))
    assert found.account == path.stem


def test_the_examples_stand_beside_each_other_and_show_every_kind():
    found = folder.read(str(DEPLOY / "connections.example"))
    assert {connection.kind for _, connection in found.by_name().values()} == {
        "http", "mailchimp", "salesforce", "hubspot", "meta_custom_audience", "google_customer_match", "sftp", "ftps",
        "email",
    }  # fmt: skip


# Docker Compose.


def test_docker_compose_accepts_the_file():
    tool = shutil.which("docker-compose")
    if tool is None:
        pytest.skip("no docker-compose: apt-get install docker-compose; it needs no engine for this")
    done = subprocess.run(
        [tool, "config", "--quiet"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [*SERVICES, "init", "publish"])
def test_compose_sets_settings_that_exist(name: str, monkeypatch: pytest.MonkeyPatch):
    settings = settings_from(COMPOSE["services"][name]["environment"], monkeypatch)
    assert settings.kafka.partition(":")[0] in COMPOSE["services"]
    assert urlsplit(settings.redis).hostname in COMPOSE["services"]
    assert settings.smtp.partition(":")[0] in COMPOSE["services"]


@pytest.mark.parametrize("name", [name for name, one in COMPOSE["services"].items() if one.get("ports")])
def test_compose_publishes_to_this_machine_only(name: str):
    assert all(port.startswith("127.0.0.1:") for port in COMPOSE["services"][name]["ports"])


@pytest.mark.parametrize(
    "name", [name for name, one in COMPOSE["services"].items() if modules(one.get("command", []))]
)
def test_compose_starts_modules_that_exist(name: str):
    assert all(find_spec(module) for module in modules(COMPOSE["services"][name]["command"]))


@pytest.mark.parametrize("name", SERVICES)
def test_compose_leaves_a_service_time_to_drain(name: str):
    assert int(COMPOSE["services"][name]["stop_grace_period"].removesuffix("s")) > DRAIN_S


def test_compose_keeps_what_must_outlive_a_container():
    used = {
        volume.partition(":")[0]
        for one in COMPOSE["services"].values()
        for volume in one.get("volumes", ())
        if not volume.startswith(".")
    }
    assert used == set(COMPOSE["volumes"])
    mounted = [
        ROOT / volume.partition(":")[0]
        for one in COMPOSE["services"].values()
        for volume in one.get("volumes", ())
        if volume.startswith(".")
    ]
    assert all(path.is_dir() for path in mounted)
    valkey = " ".join(COMPOSE["services"]["valkey"]["command"])
    assert "--appendonly yes" in valkey
    assert "--maxmemory-policy noeviction" in valkey


def test_prometheus_scrapes_every_service_under_its_job():
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text("utf-8"))
    port = re.findall(r"REFERRALS_HTTP_PORT=(\d+)", DOCKERFILE)[0]
    assert {one["job_name"]: one["static_configs"][0]["targets"] for one in config["scrape_configs"]} == {
        named(name): [f"{name}:{port}"] for name in SERVICES
    }


def test_grafana_finds_its_data_and_its_dashboard():
    provisioning = DEPLOY / "grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards/referrals.yaml").read_text())["providers"]
    board = json.loads((DEPLOY / "grafana/dashboards/referrals.json").read_text("utf-8"))
    assert urlsplit(source["url"]).hostname in COMPOSE["services"]
    assert board["templating"]["list"][0]["current"]["value"] == source["uid"]
    assert any(
        volume.split(":")[1] == provider["options"]["path"]
        for volume in COMPOSE["services"]["grafana"]["volumes"]
    )


def test_prepare_pins_the_receivers_own_key_and_changes_nothing_when_repeated(tmp_path: Path):
    data, etc = tmp_path / "data", tmp_path / "etc"
    data.mkdir()
    etc.mkdir()

    def prepared() -> dict[Path, bytes]:
        prepare.prepare(data, etc)
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    first = prepared()
    assert prepared() == first
    account = parse((etc / "connections/brightbox.yaml").read_text("utf-8"), "brightbox.yaml")
    assert isinstance(account, Account)
    (sftp,) = [connection for connection in account.connections if connection.kind == "sftp"]
    key = asyncssh.read_private_key(str(data / "host-key"))
    assert sftp.host_keys == (key.get_fingerprint(),)
    users = json.loads((data / "users.json").read_text())
    assert users[sftp.username]["password"] == (etc / "secrets/sftp-password").read_text()
    assert all(
        path.stat().st_mode & 0o077 == 0 for path in (data / "users.json", etc / "secrets/sftp-password")
    )


def test_the_stacks_account_calls_the_stacks_receivers():
    account = parse(prepare.TEMPLATE.read_text("utf-8"), prepare.TEMPLATE.name)
    assert isinstance(account, Account)
    for connection in account.connections:
        if connection.kind == "http":
            where = urlsplit(connection.url)
            host, port = where.hostname, where.port
        elif connection.kind == "sftp":
            host, port = connection.host, connection.port
        else:
            continue
        assert f"--port {port}" in " ".join(COMPOSE["services"][host]["command"])


def test_the_stacks_referrals_are_what_publish_takes():
    at = datetime.now(UTC)
    for event in referrals(7, 50, [prepare.USER], at):
        read = referral_json.from_json(json.loads(line(event)))
        assert referral.encode(read) == referral.encode(event)


# The images.


def test_the_image_is_built_from_files_that_are_there_and_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [
        source
        for words in re.findall(r"(?m)^COPY (?!--from)(.+)$", DOCKERFILE)
        for source in words.split()[:-1]
    ]
    assert {f"!{source}" for source in copied} == {entry for entry in ignored if entry.startswith("!")}
    assert all((ROOT / source).exists() for source in copied if source != "README.md")


def test_the_image_holds_every_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = {package.partition(".")[0] for package in project["tool"]["setuptools"]["packages"]}
    assert {name for name in packages if f"COPY {name} {name}" not in DOCKERFILE} == set()


def test_the_image_lets_probes_in_and_is_not_root(monkeypatch: pytest.MonkeyPatch):
    pairs = dict(re.findall(r"(REFERRALS_\w+)=(\S+)", DOCKERFILE))
    settings = settings_from(pairs, monkeypatch)
    assert settings.http_host == "0.0.0.0"
    assert f"EXPOSE {settings.http_port}" in DOCKERFILE
    assert f":{settings.http_port}/readyz" in DOCKERFILE
    assert "USER 10001:10001" in DOCKERFILE


# The pages.


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "deploy/RUNBOOK.md"])
def test_a_page_names_files_that_exist(page: str):
    names = re.findall(r"`([\w.-]+/[\w./-]*)`", (ROOT / page).read_text("utf-8"))
    ours = [name for name in names if (ROOT / name.partition("/")[0]).is_dir()]
    assert [name for name in ours if not (ROOT / name).exists()] == []
