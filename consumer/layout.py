"""How a deployment begins, and how a service makes sure it stands on firm ground.

`initialise` writes topic id, partition count, layout version and start offsets to Redis and to
`referral-manifests`; `require` is every service's first step and refuses, in one clear line, a Redis
that forgets, another layout, another topic, and a state that was never there or was lost.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from consumer import manifests
from consumer.kafka_out import KafkaOut
from consumer.keys import LAYOUT, Keys, Role
from consumer.manifests import Remembered
from consumer.service import Stop
from consumer.store import Store, StoreRefused, StoreUnavailable
from consumer.topics import Admin, Topics
from schemas.manifest import Kind, Manifest

#: What to do about a Redis that is lost, or went back, with no newer copy of it.
REBUILD = "stop all services and run `referrals rebuild`"
#: Two barriers with `everysec` take longer, if they wait for the disk at all.
TWO_FSYNCS_S = 0.5


@dataclass(frozen=True, slots=True)
class Layout:
    """What `init` wrote. `fingerprint_key` keys the fingerprints of upstream duplicates."""

    topic_id: str
    partitions: int
    starts: tuple[int, ...]
    fingerprint_key: bytes
    #: By partition: deliveries of records before it were made anew, after Redis was lost; () where it never
    #: was.
    rebuilt: tuple[int, ...] = ()


def require(store: Store, admin: Admin, topics: Topics, remembered: Remembered) -> Layout:
    """The layout, or Stop with what is wrong and what to do."""
    found = read(store, topics)
    if found is None:
        if remembered.init is None:
            raise Stop(
                f"{topics.referrals} was never initialised: run `referrals init --from earliest|latest|TIME`"
            )
        raise Stop(
            f"Redis at {shown(store.url)} has no state of {topics.referrals}, which was initialised on "
            f"{remembered.init.at:%Y-%m-%d %H:%M} UTC: Redis was lost or is another one. Check "
            f"REFERRALS_REDIS, restore its newest append-only file, or {REBUILD}; nothing is read or sent "
            "until then"
        )
    require_topic(admin, topics, found)
    return found


def require_topic(admin: Admin, topics: Topics, layout: Layout) -> None:
    """The topic is still the one that was initialised, or Stop."""
    described = admin.describe(topics.referrals)
    if described is None:
        raise Stop(
            f"topic {topics.referrals} is not in Kafka any more: check REFERRALS_KAFKA and REFERRALS_PREFIX"
        )
    if described.topic_id != layout.topic_id:
        raise Stop(
            f"topic {topics.referrals} was deleted and made again (its id is {described.topic_id}, "
            f"not {layout.topic_id}): stored offsets mean nothing in it. Start with an empty Redis and "
            "`referrals init`, or point REFERRALS_KAFKA at the right cluster"
        )
    if described.partitions != layout.partitions:
        raise Stop(
            f"topic {topics.referrals} has {described.partitions} partitions, it was initialised with "
            f"{layout.partitions}: the count is fixed, since a referral's id decides its partition"
        )


def require_durable(store: Store, *, volatile_ok: bool) -> None:
    """Redis keeps what it is given, or Stop."""
    try:
        durability = store.durability()
    except (StoreUnavailable, StoreRefused) as error:
        where = shown(store.url)
        raise Stop(
            f"Redis at {where} is not reachable: check REFERRALS_REDIS and that it runs ({error})"
        ) from error
    if durability.eviction != "noeviction":
        raise Stop(f"Redis evicts keys ({durability.eviction}): set maxmemory-policy noeviction")
    if not durability.append_only and not volatile_ok:
        raise Stop(
            "Redis has no append-only file, so a restart loses referrals: set appendonly yes "
            "(for play only: REFERRALS_ALLOW_VOLATILE_REDIS=1)"
        )


def require_barrier(store: Store, key: str, *, volatile_ok: bool) -> None:
    """WAITAOF can be believed, or Stop: windows and mails rely on it against a power cut.

    Under `appendfsync everysec` an honest server makes two barriers in a row wait for two fsyncs, a
    second apart. Some acknowledge at once (Valkey 9.1.2 does, as Redis 7.4 did before redis/redis#13793).
    """
    fsync = None if volatile_ok else store.fsync()
    if fsync in {None, "always"}:
        return
    if fsync == "no" or _two_barriers_s(store, key) < TWO_FSYNCS_S:
        raise Stop(
            f"Redis confirms writes before its disk has them (appendfsync {fsync}): set appendfsync always "
            "(for play only: REFERRALS_ALLOW_VOLATILE_REDIS=1)"
        )


def _two_barriers_s(store: Store, key: str) -> float:
    began = time.monotonic()
    for _ in range(2):
        store.command("SET", key, "1", "EX", 60)
        store.barrier()
    return time.monotonic() - began


def initialise(
    store: Store, admin: Admin, out: KafkaOut, topics: Topics, remembered: Remembered, starts: Sequence[int]
) -> Layout | None:
    """Write the beginning of everything; None where it stood already. Raises Stop.

    Redis first, the manifest second, `complete` last: a run that died between is simply repeated.
    """
    described = admin.describe(topics.referrals)
    if described is None:
        raise Stop(f"topic {topics.referrals} does not exist")
    if store.hash(Keys(topics.referrals, Role.PUSH).layout).get("complete") == "1":
        require_topic(admin, topics, _required(store, topics))
        return None
    if remembered.init is not None and remembered.init.topic_id == described.topic_id:
        raise Stop(
            f"{topics.referrals} was initialised on {remembered.init.at:%Y-%m-%d %H:%M} UTC, but Redis at "
            f"{shown(store.url)} knows nothing of it: starting over could send everything twice. Restore "
            f"Redis's append-only file, or {REBUILD}"
        )
    layout = Layout(described.topic_id, described.partitions, tuple(starts), secrets.token_bytes(32))
    write(store, topics, layout)
    store.barrier()
    statement = Manifest(
        kind=Kind.INIT,
        at=datetime.now(UTC),
        layout=LAYOUT,
        topic=topics.referrals,
        topic_id=layout.topic_id,
        starts=layout.starts,
    )
    manifests.tell(out, topics, statement)
    store.command("HSET", Keys(topics.referrals, Role.PUSH).layout, "complete", "1")
    store.barrier()
    return layout


def write(store: Store, topics: Topics, layout: Layout, heads: Sequence[int] | None = None) -> None:
    """The layout, not complete yet, and where each partition is read from: `heads`, by default its start."""
    commands: list[Sequence[str | bytes | int]] = []
    for role in Role:
        keys = Keys(topics.referrals, role)
        for partition, start in enumerate(layout.starts if heads is None else heads):
            head = keys.head(partition)
            fields: dict[str, str | int] = {
                "epoch": 0,
                "owner": "",
                "lease": 0,
                "barrier": 0,
                "prev": -1,
                "verdicts": "",
                "set": 0,
            }
            fields |= {"marks": 0, "outbox": 0, "next": start}
            commands.append(("HSET", head, *(item for pair in fields.items() for item in pair)))
    facts: dict[str, str | int] = {
        "layout": LAYOUT,
        "topic_id": layout.topic_id,
        "partitions": layout.partitions,
        "starts": ",".join(str(start) for start in layout.starts),
        "fingerprint_key": layout.fingerprint_key.hex(),
        "complete": 0,
    }
    key = Keys(topics.referrals, Role.PUSH).layout
    commands.append(("HSET", key, *(item for pair in facts.items() for item in pair)))
    store.commands(commands)


def _required(store: Store, topics: Topics) -> Layout:
    found = read(store, topics)
    if found is None:
        raise Stop(
            f"{topics.referrals} was never initialised: run `referrals init --from earliest|latest|TIME`"
        )
    return found


def read(store: Store, topics: Topics) -> Layout | None:
    """What `init` wrote in Redis, or None. Raises Stop for another layout or one half written."""
    facts = store.hash(Keys(topics.referrals, Role.PUSH).layout)
    if not facts:
        return None
    if facts["layout"] != str(LAYOUT):
        older = int(facts["layout"]) < LAYOUT
        what = "older" if older else "newer"
        do = "migrate it with the release that wrote it" if older else "run the release that wrote it"
        raise Stop(
            f"Redis holds layout {facts['layout']}, {what} than this release's layout {LAYOUT}: {do}, "
            "or point REFERRALS_REDIS elsewhere"
        )
    if facts.get("complete") != "1" and "rebuilding" in facts:
        raise Stop(
            f"the rebuilding of {topics.referrals} in Redis did not finish: run `referrals rebuild` again"
        )
    if facts.get("complete") != "1":
        raise Stop(f"the initialisation of {topics.referrals} did not finish: run `referrals init` again")
    starts = tuple(int(start) for start in facts["starts"].split(","))
    rebuilt = tuple(int(offset) for offset in facts.get("rebuilt", "").split(",") if offset)
    key = bytes.fromhex(facts["fingerprint_key"])
    return Layout(facts["topic_id"], int(facts["partitions"]), starts, key, rebuilt)


def require_same(store: Store, topics: Topics, layout: Layout) -> None:
    """Redis still is what it was when the service started, or Stop: a flush that is idle would not notice."""
    found = read(store, topics)
    if found is None:
        raise Stop(
            f"Redis at {shown(store.url)} has no state of {topics.referrals} any more: it was emptied or is "
            f"another one. Restore its newest append-only file, or {REBUILD}; nothing is sent until then"
        )
    if found != layout:
        raise Stop(f"the state of {topics.referrals} in Redis was made anew: start this service again")


def shown(url: str) -> str:
    """The server without its password."""
    return url.rsplit("@", 1)[-1].removeprefix("redis://").removeprefix("rediss://")
