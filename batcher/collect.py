"""`python -m batcher collect`: rows into open windows. No lease is needed: nothing leaves from here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from consumer.connection_sets import StoredSet
from consumer.intake import Entry, WindowTarget, row
from consumer.ownership import Owned
from consumer.route import FILE_KINDS, AnyConnection
from consumer.store import Call, Reply, Store
from consumer.stream import Record
from schemas.referral import Referral


def targets(
    _referral: Referral, record: Record, connections: Sequence[AnyConnection]
) -> Sequence[WindowTarget]:
    """The record as it came, for every file connection that wants it: it is rendered when its window
    is flushed, with the definition frozen at the seal.
    """
    kept = row(record.offset, record.value or b"")
    return [WindowTarget(c.name, kept) for c in connections if c.kind in FILE_KINDS]


class Collect:
    """Implements `ownership.Half`: all there is to do is done by intake itself."""

    def owned(self, owned: Owned) -> None: ...
    def gone(self, partition: int) -> None: ...
    def drain(self, partitions: Sequence[int]) -> Sequence[int]:
        return partitions

    def connections(self, stored: StoredSet) -> None: ...
    def accepted(
        self, owned: Owned, entries: Sequence[Entry], verdicts: str, parked: Mapping[str, int]
    ) -> None: ...
    def settled(self, owned: Owned, reply: Reply) -> None: ...
    def after(self, store: Store) -> None: ...
    def settle(self, owned: Owned) -> Call | None:  # noqa: ARG002 - the protocol's argument
        """Nothing ends here."""
        return None
