"""`referrals connections uncertain`: deliveries that wait for a person, shown, tried again or given up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from console.connections import require_known
from console.ground import redis_alone
from console.show import count, one_line
from consumer import held as waiting
from consumer import layout
from consumer.held import Held
from consumer.keys import Keys
from consumer.service import Settings, Stop
from consumer.store import Store
from consumer.topics import Topics
from schemas.receipt import utc

COLUMNS = ("delivery", "referral", "revision", "action", "attempts", "unknown since", "held since")
#: Rows shown at once; a receiver that was away can leave many more, and `--send-all` has them all.
MAX_SHOWN = 1_000


@dataclass(frozen=True, slots=True)
class Waiting:
    """The rows of the first MAX_SHOWN, a cell per column of COLUMNS, and how many there are in all."""

    rows: Sequence[tuple[str, ...]]
    count: int


def show(settings: Settings, name: str) -> Waiting:
    """What waits. Raises Stop."""
    rows: list[tuple[str, ...]] = []
    number = 0
    with redis_alone(settings) as (store, keys):
        for one in _all(store, keys, _partitions(store, keys, settings, name), name):
            number += 1
            if number <= MAX_SHOWN:
                rows.append(row(one))
    return Waiting(rows, number)


def decide(
    settings: Settings, name: str, *, send: tuple[str | None, bool], drop: tuple[str | None, bool]
) -> str | None:
    """Try one again or give one up, or all of them; None where neither is asked for. Raises Stop.

    `send`, `drop`: a delivery, and whether all are meant.
    """
    (one, every), (one_less, none_left) = send, drop
    asked = [one is not None, every, one_less is not None, none_left]
    if sum(asked) > 1:
        raise Stop("give one of --send, --send-all, --drop and --drop-all")
    if asked[0] or asked[1]:
        return try_again(settings, name, one)
    return give_up(settings, name, one_less) if any(asked) else None


def try_again(settings: Settings, name: str, delivery: str | None) -> str:
    """Have one tried again, or all (None). Raises Stop."""
    done = _each(settings, name, delivery, waiting.send)
    return f"{count(done, 'delivery', 'deliveries')} of {name} will be tried again now"


def give_up(settings: Settings, name: str, delivery: str | None) -> str:
    """Give one up, or all (None). Raises Stop."""
    done = _each(settings, name, delivery, partial(waiting.drop, now=time.time()))
    return f"{count(done, 'delivery', 'deliveries')} of {name} given up: EXHAUSTED, with a dead letter each"


def row(one: Held) -> tuple[str, ...]:
    """Ids and times, nothing of the person. Pure."""
    unknown = utc(one.tries.unknown_since).isoformat(timespec="seconds") if one.tries.unknown_since else ""
    return (
        one.frozen.delivery_id,
        one.frozen.referral_id,
        str(one.frozen.revision),
        str(one.frozen.action),
        str(one.tries.attempts),
        unknown,
        utc(one.since).isoformat(timespec="seconds"),
    )


def _each(
    settings: Settings,
    name: str,
    delivery: str | None,
    act: Callable[[Store, Keys, Sequence[Held]], int],
) -> int:
    """How many were acted on."""
    done = 0
    with redis_alone(settings) as (store, keys):
        partitions = _partitions(store, keys, settings, name)
        if delivery is not None:
            done = act(store, keys, [_found(_all(store, keys, partitions, name), name, delivery)])
        for partition in partitions if delivery is None else ():
            # Those acted on leave, and the next move up.
            while (some := waiting.page(store, keys, partition, name, 0)) and (n := act(store, keys, some)):
                done += n
        store.barrier()
    return done


def _found(held: Iterable[Held], name: str, delivery: str) -> Held:
    for one in held:
        if one.frozen.delivery_id == delivery:
            return one
    raise Stop(
        f"no delivery {one_line(delivery)!r} of {name} waits for a person: "
        f"`referrals connections uncertain {name}` shows those that do"
    )


def _all(store: Store, keys: Keys, partitions: Iterable[int], name: str) -> Iterator[Held]:
    for partition in partitions:
        first = 0
        while some := waiting.page(store, keys, partition, name, first):
            yield from some
            first += waiting.PAGE


def _partitions(store: Store, keys: Keys, settings: Settings, name: str) -> range:
    """Of a connection there is or was; raises Stop for any other."""
    require_known(store, keys, settings, name)
    found = layout.read(store, Topics(settings.prefix))
    if found is None:
        raise AssertionError("it was there just now")
    return range(found.partitions)
