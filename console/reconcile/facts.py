"""What was read for a reconciliation, sorted on disk.

Law: memory holds SQLite's cache and one referral at a time, however long the range is. Disk takes about
0.4 kB for each record with its receipt, and as much again while it is sorted, where TMPDIR points: a day of
10 million is some 8 GB, and half an hour to an hour of one core. It is gone when the command ends. Ids,
accounts and campaigns stand in it, nothing of a person.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Self

from console.disk import Disk
from console.reconcile.books import Difference, Place, Trouble, Unexplained
from console.reconcile.filed import Row
from console.reconcile.judge import Found
from console.reconcile.record_class import Published
from schemas.delivery import Action, Outcome

#: Marks a note that is no receipt of a service, but of a parked delivery.
PARKED, PASSED = "parked", "passed"

_TABLES = """
CREATE TABLE notes (partition INTEGER, offset INTEGER, who TEXT, outcome TEXT, connection TEXT);
CREATE TABLE facts (referral TEXT, revision INTEGER, published TEXT, found TEXT);
CREATE TABLE filed (
  connection TEXT, number INTEGER, referral TEXT, partition INTEGER, offset INTEGER, revision INTEGER,
  at_ms INTEGER, account TEXT, campaign TEXT, whole INTEGER, counted INTEGER);
CREATE TABLE unexplained (
  id TEXT, account TEXT, campaign TEXT, day TEXT, connection TEXT, why TEXT, at_ms INTEGER);
"""


@dataclass(frozen=True, slots=True)
class Notes:
    """What is noted of one record beside it."""

    notes: Mapping[str, frozenset[Outcome]] = field(default_factory=dict)
    parked: frozenset[str] = frozenset()
    passed: Mapping[str, Outcome] = field(default_factory=dict)


NOTHING = Notes()


class Facts:
    """Gone on leaving. Used within `disk.room`."""

    def __init__(self) -> None:
        self._db = Disk(_TABLES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def note(self, partition: int, offset: int, who: str, outcome: Outcome, connection: str = "") -> None:
        """`who`: the service whose receipt it is, PARKED or PASSED."""
        self._db.execute(
            "INSERT INTO notes VALUES (?,?,?,?,?)", (partition, offset, who, outcome, connection)
        )

    def published(self, one: Published) -> None:
        self._db.execute("INSERT INTO facts VALUES (?,?,?,NULL)", (one.referral, one.revision, _packed(one)))

    def found(self, referral: str, revision: int, one: Found) -> None:
        packed = json.dumps((one.connection, one.action, one.id, one.state, one.at_ms, one.offset))
        self._db.execute("INSERT INTO facts VALUES (?,?,NULL,?)", (referral, revision, packed))

    def filed(self, connection: str, number: int, row: Row) -> None:
        values = (connection, number, row.referral, row.partition, row.offset, row.revision, row.at_ms)
        more = (row.account, row.campaign, row.whole, row.counted)
        self._db.execute("INSERT INTO filed VALUES (?,?,?,?,?,?,?,?,?,?,?)", values + more)

    def unexplained(self, one: Unexplained) -> None:
        place, what = one.difference.place, one.difference
        values = (what.id, place.account, place.campaign, place.day, place.connection, what.why, one.at_ms)
        self._db.execute("INSERT INTO unexplained VALUES (?,?,?,?,?,?,?)", values)

    def notes(self, partition: int) -> Iterator[tuple[int, Notes]]:
        """By offset, in order; once all are noted."""
        self._db.execute("CREATE INDEX IF NOT EXISTS placed ON notes (partition, offset)")
        found = self._db.execute(
            "SELECT offset, who, outcome, connection FROM notes WHERE partition = ? ORDER BY offset",
            (partition,),
        )
        for offset, some in groupby(found, itemgetter(0)):
            yield offset, _noted([(who, Outcome(outcome), name) for _, who, outcome, name in some])

    def revisions(self) -> Iterator[tuple[list[Published], list[Found]]]:
        """All that is known of each revision of each referral that was published."""
        ordered = self._db.execute("SELECT * FROM facts ORDER BY referral, revision")
        for (referral, revision), some in groupby(ordered, itemgetter(0, 1)):
            published: list[Published] = []
            found: list[Found] = []
            for _, _, record, delivery in some:
                if record is not None:
                    published.append(_unpacked(referral, revision, record))
                else:
                    name, action, its_id, state, at_ms, offset = json.loads(delivery)
                    found.append(Found(name, Action(action), its_id, Outcome(state), at_ms, offset))
            if published:
                yield sorted(published, key=lambda one: (one.partition, one.offset)), found

    def rows(self) -> Iterator[tuple[tuple[str, int], str, list[Row]]]:
        """By window, the rows of each referral in the order a file has them."""
        ordered = self._db.execute(
            "SELECT * FROM filed ORDER BY connection, number, referral, partition, offset"
        )
        for (connection, number, referral), some in groupby(ordered, itemgetter(0, 1, 2)):
            rows = [
                Row(
                    partition,
                    offset,
                    at_ms,
                    account,
                    campaign,
                    referral,
                    revision,
                    bool(whole),
                    bool(counted),
                )
                for _, _, _, partition, offset, revision, at_ms, account, campaign, whole, counted in some
            ]
            yield (connection, number), referral, rows

    def all_unexplained(self) -> Iterator[Unexplained]:
        for its_id, account, campaign, day, name, why, at_ms in self._db.execute("SELECT * FROM unexplained"):
            place = Place(account, campaign, day, name)
            yield Unexplained(Difference(Trouble.MISSING, its_id, place, why), at_ms)


def _noted(some: list[tuple[str, Outcome, str]]) -> Notes:
    services = {who for who, _, _ in some} - {PARKED, PASSED}
    return Notes(
        {service: frozenset(o for who, o, _ in some if who == service) for service in services},
        frozenset(name for who, _, name in some if who == PARKED),
        {name: outcome for who, outcome, name in some if who == PASSED},
    )


def _packed(one: Published) -> str:
    return json.dumps(
        (
            (one.topic, one.partition, one.offset, one.at_ms, one.counted, one.account, one.campaign),
            (one.kind, one.removes, one.test, one.filed),
            [list(one.readable), list(one.taken), one.wanted, list(one.parked)],
            {service: list(outcomes) for service, outcomes in one.notes.items()},
            dict(one.passed),
        )
    )


def _unpacked(referral: str, revision: int, packed: str) -> Published:
    first, second, (readable, taken, wanted, parked), notes, passed = json.loads(packed)
    topic, partition, offset, at_ms, counted, account, campaign = first
    kind, removes, test, filed = second
    return Published(
        topic=topic,
        partition=partition,
        offset=offset,
        at_ms=at_ms,
        counted=counted,
        account=account,
        campaign=campaign,
        referral=referral,
        revision=revision,
        kind=kind,
        removes=removes,
        test=test,
        filed=filed,
        readable=frozenset(readable),
        taken=frozenset(taken),
        wanted=tuple(wanted),
        parked=frozenset(parked),
        notes={service: frozenset(map(Outcome, outcomes)) for service, outcomes in notes.items()},
        passed={name: Outcome(outcome) for name, outcome in passed.items()},
    )
