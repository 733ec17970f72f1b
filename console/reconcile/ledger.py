"""The topic of referrals, read once for a reconciliation: each record with all that is noted of it, and its
rows in windows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from console.reconcile.books import Books, Difference, Place, Trouble, Unexplained
from console.reconcile.facts import NOTHING, Facts, Notes
from console.reconcile.filed import Row
from console.reconcile.judge import judge
from console.reconcile.record_class import COLLECT, PUSH, SERVICES, Ground, Published, day
from console.reconcile.spans import Lane, Span
from consumer.intake import row
from consumer.route import FILE_KINDS, Router
from consumer.stream import Record
from schemas import referral as referrals
from schemas.codec import Undecodable
from schemas.connection import FileConnection
from schemas.delivery import delivery_id
from schemas.manifest import Mark
from schemas.push import PushBase
from schemas.referral import EventType, Referral, SchemaById


@dataclass(frozen=True, slots=True)
class Range:
    """From `start_ms` (inclusive) to `end_ms` (exclusive), of one account or of all (None)."""

    start_ms: int
    end_ms: int
    account: str | None


@dataclass(frozen=True, slots=True)
class Filing:
    """A file connection: its account, its spans over all partitions, and itself where it is in force."""

    account: str
    name: str
    spans: Sequence[Span]
    wants: FileConnection | None


@dataclass(slots=True)
class Ledger:
    """Writes up one partition after the other. `broken`: windows that are not the topic's rows."""

    topic: str
    wanted: Range
    router: Router
    filings: Mapping[str, Sequence[Filing]]
    taken: Mapping[str, Mapping[int, int]]
    facts: Facts
    books: Books
    ground: Ground
    by_id: SchemaById | None
    broken: set[str] = field(default_factory=set)
    #: By partition, the offsets that were read: from and to.
    read: dict[int, tuple[int, int]] = field(default_factory=dict)
    #: Records of the range that nobody can read, hence of any account.
    unreadable: int = 0

    def partition(self, partition: int, start: int, records: Iterator[Record], upto: int | None) -> None:
        """Its records in order from `start` on; to the end, or to `upto`."""
        lanes = self._lanes(partition, start)
        notes = self.facts.notes(partition)
        at, noted = next(notes, (-1, NOTHING))
        last, due = start, self._pass(lanes[""], start)
        for record in records:
            if upto is not None and record.offset >= upto:
                break
            last = record.next_offset
            while 0 <= at < record.offset:
                at, noted = next(notes, (-1, NOTHING))
            if record.offset >= due:
                due = self._pass(lanes[""], record.offset)
            self._write(record, noted if at == record.offset else NOTHING, lanes)
        end = max(last, self.taken[COLLECT][partition]) if upto is None else upto
        self.read[partition] = start, end
        self._pass(lanes[""], end)

    def holds(self, marks: Sequence[Mark]) -> bool:
        """Whether all of the window was read."""
        reads = [(mark, *self.read.get(mark.partition, (0, -1))) for mark in marks]
        return all(not mark.rows or (start <= mark.start and mark.to <= to) for mark, start, to in reads)

    def _lanes(self, partition: int, start: int) -> dict[str, list[Lane]]:
        """By account; all of them under ''."""
        taken = self.taken[COLLECT][partition]
        lanes: dict[str, list[Lane]] = {"": []}
        for account, some in self.filings.items():
            for one in some:
                spans = [span for span in one.spans if span.partition == partition]
                lane = Lane(account, one.name, partition, spans, one.wants, taken, start)
                lanes.setdefault(account, []).append(lane)
                lanes[""].append(lane)
        return lanes

    def _pass(self, lanes: Sequence[Lane], offset: int) -> int:
        """Compare the spans that end at or before `offset`; where the next one ends."""
        for lane in lanes:
            for difference in lane.passed(offset):
                self.broken.add(difference.id)
                self.books.add(difference)
        return min((lane.ends for lane in lanes), default=sys.maxsize)

    def _write(self, record: Record, noted: Notes, lanes: Mapping[str, Sequence[Lane]]) -> None:
        in_range = self.wanted.start_ms <= record.timestamp_ms < self.wanted.end_ms
        referral, readable = _read(record, self.by_id)
        if referral is None:
            self.unreadable += in_range
            if in_range and self.wanted.account is None:
                self._judge_alone(self._published(record, noted, counted=True))
            return
        if self.wanted.account not in {None, referral.account_id}:
            return
        filed = self._file(record, referral, noted, readable, lanes, counted=in_range)
        if record.timestamp_ms < self.wanted.end_ms:
            self.facts.published(
                self._published(record, noted, referral, readable, counted=in_range, filed=filed)
            )

    def _published(
        self,
        record: Record,
        noted: Notes,
        referral: Referral | None = None,
        readable: frozenset[str] = frozenset(),
        *,
        counted: bool,
        filed: bool = False,
    ) -> Published:
        taken = frozenset(s for s in SERVICES if record.offset < self.taken[s][record.partition])
        place = (record.topic, record.partition, record.offset, record.timestamp_ms, counted)
        if referral is None:
            return Published(*place, taken=taken, notes=noted.notes, parked=noted.parked, passed=noted.passed)
        deliverable = not (referral.is_test or referral.event_type.removes)
        wanted = self.router.connections(referral) if deliverable else ()
        return Published(
            *place,
            account=referral.account_id,
            campaign=referral.campaign_id,
            referral=referral.referral_id,
            revision=referral.revision,
            kind=str(referral.event_type),
            removes=referral.event_type.removes,
            test=referral.is_test,
            readable=readable,
            taken=taken,
            wanted=tuple(c.name for c in wanted if isinstance(c, PushBase)),
            filed=filed or any(c.kind in FILE_KINDS for c in wanted),
            notes=noted.notes,
            parked=noted.parked,
            passed=noted.passed,
        )

    def _judge_alone(self, one: Published) -> None:
        for found in judge([one], [], self.ground):
            if not isinstance(found, Unexplained):
                self.books.add(found)

    def _file(
        self,
        record: Record,
        referral: Referral,
        noted: Notes,
        readable: frozenset[str],
        lanes: Mapping[str, Sequence[Lane]],
        *,
        counted: bool,
    ) -> bool:
        """Put the record into the windows that hold it; whether any should."""
        dropped = COLLECT in noted.notes or COLLECT not in readable
        if dropped or referral.is_test or referral.event_type.removes:
            return False
        filed = False
        kept = row(record.offset, record.value or b"")
        for lane in lanes.get(referral.account_id, ()):
            windows = lane.offer(record.offset, referral.campaign_id, kept)
            if windows is None:
                continue
            filed = filed or bool(windows)
            one = Row(
                record.partition,
                record.offset,
                record.timestamp_ms,
                referral.account_id,
                referral.campaign_id,
                referral.referral_id,
                referral.revision,
                PUSH in readable,
                counted,
            )
            for window in windows[:1]:
                self.facts.filed(lane.connection, window, one)
            if counted and len(windows) != 1:
                self._not_once(lane, one, windows)
        return filed

    def _not_once(self, lane: Lane, one: Row, windows: Sequence[int]) -> None:
        place = Place(one.account, one.campaign, day(one.at_ms), lane.connection)
        its_id = delivery_id(lane.connection, one.referral, one.revision)
        if windows:
            numbers = " and ".join(map(str, windows))
            why = f"offset {one.offset} of partition {one.partition} is in the windows {numbers}"
            self.books.add(Difference(Trouble.DOUBLED, its_id, place, why))
            return
        why = f"offset {one.offset} of partition {one.partition} is in no window, and not in the open one"
        missing = Difference(Trouble.MISSING, its_id, place, why)
        if one.at_ms >= self.ground.since_ms:
            self.books.add(missing)
        else:
            self.facts.unexplained(Unexplained(missing, one.at_ms))


def _read(record: Record, by_id: SchemaById | None) -> tuple[Referral | None, frozenset[str]]:
    """The referral as far as it can be read, and the services that can: push reads records whole."""
    for routing_only, services in ((False, frozenset(SERVICES)), (True, frozenset({COLLECT}))):
        try:
            found = referrals.decode(record.value, by_id, routing_only=routing_only)
        except Undecodable:
            continue
        if found.event_type is EventType.UNKNOWN:
            break
        return found, services
    return None, frozenset()
