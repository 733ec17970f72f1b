"""From a batch of records to what intake is offered. Pure: bytes in, entries out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from consumer import log, receipts
from consumer.intake import Entry, LaneTarget, Removal, WindowTarget, fingerprint
from consumer.log import where
from consumer.partitioner import partition_of
from consumer.route import AnyConnection, Router
from consumer.stream import Record
from schemas import referral as referrals
from schemas.codec import Undecodable
from schemas.delivery import Outcome
from schemas.receipt import Receipt, Subject, coordinates, utc
from schemas.referral import EventType, Referral, SchemaById

Targets = Callable[[Referral, Record, Sequence[AnyConnection]], Sequence[LaneTarget | WindowTarget]]


@dataclass(slots=True)
class Plan:
    """What a batch comes to: entries in offset order, and what must happen before they are offered."""

    entries: list[Entry] = field(default_factory=list)
    removals: list[Removal] = field(default_factory=list)
    dead: list[tuple[Record, str]] = field(default_factory=list)
    unrouted: int = 0
    miskeyed: int = 0


@dataclass(frozen=True, slots=True)
class Planner:
    """Decodes, routes and makes targets, for one service.

    `whole`: decode every field (push renders bodies), or only what routing needs. `partitions`: of the topic,
    0 where nobody counts what upstream put elsewhere than the contract says.
    """

    service: str
    fingerprint_key: bytes
    whole: bool
    targets: Targets
    by_id: SchemaById | None = None
    partitions: int = 0

    def plan(self, records: Sequence[Record], router: Router, now: float) -> Plan:
        """`records` of one partition; `now` in seconds since the epoch goes into receipts only."""
        plan = Plan()
        for record in records:
            try:
                referral = self._decoded(record)
            except Undecodable as error:
                plan.dead.append((record, str(error)))
                note = self._note(record, Outcome.UNDECODABLE, str(error), now)
                plan.entries.append(Entry(record.offset, None, note))
                continue
            plan.miskeyed += self._misplaced(record, referral)
            try:
                entry = self._entry(plan, record, referral, router, now)
            except Exception as error:  # noqa: BLE001 - a defect met by one referral must not stop the others
                why = f"a defect here, please report it: {type(error).__name__} at {where(error)}"
                log.trouble("record.failed", partition=record.partition, offset=record.offset, reason=why)
                plan.dead.append((record, why))
                note = self._note(record, Outcome.UNDECODABLE, why, now, referral)
                entry = Entry(record.offset, None, note)
            plan.entries.append(entry)
        return plan

    def _misplaced(self, record: Record, referral: Referral) -> bool:
        """Whether its key, or the partition it was put in, is another than the contract says."""
        key = referral.referral_id.encode()
        elsewhere = self.partitions and record.partition != partition_of(key, self.partitions)
        return bool(record.key != key or elsewhere)

    def _decoded(self, record: Record) -> Referral:
        referral = referrals.decode(record.value, self.by_id, routing_only=not self.whole)
        if referral.event_type is EventType.UNKNOWN:
            raise Undecodable("its event_type is newer than this release")
        return referral

    def _entry(self, plan: Plan, record: Record, referral: Referral, router: Router, now: float) -> Entry:
        if referral.is_test:
            return Entry(record.offset, None, self._note(record, Outcome.TEST, None, now, referral))
        targets: Sequence[LaneTarget | WindowTarget] = ()
        if referral.event_type.removes:
            erased = referral.event_type is EventType.ERASED
            where = coordinates(record.topic, record.partition, record.offset)
            plan.removals.append(Removal(referral.referral_id, erased, referral.revision, where))
        else:
            wanted = router.connections(referral)
            if not wanted:
                plan.unrouted += 1
                note = self._note(record, Outcome.UNROUTED, "no connection wants it", now, referral)
                return Entry(record.offset, None, note)
            targets = self.targets(referral, record, wanted)
        return Entry(
            record.offset,
            fingerprint(
                self.fingerprint_key,
                referral.referral_id,
                referral.revision,
                referral.event_type,
                record.timestamp_ms,
            ),
            receipts.duplicate_entry(
                record.partition,
                record.offset,
                referral.referral_id,
                referral.revision,
                _sha256(record),
                self.service,
            ),
            referral.referral_id,
            referral.revision,
            targets,
        )

    def _note(
        self,
        record: Record,
        outcome: Outcome,
        reason: str | None,
        now: float,
        referral: Referral | None = None,
    ) -> bytes:
        return receipts.entry(
            Receipt(
                subject=Subject.RECORD,
                subject_id=coordinates(record.topic, record.partition, record.offset),
                outcome=outcome,
                service=self.service,
                at=utc(now),
                reason=reason,
                account_id=referral.account_id if referral else None,
                campaign_id=referral.campaign_id if referral else None,
                referral_id=referral.referral_id if referral else None,
                revision=referral.revision if referral else None,
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                digest=_sha256(record),
            )
        )


def _sha256(record: Record) -> str:
    return hashlib.sha256(record.value or b"").hexdigest()
