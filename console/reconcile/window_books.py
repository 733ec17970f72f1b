"""Every window of a reconciliation judged: its rows by what became of them, and its receipt by its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice

from batcher.removal import Removal
from batcher.windows import Windows
from console.reconcile import open_now
from console.reconcile.books import Books, Difference
from console.reconcile.facts import Facts
from console.reconcile.filed import Fate, Row, counted, states, window
from console.reconcile.ledger import Ledger
from console.reconcile.open_now import OpenNow
from consumer.intake import MARKS_KEPT_MS
from consumer.manifests import Remembered
from schemas.delivery import Outcome
from schemas.receipt import Receipt

#: Referrals whose removal marks are asked for in one round trip.
PAGE = 500

Which = tuple[str, int]
"""A window: its connection and number."""


def fates(remembered: Remembered, now: OpenNow) -> dict[Which, Fate]:
    found: dict[Which, Fate] = {}
    for name, told in remembered.windows.items():
        for number, sealed in told.items():
            found[name, number] = Fate(
                name,
                number,
                sealed.account_id or "",
                None if sealed.outcome is None else Outcome(sealed.outcome),
                open_now.held(now.windows, name, number),
                round((sealed.sealed_at or sealed.at).timestamp() * 1000),
                sealed.marks,
                dict(enumerate(sealed.first_byte)) or None,
            )
    return found


def judge_rows(
    facts: Facts, windows: Windows, known: Mapping[Which, Fate], books: Books
) -> tuple[dict[Which, Counter[Outcome]], set[Which]]:
    """Count the rows of the range; by window all its rows by state, and the windows that rows of the range
    are in. Raises StoreUnavailable.
    """
    inside: dict[Which, Counter[Outcome]] = {}
    of_range: set[Which] = set()
    each = facts.rows()
    while some := list(islice(each, PAGE)):
        removals = _removals(windows, [rows for _, _, rows in some])
        for which, referral, rows in some:
            its = {p: found[referral] for p, found in removals.items() if referral in found}
            for row, state in states(rows, known.get(which, Fate(*which, "")), its):
                inside.setdefault(which, Counter())[state] += 1
                if row.counted:
                    of_range.add(which)
                    books.add(counted(row, which[0], state))
    return inside, of_range


def judge_windows(
    some: Iterable[Fate],
    inside: Mapping[Which, Counter[Outcome]],
    told: Mapping[str, Sequence[Receipt]],
    ledger: Ledger,
    receipts_from_ms: int,
) -> Iterator[Difference]:
    """Whether each ended as its receipt says. Where its removal marks are forgotten, or some of its rows were
    not read, its counts are not compared.
    """
    for fate in some:
        remembered = fate.sealed_ms > ledger.ground.seen_ms - MARKS_KEPT_MS
        whole = remembered and fate.id not in ledger.broken and ledger.holds(fate.marks)
        found = inside.get((fate.connection, fate.number), Counter())
        yield from window(fate, told.get(fate.id, []), found, receipts_from_ms=receipts_from_ms, whole=whole)


def _removals(windows: Windows, some: Iterable[Sequence[Row]]) -> dict[int, dict[str, Removal]]:
    ids: dict[int, set[str]] = {}
    for row in chain.from_iterable(some):
        ids.setdefault(row.partition, set()).add(row.referral)
    return {partition: windows.removals(partition, sorted(found)) for partition, found in ids.items()}
