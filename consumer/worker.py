"""The loop both halves share: read our partitions and offer their records to intake.

One thread owns the stream and one Redis connection. A round: poll, plan, dead letters acknowledged,
removals spread, then one round trip that settles what ended, renews leases and takes the new rows;
then the replies are obeyed. What differs between push and collect is a Half.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from consumer import connection_sets, intake, log, metrics
from consumer.intake import Accepted, Fenced, Lost, Moved, StaleSet
from consumer.kafka_out import KafkaOut
from consumer.keys import Keys
from consumer.offers import Offer, Offers
from consumer.ownership import Half, Owned, Ownership, patiently
from consumer.plan import Planner
from consumer.route import Router
from consumer.service import Service, Stop
from consumer.store import Call, Reply, Store, StoreRefused
from consumer.stream import Record, Stream
from consumer.topics import Topics

#: A round waits so long for a record: the delay of facts written while nothing is read.
POLL_S = 0.02
#: Records in memory: one batch goes into Redis while another is planned.
MAX_BACKLOG = 2 * intake.MAX_BATCH
#: Redis full or its disk in trouble: Kafka keeps what is refused; longer, and an operator must look.
REFUSED_PATIENCE_S = 120.0
#: Pause after a refusal: Redis has enough to do.
REFUSED_PAUSE_S = 0.5
#: Fenced for so long without a rebalance: two deployments share one Redis and prefix.
FENCED_PATIENCE_S = 150.0
COMMIT_EVERY_S = 1.0
NO_CONNECTIONS = "no connections were ever put in force: run `referrals connections apply`"
#: An idle owner asks so often for the set in force and where Redis stands.
LOOK_EVERY_S = 1.0


class Worker:
    """`round` after `round`; raises Stop when going on would break a promise."""

    def __init__(
        self,
        service: Service,
        store: Store,
        out: KafkaOut,
        keys: Keys,
        topics: Topics,
        partitions: int,
        planner: Planner,
        half: Half,
        ownership: Ownership,
        caps: tuple[int, int] = (intake.LANE_DELIVERIES, intake.LANE_BYTES),
    ) -> None:
        """`caps`: deliveries and bytes a lane may hold."""
        self._service, self._store = service, store
        self._keys, self._topics, self._partitions = keys, topics, partitions
        self._half, self._ownership = half, ownership
        stopping = service.stopping.is_set
        self._offers = Offers(self._send, out, keys, topics, partitions, planner, stopping, caps)
        self._owned = ownership.owned
        self._commit_at = self._look_at = 0.0
        self._refused_since: float | None = None
        self._load_set()

    def round(self, stream: Stream) -> None:
        """Raises Stop, StreamFailed, and StoreUnavailable when told to stop while Redis is away."""
        self._service.health.beat()
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            self._look(stream)
        waiting = sum(len(owned.backlog) for owned in self._owned.values())
        # At least one, since only a poll serves a rebalance: what Redis refuses does not pile up here.
        self._sort_in(stream.poll(0 if waiting else POLL_S, max(1, MAX_BACKLOG - waiting)))
        self._persist(stream)
        patiently(self._service.stopping.is_set, lambda: self._half.after(self._store))
        if now >= self._commit_at:
            self._commit_at = now + COMMIT_EVERY_S
            self.commit(stream)
            self._observe(stream)

    def commit(self, stream: Stream) -> None:
        """Tell Kafka where Redis stands: advice for lag tools, and a witness."""
        stream.commit({p: owned.witness for p, owned in self._owned.items()})

    def _look(self, stream: Stream) -> None:
        """What Redis says now. Without it, an owner with nothing to write would never learn that Redis
        went back and what came last must be read again.
        """
        now = time.monotonic()
        mine = list(self._owned.values())
        heads = [("HMGET", self._keys.head(owned.partition), "epoch", "next") for owned in mine]

        def look() -> tuple[int, list[list[bytes | None]]]:
            return connection_sets.version(self._store, self._topics), self._store.commands(heads)

        version, found = patiently(self._service.stopping.is_set, look)
        if version != self._version:
            self._load_set()
        for owned, (epoch, next_offset) in zip(mine, found, strict=True):
            if epoch is None or next_offset is None:
                raise Stop(self._ownership.lost_line(owned.partition))
            if int(epoch) != owned.epoch:
                self._fenced(stream, owned, int(epoch))
            elif int(next_offset) != owned.next_offset:
                self._moved(stream, owned, int(next_offset))
            else:
                owned.confirm(owned.next_offset, now, time.monotonic())

    def _load_set(self) -> None:
        stopping = self._service.stopping.is_set
        stored = patiently(stopping, lambda: connection_sets.current(self._store, self._topics))
        self._version, self._router = stored.version, Router(stored.set)
        self._half.connections(stored)
        if stored.version:
            log.event("connections.loaded", version=stored.version)
        else:
            log.trouble("connections.missing", reason=NO_CONNECTIONS)

    def _sort_in(self, records: Iterable[Record]) -> None:
        for record in records:
            owned = self._owned.get(record.partition)
            if owned is None or owned.fenced_since is not None:
                continue
            expected = owned.backlog[-1].next_offset if owned.backlog else owned.next_offset
            if record.offset < expected:
                metrics.REPLAYED.inc()
                continue
            metrics.OFFSET_GAP.inc(record.offset - expected)
            owned.backlog.append(record)

    def _persist(self, stream: Stream) -> None:
        # Before any set is in force, everything would be UNROUTED for good.
        full = [owned for owned in self._owned.values() if owned.backlog and self._version]
        planned = self._offers.plan(full, self._router)
        offers = [offer for offer in planned if isinstance(offer, Offer)]
        settles = [(owned, call) for owned in self._owned.values() if (call := self._half.settle(owned))]
        calls = [call for _, call in settles] + [self._offers.call(offer, self._version) for offer in offers]
        sent, replies = self._send(calls, lambda: self._offers.plan_ahead(full, offers, self._router))
        refusals = [refused for refused in (*planned, *replies) if isinstance(refused, StoreRefused)]
        # A full Redis refuses new rows and still takes what makes room: each reply counts for itself.
        for (owned, _), reply in zip(settles, replies, strict=False):
            if not isinstance(reply, StoreRefused):
                self._settled(stream, owned, reply, sent)
        for offer, reply in zip(offers, replies[len(settles) :], strict=True):
            if not isinstance(reply, StoreRefused):
                self._obey(stream, offer, reply, sent)
        if refusals:
            self._refused(str(refusals[0]))
        else:
            self._refused_since = None
        if None in planned or not self._version:
            # A schema is being asked for, or connections are: look again soon, not at once.
            self._service.stopping.wait(POLL_S)

    def _send(
        self, calls: Sequence[Call], meanwhile: Callable[[], None] = lambda: None
    ) -> tuple[float, list[Reply | StoreRefused]]:
        """All in one round trip, repeated until Redis answers; with when the answered one was sent."""
        if not calls:
            return time.monotonic(), []
        stopping = self._service.stopping.is_set
        return patiently(stopping, lambda: (time.monotonic(), self._store.each(calls, meanwhile)))

    def _refused(self, why: str) -> None:
        now = time.monotonic()
        if self._refused_since is None:
            self._refused_since = now
            log.trouble("redis.refused", reason=why)
        if now - self._refused_since > REFUSED_PATIENCE_S:
            raise Stop(f"{why}, for {REFUSED_PATIENCE_S:.0f} s: give Redis memory or disk, then start again")
        self._service.stopping.wait(REFUSED_PAUSE_S)

    def _settled(self, stream: Stream, owned: Owned, reply: Reply, sent: float) -> None:
        status = reply[0].decode()
        if status == "LOST":
            raise Stop(self._ownership.lost_line(owned.partition))
        self._half.settled(owned, reply)
        if status == "FENCED":
            self._fenced(stream, owned, int(reply[1]))
        else:
            owned.lease_until = max(owned.lease_until, sent + intake.LEASE_MS / 1000)

    def _obey(self, stream: Stream, offer: Offer, reply: Reply, sent: float) -> None:
        owned = offer.owned
        if self._owned.get(owned.partition) is not owned:
            return  # the settle before it found that Redis went back: taken anew, read again
        match intake.accepted(reply):
            case Accepted(verdicts, marks, parked):
                owned.marks = max(owned.marks, marks)
                self._accepted(offer, verdicts, parked, sent)
            case Fenced(epoch):
                self._fenced(stream, owned, epoch)
            case Moved(next_offset):
                metrics.FENCED.labels("offset").inc()
                self._moved(stream, owned, next_offset)
            case StaleSet():
                metrics.FENCED.labels("set").inc()
                self._load_set()
            case Lost():
                raise Stop(self._ownership.lost_line(owned.partition))

    def _accepted(self, offer: Offer, verdicts: str, parked: Mapping[str, int], sent: float) -> None:
        owned = offer.owned
        for _ in offer.records:
            owned.backlog.popleft()
        owned.confirm(offer.records[-1].next_offset, sent, time.monotonic())
        owned.lease_until = max(owned.lease_until, sent + intake.LEASE_MS / 1000)
        self._half.accepted(owned, offer.plan.entries, verdicts, parked)
        metrics.CONSUMED.inc(len(offer.records))
        metrics.DUPLICATES.inc(verdicts.count(intake.Verdict.DUPLICATE))
        metrics.DEAD_LETTERS.labels("undecodable").inc(len(offer.plan.dead))
        metrics.REMOVALS.inc(len(offer.plan.removals))
        metrics.UNROUTED.inc(offer.plan.unrouted)
        metrics.MISKEYED.inc(offer.plan.miskeyed)
        metrics.TAKEN_AT.set_to_current_time()

    def _fenced(self, stream: Stream, owned: Owned, epoch: int) -> None:
        """A higher epoch: no longer ours, drop all and wait for the revoke. A lower one: Redis forgot
        that we took it, so take it again.
        """
        now = time.monotonic()
        if epoch < owned.epoch:
            self._ownership.retake(owned)
            stream.seek(owned.partition, self._owned[owned.partition].next_offset)
        elif owned.fenced_since is None:
            metrics.FENCED.labels("epoch").inc()
            log.trouble("partition.fenced", partition=owned.partition, epoch=owned.epoch, by=epoch)
            owned.fenced_since = now
            owned.backlog.clear()
            self._half.gone(owned.partition)
        elif now - owned.fenced_since > FENCED_PATIENCE_S:
            raise Stop(
                f"another worker holds {self._topics.referrals}/{owned.partition} in Redis, but Kafka gave "
                "it to us: two deployments share this Redis; set REFERRALS_PREFIX apart"
            )

    def _moved(self, stream: Stream, owned: Owned, next_offset: int) -> None:
        self._ownership.judge(owned.partition, next_offset, owned.witness)
        owned.backlog.clear()
        owned.confirmed.clear()
        owned.next_offset = next_offset
        self._half.owned(owned)
        stream.seek(owned.partition, next_offset)

    def _observe(self, stream: Stream) -> None:
        for p in range(self._partitions):
            owned = self._owned.get(p)
            # What is not ours is not our lag any more.
            lag = 0 if owned is None else stream.high_watermark(p) - owned.next_offset
            metrics.LAG.labels(str(p)).set(max(0, lag))
        if not self._version:
            ready, reason = False, NO_CONNECTIONS
        elif self._refused_since is not None:
            ready, reason = False, "Redis refuses what we write"
        else:
            ready = bool(self._owned)
            reason = f"{len(self._owned)} partitions" if ready else "no partition assigned"
        self._service.health.tell(ready=ready, reason=reason)
