"""`referrals init`: make and check the topics, choose the start, write the beginning of everything."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from console.ground import plainly
from console.moment import moment
from consumer import layout, manifests
from consumer.kafka_out import KafkaOut
from consumer.layout import Layout
from consumer.reading import read_all
from consumer.service import Settings, Stop
from consumer.store import Store
from consumer.topics import (
    DEFAULT_RETENTION_MS,
    Admin,
    Description,
    Topics,
    needed_retention_ms,
    retention_trouble,
)

EARLIEST = "earliest"
LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Begun:
    """What `init` found or did: `made` names the topics it made, `layout` is None where all stood already."""

    topic: str
    partitions: int
    made: tuple[str, ...]
    layout: Layout | None


def begin(settings: Settings, start: str, partitions: int, replication: int) -> Begun:
    """`start`: earliest, latest or an ISO 8601 time with its offset. Raises Stop."""
    at = None if start in {EARLIEST, LATEST} else moment(start, also="earliest, latest or ")
    topics = Topics(settings.prefix)
    append_only = not settings.allow_volatile_redis
    with (
        plainly(),
        closing(Store(settings.redis, append_only=append_only, replicas=settings.redis_replicas)) as store,
    ):
        layout.require_durable(store, volatile_ok=settings.allow_volatile_redis)
        admin = Admin(settings.kafka, settings.kafka_config)
        out = KafkaOut(settings.kafka, settings.kafka_config)
        made, described = _topics(admin, topics, partitions, replication)
        remembered = manifests.remember(settings.kafka, settings.kafka_config, topics)
        starts = _starts(settings, admin, topics.referrals, described.partitions, start, at)
        begun = layout.initialise(store, admin, out, topics, remembered, starts)
    return Begun(topics.referrals, described.partitions, made, begun)


def _topics(
    admin: Admin, topics: Topics, partitions: int, replication: int
) -> tuple[tuple[str, ...], Description]:
    """All four exist and are as we need them; those that were missing are made, upstream's too."""
    kept = {"retention.ms": str(DEFAULT_RETENTION_MS)}
    wanted: Mapping[str, tuple[int, dict[str, str]]] = {
        topics.referrals: (partitions, kept),
        topics.receipts: (partitions, kept),
        topics.dead_letters: (partitions, kept),
        topics.manifests: (1, {"cleanup.policy": "compact"}),
    }
    made = tuple(topic for topic in wanted if admin.describe(topic) is None)
    for topic in made:
        count, config = wanted[topic]
        admin.create(topic, count, config, replication)
    trouble = retention_trouble(
        topics.referrals, admin.setting(topics.referrals, "retention.ms"), needed_retention_ms()
    )
    if trouble:
        raise Stop(trouble)
    if "compact" in (admin.setting(topics.referrals, "cleanup.policy") or ""):
        raise Stop(
            f"topic {topics.referrals} is compacted, which takes records away before they are read: "
            "set its cleanup.policy to delete"
        )
    policy = admin.setting(topics.manifests, "cleanup.policy")
    if policy is not None and "compact" not in policy:
        raise Stop(f"topic {topics.manifests} is not compacted: set its cleanup.policy to compact")
    described = admin.describe(topics.referrals)
    if described is None:
        raise Stop(f"topic {topics.referrals} could not be made")
    return made, described


def _starts(
    settings: Settings, admin: Admin, topic: str, partitions: int, start: str, at: datetime | None
) -> list[int]:
    """The start offset of each partition.

    Some brokers' look-ups lag behind or always answer 0, so their word is checked by reading on from
    there: for a time to the first record that is not older, for `latest` to the end.
    """
    found = admin.earliest(topic, partitions)
    if start == EARLIEST:
        return [found[p] for p in range(partitions)]
    latest = admin.latest(topic, partitions)
    since_ms = None if at is None else int(at.timestamp() * 1000)
    found = latest if since_ms is None else admin.at(topic, partitions, since_ms)
    found = {p: latest[p] if offset < 0 else offset for p, offset in found.items()}
    unsettled = set(found)
    for record in read_all(settings.kafka, settings.kafka_config, topic, found):
        if record.partition not in unsettled:
            continue
        if since_ms is not None and record.timestamp_ms >= since_ms:
            found[record.partition] = record.offset
            unsettled.discard(record.partition)
            if not unsettled:
                break
        else:
            found[record.partition] = record.next_offset
    return [found[p] for p in range(partitions)]
