"""Receipts, as a reconciliation takes them: each where it belongs. Repeats are harmless."""

from __future__ import annotations

from dataclasses import dataclass, field

from console.reconcile.facts import PASSED, Facts
from console.reconcile.judge import Found
from schemas.receipt import Receipt, Subject, coordinates


@dataclass(slots=True)
class Told:
    """Takes receipts from Kafka and from outboxes. `windows`: the receipts of windows by id."""

    facts: Facts
    account: str | None
    windows: dict[str, list[Receipt]] = field(default_factory=dict)

    def take(self, one: Receipt, at_ms: int) -> None:
        """`at_ms`: when Kafka got it."""
        if self.account is not None and one.account_id not in {None, self.account}:
            return
        if one.subject is Subject.WINDOW:
            self.windows.setdefault(one.subject_id, []).append(one)
        elif one.subject is Subject.DELIVERY:
            if one.connection is not None and one.referral_id is not None and one.revision is not None:
                found = Found(one.connection, one.action, one.subject_id, one.outcome, at_ms)
                self.facts.found(one.referral_id, one.revision, found)
        elif one.topic is not None and one.partition is not None and one.offset is not None:
            if one.subject_id == coordinates(one.topic, one.partition, one.offset):
                self.facts.note(one.partition, one.offset, one.service, one.outcome)
            elif one.connection is not None:
                # A parked delivery that ended without its body: the record stands for it.
                self.facts.note(one.partition, one.offset, PASSED, one.outcome, one.connection)
