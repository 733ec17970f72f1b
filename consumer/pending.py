"""Pending deliveries in Redis: settling them, paging them, finding those that were removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from consumer.frozen import thaw
from consumer.intake import LEASE_MS
from consumer.keys import Keys
from consumer.lane import Delivery, LaneKey
from consumer.lanes import MAX_LOADED
from consumer.store import Argument, Call, Script, Store, text

SETTLE = Script("consumer", "settle")
#: Removals looked at in one round trip.
MAX_REMOVALS = 1_000


@dataclass(frozen=True, slots=True)
class Fact:
    """A delivery that ended, with its outbox entry. True whoever says it."""

    connection: str
    offset: int
    entry: bytes


@dataclass(frozen=True, slots=True)
class Reschedule:
    """An attempt that failed: due again, in ms since the epoch."""

    connection: str
    offset: int
    due_ms: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Mark:
    """A removal of a referral: WITHDRAWN up to a revision, or ERASED."""

    erased: bool
    revision: int

    def removes(self, revision: int) -> bool:
        return self.erased or revision <= self.revision


def settle(
    keys: Keys, partition: int, epoch: int, facts: Sequence[Fact], later: Sequence[Reschedule]
) -> Call:
    """Write facts and reschedules, and renew the lease if `epoch` is the owner's."""
    args: list[Argument] = [keys.prefix(partition), epoch, LEASE_MS, len(facts)]
    for fact in facts:
        args += [fact.connection, fact.offset, fact.entry]
    args.append(len(later))
    for item in later:
        args += [item.connection, item.offset, item.due_ms, item.attempts]
    return Call(SETTLE, keys.head(partition), args)


def lanes_of(store: Store, keys: Keys, partition: int) -> list[str]:
    """Connections that ever had something pending in the partition."""
    return [text(name) for name in store.command("SMEMBERS", f"{keys.prefix(partition)}lanes")]


def page(store: Store, keys: Keys, key: LaneKey, epoch: int, known: int) -> tuple[list[Delivery], int] | None:
    """The next deliveries of a lane by due time, and how many it has in all; None where `epoch` is not
    the owner's any more: a new owner may have accepted what the page shows, and started it.

    `known`: so many of the earliest may be in memory already, and are fetched on top.
    """
    partition, connection = key
    lane = f"{keys.prefix(partition)}lane:{connection}"
    due, pending = store.commands(
        [("ZRANGE", f"{lane}:due", 0, known + MAX_LOADED - 1, "WITHSCORES"), ("ZCARD", f"{lane}:due")]
    )
    pairs = _pairs(due)
    if not pairs:
        return [], int(pending)
    offsets = [offset for offset, _ in pairs]
    bodies, attempts, owner = store.commands(
        [
            ("HMGET", f"{lane}:body", *offsets),
            ("HMGET", f"{lane}:attempts", *offsets),
            ("HGET", keys.head(partition), "epoch"),
        ]
    )
    if int(owner or 0) != epoch:
        return None
    found = [
        _delivery(key, int(offset), score, int(tried or 0), body)
        for (offset, score), body, tried in zip(pairs, bodies, attempts, strict=True)
        if body is not None
    ]
    return found, int(pending)


def _delivery(key: LaneKey, offset: int, due_ms: float, attempts: int, raw: bytes) -> Delivery:
    frozen = thaw(raw)
    return Delivery(*key, offset, due_ms / 1000, attempts, raw, frozen.referral_id, frozen.revision)


def removals_since(store: Store, keys: Keys, partition: int, sequence: int) -> tuple[dict[str, Mark], int]:
    """The marks after `sequence` by referral id, at most MAX_REMOVALS, and the last one's sequence."""
    order = f"{keys.prefix(partition)}removals"
    found = store.command(
        "ZRANGE", order, f"({sequence}", "+inf", "BYSCORE", "LIMIT", 0, MAX_REMOVALS, "WITHSCORES"
    )
    pairs = _pairs(found)
    ids = [text(referral_id) for referral_id, _ in pairs]
    return marks(store, keys, partition, ids), int(max((score for _, score in pairs), default=sequence))


def marks(store: Store, keys: Keys, partition: int, referral_ids: Sequence[str]) -> dict[str, Mark]:
    """Which of these referrals were removed."""
    if not referral_ids:
        return {}
    found = store.command("HMGET", f"{keys.prefix(partition)}removed", *referral_ids)
    return {
        referral_id: _mark(text(value))
        for referral_id, value in zip(referral_ids, found, strict=True)
        if value is not None
    }


def removed(delivery: Delivery, known: Mapping[str, Mark]) -> bool:
    """Whether a mark among `known` removes the delivery. Pure."""
    mark = known.get(delivery.referral_id)
    return mark is not None and mark.removes(delivery.revision)


def _mark(value: str) -> Mark:
    kind, revision, *_ = value.split(" ")
    return Mark(kind == "E", int(revision))


def _pairs(reply: Sequence[Any]) -> list[tuple[bytes, float]]:
    """A ZRANGE WITHSCORES reply, nested (RESP3) or flat (RESP2)."""
    if reply and isinstance(reply[0], list | tuple):
        return [(member, float(score)) for member, score in reply]
    return [(member, float(score)) for member, score in zip(reply[::2], reply[1::2], strict=True)]
