"""Pending deliveries in Redis: settling them, paging them, finding those that were removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from consumer.frozen import Frozen, thaw
from consumer.intake import LEASE_MS
from consumer.keys import Keys
from consumer.lane import Delivery, LaneKey
from consumer.lanes import MAX_LOADED
from consumer.store import Argument, Call, Reply, Script, Store, pairs, text
from consumer.tries import Tries, parse

SETTLE = Script("consumer", "settle")
SWEEP = Script("consumer", "sweep")
#: Deliveries looked at in one slice of a sweep.
SWEEP_SLICE = 500
#: Removals looked at in one round trip.
MAX_REMOVALS = 200
#: A delivery made can be taken back for so long: consent withdrawn later is the advertiser's own affair.
MADE_KEPT_MS = 90 * 86_400_000


@dataclass(frozen=True, slots=True)
class Fact:
    """A delivery that ended, with its outbox entry. True whoever says it.

    `back`: the frozen delivery that takes it back, b"" for none; `now`: the referral is removed already.
    """

    connection: str
    offset: int
    entry: bytes
    referral_id: str
    revision: int
    back: bytes = b""
    now: bool = False

    @classmethod
    def of(
        cls, frozen: Frozen, connection: str, offset: int, entry: bytes, *, made: bool, now: bool = False
    ) -> Fact:
        """`made`: the receiver may have it, so that there is something to take back."""
        back = frozen.taken_back(connection) if made else None
        raw = b"" if back is None else back.freeze()
        return cls(connection, offset, entry, frozen.referral_id, frozen.revision, raw, now)


@dataclass(frozen=True, slots=True)
class Reschedule:
    """Due again, in seconds since the epoch. None: held for a person, with an outbox entry that says so; inf:
    it waits for an earlier delivery of its referral that is.
    """

    connection: str
    offset: int
    due: float | None
    tries: Tries
    referral_id: str
    entry: bytes = b""


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
    args: list[Argument] = [keys.prefix(partition), epoch, LEASE_MS, MADE_KEPT_MS, len(facts)]
    for fact in facts:
        args += [fact.connection, fact.offset, fact.entry, fact.referral_id, fact.revision]
        args += [fact.back, int(fact.now)]
    args.append(len(later))
    for item in later:
        args += [item.connection, item.offset, _when(item.due)]
        args += [item.tries.text(), item.referral_id, item.entry]
    return Call(SETTLE, keys.head(partition), args)


def _when(due: float | None) -> Argument:
    if due is None:
        return ""
    return "behind" if due == inf else round(due * 1000)


def sweep(keys: Keys, partition: int, connection: str, cursor: str) -> Call:
    """Look for removed referrals among a lane's pending deliveries, a slice at a time; "0" begins."""
    return Call(SWEEP, keys.head(partition), (keys.prefix(partition), connection, cursor, SWEEP_SLICE))


def found_by_sweep(partition: int, connection: str, reply: Reply) -> tuple[str, list[Delivery]]:
    """The next cursor, "0" at the end, and the deliveries found."""
    key = LaneKey(partition, connection)
    each = zip(reply[2::3], reply[3::3], reply[4::3], strict=True)
    return text(reply[1]), [_delivery(key, int(offset), 0.0, tries, raw) for offset, raw, tries in each]


def lanes_of(store: Store, keys: Keys, partition: int) -> list[str]:
    """Connections that ever had something pending in the partition."""
    return [text(name) for name in store.command("SMEMBERS", f"{keys.prefix(partition)}lanes")]


def pending_of(store: Store, keys: Keys, partition: int, connections: Sequence[str]) -> list[str]:
    """Those of the connections that have something pending in the partition."""
    lanes = [("HLEN", f"{keys.prefix(partition)}lane:{name}:body") for name in connections]
    return [name for name, number in zip(connections, store.commands(lanes), strict=True) if number]


