"""Deliveries that wait for a person: an attempt may have been applied, and its key may be forgotten.

No worker touches them. An operator, who has looked at the receiver, has them tried again or gives them up.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from consumer.ending import ended
from consumer.frozen import Frozen, thaw
from consumer.keys import Keys
from consumer.pending import Fact, settle
from consumer.settling import NOBODY
from consumer.store import Call, Script, Store, StoreRefused, pairs, text
from consumer.tries import Tries, parse
from schemas.delivery import Outcome

RELEASE = Script("consumer", "release")
#: Deliveries in one round trip, bodies included: keeps it and each script call to some milliseconds.
PAGE = 200
GIVEN_UP = "given up by an operator after an attempt nobody knows the end of"


@dataclass(frozen=True, slots=True)
class Held:
    """One delivery; `since`: held since then, seconds since the epoch."""

    partition: int
    connection: str
    offset: int
    since: float
    tries: Tries
    frozen: Frozen = field(repr=False)


def page(store: Store, keys: Keys, partition: int, connection: str, first: int) -> list[Held]:
    """A lane's next PAGE from place `first` on, by how long they wait. Raises StoreUnavailable."""
    lane = f"{keys.prefix(partition)}lane:{connection}"
    scored = pairs(store.command("ZRANGE", f"{lane}:held", first, first + PAGE - 1, "WITHSCORES"))
    if not scored:
        return []
    offsets = [text(offset) for offset, _ in scored]
    bodies, tried = store.commands(
        [("HMGET", f"{lane}:body", *offsets), ("HMGET", f"{lane}:tries", *offsets)]
    )
    return [
        Held(partition, connection, int(offset), since_ms / 1000, parse(text(tries or b"")), thaw(body))
        for (offset, since_ms), body, tries in zip(scored, bodies, tried, strict=True)
        if body is not None  # a removal ended it just now
    ]


def send(store: Store, keys: Keys, some: Sequence[Held]) -> int:
    """Have these of one lane tried again now, as if nothing were in doubt; how many still were held."""
    partition, connection = some[0].partition, some[0].connection
    args = [part for one in some for part in (one.offset, one.frozen.referral_id)]
    reply = store.call(Call(RELEASE, keys.head(partition), (keys.prefix(partition), connection, *args)))
    return int(reply[1]) if len(reply) > 1 else 0


def drop(store: Store, keys: Keys, some: Sequence[Held], now: float) -> int:
    """End these of one lane as EXHAUSTED, each with a dead letter; how many still were held.

    What may have been applied can be taken back later, as after every unknown attempt.
    """
    partition, lane = some[0].partition, f"{keys.prefix(some[0].partition)}lane:{some[0].connection}"
    scores = store.command("ZMSCORE", f"{lane}:held", *(one.offset for one in some))
    facts = [_fact(one, now) for one, score in zip(some, scores, strict=True) if score is not None]
    store.call(settle(keys, partition, NOBODY, facts, []))
    return len(facts)


def released(store: Store, keys: Keys, partitions: Collection[int]) -> list[tuple[int, str]]:
    """Lanes in which something was released that their owner may not know of; told until `noticed`."""
    found = store.commands([("SMEMBERS", f"{keys.prefix(p)}released") for p in partitions])
    each = zip(partitions, found, strict=True)
    return [(partition, text(name)) for partition, names in each for name in names]


def noticed(store: Store, keys: Keys, lanes: Sequence[tuple[int, str]]) -> None:
    """Their owner reads them anew. Where Redis takes no writes it will be told again, which does no harm."""
    with suppress(StoreRefused):
        store.commands([("SREM", f"{keys.prefix(partition)}released", name) for partition, name in lanes])


def _fact(one: Held, now: float) -> Fact:
    end = ended(one.frozen, one.connection, Outcome.EXHAUSTED, one.tries.attempts, now, reason=GIVEN_UP)
    return Fact.of(one.frozen, one.connection, one.offset, end.entry, made=True)
