"""The rows of a window that was closed, read again from Kafka: the same bytes, or none at all.

The manifest says which offsets; which of their records were the connection's is decided as intake did, by
the definition frozen at the seal. Upstream's second publications are told apart by the receipts intake left,
and only where the manifest's digest says that some must be missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from batcher.removal import Removal
from batcher.render import Damaged, digest_of, short
from batcher.windows import Windows
from consumer.intake import row
from consumer.keys import Role
from consumer.route import Router
from consumer.stream import Record
from schemas import receipt as receipts
from schemas import referral as referrals
from schemas.codec import Undecodable
from schemas.connection import Account, ConnectionSet, FileConnection
from schemas.delivery import Outcome
from schemas.manifest import Mark
from schemas.referral import EventType, Referral, SchemaById

#: Rows handed on at once.
PAGE = 500
#: Whose intake puts rows into windows.
SERVICE = Role.BATCH.service

ReadAll = Callable[[str, Mapping[int, int] | None], Iterator[Record]]
"""Every record of a topic from these offsets on, as `reading.read_all` gives them."""


class FromKafka:
    """A window's rows by its marks; `latest` is known once `check` has read them. Raises StreamFailed."""

    damage = (
        "Kafka has deleted some of them, or other campaigns were chosen while the window was open: export "
        "the time range by hand"
    )

    def __init__(
        self,
        windows: Windows,
        account: str,
        frozen: FileConnection,
        topics: tuple[str, str],
        read: ReadAll,
        by_id: SchemaById | None,
    ) -> None:
        """`topics`: of the referrals and of the receipts. `windows`: for what is known of removals."""
        self._windows, self._name, (self._referrals, self._receipts) = windows, frozen.name, topics
        self._router = Router(ConnectionSet(accounts=(Account(account=account, connections=(frozen,)),)))
        self._read, self._by_id = read, by_id
        self._doubled: dict[int, set[int]] = {}
        #: By partition, then by 64 bits of the referral's id, about 0.1 kB each.
        self._latest: dict[int, dict[int, int]] = {}

    def check(self, marks: Sequence[Mark]) -> None:
        """Read everything once, as far as the marks reach. Raises Damaged where these are not the rows that
        were sealed.
        """
        wrong = [mark for mark in marks if not self._same(mark)]
        if wrong:
            self._doubled = self._second_publications(wrong)
            wrong = [mark for mark in wrong if not self._same(mark)]
        if wrong:
            where = f"the rows of partition {wrong[0].partition} are no longer the sealed ones"
            raise Damaged(f"{where}: {self.damage}")

    def pages(self, mark: Mark) -> Iterator[list[bytes]]:
        page: list[bytes] = []
        for record, _ in self._rows(mark):
            page.append(row(record.offset, record.value or b""))
            if len(page) == PAGE:
                yield page
                page = []
        if page:
            yield page

    def latest(self, partition: int, ids: Sequence[str]) -> Mapping[str, int]:
        latest = self._latest.get(partition, {})
        return {i: latest.get(short(i), 0) for i in ids}

    def removals(self, partition: int, ids: Sequence[str]) -> Mapping[str, Removal]:
        return self._windows.removals(partition, ids)

    def _same(self, mark: Mark) -> bool:
        """Whether the records give what was sealed; on the way learn the latest revisions."""
        digest, count = "", 0
        latest: dict[int, int] = {}
        for record, referral in self._rows(mark):
            digest = digest_of(digest, row(record.offset, record.value or b""))
            count += 1
            if referral.revision > latest.get(key := short(referral.referral_id), 0):
                latest[key] = referral.revision
        self._latest[mark.partition] = latest
        return (count, digest) == (mark.rows, mark.digest)

    def _rows(self, mark: Mark) -> Iterator[tuple[Record, Referral]]:
        if not mark.rows:
            return
        doubled = self._doubled.get(mark.partition, set())
        for record in self._read(self._referrals, {mark.partition: mark.start}):
            if record.offset >= mark.to:
                return
            referral = self._wanted(record) if record.offset not in doubled else None
            if referral is not None:
                yield record, referral

    def _wanted(self, record: Record) -> Referral | None:
        try:
            referral = referrals.decode(record.value, self._by_id, routing_only=True)
        except Undecodable:
            return None
        if referral.is_test or referral.event_type.removes or referral.event_type is EventType.UNKNOWN:
            return None
        return referral if self._router.connections(referral) else None

    def _second_publications(self, marks: Sequence[Mark]) -> dict[int, set[int]]:
        """Offsets intake dropped, by partition."""
        found: dict[int, set[int]] = {mark.partition: set() for mark in marks}
        reach = {mark.partition: range(mark.start, mark.to) for mark in marks}
        for record in self._read(self._receipts, None):
            try:
                told = receipts.decode(record.value or b"")
            except Undecodable:
                continue
            partition, offset = told.partition or 0, told.offset or 0
            dropped = told.outcome is Outcome.DUPLICATE_UPSTREAM and told.service == SERVICE
            if dropped and offset in reach.get(partition, ()):
                found[partition].add(offset)
        return found
