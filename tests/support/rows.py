"""Referrals on their way into windows, without Kafka: the layout, the intake script, and what to expect."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from batcher.collect import targets
from consumer import intake, layout
from consumer.intake import Accepted, Entry, Fingerprint, Taken
from consumer.keys import Keys, Role
from consumer.layout import Layout
from consumer.store import Store
from consumer.stream import Record
from consumer.topics import Topics
from schemas import referral
from schemas.connection import FileConnection
from tests.support.referral_events import event

PARTITIONS = 2
COLUMNS = ("referral_id", "email", "postal_code")


class Intake:
    """The owner of all partitions of a layout just written."""

    def __init__(
        self, store: Store, keys: Keys, partitions: int = PARTITIONS, starts: Sequence[int] | None = None
    ) -> None:
        self._store, self._keys = store, keys
        self.next = list(starts or [0] * partitions)
        taken = [intake.taken(store.call(intake.take(keys, p, "collect", 0))) for p in range(partitions)]
        self._epochs = [owned.epoch for owned in taken if isinstance(owned, Taken)]
        assert len(self._epochs) == partitions

    def put(
        self, partition: int, connections: Sequence[FileConnection], *events: Mapping[str, Any]
    ) -> list[bytes]:
        """One batch of records; their rows."""
        first, rows, entries = self.next[partition], [], []
        for offset, given in enumerate(events, first):
            decoded = referral.decode(value := referral.encode(given))
            record = Record(self._keys.topic, partition, offset, None, value, 0)
            wanted = targets(decoded, record, connections)
            once = Fingerprint(offset, 1, offset % 7)
            entries.append(Entry(offset, once, b"", decoded.referral_id, decoded.revision, wanted))
            rows.append(intake.row(offset, value))
        self.next[partition] += len(events)
        call = intake.intake(
            self._keys,
            partition,
            epoch=self._epochs[partition],
            prev=first,
            next_offset=self.next[partition],
            set_version=1 << 20,
            entries=entries,
        )
        assert isinstance(intake.accepted(self._store.call(call)), Accepted)
        return rows

    def remove(self, referral_id: str, *, erased: bool = False, revision: int = 0) -> None:
        """As collect spreads a removal: over every partition."""
        removal = intake.Removal(referral_id, erased, revision, f"removal of {referral_id}")
        for p in range(len(self.next)):
            self._store.call(intake.mark(self._keys, p, removal))


def write_layout(store: Store, topics: Topics, found: Layout) -> None:
    """An empty Redis as `init` leaves it."""
    store.command("FLUSHDB")
    layout.write(store, topics, found)
    store.command("HSET", Keys(topics.referrals, Role.PUSH).layout, "complete", "1")


def person(number: int, **changes: Any) -> dict[str, Any]:
    return event(referral_id=f"r-{number:06d}", email=f"p{number}@example.com", revision=0, **changes)


def chained(rows: Sequence[bytes]) -> str:
    """Each row's digest covers the one before."""
    digest = ""
    for row in rows:
        digest = hashlib.sha1(digest.encode() + row).hexdigest()
    return digest


def csv_of(people: Sequence[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> bytes:
    """The file these people make, written without the code under test."""
    lines = [columns, *([str(one[name]) for name in columns] for one in people)]
    return b"".join(",".join(f'"{cell}"' for cell in line).encode() + b"\r\n" for line in lines)
