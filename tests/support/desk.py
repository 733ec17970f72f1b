"""A desk in this process, which does all there is to do when it is told to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from typing import Any

import pytest

from batcher.channels.mail import Relay
from batcher.deliver import Sending
from batcher.desk import Desk
from batcher.window import State
from batcher.windows import Windows
from consumer.run import Ground
from consumer.secrets import Secrets
from tests.support.batch import SENDER, House
from tests.support.rows import PARTITIONS


class Worker:
    """`at` are called once each, when a window has reached the step of that name. A second one beside another
    needs a name and a `ground` of its own.
    """

    def __init__(
        self,
        place: House,
        at: dict[str, Callable[[], object]],
        owner: str = "worker",
        ground: Ground | None = None,
    ) -> None:
        self._place, self.at = place, at
        self.relay = Relay("127.0.0.1", place.smtp.port, 10.0, starttls=False)
        self._pool = ThreadPoolExecutor(2)
        self._desk = Desk(ground or place.ground, owner, self._sending, self._pool)

    def _sending(self, windows: Windows) -> Sending:
        return Sending(
            windows=windows,
            partitions=PARTITIONS,
            secrets=Secrets(self._place.environment),
            relay=self.relay,
            policy=self._place.settings.policy,
            mail_from=SENDER,
            monotonic=time.monotonic,
            by_id=None,
            step=lambda name: self.at.pop(name, int)(),
        )

    def go(self, now: datetime | None = None) -> None:
        """Look once, and do all there is to do."""
        self._desk.look(now or datetime.now(UTC))
        assert not wait([future for future, _ in self._desk._busy.values()], timeout=30).not_done

    def sizes_anew(self) -> None:
        """The time after which the sizes of open windows are read again has passed."""
        self._desk._full._read.clear()

    def observe(self) -> None:
        """Look once more, so that the metrics tell."""
        self._desk.look(datetime.now(UTC))

    def close(self) -> None:
        assert self._desk.finish()
        self._pool.shutdown()


@pytest.fixture
def worker(place: House) -> Iterator[Worker]:
    """Of the module's own `place`."""
    running = Worker(place, {})
    yield running
    running.close()


def state(place: House, name: str) -> tuple[State, str]:
    window = place.state(name)
    assert window is not None
    return window.state, window.reason


def reading(metric: Any) -> float:
    return float(metric._value.get())


def flushed(place: House, worker: Worker, name: str) -> None:
    place.ask(name)
    worker.go()
    found, reason = state(place, name)
    assert found is State.CLOSED, reason
