"""The composition both readers share: everything a Half needs around it, started and ended in order."""

from __future__ import annotations

import os
import secrets as tokens
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from consumer import connection_sets, layout, log, manifests, metrics, receipts, registry
from consumer import folder as folders
from consumer.background import Background
from consumer.kafka_out import KafkaOut, NotAcknowledged
from consumer.keys import Keys, Role
from consumer.layout import Layout
from consumer.ownership import Half, Ownership
from consumer.plan import Planner, Targets
from consumer.service import Service, Settings, Stop
from consumer.store import Store, StoreRefused, StoreUnavailable
from consumer.stream import Stream, StreamFailed
from consumer.topics import Admin, Topics, TopicTrouble
from consumer.worker import Worker
from schemas.connection_file import Assembled

#: The topic's id is looked at this often: a topic made anew under our feet must stop us.
WATCH_S = 5.0
#: Outboxes are looked at this often while there is nothing in them.
RELAY_S = 0.05
#: Other threads look for work this often.
BESIDE_S = 1.0
#: Longest pause after a round of the relay that failed.
RELAY_PAUSE_S = 30.0
_STARTED = tokens.token_hex(4)


class Ground:
    """What every service stands on: Redis, Kafka and a layout that was checked. Raises Stop."""

    def __init__(self, settings: Settings, role: Role) -> None:
        self.settings = settings
        self.topics = Topics(settings.prefix)
        self.keys = Keys(self.topics.referrals, role)
        self.admin = Admin(settings.kafka, settings.kafka_config)
        self.store = self.new_store()
        self.out = KafkaOut(settings.kafka, settings.kafka_config)
        layout.require_durable(self.store, volatile_ok=settings.allow_volatile_redis)
        try:
            self.remembered = self._remember()
            self.layout: Layout = layout.require(self.store, self.admin, self.topics, self.remembered)
        except (TopicTrouble, StreamFailed, StoreUnavailable, StoreRefused) as error:
            raise Stop(str(error)) from error

    def require_barrier(self) -> None:
        """Only who sends what cannot be taken back asks for this. Raises Stop."""
        volatile_ok = self.settings.allow_volatile_redis
        try:
            layout.require_barrier(self.store, f"{self.topics.referrals}:barrier", volatile_ok=volatile_ok)
        except (StoreUnavailable, StoreRefused) as error:
            raise Stop(str(error)) from error

    def new_store(self) -> Store:
        """A Redis connection for one more thread."""
        append_only = not self.settings.allow_volatile_redis
        return Store(self.settings.redis, append_only=append_only, replicas=self.settings.redis_replicas)

    def _remember(self) -> manifests.Remembered:
        if self.admin.describe(self.topics.manifests) is None:
            raise Stop(
                f"topic {self.topics.manifests} is not in Kafka: {self.topics.referrals} was never "
                "initialised here, or its topics are gone. Check REFERRALS_KAFKA, or run "
                "`referrals init --from earliest|latest|TIME`"
            )
        return manifests.remember(self.settings.kafka, self.settings.kafka_config, self.topics)


def run(
    ground: Ground,
    service: Service,
    name: str,
    half: Half,
    targets: Targets,
    *,
    whole: bool,
    beside: Mapping[str, Callable[[], bool]] | None = None,
) -> None:
    """Read, take and hand over until told to stop; `beside`: work for threads of its own, by their names.

    Raises Stop.
    """
    settings = ground.settings
    metrics.start(range(ground.layout.partitions))
    adopt_files(ground)
    stopping = service.stopping
    by_id = registry.aside(settings.schema_registry, stopping.wait)
    planner = Planner(name, ground.layout.fingerprint_key, whole, targets, by_id, ground.layout.partitions)
    ownership = Ownership(ground.store, ground.keys, half, ground.remembered, worker_name(), stopping.is_set)
    worker = Worker(
        service,
        ground.store,
        ground.out,
        ground.keys,
        ground.topics,
        ground.layout.partitions,
        planner,
        half,
        ownership,
        (settings.lane_deliveries, settings.lane_bytes),
    )
    relay_store = ground.new_store()
    helpers = [
        Background("relay", stopping, RELAY_S, Relay(ground, relay_store, ownership, stopping).run),
        watch(ground, stopping),
        *(Background(its, stopping, BESIDE_S, work) for its, work in (beside or {}).items()),
    ]
    stream = Stream(
        settings.kafka,
        settings.kafka_config,
        topic=ground.topics.referrals,
        group=ground.topics.group(name),
        session_timeout_ms=settings.session_timeout_ms,
        group_protocol=settings.group_protocol,
        assigned=ownership.assigned,
        revoked=ownership.revoked,
        lost=ownership.lost,
    )
    log.event("service.started", port=service.port, partitions=ground.layout.partitions)
    log.write_out()
    try:
        while not stopping.is_set():
            worker.round(stream)
            for helper in helpers:
                if helper.failure:
                    raise Stop(helper.failure)
        worker.commit(stream)
        mine = list(ownership.owned)
        ownership.revoked(mine)
        _relay_rest(ground, mine)
    except (StreamFailed, TopicTrouble) as error:
        raise Stop(str(error)) from error
    except (StoreUnavailable, StoreRefused) as error:
        if not stopping.is_set():
            raise Stop(f"{error}: check REFERRALS_REDIS and start again") from error
        log.trouble("redis.unavailable_at_stop", reason=str(error))
    finally:
        stopping.set()
        for helper in helpers:
            helper.join()
        stream.close()
    log.event("service.stopped")


