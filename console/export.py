"""`referrals export`: the referrals of a time range as a file, by hand. It never moves any position.

A connection's own format and mapping, never compressed nor encrypted; CSV for one that is pushed.

The topic is read twice: once to select (see `selection`), where memory holds an id and a few numbers
per referral of the account, and once to write, where it holds one row. Removals count wherever they
stand: those up to the range's start are known to Redis, unless intake is behind; then reading starts there.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import BinaryIO

from batcher.files import artefact
from batcher.files.feed import Feed
from batcher.files.sink import CannotBeWritten
from batcher.windows import Windows
from console.connections import require
from console.ground import standing
from console.moment import moment
from console.selection import Reason, Removed, Selection
from consumer import connection_sets, registry
from consumer.keys import Keys, Role
from consumer.reading import read_all
from consumer.route import AnyConnection, Router
from consumer.run import Ground
from consumer.service import Settings, Stop
from consumer.stream import Record
from schemas import referral as referrals
from schemas.codec import Undecodable
from schemas.connection import ConnectionSet, CsvFormat, PushBase
from schemas.mapping import Value
from schemas.referral import EventType, Referral, SchemaById

#: Removal marks asked for in one round trip.
PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to export: `start` inclusive to `end` exclusive, by the time Kafka notes on each record."""

    account: str
    connection: str
    start: datetime
    end: datetime

    def holds(self, record: Record) -> bool:
        return self.start.timestamp() * 1000 <= record.timestamp_ms < self.end.timestamp() * 1000


@dataclass(frozen=True, slots=True)
class Exported:
    """`undecodable` counts records of the range whose account nobody can know. `cut_off`: Kafka's log
    begins inside the range.
    """

    wanted: Wanted
    rows: int
    left_out: Mapping[Reason, int]
    undecodable: int
    cut_off: bool

    @property
    def span(self) -> str:
        return f"{self.wanted.start.isoformat()} to {self.wanted.end.isoformat()}"

    def remarks(self) -> Iterator[str]:
        yield from (f"left out {number:,}: {why.value}" for why, number in self.left_out.items() if number)
        if self.undecodable:
            number = f"{self.undecodable:,}"
            yield f"undecodable records of the range, of any account: {number}; see the dead letters"
        if self.cut_off:
            yield "Kafka's log may begin after --from: what its retention has deleted is not in this file"


def export(
    settings: Settings,
    account: str,
    name: str | None,
    times: tuple[str, str],
    out: str | None,
    *,
    guard: bool | None,
) -> Exported:
    """Write to the file `out`, or to standard output. Raises Stop.

    `times`: from and to, with an offset or in a file connection's own zone. `guard` overrules the
    connection's formula guard.
    """
    with standing(settings) as ground:
        stored = connection_sets.current(ground.store, ground.topics).set
        connection = choose(stored, account, name)
        zone = None if isinstance(connection, PushBase) else connection.schedule.zone
        start, end = (moment(given, zone) for given in times)
        if start >= end:
            raise Stop("--from must be earlier than --to")
        wanted = Wanted(account, connection.name, start, end)
        by_id = registry.waiting(settings.schema_registry, Event().wait)
        reading = _Reading(ground, wanted, Router(stored), by_id)
        places = reading.select()
        with _target(out) as target:
            feed = Feed.of(_rows(reading, places, connection))
            try:
                artefact.content(
                    target,
                    CsvFormat() if isinstance(connection, PushBase) else connection.file,
                    [rule.name for rule in connection.fields],
                    feed,
                    end,
                    guard=guarded(connection) if guard is None else guard,
                )
            except CannotBeWritten as error:
                raise Stop(str(error)) from error
    return Exported(wanted, feed.count, reading.selection.left_out, reading.undecodable, reading.cut_off)


def choose(connections: ConnectionSet, account: str, name: str | None) -> AnyConnection:
    """The account's connection of that name, or its only one. Raises Stop. Pure."""
    accounts = {one.account: {c.name: c for c in one.connections} for one in connections.accounts}
    require(account, accounts, "there is no account")
    own = accounts[account]
    if name is not None:
        require(name, own, f"{account} has no connection")
        return own[name]
    if len(own) != 1:
        raise Stop(
            f"{account} has {len(own)} connections, and each has its own fields: "
            f"say --connection {' or '.join(sorted(own)) or 'NAME'}"
        )
    return next(iter(own.values()))


