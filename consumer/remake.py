"""What a parked offset comes to, now that its record was read again. Pure but for the schema's look-up."""

from __future__ import annotations

from dataclasses import dataclass, replace

from consumer import receipts
from consumer.ending import SERVICE, ended
from consumer.frozen import Frozen
from consumer.log import where
from consumer.parked import Item, Place
from consumer.push import frozen
from consumer.stream import Record
from schemas import referral as referrals
from schemas.codec import Undecodable
from schemas.delivery import Outcome
from schemas.push import PushBase
from schemas.receipt import Receipt, Subject, coordinates, utc
from schemas.referral import Referral, SchemaById

NEAR_START = "parked until Kafka was about to delete its record: its receiver took too little for too long"
LOST = "parked, and Kafka deleted its record before its lane had room: retention was too short"


@dataclass(frozen=True, slots=True)
class Read:
    """A parked offset, its record (None where Kafka has it no more) and its referral, if it can be read."""

    offset: int
    record: Record | None
    referral: Referral | None = None
    trouble: str = LOST


@dataclass(frozen=True, slots=True)
class Remake:
    """`topic`: of the records; `by_id`: as for intake."""

    topic: str
    by_id: SchemaById | None
    #: As in the layout.
    rebuilt: tuple[int, ...] = ()

    def read(self, offset: int, record: Record | None) -> Read:
        """Raises what `by_id` raises while a schema is not known."""
        if record is None:
            return Read(offset, None)
        try:
            return Read(offset, record, referrals.decode(record.value, self.by_id))
        except Undecodable as error:
            # Intake could read it: a schema was taken away since.
            return Read(offset, record, trouble=str(error))

    def back(self, place: Place, read: Read, connection: PushBase, now: float) -> Item:
        """What intake would have stored, made now."""
        if read.record is None or read.referral is None:
            return self._unread(place, read, now)
        made = _made(read.referral, connection)
        if not isinstance(made, Frozen):
            return self._unread(place, replace(read, trouble=made), now)
        if self.rebuilt and read.offset < self.rebuilt[place.partition]:
            # What was attempted before Redis was lost is forgotten.
            made = replace(made, doubt=since(read.record, read.referral))
        due = min(read.record.timestamp_ms or now * 1000, now * 1000)
        return Item(read.offset, made.freeze(), int(due))

    def given_up(
        self, place: Place, read: Read, connection: PushBase | None, now: float, *, removed: bool
    ) -> Item:
        """Ended undelivered, with a dead letter; a removed referral leaves none. `connection`: None for one
        that is not in the set any more. Where nobody can make the body, the record stands for it.
        """
        if read.record is None or read.referral is None:
            return self._unread(place, read, now)
        outcome = Outcome.WITHDRAWN if removed else Outcome.EXHAUSTED
        reason = None if removed else NEAR_START
        made = None if connection is None else _made(read.referral, connection)
        if isinstance(made, Frozen):
            end = ended(made, place.connection, outcome, 0, now, reason=reason)
            return Item(read.offset, entry=end.entry, outcome=outcome, reason=NEAR_START)
        receipt = self._of_record(place, read, outcome, now, reason)
        entry = (
            receipts.entry(receipt)
            if removed
            else receipts.entry_with_dead_letter(receipt, read.record.value or b"")
        )
        return Item(read.offset, entry=entry, outcome=outcome, reason=NEAR_START)

    def _unread(self, place: Place, read: Read, now: float) -> Item:
        """Nobody can tell what it was: its coordinates do, and its bytes, if there are any."""
        if read.record is None:
            receipt = self._of_record(place, read, Outcome.EXHAUSTED, now, LOST)
            entry = receipts.entry(receipt)
            return Item(read.offset, entry=entry, outcome=Outcome.EXHAUSTED, reason=LOST, lost=True)
        receipt = self._of_record(place, read, Outcome.UNDECODABLE, now, read.trouble)
        entry = receipts.entry_with_dead_letter(receipt, read.record.value or b"")
        return Item(read.offset, entry=entry, outcome=Outcome.UNDECODABLE, reason=read.trouble)

    def _of_record(
        self, place: Place, read: Read, outcome: Outcome, now: float, reason: str | None
    ) -> Receipt:
        """Of a delivery known by its record alone: the record's coordinates, and the connection."""
        return Receipt(
            subject=Subject.RECORD,
            subject_id=f"{coordinates(self.topic, place.partition, read.offset)}:{place.connection}",
            outcome=outcome,
            service=SERVICE,
            at=utc(now),
            reason=reason,
            connection=place.connection,
            referral_id=read.referral.referral_id if read.referral else None,
            revision=read.referral.revision if read.referral else None,
            topic=self.topic,
            partition=place.partition,
            offset=read.offset,
        )


def since(record: Record, referral: Referral) -> float:
    """The earliest an attempt at the record's deliveries can have been made, in seconds since the epoch."""
    return (record.timestamp_ms or referral.produced_at_us / 1000) / 1000


def _made(referral: Referral, connection: PushBase) -> Frozen | str:
    """The delivery, or what went wrong: as at intake, a defect met by one must not stop the others."""
    try:
        return frozen(connection, referral)
    except Exception as error:  # noqa: BLE001 - see above
        return f"a defect here, please report it: {type(error).__name__} at {where(error)}"
