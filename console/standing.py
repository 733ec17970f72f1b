"""`referrals connections list`: what is in force, and how each connection stands."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from console.connections import COLUMNS as WHAT
from console.connections import rows as described
from console.ground import redis_alone
from consumer import connection_sets, layout
from consumer.connection_sets import StoredSet
from consumer.keys import Keys
from consumer.service import Settings
from consumer.store import Argument, Store, pairs, text
from consumer.topics import Topics
from schemas.push import PushBase
from schemas.receipt import utc

COLUMNS = (*WHAT, "waiting", "held", "parked", "quiet until", "paused")
#: Lanes asked for in one round trip.
PAGE = 2_000


@dataclass(slots=True)
class Figures:
    """Of one connection over all partitions: to be sent, waiting for a person, in Kafka alone."""

    waiting: int = 0
    held: int = 0
    parked: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """`quiet`: by credential, until when its receiver asked for quiet, in seconds since the epoch."""

    stored: StoredSet
    paused: Mapping[str, str] = field(default_factory=dict)
    quiet: Mapping[str, float] = field(default_factory=dict)
    figures: Mapping[str, Figures] = field(default_factory=dict)


def read(settings: Settings) -> Standing:
    """As Redis has it. Raises Stop."""
    topics = Topics(settings.prefix)
    with redis_alone(settings) as (store, keys):
        found = layout.read(store, topics)
        quiet = pairs(
            store.command("ZRANGE", keys.quiet, round(time.time() * 1000), "+inf", "BYSCORE", "WITHSCORES")
        )
        return Standing(
            connection_sets.current(store, topics),
            store.hash(keys.paused),
            {text(name): until_ms / 1000 for name, until_ms in quiet},
            {} if found is None else _figures(store, keys, found.partitions),
        )


def rows(standing: Standing) -> list[tuple[str, ...]]:
    """A row per connection, a cell per column of COLUMNS; then those taken out that still have something.
    Pure.
    """
    connections = standing.stored.set.by_name()
    shown = [
        (*row, *_state(standing, row[1], connection))
        for row, (_, connection) in zip(described(standing.stored.set), connections.values(), strict=True)
    ]
    left = {name for name, figures in standing.figures.items() if figures != Figures()}
    removed = sorted((left | standing.paused.keys()) - connections.keys())
    return shown + [("", name, "removed", "", "", "", "", *_state(standing, name, None)) for name in removed]


def _state(standing: Standing, name: str, connection: object) -> tuple[str, ...]:
    paused = standing.paused.get(name, "")
    figures = standing.figures.get(name)
    if figures is None and not isinstance(connection, PushBase):
        return ("", "", "", "", paused)
    found = figures or Figures()
    until = standing.quiet.get(connection.shared_as if isinstance(connection, PushBase) else name)
    quiet = "" if until is None else utc(until).isoformat(timespec="seconds")
    return (f"{found.waiting:,}", f"{found.held:,}", f"{found.parked:,}", quiet, paused)


def _figures(store: Store, keys: Keys, partitions: int) -> dict[str, Figures]:
    """Of every lane that ever held something."""
    names = store.commands([("SMEMBERS", f"{keys.prefix(p)}lanes") for p in range(partitions)])
    lanes = [(p, text(name)) for p, known in enumerate(names) for name in known]
    figures: dict[str, Figures] = {}
    for first in range(0, len(lanes), PAGE):
        some = lanes[first : first + PAGE]
        asked: list[tuple[Argument, ...]] = []
        for partition, name in some:
            lane = f"{keys.prefix(partition)}lane:{name}"
            asked += [("HLEN", f"{lane}:body"), ("ZCARD", f"{lane}:held"), ("LLEN", f"{lane}:parked")]
        found = [int(number) for number in store.commands(asked)]
        for (_, name), bodies, held, parked in zip(some, found[::3], found[1::3], found[2::3], strict=True):
            of = figures.setdefault(name, Figures())
            of.waiting += bodies - held
            of.held += held
            of.parked += parked
    return figures