def guarded(connection: AnyConnection) -> bool:
    """Whether formulas are disarmed: as in the connection's files; a push has none, and a person opens it."""
    return isinstance(connection, PushBase) or connection.guarded


class _Reading:
    """The topic, read for one export."""

    def __init__(self, ground: Ground, wanted: Wanted, router: Router, by_id: SchemaById | None) -> None:
        self._ground, self._wanted, self._router, self._by_id = ground, wanted, router, by_id
        self.selection = Selection(wanted.account, self._routed)
        self.undecodable = 0
        self.cut_off = False

    def select(self) -> Mapping[int, list[int]]:
        """Read from the range's start to the topic's end; the offsets to export, by partition."""
        for record in self._records(self._starts()):
            in_range = self._wanted.holds(record)
            try:
                referral = self._decoded(record, in_range=in_range)
            except Undecodable:
                self.undecodable += in_range
                continue
            self.selection.show(referral, record.partition, record.offset, in_range=in_range)
        self._ask_redis()
        return self.selection.places()

    def records(self, partition: int, offsets: list[int]) -> Iterator[Referral]:
        """The events at these offsets, in order. Raises Stop where one is gone."""
        awaited = iter(offsets)
        following = next(awaited)
        for record in self._records({partition: following}):
            if record.offset == following:
                yield referrals.decode(record.value, self._by_id)
                following = next(awaited, -1)
                if following < 0:
                    return
        raise Stop(
            f"Kafka deleted records of {self._ground.topics.referrals}/{partition} while they were exported: "
            "the range reaches back to the end of the topic's retention; export a later one"
        )

    def _records(self, starts: Mapping[int, int]) -> Iterator[Record]:
        settings = self._ground.settings
        return read_all(settings.kafka, settings.kafka_config, self._ground.topics.referrals, starts)

    def _routed(self, referral: Referral) -> bool:
        return any(c.name == self._wanted.connection for c in self._router.connections(referral))

    def _decoded(self, record: Record, *, in_range: bool) -> Referral:
        found = referrals.decode(record.value, self._by_id, routing_only=True)
        if found.event_type is EventType.UNKNOWN:
            raise Undecodable("its event_type is newer than this release")
        if in_range and found.account_id == self._wanted.account:
            # In full, so that what is selected can be written.
            return referrals.decode(record.value, self._by_id)
        return found

    def _starts(self) -> dict[int, int]:
        """The first offset of the range, or of what intake has yet to read, whichever is first. Some
        brokers' look-up always answers 0: then more is read, and `Wanted.holds` decides.
        """
        topic, partitions = self._ground.topics.referrals, self._ground.layout.partitions
        found = self._ground.admin.at(topic, partitions, int(self._wanted.start.timestamp() * 1000))
        earliest = self._ground.admin.earliest(topic, partitions)
        self.cut_off = any(0 < earliest[p] == found[p] for p in found)
        known = self._intake()
        return {p: known[p] if offset < 0 else min(offset, known[p]) for p, offset in found.items()}

    def _intake(self) -> dict[int, int]:
        """By partition, the offset up to which Redis knows every removal: the further intake's."""
        topic, partitions = self._ground.topics.referrals, range(self._ground.layout.partitions)
        asked = [("HGET", Keys(topic, role).head(p), "next") for p in partitions for role in Role]
        found = [int(value or 0) for value in self._ground.store.commands(asked)]
        return {p: max(found[p * len(Role) : (p + 1) * len(Role)]) for p in partitions}

    def _ask_redis(self) -> None:
        """Every removal is noted in every partition: any one will do."""
        ids = self.selection.ids
        for role in Role:
            windows = Windows(self._ground.store, Keys(self._ground.topics.referrals, role))
            for first in range(0, len(ids), PAGE):
                for referral_id, found in windows.removals(0, ids[first : first + PAGE]).items():
                    revision = found.revision if found.withdrawn else -1
                    self.selection.remove(referral_id, Removed(revision, bool(found.erased)))


def _rows(
    reading: _Reading, places: Mapping[int, list[int]], connection: AnyConnection
) -> Iterator[list[Value]]:
    for partition, offsets in places.items():
        for referral in reading.records(partition, offsets):
            pairs = connection.columns.pairs(referral)
            yield [value for _, value in pairs]


@contextmanager
def _target(out: str | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that appears whole or not at all, for its owner's eyes only."""
    if out is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(out)
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                yield file  # type: ignore[misc]
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise Stop(f"{out}: cannot be written: {error.strerror}") from error
