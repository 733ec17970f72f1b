"""What is offered to intake: a batch of a partition, planned, and safe to be passed by its offset.

Dead letters are in Kafka, and removals in every partition's slot, before the offset goes past them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from consumer import dead_letters, intake
from consumer.kafka_out import KafkaOut, NotAcknowledged
from consumer.keys import Keys
from consumer.ownership import Owned
from consumer.plan import Plan, Planner
from consumer.registry import Away
from consumer.route import Router
from consumer.service import Stop
from consumer.store import Call, Reply, StoreRefused
from consumer.stream import Record
from consumer.topics import Topics

#: Kafka unable to take a dead letter for longer: an operator must look.
DEAD_LETTER_PATIENCE_S = 120.0

Send = Callable[[Sequence[Call]], tuple[float, list[Reply | StoreRefused]]]
"""Calls Redis until it answers; returns when the answered round trip was sent, and the replies."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A batch on its way into Redis."""

    owned: Owned
    records: Sequence[Record]
    plan: Plan


@dataclass(frozen=True, slots=True)
class Draft:
    """What the next batch of a partition comes to, if it is routed by this router."""

    records: Sequence[Record]
    plan: Plan
    router: Router

    def still_fits(self, backlog: Sequence[Record], router: Router) -> bool:
        return self.records[0] is backlog[0] and self.router is router


class Offers:
    """Makes offers of what partitions have read."""

    def __init__(
        self,
        send: Send,
        out: KafkaOut,
        keys: Keys,
        topics: Topics,
        partitions: int,
        planner: Planner,
        stopping: Callable[[], bool],
        caps: tuple[int, int],
    ) -> None:
        """`caps`: deliveries and bytes a lane may hold."""
        self._send, self._out, self._keys, self._topics = send, out, keys, topics
        self._partitions, self._planner, self._stopping = partitions, planner, stopping
        self._caps = caps
        self._ahead: dict[int, Draft] = {}

    def plan(self, full: Sequence[Owned], router: Router) -> list[Offer | StoreRefused | None]:
        """The next batches of partitions with a backlog. None while a schema of one is asked for, refused
        where Redis refused a removal of it. Raises Stop.
        """
        ahead, self._ahead = self._ahead, {}
        most = _share(full)
        found: list[Offer | StoreRefused | None] = []
        for owned in full:
            drafted = ahead.get(owned.partition)
            if drafted is None or not drafted.still_fits(owned.backlog, router):
                drafted = self._draft(batch(owned.backlog, most), router)
            found.append(None if drafted is None else self._offer(owned, drafted))
        return found

    def plan_ahead(self, full: Sequence[Owned], offers: Sequence[Offer], router: Router) -> None:
        """Draft what comes after these offers, while Redis takes them."""
        if self._ahead:
            return  # they are offered once more
        offered = {offer.owned.partition: len(offer.records) for offer in offers}
        most = _share(full)
        for owned in full:
            rest = batch(islice(owned.backlog, offered.get(owned.partition, 0), None), most)
            drafted = self._draft(rest, router) if rest else None
            if drafted is not None:
                self._ahead[owned.partition] = drafted

    def _draft(self, records: Sequence[Record], router: Router) -> Draft | None:
        try:
            return Draft(records, self._planner.plan(records, router, time.time()), router)
        except Away:
            return None

    def _offer(self, owned: Owned, draft: Draft) -> Offer | StoreRefused:
        """With its dead letters in Kafka and its removals in every partition."""
        plan = draft.plan
        if plan.dead and plan.dead[-1][0].offset >= owned.buried:
            self._bury(plan)
            owned.buried = plan.dead[-1][0].next_offset
        marks = [intake.mark(self._keys, p, r) for r in plan.removals for p in range(self._partitions)]
        refused = [reply for reply in self._send(marks)[1] if isinstance(reply, StoreRefused)]
        return refused[0] if refused else Offer(owned, draft.records, plan)

    def call(self, offer: Offer, set_version: int) -> Call:
        """The script call that takes the batch, or says why not."""
        return intake.intake(
            self._keys,
            offer.owned.partition,
            epoch=offer.owned.epoch,
            prev=offer.owned.next_offset,
            next_offset=offer.records[-1].next_offset,
            set_version=set_version,
            entries=offer.plan.entries,
            lane_deliveries=self._caps[0],
            lane_bytes=self._caps[1],
        )

    def _bury(self, plan: Plan) -> None:
        letters = [dead_letters.of_record(self._topics, record, reason) for record, reason in plan.dead]
        deadline = time.monotonic() + DEAD_LETTER_PATIENCE_S
        while True:
            try:
                self._out.send(letters)
            except NotAcknowledged as error:
                if time.monotonic() > deadline or self._stopping():
                    raise Stop(f"dead letters cannot be written: {error}") from error
            else:
                return


def batch(backlog: Iterable[Record], most: int = intake.MAX_BATCH) -> list[Record]:
    """The oldest records that fit one script call; at least one, where there is one. Pure."""
    records: list[Record] = []
    size = 0
    for record in backlog:
        size += len(record.value or b"")
        if records and (len(records) == most or size > intake.MAX_BATCH_BYTES):
            break
        records.append(record)
    return records


def _share(full: Sequence[Owned]) -> int:
    """Records of each partition in one round."""
    return max(1, intake.MAX_BATCH // max(1, len(full)))
