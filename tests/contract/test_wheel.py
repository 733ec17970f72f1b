"""The services start from the built wheel, in an empty directory, with nothing of the checkout in reach."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from console.begin import begin
from consumer.service import Settings
from deploy.embedded.processes import Command, start
from tests.support.deployment import SERVICES
from tests.support.kafka import Kafka
from tests.support.valkey import Valkey

ROOT = Path(__file__).parents[2]
BUILD = "from setuptools.build_meta import build_wheel; build_wheel('dist')"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, unpacked as an installation has it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("schemas", "consumer", "batcher", "console"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run((sys.executable, "-c", BUILD), cwd=source, check=True, capture_output=True, timeout=100)
    (wheel,) = (source / "dist").glob("*.whl")
    target = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def environment(installed: Path, **variables: str) -> dict[str, str]:
    return {**os.environ, **variables, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}


def test_the_services_start(
    installed: Path, tmp_path: Path, kafka: Kafka, topic_prefix: str, valkey: Valkey
) -> None:
    begin(Settings(kafka=kafka.bootstrap, redis=valkey.url, prefix=topic_prefix), "earliest", 2, 1)
    (tmp_path / "empty").mkdir()
    variables = environment(
        installed,
        REFERRALS_KAFKA=kafka.bootstrap,
        REFERRALS_REDIS=valkey.url,
        REFERRALS_PREFIX=topic_prefix,
        REFERRALS_SMTP_STARTTLS="false",
    )
    for name, module in SERVICES.items():
        argv = (sys.executable, "-m", *module)
        command = Command(
            name,
            argv,
            tmp_path / f"{name}.log",
            lambda out: "service.started" in out,
            variables,
            tmp_path / "empty",
        )
        child = start(command)
        assert child.stop() == 0, child.last_line()


def test_the_command_starts(installed: Path, tmp_path: Path) -> None:
    argv = (sys.executable, "-m", "console", "--help")
    told = subprocess.run(
        argv, cwd=tmp_path, env=environment(installed), capture_output=True, text=True, timeout=60, check=True
    )
    assert "connections" in told.stdout
