"""Lanes by table: what may start, in which order, and what waits for what."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from consumer.lane import Delivery
from consumer.lanes import MAX_LOADED, REFILL_PART, Lanes


class Lease:
    """Which partitions may start requests."""

    def __init__(self) -> None:
        self.out: set[int] = set()

    def __call__(self, partition: int) -> bool:
        return partition not in self.out


def lanes(max_unsettled: int = 1_000, lease: Lease | None = None, **limits: int) -> Lanes:
    made = Lanes(lease or Lease(), max_unsettled)
    made.configure(limits or {"crm": 2})
    return made


def delivery(offset: int, due: float = 10.0, partition: int = 0, connection: str = "crm") -> Delivery:
    return Delivery(partition, connection, offset, due, 0, b"", f"r{offset}", 0)


def filled(made: Lanes, deliveries: Iterable[Delivery]) -> Lanes:
    for item in deliveries:
        made.accept(item)
    return made


def started(made: Lanes, now: float) -> list[int]:
    return [item.offset for item in iter(lambda: made.start(now), None)]


def flying(made: Lanes, now: float) -> list[Delivery]:
    return list(iter(lambda: made.start(now), None))


@pytest.mark.parametrize(
    ("dues", "now", "expected"),
    [
        pytest.param([1, 2, 3], 2, [0, 1], id="what is due, in order of due time"),
        pytest.param([3, 2, 1], 3, [2, 1, 0], id="not in order of arrival"),
        pytest.param([5, 5, 5], 5, [0, 1, 2], id="the oldest first where due times are equal"),
        pytest.param([5], 4.999, [], id="nothing before its time"),
    ],
)
def test_starts(dues: list[float], now: float, expected: list[int]) -> None:
    made = filled(lanes(crm=9), (delivery(offset, due) for offset, due in enumerate(dues)))
    assert started(made, now) == expected


def test_a_connection_has_at_most_max_in_flight_over_all_partitions() -> None:
    made = filled(lanes(crm=2), (delivery(n, partition=n) for n in range(5)))
    first, second = flying(made, 10)
    assert made.in_flight == 2
    made.ended(first)
    (third,) = flying(made, 10)
    made.again(second, 99)
    (fourth,) = flying(made, 10)
    assert [item.offset for item in (first, second, third, fourth)] == [0, 1, 2, 3]


def test_one_connection_at_its_limit_delays_no_other() -> None:
    made = lanes(slow=1, quick=1)
    filled(made, (delivery(n, connection="slow") for n in range(9)))
    filled(made, [delivery(20, connection="quick")])
    assert started(made, 10) == [0, 20]


def test_a_slot_goes_to_a_lane_that_can_use_it() -> None:
    """Two lanes were turned away; the first has nothing due any more, the second must not wait for it."""
    made = lanes(crm=1)
    filled(made, [delivery(1, partition=1)])
    (busy,) = flying(made, 10)
    filled(made, [delivery(2, partition=2), delivery(3, due=5_000, partition=2), delivery(4, partition=3)])
    assert started(made, 10) == []
    made.take_out(2, lambda item: item.offset == 2)
    made.ended(busy)
    assert started(made, 10) == [4]


def test_a_slot_is_not_kept_by_a_lane_whose_lease_is_out() -> None:
    lease = Lease()
    made = lanes(lease=lease, crm=1)
    filled(made, [delivery(1, partition=1)])
    (busy,) = flying(made, 10)
    filled(made, [delivery(2, partition=2), delivery(3, partition=3)])
    assert started(made, 10) == []
    lease.out.add(2)
    made.ended(busy)
    assert started(made, 10) == [3]
    lease.out.clear()
    made.drop(3)
    assert started(made, 11) == []


def test_a_slot_is_not_kept_by_a_lane_that_was_dropped() -> None:
    made = lanes(crm=1)
    filled(made, [delivery(1, partition=1)])
    (busy,) = flying(made, 10)
    filled(made, [delivery(2, partition=2), delivery(3, partition=3)])
    assert started(made, 10) == []
    made.ended(busy)
    made.drop(2)
    assert started(made, 10) == [3]


def test_a_lease_that_is_out_starts_nothing_and_is_looked_at_again() -> None:
    lease = Lease()
    lease.out.add(0)
    made = filled(lanes(lease=lease), [delivery(1)])
    assert started(made, 10) == []
    due = made.next_due()
    assert due is not None
    assert 10 < due < 11
    lease.out.clear()
    assert started(made, 11) == [1]


def test_quiet_holds_for_every_lane_of_the_connection_and_no_other() -> None:
    made = lanes(crm=9, other=9)
    filled(made, [delivery(1), delivery(2, partition=1), delivery(3, connection="other")])
    made.hold("crm", 50)
    made.hold("crm", 20)
    assert started(made, 49.9) == [3]
    assert made.next_due() == 50
    assert started(made, 50) == [1, 2]


def test_a_paused_connection_starts_nothing_until_it_is_resumed() -> None:
    made = filled(lanes(crm=1), [delivery(n, partition=n) for n in range(3)])
    (first,) = flying(made, 10)
    made.stand("crm")
    made.back(first)
    assert started(made, 10) == []
    made.pause(["crm"])
    assert started(made, 10) == []
    made.pause([])
    assert len(started(made, 10)) == 1


def test_a_connection_taken_away_keeps_its_deliveries_for_the_day_it_returns() -> None:
    made = filled(lanes(crm=1), [delivery(1)])
    made.configure({})
    assert started(made, 10) == []
    assert len(made) == 1
    made.configure({"crm": 1})
    assert started(made, 10) == [1]


def test_a_higher_limit_takes_effect_at_once() -> None:
    made = filled(lanes(crm=1), [delivery(n, partition=n) for n in range(4)])
    assert started(made, 10) == [0]
    made.configure({"crm": 3})
    assert started(made, 10) == [1, 2]


def test_what_a_crash_could_repeat_is_bounded_over_all_connections() -> None:
    made = lanes(max_unsettled=3, a=9, b=9)
    filled(made, [delivery(n, connection=name) for name in "ab" for n in range(4)])
    first, *_ = flying(made, 10)
    assert made.in_flight == 3
    made.ended(first)
    assert started(made, 10) == []
    assert made.next_due() is None
    made.settled((0, first.connection), [first.offset])
    assert len(started(made, 10)) == 1


def test_a_full_lane_keeps_what_is_due_first() -> None:
    made = filled(lanes(), (delivery(n, due=1_000 + n) for n in range(MAX_LOADED)))
    made.accept(delivery(900, due=5_000))
    assert len(made) == MAX_LOADED
    made.accept(delivery(901, due=10))
    assert started(made, 10) == [901]
    assert len(made) == MAX_LOADED


def test_what_did_not_fit_is_asked_for_and_paged_in() -> None:
    made = filled(lanes(crm=MAX_LOADED), (delivery(n) for n in range(MAX_LOADED + 5)))
    assert made.wanted() is None
    for item in flying(made, 10):
        made.ended(item)
        made.settled((0, "crm"), [item.offset])
    assert made.wanted() == (0, "crm")
    assert made.wanted() is None
    made.page((0, "crm"), [delivery(MAX_LOADED + n) for n in range(5)], 5)
    assert started(made, 10) == [MAX_LOADED + n for n in range(5)]
    assert made.wanted() is None


def test_a_page_that_could_not_be_read_is_asked_for_again() -> None:
    made = lanes()
    made.refill((0, "crm"))
    assert made.wanted() == (0, "crm")
    made.still_wanted((0, "crm"))
    assert made.wanted() == (0, "crm")


def test_fresh_deliveries_do_not_overtake_what_redis_has() -> None:
    made = filled(lanes(crm=MAX_LOADED), (delivery(n, due=1) for n in range(MAX_LOADED + 1)))
    first = flying(made, 10)
    for item in first[:100]:
        made.ended(item)
    made.accept(delivery(1_000))
    assert started(made, 10) == []
    for item in first[100:]:
        made.ended(item)
    made.settled((0, "crm"), [item.offset for item in first])
    assert made.wanted() == (0, "crm")
    made.page((0, "crm"), [delivery(MAX_LOADED, due=1), delivery(1_000)], 2)
    assert started(made, 10) == [MAX_LOADED, 1_000]


def test_retries_of_a_full_lane_do_not_delay_what_redis_has() -> None:
    """Everything in memory failed and waits for an hour, while fresh ones wait in Redis."""
    made = filled(lanes(crm=MAX_LOADED), (delivery(n) for n in range(MAX_LOADED + 5)))
    for item in flying(made, 10):
        assert made.again(item, 3_610)
        made.settled((0, "crm"), put_off=[item.offset])
    assert len(made) < MAX_LOADED // REFILL_PART
    assert made.wanted() == (0, "crm")
    made.page((0, "crm"), [delivery(MAX_LOADED + n) for n in range(5)], MAX_LOADED + 5)
    assert started(made, 11) == [MAX_LOADED + n for n in range(5)]


def test_inherited_deliveries_go_before_retries_that_fill_the_lane() -> None:
    made = filled(lanes(crm=MAX_LOADED), (delivery(n, due=3_600) for n in range(MAX_LOADED)))
    made.refill((0, "crm"))
    assert made.wanted() == (0, "crm")
    made.page((0, "crm"), [delivery(1_000 + n) for n in range(3)], MAX_LOADED + 3)
    assert started(made, 10) == [1_000, 1_001, 1_002]


def test_a_page_brings_back_nothing_that_is_in_flight_or_being_settled() -> None:
    made = filled(lanes(crm=3), [delivery(1), delivery(2), delivery(3)])
    _, second, third = flying(made, 10)
    made.ended(second)
    made.again(third, 20)
    made.page((0, "crm"), [delivery(1), delivery(2), delivery(3)], 3)
    assert started(made, 10) == []
    assert started(made, 20) == [3]


@pytest.mark.parametrize("landing", ["ended", "again", "back"])
def test_what_flies_over_a_loss_of_the_partition_is_not_started_twice(landing: str) -> None:
    made = filled(lanes(crm=9), [delivery(1)])
    (first,) = flying(made, 10)
    made.drop(0)
    made.refill((0, "crm"))
    assert made.wanted() == (0, "crm")
    made.page((0, "crm"), [delivery(1)], 1)
    made.accept(delivery(1))  # read again from Kafka: Redis went back
    assert made.wanted() is None
    assert started(made, 10) == []
    if landing == "ended":
        made.ended(first)
        made.page((0, "crm"), [delivery(1)], 1)
        assert started(made, 10) == []
        made.settled((0, "crm"), [1])
        assert made.in_flight == 0
        return
    assert not (made.again(first, 20) if landing == "again" else made.back(first))
    assert made.wanted() == (0, "crm")
    made.page((0, "crm"), [delivery(1)], 1)
    assert started(made, 10) == [1]


def test_a_stray_request_is_no_reason_to_page_again_and_again() -> None:
    made = filled(lanes(crm=9), [delivery(1)])
    flying(made, 10)
    made.drop(0)
    made.refill((0, "crm"))
    made.wanted()
    made.page((0, "crm"), [delivery(1)], 1)
    assert made.wanted() is None


def test_an_end_is_not_forgotten_for_a_retry_told_before() -> None:
    made = filled(lanes(), [delivery(1)])
    (tried,) = flying(made, 10)
    made.again(tried, 11)
    (tried,) = flying(made, 11)
    made.ended(tried)
    made.settled((0, "crm"), put_off=[1])
    made.page((0, "crm"), [delivery(1)], 1)
    assert started(made, 99) == []


def test_a_retry_that_was_pushed_out_does_not_come_back_with_its_old_time() -> None:
    made = filled(lanes(crm=MAX_LOADED), [delivery(1)])
    (tried,) = flying(made, 10)
    made.again(tried, 3_600)
    filled(made, (delivery(2 + n) for n in range(MAX_LOADED)))
    made.refill((0, "crm"))
    made.wanted()
    made.page((0, "crm"), [delivery(1)], MAX_LOADED + 1)
    assert 1 not in started(made, 10)


def test_taking_out_spares_what_flies_but_marks_it() -> None:
    made = filled(lanes(crm=1), [delivery(1), delivery(2), delivery(3, partition=1)])
    (first,) = flying(made, 10)
    assert [item.offset for item in made.take_out(0, lambda _: True)] == [2]
    assert first.removed
    made.page((0, "crm"), [delivery(1), delivery(2)], 2)
    made.ended(first)
    assert started(made, 10) == [3]


def test_drop_forgets_only_its_partition() -> None:
    made = filled(lanes(crm=9), [delivery(1), delivery(2, partition=1)])
    made.drop(0)
    assert started(made, 10) == [2]


def test_flying_counts_the_requests_of_some_partitions() -> None:
    made = filled(lanes(crm=9), [delivery(n, partition=n) for n in range(3)])
    flying(made, 10)
    made.drop(1)
    assert made.flying([0, 1]) == 2
    assert made.flying([]) == 0


def test_the_oldest_is_the_one_that_came_first() -> None:
    made = filled(lanes(), [delivery(5, due=1), delivery(2, due=3), delivery(9, due=2, partition=1)])
    oldest = made.oldest()
    assert oldest is not None
    assert oldest.offset == 9
    assert lanes().oldest() is None


def test_the_heap_stays_small_beside_a_far_future_retry() -> None:
    """Each fresh delivery takes its turn before the retry; none may leave a place behind."""
    made = filled(lanes(crm=1), [delivery(0, due=100_000)])
    for n in range(1, 5_000):
        made.accept(delivery(n, due=n))
        (item,) = flying(made, n)
        made.ended(item)
        made.settled((0, "crm"), [item.offset])
    assert len(made._heap) < 5


def test_a_page_read_before_redis_knew_of_the_new_due_time_forgets_nothing() -> None:
    made = lanes()
    key = (0, "crm")
    made.accept(delivery(7, due=1.0))
    (tried,) = flying(made, 2.0)
    made.refill(key)
    assert made.wanted() == key
    assert made.again(tried, 5.0)
    made.page(key, [delivery(7, due=1.0)], 1)
    made.settled(key, put_off=[7])
    assert started(made, 100.0) == []
    assert made.wanted() == key
    made.page(key, [delivery(7, due=5.0)], 1)
    assert started(made, 4.9) == []
    assert started(made, 5.0) == [7]
