"""What is open in Redis, read while the services go on.

Law: every list is read before the one its items move to (heads, windows, parked, bodies, outbox; receipts
and manifests in Kafka after all), so that an item on its way is seen in one of them, or in two, never in
none. What intake takes after its head was read is not taken yet, for a reconciliation.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from batcher.window import State, WindowState
from batcher.windows import Windows
from console.reconcile.facts import PARKED, Facts
from console.reconcile.judge import Found
from console.reconcile.record_class import COLLECT, PUSH, day
from console.reconcile.spans import OPEN, Span, campaigns_of
from console.reconcile.told import Told
from consumer import receipts
from consumer.frozen import thaw
from consumer.keys import Keys, Role
from consumer.run import Ground
from consumer.store import text
from schemas.connection import FileConnection
from schemas.delivery import Outcome

#: Items asked for in one round trip: Redis is busy with a page of bodies for a few milliseconds.
PAGE = 1_000
#: An open window and its partition's head are read together; while intake comes between, again.
TRIES = 20


@dataclass(frozen=True, slots=True)
class OpenNow:
    """`taken`: by service and partition, the next offset of intake. `spans`: of windows open, or sealed and
    not closed. `windows`: the newest of each connection.
    """

    seen_ms: int
    taken: Mapping[str, Mapping[int, int]]
    spans: Sequence[Span]
    windows: Mapping[str, WindowState]


def read(ground: Ground, connections: Mapping[str, FileConnection], facts: Facts, told: Told) -> OpenNow:
    """Into `facts` what push has open, into `told` what outboxes hold. `connections`: those of files.
    Raises StoreUnavailable.
    """
    seen_ms = round(time.time() * 1000)
    reading = _Reading(ground)
    taken = reading.heads()
    windows = Windows(ground.store, reading.batch)
    spans = list(reading.spans(connections, seen_ms))
    names = sorted(windows.connections() | connections.keys())
    states = windows.states(names)
    lanes = reading.lanes()
    for partition, name in lanes:
        for offset in reading.parked(partition, name):
            facts.note(partition, offset, PARKED, Outcome.PARKED, name)
    for partition, name in lanes:
        for referral, revision, found in reading.waiting(partition, name, seen_ms):
            facts.found(referral, revision, found)
    for raw in reading.outboxes():
        told.take(receipts.told_by(ground.topics, raw, seen_ms / 1000), seen_ms)
    return OpenNow(seen_ms, taken, spans, states)


class _Reading:
    def __init__(self, ground: Ground) -> None:
        topic = ground.topics.referrals
        self._store, self._partitions = ground.store, range(ground.layout.partitions)
        self.push, self.batch = Keys(topic, Role.PUSH), Keys(topic, Role.BATCH)

    def heads(self) -> dict[str, dict[int, int]]:
        found: dict[str, dict[int, int]] = {}
        for service, keys in ((PUSH, self.push), (COLLECT, self.batch)):
            nexts = self._store.commands([("HGET", keys.head(p), "next") for p in self._partitions])
            found[service] = {p: int(value or 0) for p, value in zip(self._partitions, nexts, strict=True)}
        return found

    def spans(self, connections: Mapping[str, FileConnection], seen_ms: int) -> Iterator[Span]:
        for name, connection in connections.items():
            for partition in self._partitions:
                to, seals = self._seals(name, partition)
                yield from _spans(name, partition, connection, to, seals, day(seen_ms))

    def _seals(self, name: str, partition: int) -> tuple[int, Mapping[str, str]]:
        """The head's offset, and the figures that belong to it; none of the rows where intake came between
        every time.
        """
        head, key = self.batch.head(partition), f"{self.batch.prefix(partition)}seals:{name}"
        rows = f"{self.batch.prefix(partition)}open:{name}"
        seals: dict[str, str] = {}
        after = 0
        for _ in range(TRIES):
            before, found, there, after = self._store.commands(
                [("HGET", head, "next"), ("HGETALL", key), ("LLEN", rows), ("HGET", head, "next")]
            )
            items = [text(item) for item in (_flat(found))]
            seals = dict(zip(items[::2], items[1::2], strict=True))
            if before == after:
                return int(after or 0), {**seals, "rows": text(there)}
        return int(after or 0), {**seals, "rows": "?"}

    def lanes(self) -> list[tuple[int, str]]:
        names = self._store.commands([("SMEMBERS", f"{self.push.prefix(p)}lanes") for p in self._partitions])
        each = zip(self._partitions, names, strict=True)
        return [(partition, text(name)) for partition, some in each for name in sorted(some)]

    def parked(self, partition: int, name: str) -> Iterator[int]:
        return map(int, self._from_the_end(f"{self.push.prefix(partition)}lane:{name}:parked"))

    def waiting(self, partition: int, name: str, seen_ms: int) -> Iterator[tuple[str, int, Found]]:
        """Referral, revision and delivery of every body of the lane."""
        lane = f"{self.push.prefix(partition)}lane:{name}"
        cursor = "0"
        while True:
            reply = self._store.command("HSCAN", f"{lane}:body", cursor, "COUNT", PAGE)
            cursor, items = text(reply[0]), _flat(reply[1])
            offsets = [int(offset) for offset in items[::2]]
            if offsets:
                held, behind = self._store.commands(
                    [("ZMSCORE", f"{lane}:{order}", *offsets) for order in ("held", "behind")]
                )
                for offset, raw, is_held, waits in zip(offsets, items[1::2], held, behind, strict=True):
                    frozen = thaw(raw)
                    waiting = Outcome.PENDING if waits is None else Outcome.HELD
                    state = waiting if is_held is None else Outcome.UNCERTAIN
                    found = Found(name, frozen.action, frozen.delivery_id, state, seen_ms, offset)
                    yield frozen.referral_id, frozen.revision, found
            if cursor == "0":
                return

    def outboxes(self) -> Iterator[bytes]:
        for keys in (self.push, self.batch):
            for partition in self._partitions:
                yield from self._from_the_end(f"{keys.prefix(partition)}outbox")

    def _from_the_end(self, key: str) -> Iterator[bytes]:
        """A list's items, last page first: what is taken from its head or added meanwhile makes none of the
        others be passed over, at worst some are seen twice.
        """
        last = -1
        while some := self._store.command("LRANGE", key, last - PAGE + 1, last):
            yield from some
            last -= PAGE


def _flat(found: Mapping[bytes, bytes] | Sequence[bytes]) -> Sequence[bytes]:
    """Names and values in turn, whichever way the client gives them."""
    if isinstance(found, Mapping):
        return [item for pair in found.items() for item in pair]
    return found


def _spans(
    name: str, partition: int, connection: FileConnection, to: int, seals: Mapping[str, str], today: str
) -> Iterator[Span]:
    """The open window's span, and those of windows whose rows Redis has still."""
    campaigns = campaigns_of(connection)
    for field, mark in seals.items():
        if field.startswith("mark:"):
            start, upto, rows, _removals, *digest = mark.split(" ")
            number = int(field.removeprefix("mark:"))
            its = digest[0] if digest else ""
            yield Span(name, partition, number, int(start), int(upto), int(rows), its, campaigns, today)
    start_of_open = seals.get("to", seals.get("from"))
    if start_of_open is not None and int(start_of_open) < to:
        rows = seals.get("rows", "0")
        number_of = None if rows == "?" else int(rows)
        digest_now = seals.get("digest", "")
        yield Span(name, partition, OPEN, int(start_of_open), to, number_of, digest_now, campaigns, today)


def held(windows: Mapping[str, WindowState], connection: str, number: int) -> bool:
    """Whether the window waits for a person."""
    window = windows.get(connection)
    return window is not None and window.number == number and window.held and window.state is not State.CLOSED
