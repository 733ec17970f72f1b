"""Which window holds a row, told from the offsets its marks span, and proved by their digests. Pure.

A mark says how many rows of a partition were sealed from one offset up to another, with a digest of them
in order: when the topic gives the same digest, these very rows are in the window, each once. What the
definition frozen at the seal does not want is no row of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from batcher.render import digest_of
from console.reconcile.books import Difference, Place, Trouble
from schemas.connection import FileConnection
from schemas.delivery import window_id

#: In the place of a window's number: rows that are not sealed yet.
OPEN = 0


@dataclass(frozen=True, slots=True)
class Span:
    """One partition's share of a window. `campaigns`: those its definition wants, None for all. `rows`: None
    where nobody could tell. `day`: of the seal.
    """

    connection: str
    partition: int
    window: int
    start: int
    to: int
    rows: int | None
    digest: str
    campaigns: frozenset[str] | None
    day: str

    @property
    def name(self) -> str:
        sealed = self.window != OPEN
        return window_id(self.connection, self.window) if sealed else f"{self.connection}, open window"

    def holds(self, offset: int, campaign: str) -> bool:
        return self.start <= offset < self.to and (self.campaigns is None or campaign in self.campaigns)


def campaigns_of(connection: FileConnection) -> frozenset[str] | None:
    return None if connection.campaigns == "all" else frozenset(connection.campaigns)


@dataclass(slots=True)
class _Under:
    """A span and what the topic gives for it so far."""

    span: Span
    rows: int = 0
    digest: str = ""


@dataclass(slots=True)
class Lane:
    """One connection's rows of one partition, offered in the order of their offsets.

    `wants`: the connection as it is in force, if it is; `taken`: the offset collect has reached; `read_from`:
    the first offset that is read.
    """

    account: str
    connection: str
    partition: int
    spans: Sequence[Span]
    wants: FileConnection | None
    taken: int
    read_from: int
    _under: list[_Under] = field(default_factory=list)
    #: The first offset at which a span ends.
    ends: int = 0

    def __post_init__(self) -> None:
        ahead = [span for span in self.spans if span.to > self.read_from]
        self._under = [_Under(span) for span in sorted(ahead, key=lambda span: (span.start, span.to))]
        self.taken = max([self.taken, *(span.to for span in ahead)])
        self.ends = self._next_end()

    def offer(self, offset: int, campaign: str, row: bytes) -> list[int] | None:
        """The windows that hold the row; None where the connection does not want it. Empty: it has no window
        though it should. A row that collect has yet to read is in none, and not wanted yet.
        """
        if offset >= self.taken:
            return None
        windows: list[int] = []
        covered = False
        for under in self._under:
            if under.span.start > offset:
                break
            covered |= offset < under.span.to
            if under.span.holds(offset, campaign):
                under.rows += 1
                under.digest = digest_of(under.digest, row)
                windows.append(under.span.window)
        if covered:
            # One that was open when Redis was read may have been sealed since: that is the same row.
            return [window for window in windows if window != OPEN] or windows or None
        wanted = None if self.wants is None else campaigns_of(self.wants)
        return [] if self.wants is not None and (wanted is None or campaign in wanted) else None

    def passed(self, offset: int) -> Iterator[Difference]:
        """What is wrong with the spans that end at or before `offset`, where they were read whole."""
        if offset < self.ends:
            return
        ended = [under for under in self._under if under.span.to <= offset]
        self._under = [under for under in self._under if under.span.to > offset]
        self.ends = self._next_end()
        for under in ended:
            if under.span.start >= self.read_from and under.span.rows is not None:
                yield from _compared(under, self.account, self.partition)

    def _next_end(self) -> int:
        return min((under.span.to for under in self._under), default=sys.maxsize)


def _compared(under: _Under, account: str, partition: int) -> Iterator[Difference]:
    span, sealed = under.span, under.span.rows or 0
    if (under.rows, under.digest) == (sealed, span.digest):
        return
    trouble = Trouble.CONFLICTING
    if under.rows != sealed:
        trouble = Trouble.MISSING if under.rows > sealed else Trouble.DOUBLED
    others = ", others than these" if under.rows == sealed else ""
    why = (
        f"partition {partition}, offsets {span.start} to {span.to}: {sealed:,} rows are in it, and the "
        f"topic has {under.rows:,} for it{others}; unless other campaigns were chosen while it was open"
    )
    yield Difference(trouble, span.name, Place(account, "", span.day, span.connection), why)
