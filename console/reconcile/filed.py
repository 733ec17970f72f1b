"""What became of the rows of windows. Pure.

A window's receipt says only how many rows its files have and how many were left out; which those were
follows from the rows themselves, by the rules of `batcher.render`, and the two counts must agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from batcher.removal import Removal, leaves_out
from console.reconcile.books import Counted, Difference, Place, Trouble
from console.reconcile.record_class import day
from schemas.delivery import Outcome, window_id
from schemas.manifest import Mark
from schemas.receipt import Receipt


@dataclass(frozen=True, slots=True)
class Row:
    """A sealed or open row. `whole`: it can be decoded in full; `counted`: of the range and account."""

    partition: int
    offset: int
    at_ms: int
    account: str
    campaign: str
    referral: str
    revision: int
    whole: bool
    counted: bool


@dataclass(frozen=True, slots=True)
class Fate:
    """Of a window. `outcome`: None while it is under way, `held` when it waits for a person then.
    `first_byte`: removal marks known by partition when the first byte left, None where none has.
    """

    connection: str
    number: int
    account: str
    outcome: Outcome | None = None
    held: bool = False
    sealed_ms: int = 0
    marks: Sequence[Mark] = ()
    first_byte: Mapping[int, int] | None = None

    @property
    def id(self) -> str:
        return window_id(self.connection, self.number)


def states(rows: Sequence[Row], fate: Fate, removals: Mapping[int, Removal]) -> Iterator[tuple[Row, Outcome]]:
    """The rows of one referral in one window, by partition and offset. `removals`: by partition."""
    if fate.outcome is None:
        yield from ((row, Outcome.HELD if fate.held else Outcome.PENDING) for row in rows)
        return
    at_seal = {mark.partition: mark.removals for mark in fate.marks}
    latest: dict[int, int] = {}
    for row in rows:
        latest[row.partition] = max(row.revision, latest.get(row.partition, 0))
    written = False
    for row in rows:
        removal = removals.get(row.partition)
        sealed = at_seal.get(row.partition, 0)
        first = None if fate.first_byte is None else fate.first_byte.get(row.partition, 0)
        if not row.whole:
            yield row, Outcome.UNDECODABLE
        elif removal is not None and leaves_out(removal, row.revision, sealed, first):
            yield row, Outcome.WITHDRAWN
        elif row.revision < latest[row.partition] or written:
            yield row, Outcome.SUPERSEDED
        else:
            written = True
            yield row, fate.outcome


def counted(row: Row, connection: str, state: Outcome) -> Counted:
    return Counted(Place(row.account, row.campaign, day(row.at_ms), connection), state, row.at_ms)


def window(
    fate: Fate, told: Sequence[Receipt], found: Counter[Outcome], *, receipts_from_ms: int, whole: bool
) -> Iterator[Difference]:
    """What is wrong with a window that ended. `told`: its receipts; `found`: its rows by state, all of them
    where it was read `whole`.
    """
    if fate.outcome is None:
        return
    place = Place(fate.account, "", day(fate.sealed_ms), fate.connection)

    def differs(trouble: Trouble, why: str) -> Difference:
        return Difference(trouble, fate.id, place, why)

    outcomes = sorted({receipt.outcome for receipt in told})
    if not told:
        if fate.sealed_ms >= receipts_from_ms:
            yield differs(Trouble.MISSING, f"its manifest says {fate.outcome}, and no receipt does")
        return
    if outcomes != [fate.outcome]:
        said = " and ".join(outcomes)
        yield differs(Trouble.CONFLICTING, f"its manifest says {fate.outcome}, its receipts {said}")
    rows, left_out = told[0].rows or 0, told[0].left_out or 0
    if not whole or not rows + left_out:
        return
    inside = found[fate.outcome]
    if (inside, found.total() - inside) != (rows, left_out):
        why = f"its receipt says {rows:,} rows and {left_out:,} left out; by the topic {inside:,} and "
        yield differs(Trouble.CONFLICTING, f"{why}{found.total() - inside:,}")
