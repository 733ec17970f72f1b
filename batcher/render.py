"""A sealed window's rows as the cells of its file: one row per referral, the latest revision.

Rows come in (partition, offset) order, so the same window always gives the same bytes. What was sealed
is checked against the mark's digest: a content that changed is never sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from batcher.removal import leaves_out
from batcher.windows import Windows, WindowState
from consumer import log
from consumer.route import AnyConnection
from schemas import referral as referrals
from schemas.codec import Undecodable
from schemas.mapping import Value, render
from schemas.referral import Referral, SchemaById

#: Rows read at once: memory holds one page, and Redis is busy with it for a few milliseconds.
PAGE = 500


class Damaged(Exception):  # noqa: N818 - what the rows are
    """The sealed rows are not what was sealed. Nothing of this window may leave."""


class Rows:
    """Iterates over the file's rows; `left_out` counts the sealed rows that stay out.

    `first_byte`: marks per partition known when the first byte was sent, or None before it.
    """

    def __init__(
        self,
        windows: Windows,
        window: WindowState,
        connection: AnyConnection,
        first_byte: Mapping[int, int] | None,
        by_id: SchemaById | None,
    ) -> None:
        self._windows, self._window, self._connection = windows, window, connection
        self._first_byte, self._by_id = first_byte, by_id
        #: 64 bits of each referral already written: a second publication after the dedupe horizon.
        self._written: set[int] = set()
        self.left_out = 0

    def __iter__(self) -> Iterator[list[Value]]:
        """Raises Damaged, Undecodable and StoreUnavailable."""
        for mark in self._window.marks:
            digest, start = "", 0
            while start < mark.rows:
                rows = self._windows.rows(self._window, mark.partition, start, PAGE)
                if not rows:
                    break
                for raw in rows:
                    digest = hashlib.sha1(digest.encode() + raw, usedforsecurity=False).hexdigest()
                yield from self._cells(mark.partition, mark.removals, rows)
                start += len(rows)
            if start != mark.rows or digest != mark.digest:
                raise Damaged(
                    f"partition {mark.partition} of {self._window.id} has {start} rows of {mark.rows}, "
                    "or not the sealed ones: Redis was tampered with or went back"
                )

    def _cells(self, partition: int, sealed: int, rows: list[bytes]) -> Iterator[list[Value]]:
        found = list(self._decoded(partition, rows))
        ids = list({referral.referral_id for referral in found})
        removals = self._windows.removals(partition, ids)
        latest = self._windows.latest(self._window, partition, ids)
        first_byte = None if self._first_byte is None else self._first_byte.get(partition, 0)
        for referral in found:
            removal = removals.get(referral.referral_id)
            gone = removal is not None and leaves_out(removal, referral.revision, sealed, first_byte)
            if gone or referral.revision < latest.get(referral.referral_id, 0) or self._doubled(referral):
                self.left_out += 1
                continue
            pairs = render(self._connection.fields, referral, partner_data=self._connection.partner_data)
            yield [value for _, value in pairs]

    def _decoded(self, partition: int, rows: list[bytes]) -> Iterator[Referral]:
        for raw in rows:
            try:
                yield referrals.decode(raw[8:], self._by_id)
            except Undecodable as error:
                # Intake read what routing needs. Where that still works the record itself is broken, and
                # push, which reads records whole, has made it a dead letter; else the fault is on our side.
                referrals.decode(raw[8:], self._by_id, routing_only=True)
                offset = int.from_bytes(raw[:8], "big")
                log.trouble("row.left_out", partition=partition, offset=offset, reason=str(error))
                self.left_out += 1

    def _doubled(self, referral: Referral) -> bool:
        digest = hashlib.blake2b(referral.referral_id.encode(), digest_size=8).digest()
        known = int.from_bytes(digest, "big")
        if known in self._written:
            return True
        self._written.add(known)
        return False
