"""What every test can have: a Kafka, a Valkey, and enough open files."""

from __future__ import annotations

from deploy.embedded.processes import raise_open_files

pytest_plugins = ["tests.support.kafka", "tests.support.valkey"]


def pytest_configure() -> None:
    raise_open_files()
