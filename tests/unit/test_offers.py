"""What is offered to Redis, and what is drafted meanwhile: each record once, routed by the set in force."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from consumer.intake import MAX_BATCH
from consumer.keys import Keys, Role
from consumer.offers import Offer, Offers
from consumer.ownership import Owned
from consumer.plan import Planner
from consumer.route import AnyConnection, Router
from consumer.stream import Record
from consumer.topics import Topics
from schemas.connection import ConnectionSet
from schemas.referral import Referral

RECORDS_A_PARTITION = 2 * MAX_BATCH + 7


class Counted(Planner):
    """How many records it planned."""

    planned = 0

    def plan(self, records: Sequence[Record], router: Router, now: float) -> Any:
        Counted.planned += len(records)
        return super().plan(records, router, now)


def targets(_referral: Referral, _record: Record, _wanted: Sequence[AnyConnection]) -> list[Any]:
    return []


def router() -> Router:
    return Router(ConnectionSet(accounts=()))


def offers() -> Offers:
    Counted.planned = 0
    planner = Counted("push", b"key", True, targets)
    topics = Topics("")
    return Offers(
        lambda _calls: (0.0, []), cast("Any", Letters()), Keys(topics.referrals, Role.PUSH), topics, 8, planner,
        lambda: False, (1, 1),
    )  # fmt: skip


class Letters:
    """Every record here is undecodable: its dead letter goes here."""

    def send(self, _records: Sequence[Any]) -> None:
        """Acknowledged."""


def owned(partition: int, records: int) -> Owned:
    one = Owned(partition, 1, 0, 0, 0.0, 0.0, 0)
    one.backlog.extend(Record("referrals", partition, n, b"k", b"x", 0) for n in range(records))
    return one


def only_offers(found: Sequence[Any]) -> list[Offer]:
    assert all(isinstance(one, Offer) for one in found)
    return list(found)


def take(offered: Sequence[Offer]) -> list[tuple[int, int]]:
    """Redis takes them all."""
    for offer in offered:
        for _ in offer.records:
            offer.owned.backlog.popleft()
    return [(offer.owned.partition, record.offset) for offer in offered for record in offer.records]


@given(st.lists(st.integers(1, RECORDS_A_PARTITION), min_size=1, max_size=5))
def test_every_record_is_offered_once_in_its_order_and_planned_once(sizes: list[int]) -> None:
    made, by, parts = offers(), router(), [owned(p, size) for p, size in enumerate(sizes)]
    seen: list[tuple[int, int]] = []
    while full := [one for one in parts if one.backlog]:
        offered = only_offers(made.plan(full, by))
        assert len(offered) == len(full), "nobody waits for others' backlogs"
        assert sum(len(offer.records) for offer in offered) <= 2 * MAX_BATCH
        made.plan_ahead(full, offered, by)
        seen += take(offered)
    assert sorted(seen) == [(p, n) for p, size in enumerate(sizes) for n in range(size)]
    assert [n for p, n in seen if p == 0] == list(range(sizes[0]))
    assert Counted.planned == len(seen)


def test_a_draft_is_void_under_another_router_or_backlog() -> None:
    made, by, part = offers(), router(), owned(0, RECORDS_A_PARTITION)
    first = only_offers(made.plan([part], by))
    made.plan_ahead([part], first, by)
    assert Counted.planned == 2 * MAX_BATCH
    take(first)
    (after,) = only_offers(made.plan([part], router()))
    assert (after.records[0].offset, Counted.planned) == (MAX_BATCH, 3 * MAX_BATCH)
    made.plan_ahead([part], [after], by)
    anew = owned(0, 3)
    (again,) = only_offers(made.plan([anew], by))
    assert list(again.records) == list(anew.backlog)


def test_what_redis_did_not_take_is_offered_again_whole() -> None:
    made, by, part = offers(), router(), owned(0, RECORDS_A_PARTITION)
    first = only_offers(made.plan([part], by))
    made.plan_ahead([part], first, by)
    (again,) = only_offers(made.plan([part], by))
    assert list(again.records) == list(first[0].records)
