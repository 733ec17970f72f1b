"""`referrals reconcile`: from the topic and the receipts, what became of every referral of a time range.

Read in this order: Redis (what is open; see `open_now`), receipts, manifests, referrals. The range is one of
Kafka's record times, as for `referrals export`. It moves nothing and may run beside the services.

What it cannot tell: a delivery that takes one back (`remove`) and left no trace, since only the receiver's
answer decides whether there is one; and rows still open of a file connection that was taken out of the set
before its first window.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any

from batcher.windows import Windows
from console.disk import room
from console.ground import standing
from console.moment import moment
from console.reconcile import open_now
from console.reconcile.books import Books, Finding, Unexplained
from console.reconcile.facts import Facts
from console.reconcile.filed import Fate
from console.reconcile.judge import judge
from console.reconcile.ledger import Filing, Ledger, Range
from console.reconcile.open_now import OpenNow
from console.reconcile.record_class import Ground as Terms
from console.reconcile.spans import OPEN, Span, campaigns_of
from console.reconcile.told import Told
from console.reconcile.window_books import Which, fates, judge_rows, judge_windows
from consumer import connection_sets, manifests, registry
from consumer.intake import DEDUPE_HORIZON_S
from consumer.keys import Keys, Role
from consumer.manifests import Remembered
from consumer.reading import read_all
from consumer.route import Router
from consumer.run import Ground
from consumer.service import Settings, Stop
from schemas import receipt as receipts
from schemas.codec import Undecodable
from schemas.connection import FileBase, FileConnection
from schemas.manifest import Manifest

#: Read before the range too: a duplicate's first publication is that far back at most.
CONTEXT_MS = 2 * DEDUPE_HORIZON_S * 1000
#: Producers' clocks: records of the range may stand behind the first one after it, and receipts seem older.
CLOCKS_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Reconciled:
    """`cut_off`: topics whose log begins in what was to be read."""

    wanted: Range
    books: Books
    unreadable: int
    cut_off: Sequence[str]

    def remarks(self) -> Iterator[str]:
        for name, number in sorted(self.books.later.items()):
            yield f"{name}: {number:,} referrals it wants today were published before the first trace of it"
        for name, number in sorted(self.books.former.items()):
            yield f"{name}: {number:,} deliveries of a set of connections that is no longer in force"
        if self.unreadable and self.wanted.account is not None:
            yield f"undecodable records of the range, of any account: {self.unreadable:,}"
        for topic in self.cut_off:
            yield f"the log of {topic} may begin inside the range: what its retention deleted is not judged"


def reconcile(settings: Settings, times: tuple[str, str], account: str | None) -> Reconciled:
    """`times`: from and to, with offsets. Raises Stop."""
    start, end = (moment(given) for given in times)
    if start >= end:
        raise Stop("--from must be earlier than --to")
    wanted = Range(round(start.timestamp() * 1000), round(end.timestamp() * 1000), account)
    with standing(settings) as ground, room(), Facts() as facts:
        return _Reconciling(ground, wanted, facts).go()


class _Reconciling:
    def __init__(self, ground: Ground, wanted: Range, facts: Facts) -> None:
        self._ground, self._wanted, self._facts = ground, wanted, facts
        self._books = Books()
        self._told = Told(facts, wanted.account)
        self._cut_off: list[str] = []
        #: Definitions by digest, as windows were sealed with them.
        self._frozen: dict[str, FileConnection | None] = {}

    def go(self) -> Reconciled:
        stored = connection_sets.current(self._ground.store, self._ground.topics).set
        in_force = {
            name: (account, connection)
            for name, (account, connection) in stored.by_name().items()
            if isinstance(connection, FileBase) and self._wanted.account in {None, account}
        }
        filing = {**self._former(self._ground.remembered), **in_force}
        now = open_now.read(self._ground, {n: c for n, (_, c) in filing.items()}, self._facts, self._told)
        receipts_from = self._read_receipts()
        remembered = manifests.remember(*self._kafka, self._ground.topics)
        since = remembered.connections.at.timestamp() * 1000 if remembered.connections else 0
        filings: dict[str, list[Filing]] = {}
        for name, (account, _) in {**self._former(remembered), **filing}.items():
            spans = self._spans(name, remembered, now)
            wants = in_force[name][1] if name in in_force else None
            filings.setdefault(account, []).append(Filing(account, name, spans, wants))
        spans = [span for some in filings.values() for one in some for span in one.spans]
        starts, ends = self._bounds(spans)
        terms = Terms(round(since), now.seen_ms, cut=bool(self._cut_off))
        ledger = Ledger(
            self._ground.topics.referrals,
            self._wanted,
            Router(stored),
            filings,
            now.taken,
            self._facts,
            self._books,
            terms,
            registry.waiting(self._ground.settings.schema_registry, Event().wait),
        )
        for partition, first in starts.items():
            records = read_all(*self._kafka, self._ground.topics.referrals, {partition: first})
            ledger.partition(partition, first, records, ends.get(partition))
        for published, found in self._facts.revisions():
            self._add(judge(published, found, terms))
        self._judge_windows(fates(remembered, now), ledger, receipts_from)
        self._books.close(self._facts.all_unexplained())
        return Reconciled(self._wanted, self._books, ledger.unreadable, self._cut_off)

    @property
    def _kafka(self) -> tuple[str, Mapping[str, Any]]:
        return self._ground.settings.kafka, self._ground.settings.kafka_config

    def _add(self, findings: Iterable[Finding]) -> None:
        for found in findings:
            if isinstance(found, Unexplained):
                self._facts.unexplained(found)
            else:
                self._books.add(found)

    def _former(self, remembered: Remembered) -> dict[str, tuple[str, FileConnection]]:
        """Connections that had windows, as they were at the newest; those in force among them."""
        found: dict[str, tuple[str, FileConnection]] = {}
        for name, windows in remembered.windows.items():
            newest = windows[max(windows)]
            frozen = self._definition(newest)
            account = newest.account_id
            if frozen is not None and account is not None and self._wanted.account in {None, account}:
                found[name] = account, frozen
        return found

    def _definition(self, sealed: Manifest) -> FileConnection | None:
        digest = str(sealed.connection_digest)
        if digest not in self._frozen:
            found = connection_sets.definition(self._ground.store, self._ground.topics, digest)
            self._frozen[digest] = found if isinstance(found, FileBase) else None
        return self._frozen[digest]

    def _spans(self, name: str, remembered: Remembered, now: OpenNow) -> list[Span]:
        """Of all its windows: as Kafka was told, and those that only Redis knows."""
        spans: list[Span] = []
        told = remembered.windows.get(name, {})
        for number, sealed in told.items():
            frozen = self._definition(sealed)
            campaigns = None if frozen is None else campaigns_of(frozen)
            at = f"{sealed.sealed_at or sealed.at:%Y-%m-%d}"
            for mark in sealed.marks:
                figures = (mark.start, mark.to, None if frozen is None else mark.rows, mark.digest)
                spans.append(Span(name, mark.partition, number, *figures, campaigns, at))
        return spans + [span for span in now.spans if span.connection == name and span.window not in told]

    def _read_receipts(self) -> int:
        """Those that Kafka got since the range began; since when, in ms since the epoch."""
        topic, since = self._ground.topics.receipts, self._wanted.start_ms - CLOCKS_MS
        for record in read_all(*self._kafka, topic, self._starts(topic, since)):
            try:
                self._told.take(receipts.decode(record.value or b""), record.timestamp_ms)
            except Undecodable:
                continue  # written by a newer release
        return since

    def _starts(self, topic: str, since_ms: int) -> dict[int, int]:
        """The first record at or after then, by partition; those that have none are left out. Some brokers'
        look-up always answers 0: then more is read.
        """
        described = self._ground.admin.describe(topic)
        if described is None:
            raise Stop(f"topic {topic} is not there: run `referrals init`")
        found = self._ground.admin.at(topic, described.partitions, since_ms)
        earliest = self._ground.admin.earliest(topic, described.partitions)
        if any(0 < earliest[p] == found[p] for p in found):
            self._cut_off.append(topic)
        return {p: offset for p, offset in found.items() if offset >= 0}

    def _bounds(self, spans: Sequence[Span]) -> tuple[dict[int, int], dict[int, int]]:
        """Where reading the topic begins, and where it ends before the log does. Windows that reach into the
        range are read whole: which of their rows were left out depends on the others.
        """
        topic, partitions = self._ground.topics.referrals, self._ground.layout.partitions
        starts = self._starts(topic, self._wanted.start_ms - CONTEXT_MS)
        found = self._ground.admin.at(topic, partitions, self._wanted.end_ms + CLOCKS_MS)
        ends = {p: offset for p, offset in found.items() if offset > starts.get(p, 0)}
        earliest = self._ground.admin.earliest(topic, partitions)
        bounds = {p: (starts[p], ends.get(p, sys.maxsize)) for p in starts}
        for span in spans:
            start, end = bounds.get(span.partition, (0, 0))
            if span.window != OPEN and span.start < end and span.to > start:
                p = span.partition
                starts[p] = min(starts[p], max(span.start, earliest[p]))
                if p in ends:
                    ends[p] = max(ends[p], span.to)
        return starts, ends

    def _judge_windows(self, known: Mapping[Which, Fate], ledger: Ledger, receipts_from: int) -> None:
        windows = Windows(self._ground.store, Keys(self._ground.topics.referrals, Role.BATCH))
        inside, of_range = judge_rows(self._facts, windows, known, self._books)
        wanted = self._wanted
        some = [
            fate
            for which, fate in known.items()
            if which in of_range
            or (wanted.start_ms <= fate.sealed_ms < wanted.end_ms and wanted.account in {None, fate.account})
        ]
        self._add(judge_windows(some, inside, self._told.windows, ledger, receipts_from))
