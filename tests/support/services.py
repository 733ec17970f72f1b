"""Services of a place as processes of their own, and how they end."""

from __future__ import annotations

import json
import re
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from consumer.keys import Role
from consumer.run import Ground
from consumer.service import Stop
from deploy.embedded.processes import Child, Command, start
from tests.support.deployment import SERVICES
from tests.support.figures import ALERTS
from tests.support.receivers import ROOT
from tests.support.sides import Place, run


class Services:
    """Services of a place as processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.children: list[Child] = []

    def start(self, place: Place, name: str, argv: Sequence[str] = (), **settings: str) -> Child:
        """`push`, `collect` or `flush`; `argv`: what to run in its place."""
        environment = {
            "REFERRALS_KAFKA": place.kafka,
            "REFERRALS_REDIS": place.settings.redis,
            "REFERRALS_PREFIX": place.settings.prefix,
            "REFERRALS_SESSION_TIMEOUT_MS": "6000",
            "REFERRALS_ALLOW_HTTP": "true",
            "REFERRALS_ALLOWED_NETWORKS": "127.0.0.0/8,::1/128",
            **settings,
        }
        log = self._folder / f"{name}-{len(self.children)}.log"
        run = (sys.executable, "-m", *(argv or SERVICES[name]))
        command = Command(name, run, log, lambda out: "service.started" in out, environment, folder=ROOT)
        self.children.append(start(command))
        return self.children[-1]

    def close(self) -> None:
        for child in self.children:
            child.kill()


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    running = Services(tmp_path)
    yield running
    running.close()


def scraped(child: Child, timeout: float = 5) -> str:
    """Its /metrics. Raises OSError where nobody answers, which Prometheus tells as `up` 0."""
    line = next(one for one in child.output().splitlines() if '"service.started"' in one)
    address = f"http://127.0.0.1:{json.loads(line)['port']}/metrics"
    with urllib.request.urlopen(address, timeout=timeout) as answer:
        return str(answer.read().decode())


def refused(place: Place, line: str) -> None:
    """No service starts."""
    for role in Role:
        with pytest.raises(Stop, match=line):
            Ground(place.settings, role)


def halted(child: Child, line: str) -> None:
    """It ends by itself with code 1 and one clear line, and its instance is down for Prometheus."""
    run(lambda: child.exit_code is not None, f"{child.command.name} ends: {child.last_line()}")
    assert child.exit_code == 1
    assert re.search(line, child.last_line()), child.last_line()
    assert "Traceback" not in child.command.log.read_text()
    with pytest.raises(OSError):
        scraped(child)
    expressions = [rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]]
    assert any(re.search(rf"up{{job=.*{child.command.name}", one) for one in expressions)
