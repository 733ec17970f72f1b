"""A sealed window's rows as the cells of its files: one row per referral, the latest revision.

Rows come in (partition, offset) order, so the same window always gives the same bytes. What was sealed
is checked against the mark's digest: a content that changed is never sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from batcher.files.feed import Placed
from batcher.removal import Removal, leaves_out, may_count
from batcher.window import WindowState
from batcher.windows import Windows
from consumer import log
from consumer.route import AnyConnection
from schemas import referral as referrals
from schemas.codec import Undecodable
from schemas.manifest import Mark
from schemas.referral import Referral, SchemaById

#: Rows read at once: memory holds one page, about 8 MB decoded, and Redis is busy with it for a few
#: milliseconds. It walks through the list to where a page begins, so smaller ones cost more.
PAGE = 1_000
#: Rows decoded at once: they stay in the processor's cache until they are written.
SLICE = 100


class Damaged(Exception):  # noqa: N818 - what the rows are
    """The sealed rows are not what was sealed. Nothing of this window may leave."""


class Source(Protocol):
    """Where a window's rows are. `damage`: what it means where they are not the sealed ones."""

    damage: str

    def pages(self, mark: Mark) -> Iterator[list[bytes]]:
        """The partition's rows in order, as they were sealed."""

    def latest(self, partition: int, ids: Sequence[str]) -> Mapping[str, int]:
        """Of these referrals, the revision that supersedes all lower ones in the window."""

    def removals(self, partition: int, ids: Sequence[str]) -> Mapping[str, Removal]:
        """Of these referrals, those withdrawn or erased."""


class Sealed:
    """The rows as Redis has them until the window is closed."""

    damage = "Redis was tampered with or went back"

    def __init__(self, windows: Windows, window: WindowState) -> None:
        self._windows, self._window = windows, window
        self._corrected: dict[int, bool] = {}

    def pages(self, mark: Mark) -> Iterator[list[bytes]]:
        start = 0
        while start < mark.rows:
            rows = self._windows.rows(self._window, mark.partition, start, PAGE)
            if not rows:
                return
            yield rows
            start += len(rows)

    def latest(self, partition: int, ids: Sequence[str]) -> Mapping[str, int]:
        if partition not in self._corrected:
            self._corrected[partition] = self._windows.has_corrections(self._window, partition)
        return self._windows.latest(self._window, partition, ids) if self._corrected[partition] else {}

    def removals(self, partition: int, ids: Sequence[str]) -> Mapping[str, Removal]:
        return self._windows.removals(partition, ids)


class Rows:
    """Iterates over the file's rows, each with its place among the sealed ones; `left_out` counts the sealed
    rows that stay out.

    `first_byte`: marks per partition known when the first byte was sent, or None before it. `start`: the
    place of the first row that is wanted; those before it are read all the same, and not rendered.
    """

    def __init__(
        self,
        source: Source,
        window: WindowState,
        connection: AnyConnection,
        first_byte: Mapping[int, int] | None,
        by_id: SchemaById | None,
        start: int = 0,
    ) -> None:
        self._source, self._window = source, window
        self._columns = connection.columns
        self._first_byte, self._by_id, self._start = first_byte, by_id, start
        #: 64 bits of each referral already written: a second publication after the dedupe horizon.
        self._written: set[int] = set()
        self.left_out = 0

    def __iter__(self) -> Iterator[Placed]:
        """Raises Damaged, Undecodable, and what the source raises."""
        place = 0
        for mark in self._window.marks:
            digest, count = "", 0
            for rows in self._source.pages(mark):
                for first in range(0, len(rows), SLICE):
                    some = rows[first : first + SLICE]
                    for raw in some:
                        digest = digest_of(digest, raw)
                    yield from self._cells(mark.partition, mark.removals, some, place + count)
                    count += len(some)
            if count != mark.rows or digest != mark.digest:
                raise Damaged(
                    f"partition {mark.partition} of {self._window.id} has {count} rows of {mark.rows}, "
                    f"or not the sealed ones: {self._source.damage}"
                )
            place += count

    def _cells(self, partition: int, sealed: int, rows: list[bytes], place: int) -> Iterator[Placed]:
        found = list(self._decoded(partition, rows, place))
        ids = list({referral.referral_id for _, referral in found})
        first_byte = None if self._first_byte is None else self._first_byte.get(partition, 0)
        account = self._window.fields.get("account")
        if account is not None and any(referral.account_id != account for _, referral in found):
            raise Damaged(
                f"{self._window.id} has rows of another account than {account}: "
                "export the time range by hand for each"
            )
        removals = self._source.removals(partition, ids) if may_count(sealed, first_byte) else {}
        latest = self._source.latest(partition, ids)
        for at, referral in found:
            removal = removals.get(referral.referral_id)
            gone = removal is not None and leaves_out(removal, referral.revision, sealed, first_byte)
            if gone or referral.revision < latest.get(referral.referral_id, 0) or self._doubled(referral):
                self.left_out += 1
            elif at >= self._start:
                yield at, self._columns.cells(referral)

    def _decoded(self, partition: int, rows: list[bytes], place: int) -> Iterator[tuple[int, Referral]]:
        for at, raw in enumerate(rows, place):
            try:
                yield at, referrals.decode(raw[8:], self._by_id)
            except Undecodable as error:
                # Intake read what routing needs. Where that still works the record itself is broken, and
                # push, which reads records whole, has made it a dead letter; else the fault is on our side.
                referrals.decode(raw[8:], self._by_id, routing_only=True)
                offset = int.from_bytes(raw[:8], "big")
                log.trouble("row.left_out", partition=partition, offset=offset, reason=str(error))
                self.left_out += 1

    def _doubled(self, referral: Referral) -> bool:
        known = short(referral.referral_id)
        if known in self._written:
            return True
        self._written.add(known)
        return False


def short(referral_id: str) -> int:
    """64 bits that stand for a referral where memory holds many."""
    return int.from_bytes(hashlib.blake2b(referral_id.encode(), digest_size=8).digest(), "big")


def digest_of(before: str, raw: bytes) -> str:
    """The chained digest of a partition's rows, as `intake.lua` counts it, with one row more."""
    return hashlib.sha1(before.encode() + raw, usedforsecurity=False).hexdigest()
