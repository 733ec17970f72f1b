"""Where a running deployment stands, as Redis and Kafka tell it: for the demo's progress and its judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from batcher.window import State
from batcher.windows import Windows
from consumer.frozen import thaw
from consumer.keys import Keys, Role
from consumer.reading import read_all
from consumer.service import Settings
from consumer.store import Store, text
from consumer.topics import Topics
from deploy.embedded.reconcile import WindowEnd
from schemas import receipt as receipts
from schemas import referral as referrals
from schemas.delivery import Outcome
from schemas.receipt import Subject

#: Rows and bodies read in one round trip.
PAGE = 1_000


class Standing:
    """Over one Redis connection. Every method raises StoreUnavailable while Redis is away."""

    def __init__(self, settings: Settings, partitions: int) -> None:
        self._settings, self._partitions = settings, range(partitions)
        self._topics = Topics(settings.prefix)
        self._store = Store(settings.redis)
        self._push = Keys(self._topics.referrals, Role.PUSH)
        self._batch = Keys(self._topics.referrals, Role.BATCH)
        self._windows = Windows(self._store, self._batch)

    def taken(self) -> tuple[int, int]:
        """Records that push and collect have taken, of a topic read from its beginning."""
        heads = [(keys.head(p), "next") for keys in (self._push, self._batch) for p in self._partitions]
        offsets = [int(found) for found in self._store.commands([("HGET", *head) for head in heads])]
        return sum(offsets[: len(self._partitions)]), sum(offsets[len(self._partitions) :])

    def waiting(self) -> Counter[str]:
        """Deliveries that push has not ended, by connection."""
        lanes = self._lanes()
        counts = self._store.commands([("HLEN", body) for _, body in lanes]) if lanes else []
        waiting: Counter[str] = Counter()
        for (connection, _), count in zip(lanes, counts, strict=True):
            waiting[connection] += int(count)
        return +waiting

    def pending(self) -> set[tuple[str, str]]:
        """(connection, referral id) of every delivery that push has not ended."""
        found: set[tuple[str, str]] = set()
        for connection, body in self._lanes():
            offsets = self._store.command("HKEYS", body)
            for start in range(0, len(offsets), PAGE):
                bodies = self._store.command("HMGET", body, *offsets[start : start + PAGE])
                found.update((connection, thaw(raw).referral_id) for raw in bodies if raw is not None)
        return found

    def rows(self, connections: Sequence[str]) -> set[tuple[str, str]]:
        """(connection, referral id) of every row in a window that is not closed."""
        found: set[tuple[str, str]] = set()
        states = self._windows.states(connections)
        for connection in connections:
            window = states.get(connection)
            keys = [f"{self._batch.prefix(p)}open:{connection}" for p in self._partitions]
            if window is not None and window.state is not State.CLOSED:
                sealed = f"sealed:{connection}:{window.number}"
                keys += [f"{self._batch.prefix(p)}{sealed}" for p in self._partitions]
            for key in keys:
                found.update((connection, i) for i in self._row_ids(key))
        return found

    def ask(self, connections: Sequence[str], now: datetime) -> None:
        """Have their windows flushed now."""
        for connection in connections:
            self._windows.ask(connection, now)

    def flushed(self, connections: Sequence[str]) -> bool:
        """Nothing asked for is left, and no window is under way."""
        states = self._windows.states(connections)
        return not self._windows.asked() and all(s.state is State.CLOSED for s in states.values())

    def held(self, connections: Sequence[str]) -> dict[str, str]:
        """Windows that wait for a person, with the reason."""
        return {w.id: w.reason for w in self._windows.states(connections).values() if w.held}

    def receipts(self) -> tuple[Counter[str], dict[str, WindowEnd]]:
        """From Kafka, the first of each key: how deliveries and records ended, and how windows did."""
        ends: dict[str, WindowEnd] = {}
        outcomes: Counter[str] = Counter()
        seen: set[str] = set()
        for record in read_all(self._settings.kafka, self._settings.kafka_config, self._topics.receipts):
            found = receipts.decode(record.value or b"")
            if found.subject_id in seen:
                continue
            seen.add(found.subject_id)
            if found.subject is Subject.WINDOW:
                uncertain = found.outcome is Outcome.UNCERTAIN
                ends[found.subject_id] = WindowEnd(found.attempts, found.rows or 0, uncertain)
            else:
                outcomes[found.outcome] += 1
        return outcomes, ends

    def _lanes(self) -> list[tuple[str, str]]:
        """Connection and key of every lane's bodies."""
        names = self._store.commands([("SMEMBERS", f"{self._push.prefix(p)}lanes") for p in self._partitions])
        return [
            (text(name), f"{self._push.prefix(p)}lane:{text(name)}:body")
            for p, lanes in zip(self._partitions, names, strict=True)
            for name in lanes
        ]

    def _row_ids(self, key: str) -> list[str]:
        ids: list[str] = []
        while raws := self._store.command("LRANGE", key, len(ids), len(ids) + PAGE - 1):
            ids += [referrals.decode(raw[8:], routing_only=True).referral_id for raw in raws]
        return ids
