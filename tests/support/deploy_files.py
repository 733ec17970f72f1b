"""deploy/ as the tests read it, and the settings that an environment in it makes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from consumer import service
from consumer.service import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
DOCKERFILE = (DEPLOY / "Dockerfile").read_text("utf-8")
SERVICES = ("push", "collect", "flush")


def named(name: str) -> str:
    """A service's job, deployment and, where it reads Kafka, consumer group."""
    return f"referral-{name}"


def settings_from(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Raises Stop where a variable is none of ours or its value is wrong."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return service.settings()


def modules(command: Sequence[str]) -> list[str]:
    """What a command line starts with `python -m`."""
    return re.findall(r"-m ([\w.]+)", " ".join(command))
