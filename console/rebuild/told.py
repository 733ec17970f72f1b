"""What `referral-receipts` tells of deliveries and records, on disk: there may be many millions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from console.disk import Disk
from consumer.keys import Role
from consumer.stream import Record
from schemas import receipt as receipts
from schemas.codec import Undecodable
from schemas.delivery import Outcome, delivery_id
from schemas.receipt import Receipt, Subject

#: The services whose receipts show how far each role had read.
SERVICES = {role.service: role for role in Role}
_TABLES = """
CREATE TABLE ended (id BLOB PRIMARY KEY, made INTEGER) WITHOUT ROWID;
CREATE TABLE latest (id BLOB PRIMARY KEY, revision INTEGER) WITHOUT ROWID;
"""
_OPEN = frozenset({Outcome.PENDING, Outcome.PARKED, Outcome.HELD, Outcome.UNCERTAIN})
_RECEIVED = frozenset({Outcome.DELIVERED, Outcome.DUPLICATE_AT_DESTINATION})
_PERHAPS = frozenset({Outcome.EXHAUSTED, Outcome.WITHDRAWN})


class Told:
    """`reach`: by role and partition, up to where records were taken at least. `left_out_before`: seconds
    since the epoch before which receipts may be missing, 0 where all are there.
    """

    def __init__(self) -> None:
        self._base = Disk(_TABLES)
        self.reach: dict[tuple[Role, int], int] = {}
        self.left_out_before = 0.0

    def close(self) -> None:
        self._base.close()

    def learn(self, records: Iterable[Record]) -> None:
        """Everything in the receipts' topic. Raises what reading it raises."""
        for record in records:
            try:
                self._learn(receipts.decode(record.value or b""))
            except Undecodable:
                continue  # not ours, or a newer release's

    def _learn(self, told: Receipt) -> None:
        if told.subject is Subject.RECORD and told.partition is not None and told.offset is not None:
            role = SERVICES.get(told.service)
            if role is not None:
                place = role, told.partition
                self.reach[place] = max(self.reach.get(place, 0), told.offset + 1)
        if told.subject is Subject.WINDOW or told.outcome in _OPEN:
            return
        made = told.outcome in _RECEIVED or (told.outcome in _PERHAPS and told.attempts > 0)
        record = told.subject is Subject.RECORD
        key = _short(f"{told.service}\n{told.subject_id}") if record else _uuid(told.subject_id)
        self._base.execute("INSERT OR IGNORE INTO ended VALUES (?, ?)", (key, int(made)))
        if told.revision and told.subject is Subject.DELIVERY and told.outcome in _RECEIVED:
            self._base.execute(
                "INSERT INTO latest VALUES (?, ?) ON CONFLICT DO UPDATE SET revision = max(revision, ?)",
                (_short(f"{told.connection}\n{told.referral_id}"), told.revision, told.revision),
            )

    def ended(self, connection: str, referral_id: str, revision: int) -> bool | None:
        """Whether the receiver may have the delivery; None where it has not ended."""
        return self._made(_uuid(delivery_id(connection, referral_id, revision)))

    def delivery_ended(self, delivery: str) -> bool:
        return self._made(_uuid(delivery)) is not None

    def noted(self, service: str, subject_id: str) -> bool:
        """Whether there is a service's own receipt of a record: the other's says nothing of it."""
        return self._made(_short(f"{service}\n{subject_id}")) is not None

    def newer(self, connection: str, referral_id: str, revision: int) -> bool:
        """Whether the receiver has a later revision."""
        row = self._base.execute(
            "SELECT revision FROM latest WHERE id = ?", (_short(f"{connection}\n{referral_id}"),)
        ).fetchone()
        return row is not None and row[0] > revision

    def _made(self, key: bytes) -> bool | None:
        row = self._base.execute("SELECT made FROM ended WHERE id = ?", (key,)).fetchone()
        return None if row is None else bool(row[0])


def whole_since(lows: dict[int, int], firsts: dict[int, float], kept_ms: str | None, now: datetime) -> float:
    """From when on, in seconds since the epoch, all receipts are there; 0: all that ever were. Pure.

    `lows`: the first offset of each partition of the receipts' topic; `firsts`: when the first record of
    those that have any was written; `kept_ms`: the topic's retention.
    """
    cut = [p for p, low in lows.items() if low > 0]
    if not cut:
        return 0.0
    kept = now.timestamp() - int(kept_ms) / 1000 if kept_ms and int(kept_ms) >= 0 else 0.0
    return max(firsts.get(p, kept) for p in cut)


def _uuid(text: str) -> bytes:
    try:
        return UUID(text).bytes
    except ValueError:
        return _short(text)


def _short(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