def worker_name() -> str:
    """This process among all of the deployment, and among those before it: a container that is started again
    has its predecessor's host name and pid, and must not be taken for it.
    """
    return f"{socket.gethostname()}-{os.getpid()}-{_STARTED}"


def watch(ground: Ground, stopping: threading.Event) -> Background:
    """Notice that the topic or Redis was made anew under our feet: stored offsets then mean nothing."""
    store = ground.new_store()
    return Background("watch", stopping, WATCH_S, lambda: _watch(ground, store))


def adopt_files(ground: Ground) -> None:
    """Put the connections folder in force if its set never was; yesterday's files stay yesterday's.

    Raises Stop.
    """
    if ground.settings.connections is None:
        return
    found = folders.look(ground.settings.connections)
    try:
        _adopt(ground, found)
    except (NotAcknowledged, StoreUnavailable, StoreRefused) as error:
        raise Stop(f"the connections folder could not be put in force: {error}; start again") from error


def _adopt(ground: Ground, found: Assembled) -> None:
    wanted = found.connections
    if connection_sets.known(ground.store, ground.topics, wanted.digest):
        if connection_sets.current(ground.store, ground.topics).set.digest != wanted.digest:
            log.trouble(
                "connections.folder_not_in_force",
                reason="a newer set is; `referrals connections apply` puts this folder in force again",
            )
        return
    version = connection_sets.apply(ground.store, ground.out, ground.topics, wanted, ground.layout.partitions)
    log.event("connections.applied", version=version, warnings=len(found.warnings))
    for warning in found.warnings[: folders.MAX_WARNINGS]:
        log.trouble("connections.warning", reason=str(warning))


class Relay:
    """Brings receipts to Kafka; an outage of either side leaves them where they are."""

    def __init__(self, ground: Ground, store: Store, ownership: Ownership, stopping: threading.Event) -> None:
        self._ground, self._store, self._ownership, self._stopping = ground, store, ownership, stopping
        self._pause_s = 0.0

    def run(self) -> bool:
        """One round; whether there is more."""
        ground = self._ground
        try:
            waiting = receipts.waiting(self._store, ground.keys, list(self._ownership.owned))
            metrics.OUTBOX.set(sum(waiting.values()))
            for partition in (p for p, length in waiting.items() if length):
                receipts.relay(self._store, ground.out, ground.keys, ground.topics, partition, time.time())
        except (NotAcknowledged, StoreUnavailable, StoreRefused) as error:
            # What Kafka took and Redis did not forget is told again: slowly.
            self._pause_s = min(max(1.0, 2 * self._pause_s), RELAY_PAUSE_S)
            log.trouble("receipts.delayed", reason=str(error), next_in_s=self._pause_s)
            self._stopping.wait(self._pause_s)
            return False
        self._pause_s = 0.0
        return any(length > receipts.RELAY for length in waiting.values())


def _relay_rest(ground: Ground, partitions: Iterable[int]) -> None:
    """A last round, so that a stopped service leaves no receipt behind if it can help it."""
    for partition in partitions:
        try:
            while receipts.relay(
                ground.store, ground.out, ground.keys, ground.topics, partition, time.time()
            ):
                pass
        except (NotAcknowledged, StoreUnavailable, StoreRefused):
            return


def _watch(ground: Ground, store: Store) -> bool:
    # While Kafka is away, waiting is all there is to do.
    with suppress(TopicTrouble):
        layout.require_topic(ground.admin, ground.topics, ground.layout)
    with suppress(StoreUnavailable, StoreRefused):
        layout.require_same(store, ground.topics, ground.layout)
    return False
