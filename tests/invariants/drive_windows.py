"""What the drivers of one window share: the real scripts behind `Windows`, and a Redis that falls back to its barrier.

Leases end when a step says so: their time is set to be over. Tokens are counted as the models count them.
"""

from collections.abc import Callable, Sequence
from pathlib import PurePath

from batcher.artefacts import Fields
from batcher.channels.mail import Relay
from batcher.deliver import Sending
from batcher.window import State, WindowState
from batcher.windows import Windows
from consumer.addresses import Policy
from consumer.secrets import Secrets
from consumer.store import Call, Reply, Store, StoreRefused
from tests.invariants.drive import Bench

CONNECTION = "file"
FIRST, NEXT = "asked:2026-01-01T00:00:00.000+00:00", "asked:2026-01-02T00:00:00.000+00:00"
BEGUN: Fields = {"state": State.SEALED, "marks": "[]", "digest": "d", "account": "acme", "sealed_at": 1_000}


class BenchStore(Store):
    """Its scripts are the bench's, altered or not; its barrier is the bench's disk."""

    def __init__(self, url: str, bench: Bench) -> None:
        super().__init__(url)
        self._bench = bench

    def each(
        self, calls: Sequence[Call], meanwhile: Callable[[], None] = lambda: None
    ) -> list[Reply | StoreRefused]:
        return super().each([self._bench.altered(call) for call in calls], meanwhile)

    def barrier(self) -> None:
        self._bench.fsync()


class WindowBench:
    """One window, sealed and held by nobody."""

    def __init__(self, bench: Bench, url: str) -> None:
        self.bench = bench
        self.store = BenchStore(url, bench)
        self.windows = Windows(self.store, bench.keys)
        self.sending = Sending(
            windows=self.windows,
            partitions=1,
            secrets=Secrets(),
            relay=Relay("localhost", 25, 1.0, starttls=False),
            policy=Policy(),
            mail_from="referrals@market.example",
            monotonic=lambda: 0.0,
            by_id=None,
            step=lambda _: None,
        )
        opened = self.windows.claim(CONNECTION, "first", FIRST, 0, scheduled=False)
        assert opened is not None
        sealed = self.windows.advance(opened, BEGUN, durable=False)
        self.windows.release(sealed, {})
        self._tokens = [opened.token]
        bench.fsync()

    def claim(self, i: int) -> WindowState | None:
        """Whoever held it has been silent for too long."""
        key = self.bench.keys.window(CONNECTION)
        self.bench.read("HSET", key, "until", 0)
        found = self.windows.claim(CONNECTION, f"worker {i}", NEXT, 1, scheduled=False)
        if found is not None:
            self.store.barrier()
            self._tokens.append(found.token)
        return found

    def number_of(self, token: int | str) -> int:
        """The token as a model counts it."""
        return self._tokens.index(int(token))

    def state(self) -> WindowState:
        found = self.windows.state(CONNECTION)
        assert found is not None
        return found

    def close(self) -> None:
        self.store.close()


def part_of(path: str) -> tuple[str, int] | None:
    """Token and number of a temporary file, from 0; None for another file."""
    name = PurePath(path).name
    if not name.endswith(".part"):
        return None
    token, _tries, number = name.removesuffix(".part").rsplit(".", 3)[1:]
    return token, int(number) - 1