@dataclass(frozen=True, slots=True)
class Page:
    """The next deliveries of a tier by due time; `whole`: there are no others. `behind`: until when an
    earlier delivery of the same referral keeps one waiting, by offset.
    """

    deliveries: Sequence[Delivery]
    behind: Mapping[int, float]
    whole: bool


def page(store: Store, keys: Keys, key: LaneKey, epoch: int, known: int) -> Page | None:
    """The tier's next page; None where `epoch` is not the owner's any more: a new owner may have accepted
    what the page shows, and started it.

    `known`: so many of the earliest may be in memory already, and are fetched on top.
    """
    lane = f"{keys.prefix(key.partition)}lane:{key.connection}"
    order = f"{lane}:{key.tier}"
    due, pending = store.commands(
        [("ZRANGE", order, 0, known + MAX_LOADED - 1, "WITHSCORES"), ("ZCARD", order)]
    )
    scored = pairs(due)
    if not scored:
        return Page((), {}, whole=True)
    offsets = [offset for offset, _ in scored]
    bodies, tried, owner = store.commands(
        [
            ("HMGET", f"{lane}:body", *offsets),
            ("HMGET", f"{lane}:tries", *offsets),
            ("HGET", keys.head(key.partition), "epoch"),
        ]
    )
    if int(owner or 0) != epoch:
        return None
    found = [
        _delivery(key, int(offset), score, tries, body)
        for (offset, score), body, tries in zip(scored, bodies, tried, strict=True)
        if body is not None
    ]
    return Page(found, _behind(store, lane, found), int(pending) <= len(scored))


def _delivery(key: LaneKey, offset: int, due_ms: float, tries: bytes | None, raw: bytes) -> Delivery:
    frozen = thaw(raw)
    place = key.partition, key.connection, offset, due_ms / 1000
    before = parse(text(tries)) if tries else Tries(unknown_since=frozen.doubt)
    return Delivery(*place, frozen, before, key.tier)


def _behind(store: Store, lane: str, found: Sequence[Delivery]) -> dict[int, float]:
    """Those that an earlier delivery of their referral keeps waiting: until it is due again, or (inf) for as
    long as it is held.
    """
    if not found:
        return {}
    late = store.command("HMGET", f"{lane}:late", *(delivery.referral_id for delivery in found))
    earlier = {
        delivery.offset: [offset for offset in map(int, text(known).split()) if offset < delivery.offset]
        for delivery, known in zip(found, late, strict=True)
        if known is not None
    }
    asked = sorted({offset for offsets in earlier.values() for offset in offsets})
    if not asked:
        return {}
    again, held = store.commands([("ZMSCORE", f"{lane}:{order}", *asked) for order in ("again", "held")])
    # One that is in neither has ended just now, or waits behind one that is held.
    waits = {
        one: float(due or 0) / 1000 if since is None else inf
        for one, due, since in zip(asked, again, held, strict=True)
    }
    return {offset: max(waits[one] for one in offsets) for offset, offsets in earlier.items() if offsets}


def removals_since(
    store: Store, keys: Keys, partition: int, sequence: int, most: int = MAX_REMOVALS
) -> tuple[dict[str, Mark], int]:
    """The marks after `sequence` by referral id, at most `most`, and the last one's sequence."""
    order = f"{keys.prefix(partition)}removals"
    found = store.command("ZRANGE", order, f"({sequence}", "+inf", "BYSCORE", "LIMIT", 0, most, "WITHSCORES")
    scored = pairs(found)
    ids = [text(referral_id) for referral_id, _ in scored]
    return marks(store, keys, partition, ids), int(max((score for _, score in scored), default=sequence))


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
    """Whether a mark among `known` removes the delivery; what takes one back stays. Pure."""
    mark = known.get(delivery.referral_id)
    return mark is not None and delivery.offset >= 0 and mark.removes(delivery.revision)


def _mark(value: str) -> Mark:
    kind, revision, *_ = value.split(" ")
    return Mark(kind == "E", int(revision))
