"""What one request's answer means for each of the deliveries it carried. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import uuid5

from consumer.crm.answers import Answer, Rejected, Retry
from consumer.ending import Decision, Hold, Later, conclude
from consumer.frozen import Frozen
from consumer.tries import Tries
from schemas.delivery import NAMESPACE
from schemas.push import PushBase


@dataclass(frozen=True, slots=True)
class Verdict:
    """`answer`: None where nothing was said of this delivery alone, and it goes again with fewer others.
    `tries`: what the attempts leave behind, this one included.
    """

    answer: Answer | None
    decision: Decision
    tries: Tries


def key(rows: Sequence[Frozen]) -> str:
    """The idempotency key of a request: the delivery's id, of several the UUIDv5 of their sorted ids."""
    if len(rows) == 1:
        return rows[0].delivery_id
    return str(uuid5(NAMESPACE, "\n".join(sorted(row.delivery_id for row in rows))))


def verdicts(
    connection: PushBase,
    rows: Sequence[Frozen],
    before: Sequence[Tries],
    found: Answer | Sequence[Answer],
    now: float,
    jitter: float,
) -> list[Verdict]:
    """One per row. `before`: what earlier attempts left; `found`: one answer for all, or one a row.

    One moment and one jitter for all: what must stay together is due together. A request is split only
    after a definite answer; one whose end nobody knows is repeated as it was.
    """
    if isinstance(found, Rejected) and len(rows) > 1:
        half = len(rows) // 2
        names = [key(rows[:half])] * half + [key(rows[half:])] * (len(rows) - half)
        apart = [replace(tries, group=name) for tries, name in zip(before, names, strict=True)]
        return [Verdict(None, Later(now, 0.0, tries), tries) for tries in apart]
    answers = list(found) if isinstance(found, Sequence) else [found] * len(rows)
    group = key(rows) if len(rows) > 1 else ""
    return [
        _verdict(connection, row, tries, answer, now, jitter, group)
        for row, tries, answer in zip(rows, before, answers, strict=True)
    ]


def _verdict(
    connection: PushBase,
    row: Frozen,
    before: Tries,
    answer: Answer,
    now: float,
    jitter: float,
    group: str,
) -> Verdict:
    unknown = isinstance(answer, Retry) and answer.unknown
    decision = conclude(row, connection, answer, before, now, jitter, group if unknown else "")
    if isinstance(decision, Later | Hold):
        return Verdict(answer, decision, decision.tries)
    if unknown and not before.unknown_since:
        # The last attempt too may have been applied: then there is something to take back.
        before = replace(before, unknown_since=now)
    return Verdict(answer, decision, before)
