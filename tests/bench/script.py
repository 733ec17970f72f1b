"""The intake script fed with arguments that are ready: what Redis can take, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from batcher.collect import targets
from consumer import intake
from consumer.folder import look
from consumer.intake import Accepted, Entry, Taken
from consumer.keys import Keys, Role
from consumer.plan import Planner
from consumer.route import Router
from consumer.store import Call, Store
from consumer.stream import Record, record_of
from tests.bench.loops import CHUNK, WAIT_S, consumer

#: Any key will do: nobody else reads what is remembered under it.
FINGERPRINT_KEY = b"bench"
#: No set in force is newer.
SET = 1 << 20
#: Calls of one round trip: as many as a worker has partitions.
TOGETHER = 8


def script(given: Mapping[str, Any]) -> dict[str, float]:
    """Plans everything first, then offers it to the heads of `into`, a topic nobody reads."""
    keys, store = Keys(given["into"], Role.BATCH), Store(given["redis"])
    planner = Planner("bench", FINGERPRINT_KEY, whole=False, targets=targets)
    router = Router(look(given["connections"]).connections)
    by_partition = []
    for partition, records in _read(given).items():
        owned = intake.taken(store.call(intake.take(keys, partition, "bench", 0)))
        assert isinstance(owned, Taken)
        entries = planner.plan(records, router, time.time()).entries
        by_partition.append(list(_calls(keys, partition, owned.epoch, entries)))
    rounds = max(map(len, by_partition))
    calls = [calls[n] for n in range(rounds) for calls in by_partition if n < len(calls)]
    began, spent = time.monotonic(), time.process_time()
    for first in range(0, len(calls), TOGETHER):
        for reply in store.calls(calls[first : first + TOGETHER]):
            assert isinstance(intake.accepted(reply), Accepted)
    seconds, spent = time.monotonic() - began, time.process_time() - spent
    return {"per_s": given["records"] / seconds, "cpu_us": spent / given["records"] * 1e6}


def _calls(keys: Keys, partition: int, epoch: int, entries: Sequence[Entry]) -> Iterator[Call]:
    for first in range(0, len(entries), intake.MAX_BATCH):
        some = entries[first : first + intake.MAX_BATCH]
        yield intake.intake(
            keys,
            partition,
            epoch=epoch,
            prev=first,
            next_offset=first + len(some),
            set_version=SET,
            entries=some,
        )


def _read(given: Mapping[str, Any]) -> dict[int, list[Record]]:
    found: dict[int, list[Record]] = {}
    source, left, silent_since = consumer(given), given["records"], time.monotonic()
    while left:
        messages = [one for one in source.consume(CHUNK, 0.1) if one.error() is None]
        if messages:
            silent_since = time.monotonic()
        elif time.monotonic() - silent_since > WAIT_S:
            raise TimeoutError("Kafka says nothing")
        for message in messages[:left]:
            found.setdefault(message.partition(), []).append(record_of(message))
        left -= len(messages[:left])
    source.close()
    return found
