"""Lanes by table: what may start, in which order, and what waits for what."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

import pytest

from consumer.breaker import FAILURES, OPEN_S
from consumer.families import REFILL_PART
from consumer.lane import AFTER_S, Delivery, LaneKey, Tier
from consumer.lanes import MAX_LOADED, Lanes
from consumer.tries import NONE, Tries
from tests.support.waiting import frozen

CRM = LaneKey(0, "crm")
AGAIN = LaneKey(0, "crm", Tier.AGAIN)


class Lease:
    """Which partitions may start requests."""

    def __init__(self) -> None:
        self.out: set[int] = set()

    def __call__(self, partition: int) -> bool:
        return partition not in self.out


def lanes(max_unsettled: int = 1_000, lease: Lease | None = None, rows: int = 1, **limits: int) -> Lanes:
    """Connections by name with their requests at once, which their receivers are known to take."""
    made = Lanes(lease or Lease(), max_unsettled)
    configure(made, rows, **(limits or {"crm": 2}))
    return made


def configure(made: Lanes, rows: int = 1, **limits: int) -> None:
    made.configure({name: (limit, rows, None) for name, limit in limits.items()})
    for gate in made.gates.values():
        gate.concurrency.limit = max(1.0, float(gate.max_in_flight))


def delivery(
    offset: int,
    due: float = 10.0,
    partition: int = 0,
    connection: str = "crm",
    *,
    of: str | None = None,
    tries: Tries = NONE,
    tier: Tier = Tier.DUE,
) -> Delivery:
    """`of`: the referral whose later revision it is."""
    ids = (f"r{offset}", 0) if of is None else (of, offset)
    return Delivery(partition, connection, offset, due, frozen(*ids), tries, tier)


def filled(made: Lanes, deliveries: Iterable[Delivery]) -> Lanes:
    for item in deliveries:
        made.accept(item)
    return made


def requests(made: Lanes, now: float) -> list[list[Delivery]]:
    return list(iter(lambda: made.start(now), []))


def flying(made: Lanes, now: float) -> list[Delivery]:
    return [item for deliveries in requests(made, now) for item in deliveries]


def started(made: Lanes, now: float) -> list[int]:
    return [item.offset for item in flying(made, now)]


def end(made: Lanes, *deliveries: Delivery, settled: bool = True) -> None:
    """Each in a request of its own."""
    for item in deliveries:
        made.landed([item])
        made.ended(item)
        if settled:
            made.settled(item.partition, item.connection, {item.offset: inf})


def again(made: Lanes, item: Delivery, due: float, tries: Tries | None = None) -> bool:
    made.landed([item])
    return made.again(item, due, tries or Tries(item.tries.attempts + 1))


# What starts, and in which order.


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
    end(made, first)
    (third,) = flying(made, 10)
    assert again(made, second, 99)
    (fourth,) = flying(made, 10)
    assert [item.offset for item in (first, second, third, fourth)] == [0, 1, 2, 3]


def test_one_connection_at_its_limit_delays_no_other() -> None:
    made = lanes(slow=1, quick=1)
    filled(made, (delivery(n, connection="slow") for n in range(9)))
    filled(made, [delivery(20, connection="quick")])
    assert started(made, 10) == [0, 20]


def test_a_receiver_begins_with_one_request_and_gets_more_with_each_good_answer() -> None:
    made = Lanes(Lease())
    made.configure({"crm": (8, 1, None)})
    filled(made, (delivery(n) for n in range(40)))
    under_way, sizes = flying(made, 10), []
    for _ in range(10):
        sizes.append(len(under_way))
        made.answered("crm", alive=True, busy=False, latency=0.1, now=10)
        end(made, under_way.pop(0))
        under_way += flying(made, 10)
    assert sizes == [1, 2, 3, 4, 5, 6, 7, 8, 8, 8]
    for item in under_way:
        made.answered("crm", alive=True, busy=True, latency=0.1, now=10)
        again(made, item, 999)
    assert len(started(made, 10)) == 4
    assert made.states(10)["slowed"] == 1


def test_fresh_and_put_off_take_turns_before_a_busy_gate() -> None:
    """Each with more than the gate lets through, the put off due before and after the fresh."""
    for due in (1.0, 9.0):
        made = lanes(crm=1)
        filled(made, (delivery(n, due=5.0) for n in range(20)))
        filled(made, (delivery(100 + n, due=due, tier=Tier.AGAIN, tries=Tries(1)) for n in range(20)))
        order = []
        for _ in range(20):
            (item,) = flying(made, 10)
            order.append(item.tier)
            end(made, item)
        assert order.count(Tier.DUE) in {9, 10, 11}
        assert all(set(order[n : n + 3]) == set(Tier) for n in range(18)), "neither waits long"


# Slots pass on.


def test_a_slot_goes_to_a_lane_that_can_use_it() -> None:
    """Two lanes were turned away; the first has nothing due any more, the second must not wait for it."""
    made = filled(lanes(crm=1), [delivery(1, partition=1)])
    (busy,) = flying(made, 10)
    filled(made, [delivery(2, partition=2), delivery(3, due=5_000, partition=2), delivery(4, partition=3)])
    assert started(made, 10) == []
    made.take_out(2, lambda item: item.offset == 2)
    end(made, busy)
    assert started(made, 10) == [4]


def test_a_slot_is_not_kept_by_a_lane_whose_lease_is_out() -> None:
    lease = Lease()
    made = filled(lanes(lease=lease, crm=1), [delivery(1, partition=1)])
    (busy,) = flying(made, 10)
    filled(made, [delivery(2, partition=2), delivery(3, partition=3)])
    assert started(made, 10) == []
    lease.out.add(2)
    end(made, busy)
    assert started(made, 10) == [3]


def test_a_slot_is_not_kept_by_a_lane_that_was_dropped() -> None:
    made = filled(lanes(crm=1), [delivery(1, partition=1)])
    (busy,) = flying(made, 10)
    filled(made, [delivery(2, partition=2), delivery(3, partition=3)])
    assert started(made, 10) == []
    end(made, busy)
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


# What holds a connection back.


def test_quiet_holds_for_every_lane_of_the_connection_and_no_other() -> None:
    made = lanes(crm=9, other=9)
    filled(made, [delivery(1), delivery(2, partition=1), delivery(3, connection="other")])
    made.hold("crm", 50)
    made.hold("crm", 20)
    assert started(made, 49.9) == [3]
    assert made.next_due() == 50
    assert made.states(49.9)["quiet"] == 1
    assert started(made, 50) == [1, 2]


def test_a_paused_connection_starts_nothing_until_it_is_resumed() -> None:
    made = filled(lanes(crm=1), [delivery(n, partition=n) for n in range(3)])
    (first,) = flying(made, 10)
    made.stand("crm")
    made.landed([first])
    made.back(first)
    assert started(made, 10) == []
    made.pause(["crm"])
    assert started(made, 10) == []
    assert made.states(10)["paused"] == 1
    made.pause([])
    assert len(started(made, 10)) == 1


def test_a_connection_taken_away_keeps_its_deliveries_for_the_day_it_returns() -> None:
    made = filled(lanes(crm=1), [delivery(1)])
    configure(made)
    assert started(made, 10) == []
    assert len(made) == 1
    configure(made, crm=1)
    assert started(made, 10) == [1]


def test_a_higher_limit_takes_effect_at_once() -> None:
    made = filled(lanes(crm=1), [delivery(n, partition=n) for n in range(4)])
    assert started(made, 10) == [0]
    configure(made, crm=3)
    assert started(made, 10) == [1, 2]


def failed(made: Lanes, item: Delivery, now: float) -> None:
    made.answered("crm", alive=False, busy=False, latency=0.1, now=now)
    again(made, item, now)


def test_while_the_breaker_is_open_nothing_is_tried_and_then_one_request_probes() -> None:
    made = filled(lanes(crm=FAILURES), (delivery(n, partition=n) for n in range(FAILURES + 3)))
    for item in flying(made, 10):
        failed(made, item, 10)
    assert started(made, 10 + OPEN_S - 0.01) == []
    assert made.next_due() == 10 + OPEN_S
    assert made.states(10)["open"] == 1
    now = 10 + OPEN_S
    (probe,) = flying(made, now)
    failed(made, probe, now)
    assert started(made, now + 2 * OPEN_S - 0.01) == []
    now += 2 * OPEN_S
    (probe,) = flying(made, now)
    made.answered("crm", alive=True, busy=False, latency=0.1, now=now)
    end(made, probe)
    assert len(started(made, now)) == FAILURES, "a good answer calls all up"


def test_the_probe_waits_for_what_was_sent_before_and_late_failures_do_not_count() -> None:
    made = filled(lanes(crm=FAILURES + 2), (delivery(n, partition=n) for n in range(FAILURES + 3)))
    *early, late, last = flying(made, 10)
    for item in early:
        failed(made, item, 10)
    now = 10 + OPEN_S
    assert started(made, now) == []
    failed(made, late, now)
    assert started(made, now) == []
    failed(made, last, now)
    assert len(started(made, now)) == 1, "at once: it was not opened again"


def test_a_probe_that_asked_nothing_leaves_the_next_its_turn() -> None:
    made = filled(lanes(crm=FAILURES), (delivery(n, partition=n) for n in range(FAILURES + 2)))
    for item in flying(made, 10):
        failed(made, item, 10)
    (probe,) = flying(made, 10 + OPEN_S)
    end(made, probe)
    assert len(started(made, 10 + OPEN_S)) == 1


# What a crash may repeat, and a fair share of it.


def test_what_a_crash_could_repeat_is_bounded_over_all_connections() -> None:
    made = lanes(max_unsettled=2, a=9, b=9)
    filled(made, [delivery(n, connection=name) for name in "ab" for n in range(4)])
    first, *others = flying(made, 10)
    assert made.in_flight == 2
    end(made, first, settled=False)
    assert started(made, 10) == []
    assert made.next_due() is None
    made.settled(0, first.connection, {first.offset: inf})
    assert len(started(made, 10)) == 1
    assert {item.connection for item in (first, *others)} == {"a", "b"}


def test_many_connections_that_hang_leave_a_healthy_one_its_requests() -> None:
    names = [f"hangs{n}" for n in range(500)]
    made = lanes(**dict.fromkeys(names, 16), healthy=16)
    filled(made, [delivery(n, due=1, connection=name) for name in names for n in range(20)])
    flying(made, 10)
    assert made.in_flight < 1_000
    filled(made, [delivery(n, connection="healthy") for n in range(5)])
    for _ in range(5):
        (item,) = flying(made, 10)
        assert item.connection == "healthy"
        end(made, item)


def test_two_that_hang_share_half_and_others_go_on() -> None:
    made = lanes(max_unsettled=100, a=100, b=100, healthy=10)
    filled(made, [delivery(n, due=1, connection=name) for name in "ab" for n in range(100)])
    taken = [item.connection for item in flying(made, 10)]
    assert (taken.count("a"), taken.count("b")) == (25, 25)
    filled(made, (delivery(n, connection="healthy") for n in range(20)))
    assert len(started(made, 10)) == 10


def test_requests_of_many_rows_that_hang_leave_room_too() -> None:
    made = lanes(max_unsettled=100, rows=80, a=9, b=9, healthy=9)
    filled(made, [delivery(n, due=1, connection=name) for name in "ab" for n in range(200)])
    sizes = [len(deliveries) for deliveries in requests(made, 10)]
    assert sizes == [50, 49]
    filled(made, [delivery(1, connection="healthy")])
    assert started(made, 10) == [1]


def test_one_alone_may_have_half_before_it_leaves_room() -> None:
    made = filled(lanes(max_unsettled=100, crm=100), (delivery(n) for n in range(100)))
    first, *_ = flying(made, 10)
    assert made.in_flight == 50
    end(made, first)
    assert len(started(made, 10)) == 1


# One referral after another.


def test_a_later_revision_waits_for_the_answer_of_the_earlier() -> None:
    made = filled(lanes(crm=9), [delivery(1, of="r"), delivery(2, of="r"), delivery(3)])
    first, other = flying(made, 10)
    assert (first.offset, other.offset) == (1, 3)
    end(made, first)
    assert started(made, 10) == [2]


def test_a_later_revision_is_put_off_behind_one_that_is_tried_again() -> None:
    made = filled(lanes(crm=9), [delivery(1, of="r"), delivery(2, of="r"), delivery(3, of="r")])
    (first,) = flying(made, 10)
    again(made, first, 60)
    put_off = made.put_off()
    assert [(item.offset, item.due, item.tier) for item in put_off] == [
        (2, 60 + AFTER_S, Tier.AGAIN),
        (3, 60 + AFTER_S, Tier.AGAIN),
    ]
    assert [item.tries for item in put_off] == [NONE, NONE], "no attempt is spent"
    assert made.put_off() == []
    assert started(made, 59) == []
    (first,) = flying(made, 60.1)
    assert first.offset == 1
    end(made, first)
    assert started(made, 60.1) == [2]


@pytest.mark.parametrize("hold", [False, True])
def test_what_takes_one_back_goes_though_what_it_waited_for_does_not_end(hold: bool) -> None:
    """Offset -2 takes back offset 1; offset 9 is a revision that came after the removal, in flight by then."""
    made = filled(lanes(crm=9), [delivery(9, of="r")])
    (later,) = flying(made, 10)
    made.accept(delivery(-2, of="r"))
    assert started(made, 10) == []
    made.landed([later])
    assert made.held(later) if hold else made.again(later, 60, Tries(1))
    assert started(made, 10) == [-2]


def test_an_earlier_one_that_was_put_off_is_not_overtaken_by_a_fresh_revision() -> None:
    made = filled(lanes(crm=9), [delivery(1, of="r")])
    (first,) = flying(made, 10)
    again(made, first, 60)
    made.settled(0, "crm", {1: 60})
    made.accept(delivery(2, of="r"))
    assert started(made, 59) == []
    assert [(item.offset, item.due) for item in made.put_off()] == [(2, 60 + AFTER_S)]


def test_what_comes_after_one_that_is_held_waits_behind_it() -> None:
    made = filled(lanes(crm=9), [delivery(1, of="r"), delivery(2, of="r")])
    (first,) = flying(made, 10)
    assert started(made, 10) == []
    made.landed([first])
    assert made.held(first)
    (behind,) = made.put_off()
    assert (behind.offset, behind.due) == (2, inf)
    assert started(made, 1_000) == []
    made.settled(0, "crm", {1: inf, 2: inf})
    assert started(made, 1_000) == []


def test_a_page_keeps_behind_an_earlier_delivery_what_redis_says_waits_for_it() -> None:
    made = lanes(crm=9)
    made.refill(CRM)
    assert made.wanted() == CRM
    made.page(CRM, [delivery(5, of="r"), delivery(6)], {5: 70.0}, whole=True)
    assert started(made, 10) == [6]
    assert [(item.offset, item.due) for item in made.put_off()] == [(5, 70 + AFTER_S)]
    assert started(made, 71) == [5]


# One request for several.


@pytest.mark.parametrize(
    ("groups", "offsets", "expected"),
    [
        pytest.param(["", "", "", ""], range(4), [[0, 1, 2], [3]], id="as many as one may carry"),
        pytest.param(["g", "g", "h", "h"], range(4), [[0, 1], [2, 3]], id="halves apart"),
        pytest.param(["", "g", "", "g"], range(4), [[0, 2], [1, 3]], id="a group together, the others too"),
        pytest.param(["", "", ""], [-3, -2, -1], [[-3], [-2], [-1]], id="what takes one back alone"),
        pytest.param(["", "", ""], [-3, 1, 2], [[-3], [1, 2]], id="and with no other"),
    ],
)
def test_which_go_together(groups: list[str], offsets: Iterable[int], expected: list[list[int]]) -> None:
    made = lanes(rows=3, crm=9)
    for offset, group in zip(offsets, groups, strict=True):
        made.accept(delivery(offset, tries=Tries(1, 0.0, group)))
    assert [[item.offset for item in each] for each in requests(made, 10)] == expected


def test_a_request_is_split_into_the_halves_it_is_told_and_not_mixed_again() -> None:
    made = filled(lanes(rows=4, crm=1), (delivery(n) for n in range(8)))
    (whole,) = requests(made, 10)
    assert len(whole) == 4
    made.landed(whole)
    for number, item in enumerate(whole):
        made.again(item, 10.0, Tries(0, 0.0, "left" if number < 2 else "right"))
    carried = []
    for _ in range(3):
        (each,) = requests(made, 10)
        carried.append([item.offset for item in each])
        made.landed(each)
        for item in each:
            made.ended(item)
    assert sorted(carried) == [[0, 1], [2, 3], [4, 5, 6, 7]]


def test_a_group_that_memory_holds_in_part_waits_for_its_page() -> None:
    made = lanes(rows=4, crm=9)
    group = Tries(1, 9.0, "g")
    first, second = (delivery(n, tries=group, tier=Tier.AGAIN) for n in (1, 2))
    made.refill(AGAIN)
    assert made.wanted() == AGAIN
    made.page(AGAIN, [first], {}, whole=False)
    assert started(made, 10) == []
    assert made.wanted() == AGAIN
    made.page(AGAIN, [first, second], {}, whole=True)
    assert [[item.offset for item in each] for each in requests(made, 10)] == [[1, 2]]


def test_a_group_that_does_not_fit_beside_what_is_in_flight_waits_for_its_landing() -> None:
    half = MAX_LOADED // 2 + 1
    one, two = (
        [delivery(n, due, tries=Tries(1, 5.0, group), tier=Tier.AGAIN) for n in range(first, first + half)]
        for group, first, due in (("one", 0, 10.0), ("two", half, 11.0))
    )
    made = lanes(rows=half, crm=9)
    made.page(AGAIN, [*one, *two], {}, whole=True)
    first = made.start(12)
    assert len(first) == half
    assert made.start(12) == [], "the rest of the other group has no room yet"
    made.landed(first)
    for item in first:
        made.ended(item)
    made.page(AGAIN, two, {}, whole=True)
    assert made.start(12) == two


def test_two_revisions_never_ride_in_one_request() -> None:
    made = filled(lanes(rows=9, crm=9), [delivery(1, of="r"), delivery(2, of="r"), delivery(3)])
    assert [[item.offset for item in each] for each in requests(made, 10)] == [[1, 3]]


# Memory and pages.


def test_a_full_lane_keeps_what_is_due_first() -> None:
    made = filled(lanes(), (delivery(n, due=1_000 + n) for n in range(MAX_LOADED)))
    made.accept(delivery(900, due=5_000))
    assert len(made) == MAX_LOADED
    made.accept(delivery(901, due=10))
    assert started(made, 10) == [901]
    assert len(made) == MAX_LOADED


def test_what_did_not_fit_is_asked_for_and_paged_in() -> None:
    made = filled(lanes(crm=2 * MAX_LOADED), (delivery(n) for n in range(MAX_LOADED + 5)))
    assert made.wanted() is None
    end(made, *flying(made, 10))
    assert made.wanted() == CRM
    assert made.wanted() is None
    made.page(CRM, [delivery(MAX_LOADED + n) for n in range(5)], {}, whole=True)
    assert started(made, 10) == [MAX_LOADED + n for n in range(5)]
    assert made.wanted() is None


def test_a_page_that_could_not_be_read_is_asked_for_again() -> None:
    made = lanes()
    made.refill(CRM)
    assert made.wanted() == CRM
    made.still_wanted(CRM)
    assert made.wanted() == CRM


def test_a_page_asks_for_more_than_memory_may_know_already() -> None:
    made = filled(lanes(crm=9), (delivery(n) for n in range(5)))
    first, *_ = flying(made, 10)
    end(made, first, settled=False)
    assert made.known(CRM) == 4 + 1 + MAX_LOADED


def test_fresh_deliveries_do_not_overtake_what_redis_has() -> None:
    made = filled(lanes(crm=2 * MAX_LOADED), (delivery(n, due=1) for n in range(MAX_LOADED + 1)))
    first = flying(made, 10)
    end(made, *first[:100])
    made.accept(delivery(1_000))
    assert started(made, 10) == []
    end(made, *first[100:])
    assert made.wanted() == CRM
    made.page(CRM, [delivery(MAX_LOADED, due=1), delivery(1_000)], {}, whole=True)
    assert started(made, 10) == [MAX_LOADED, 1_000]


def test_retries_of_a_full_lane_do_not_delay_what_redis_has() -> None:
    """Everything in memory failed and waits for an hour, while fresh ones wait in Redis."""
    made = filled(lanes(crm=2 * MAX_LOADED), (delivery(n) for n in range(MAX_LOADED + 5)))
    for item in flying(made, 10):
        assert again(made, item, 3_610)
        made.settled(0, "crm", {item.offset: 3_610})
    assert made.wanted() == CRM
    made.page(CRM, [delivery(MAX_LOADED + n) for n in range(5)], {}, whole=True)
    assert started(made, 11) == [MAX_LOADED + n for n in range(5)]


def test_a_lane_that_runs_low_asks_in_time() -> None:
    made = filled(lanes(crm=2 * MAX_LOADED), (delivery(n) for n in range(MAX_LOADED + 1)))
    items = flying(made, 10)
    rest = MAX_LOADED // REFILL_PART
    end(made, *items[:-rest])
    assert made.wanted() is None
    end(made, items[-rest])
    assert made.wanted() == CRM


def test_a_page_brings_back_nothing_that_is_in_flight_or_being_settled() -> None:
    made = filled(lanes(crm=3), [delivery(1), delivery(2), delivery(3)])
    _, second, third = flying(made, 10)
    end(made, second, settled=False)
    again(made, third, 20)
    made.page(CRM, [delivery(1), delivery(2), delivery(3)], {}, whole=True)
    assert started(made, 10) == []
    assert started(made, 20) == [3]


@pytest.mark.parametrize("landing", ["ended", "again", "held", "back"])
def test_what_flies_over_a_loss_of_the_partition_is_not_started_twice(landing: str) -> None:
    made = filled(lanes(crm=9), [delivery(1)])
    (first,) = flying(made, 10)
    made.drop(0)
    made.refill(CRM)
    assert made.wanted() == CRM
    made.page(CRM, [delivery(1)], {}, whole=True)
    made.accept(delivery(1))  # read again from Kafka: Redis went back
    assert made.wanted() is None, "a stray request is no reason to page again and again"
    assert started(made, 10) == []
    made.landed([first])
    if landing == "ended":
        made.ended(first)
        made.page(CRM, [delivery(1)], {}, whole=True)
        assert started(made, 10) == []
        made.settled(0, "crm", {1: inf})
        assert made.in_flight == 0
        return
    if landing == "again":
        assert not made.again(first, 20, Tries(1))
    elif landing == "held":
        assert not made.held(first)
    else:
        made.back(first)
    assert made.wanted() == CRM
    made.page(CRM, [delivery(1)], {}, whole=True)
    assert started(made, 10) == [1]


def test_an_end_is_not_forgotten_for_a_retry_told_before() -> None:
    made = filled(lanes(), [delivery(1)])
    (tried,) = flying(made, 10)
    again(made, tried, 11)
    (tried,) = flying(made, 11)
    end(made, tried, settled=False)
    made.settled(0, "crm", {1: 11})
    made.page(AGAIN, [delivery(1, tier=Tier.AGAIN)], {}, whole=True)
    assert started(made, 99) == []


def test_a_page_read_before_redis_knew_of_the_new_due_time_forgets_nothing() -> None:
    made = filled(lanes(), [delivery(7, due=1.0)])
    (tried,) = flying(made, 2.0)
    made.refill(AGAIN)
    assert made.wanted() == AGAIN
    assert again(made, tried, 5.0)
    made.page(AGAIN, [], {}, whole=True)
    made.settled(0, "crm", {7: 5.0})
    assert made.wanted() == AGAIN
    made.page(AGAIN, [delivery(7, due=5.0, tier=Tier.AGAIN)], {}, whole=True)
    assert started(made, 4.9) == []
    assert started(made, 5.0) == [7]


def test_taking_out_spares_what_flies_but_marks_it() -> None:
    made = filled(lanes(crm=1), [delivery(1), delivery(2), delivery(3, partition=1)])
    (first,) = flying(made, 10)
    assert [item.offset for item in made.take_out(0, lambda _: True)] == [2]
    assert first.removed
    made.page(CRM, [delivery(1), delivery(2)], {}, whole=True)
    end(made, first)
    assert started(made, 10) == [3]


@pytest.mark.parametrize(("known", "ended"), [pytest.param(True, False, id="memory decides"), (False, True)])
def test_a_removal_ends_what_memory_does_not_hold(known: bool, ended: bool) -> None:
    made = filled(lanes(), [delivery(1)] if known else [])
    assert made.withdrawn(delivery(1)) is ended
    assert not made.withdrawn(delivery(1))


def test_drop_forgets_only_its_partition() -> None:
    made = filled(lanes(crm=9), [delivery(1), delivery(2, partition=1)])
    made.drop(0)
    assert started(made, 10) == [2]


def test_flying_counts_the_deliveries_of_some_partitions() -> None:
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
        end(made, *flying(made, n))
    assert len(made._heap) < 5
