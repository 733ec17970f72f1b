"""What every test can have: a Kafka, a Valkey, and enough open files. How several processes share the run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

from consumer import log
from deploy.embedded import processes

pytest_plugins = [
    f"tests.support.{name}" for name in ("cases", "kafka", "valkey", "desk", "sides", "services")
]


# A busy machine must not turn a slow example into a failure.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


def pytest_configure() -> None:
    processes.raise_open_files()
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        # Nobody may take the port of a server that another's test has killed and starts again.
        number, workers = int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        processes.PORTS = processes.PORTS[number::workers]


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """What a test has configured in this process ends with it."""
    yield
    log.write_out()
    structlog.reset_defaults()
    log._lines.logger = structlog.get_logger()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first, so that none is left to one process while the others have nothing to do."""
    items.sort(key=lambda item: "faults" not in item.path.parts)
