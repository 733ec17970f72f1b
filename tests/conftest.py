"""What every test can have: a Kafka, a Valkey, and enough open files."""

from __future__ import annotations

from hypothesis import settings

from deploy.embedded.processes import raise_open_files

pytest_plugins = ["tests.support.kafka", "tests.support.valkey"]


# A busy machine must not turn a slow example into a failure.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


def pytest_configure() -> None:
    raise_open_files()
