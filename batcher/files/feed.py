"""Rows on their way into one file after another: each file takes what fits, the next goes on from there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from batcher.files.sink import Out
from schemas.mapping import Value

#: Where a row stands among the rows there are, and its cells.
Placed = tuple[int, Sequence[Value]]


@dataclass(frozen=True, slots=True)
class Limit:
    """The most one file takes: rows, and bytes of its content before compression. None: any number."""

    rows: int | None = None
    bytes: int | None = None


class Full(Exception):  # noqa: N818 - what the file is
    """The row that was to be written belongs into the next file."""


class Feed:
    """Hands rows out, and knows where the next file begins. Passes on what `rows` raises."""

    def __init__(self, rows: Iterable[Placed]) -> None:
        self._rows = iter(rows)
        self._ahead: Placed | None = None
        self._last: Placed | None = None
        #: Rows in the present file.
        self.count = 0

    @classmethod
    def of(cls, rows: Iterable[Sequence[Value]]) -> Feed:
        """All there are, from the first."""
        return cls(enumerate(rows))

    @property
    def following(self) -> int | None:
        """The place of the row that comes next, None when there is none."""
        if self._ahead is None:
            self._ahead = next(self._rows, None)
        return None if self._ahead is None else self._ahead[0]

    def file(self, most: int | None) -> Iterator[Sequence[Value]]:
        """The rows of one file, as long as it has fewer than `most`."""
        self.count = 0
        while (most is None or self.count < most) and self.following is not None:
            self._last, self._ahead = self._ahead, None
            assert self._last is not None
            self.count += 1
            yield self._last[1]

    def back(self) -> None:
        """The row handed out last goes into the next file."""
        self._ahead = self._last
        self.count -= 1


class Bounded:
    """Takes a row in one piece, or says that the file is full. The first row is taken whatever its size."""

    def __init__(self, out: Out, most: int, feed: Feed) -> None:
        self._out, self._room, self._feed = out, most, feed

    def write(self, content: bytes, /) -> int:
        if len(content) > self._room and self._feed.count > 1:
            raise Full
        self._room -= len(content)
        self._out.write(content)
        return len(content)
