"""Parked lanes come back by themselves: a thread of its own reads their records again and refills them.

Nobody waits for it: not the reading loop, and not the end of the process. What nears the start of Kafka's
log before its lane has room becomes a dead letter; what Kafka deleted first is told loudly. Never silence.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from consumer import log, metrics, parked, registry
from consumer.intake import MAX_BATCH, MAX_BATCH_BYTES
from consumer.parked import Item, Parked, Place, Room, Standing
from consumer.pending import marks
from consumer.registry import Away
from consumer.remake import Read, Remake
from consumer.reread import Reread
from consumer.run import Ground
from consumer.service import Stop
from consumer.store import StoreRefused, StoreUnavailable, text
from consumer.stream import StreamFailed
from consumer.topics import TopicTrouble

#: First pause after a turn that failed.
FIRST_PAUSE_S = 1.0
#: Lanes looked at in one round trip.
LOOK_AT = 500
#: One turn ends within about this: then all lanes are looked at again, and a stop is seen.
TURN_S = 2.0
#: How near a lane's first record is to the start of the log is looked at so often.
WATCH_S = 60.0
#: Longest pause after a turn that failed.
PAUSE_S = 30.0


class Refiller:
    """`turn` after `turn`, in one thread. `clock`: seconds since the epoch."""

    def __init__(
        self, ground: Ground, board: Parked, stopping: threading.Event, clock: Callable[[], float] = time.time
    ) -> None:
        settings = ground.settings
        self._board, self._stopping, self._clock = board, stopping, clock
        self._keys, self._admin, self._topic = ground.keys, ground.admin, ground.topics.referrals
        self._most, self._most_bytes = settings.lane_deliveries, settings.lane_bytes
        self._store = ground.new_store()
        self._reread = Reread(settings.kafka, settings.kafka_config, self._topic)
        self._remake = Remake(
            self._topic, registry.aside(settings.schema_registry, stopping.wait), ground.layout.rebuilt
        )
        #: Lanes that may be parked, with when each was last served.
        self._lanes: dict[Place, float] = {}
        self._epochs: dict[int, int] = {}
        self._watch_at = self._pause_s = 0.0

    def turn(self) -> bool:
        """Look at the parked lanes and serve those with room; whether there is more to do at once."""
        try:
            more = self._turn()
        except (StoreUnavailable, StoreRefused, StreamFailed, Away, Stop) as error:
            # All of it waits where it is: Kafka has the records, Redis their offsets.
            self._pause_s = min(max(FIRST_PAUSE_S, 2 * self._pause_s), PAUSE_S)
            log.trouble("parked.delayed", reason=str(error), next_in_s=self._pause_s)
            self._stopping.wait(self._pause_s)
            return False
        self._pause_s = 0.0
        if not more:
            self._reread.rest()
        return more

    def close(self) -> None:
        """Once no turn is under way."""
        self._reread.close()
        self._store.close()

    def _turn(self) -> bool:
        self._epochs, told = self._board.news()
        known = told | self._lanes.keys()
        self._lanes = {p: self._lanes.get(p, 0.0) for p in known if p.partition in self._epochs}
        standings = self._look()
        self._lanes = {place: self._lanes[place] for place in standings}
        metrics.PARKED.set(sum(lane.parked for lane in standings.values()))
        if not standings:
            metrics.OLDEST_PARKED.set(0)
            return False
        more = self._watch(standings) if time.monotonic() >= self._watch_at else False
        deadline = time.monotonic() + TURN_S
        for place in sorted(standings, key=self._lanes.__getitem__):
            space = parked.room(standings[place], self._most, self._most_bytes)
            if space is None or place.connection not in self._board.connections:
                continue
            if self._stopping.is_set() or time.monotonic() > deadline:
                return True
            self._lanes[place] = time.monotonic()
            more |= self._refill(place, space)
        return more

    def _look(self) -> dict[Place, Standing]:
        """The lanes that are parked, as Redis has them."""
        places = list(self._lanes)
        found: dict[Place, Standing] = {}
        for start in range(0, len(places), LOOK_AT):
            some = places[start : start + LOOK_AT]
            replies = self._store.commands(
                command for place in some for command in parked.look(self._keys, place)
            )
            found |= zip(some, parked.standings(replies), strict=True)
        return {place: lane for place, lane in found.items() if lane.parked}

    def _refill(self, place: Place, space: Room) -> bool:
        """Bring a batch back; whether anything was."""
        connection, now = self._board.connections[place.connection], self._clock()
        reads = self._read(place, space.deliveries, space.size)
        items = [self._remake.back(place, read, connection, now) for read in reads]
        return self._put(place, parked.fitting(items, space.size))

    def _watch(self, standings: Mapping[Place, Standing]) -> bool:
        """Give up what nears the start of the log; whether there is more of it."""
        before = parked.old_before(self._clock(), self._retention_ms())
        oldest: list[float] = []
        given_up = False
        ordered = sorted(standings, key=lambda place: (place.partition, standings[place].first))
        for _, places in groupby(ordered, key=lambda place: place.partition):
            for place in places:
                read = next(iter(self._read(place, 1, 1)), None)
                if read is None:
                    break
                if read.record is not None:
                    oldest.append(read.record.timestamp_ms / 1000)
                if read.record is not None and not parked.is_old(read.record, before):
                    break  # the partition's other lanes begin behind it
                given_up |= self._give_up(place, before)
        metrics.OLDEST_PARKED.set(min(oldest, default=0))
        # What was given up makes way for the next, which is as old, perhaps.
        self._watch_at = 0.0 if given_up else time.monotonic() + WATCH_S
        return given_up

    def _retention_ms(self) -> str | None:
        try:
            return self._admin.setting(self._topic, "retention.ms")
        except TopicTrouble as error:
            # Whoever may not ask can still refill.
            log.trouble("parked.retention_unknown", reason=str(error))
            return None

    def _give_up(self, place: Place, before: float) -> bool:
        """End the first of a lane's deliveries that are too old; whether any was."""
        reads = self._read(place, MAX_BATCH, MAX_BATCH_BYTES)
        young = (i for i, read in enumerate(reads) if read.record and not parked.is_old(read.record, before))
        reads = reads[: next(young, len(reads))]
        connection, now = self._board.connections.get(place.connection), self._clock()
        ids = [read.referral.referral_id for read in reads if read.referral]
        known = marks(self._store, self._keys, place.partition, ids)
        items = []
        for read in reads:
            mark = known.get(read.referral.referral_id) if read.referral else None
            removed = mark is not None and read.referral is not None and mark.removes(read.referral.revision)
            items.append(self._remake.given_up(place, read, connection, now, removed=removed))
        return self._put(place, items)

    def _read(self, place: Place, number: int, size: int) -> list[Read]:
        """The first parked offsets with their records, as many as Kafka hands out now."""
        wanted = [int(offset) for offset in self._store.command(*parked.first(self._keys, place, number))]
        records = self._reread.read(place.partition, wanted, size) if wanted else []
        return [self._remake.read(*one) for one in zip(wanted, records, strict=False)]

    def _put(self, place: Place, items: Sequence[Item]) -> bool:
        """Into Redis, if the partition is still ours; whether it was."""
        if not items:
            return False
        try:
            reply = self._store.call(parked.refill(self._keys, place, self._epochs[place.partition], items))
        finally:
            # Whether or not the answer arrived.
            self._board.refilled(place)
        if text(reply[0]) != "OK":
            return False
        self._tell(place, [item for item in items if item.outcome], left=int(reply[1]))
        return True

    def _tell(self, place: Place, passed: Sequence[Item], left: int) -> None:
        where = {"topic": self._topic, "partition": place.partition, "connection": place.connection}
        if not left:
            log.event("lane.refilled", **where)
        for item in passed:
            assert item.outcome is not None
            metrics.ENDED.labels(item.outcome).inc()
            if item.letter:
                metrics.DEAD_LETTERS.labels(item.outcome.lower()).inc()
            (metrics.PARKED_LOST if item.lost else metrics.PARKED_GIVEN_UP).inc()
        for reason in dict.fromkeys(item.reason for item in passed):
            offsets = [item.offset for item in passed if item.reason == reason]
            place_in_log = {"first": offsets[0], "last": offsets[-1], "deliveries": len(offsets)}
            log.trouble("parked.given_up", **where, **place_in_log, reason=reason)
