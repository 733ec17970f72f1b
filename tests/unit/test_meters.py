"""Meters before lanes: what a grant lets start, when, and who gets it. The clock is the test's own."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from consumer.lane import Delivery, Tier
from consumer.lanes import Lanes
from consumer.limits import BLOCK_S, LATE_S, Grant, Meter
from consumer.tries import NONE
from schemas.push import Limits
from tests.support.waiting import frozen

ALL = 10_000


def lanes(*names: str, rows: int = 1, requests: int = 16, limits: Limits | None = None) -> Lanes:
    """Connections of one credential, whose receivers are known to take so many requests."""
    made = Lanes(lambda _: True)
    meters = (Meter("shared", limits or Limits(connections=4), 20.0) for _ in names)
    made.configure({name: (requests, rows, meter) for name, meter in zip(names, meters, strict=True)})
    for gate in made.gates.values():
        gate.concurrency.limit = float(requests)
    return made


def fill(
    made: Lanes,
    offsets: Iterable[int],
    connection: str = "crm",
    *,
    due: float = 1.0,
    partition: int = 0,
    tier: Tier = Tier.DUE,
) -> None:
    for n in offsets:
        made.accept(Delivery(partition, connection, n, due, frozen(f"r{n}"), NONE, tier))


def starts(made: Lanes, now: float) -> list[list[Delivery]]:
    return list(iter(lambda: made.start(now), []))


def end(made: Lanes, deliveries: list[Delivery]) -> None:
    made.landed(deliveries)
    for item in deliveries:
        made.ended(item)
        made.settled(item.partition, item.connection, {item.offset: float("inf")})


def asked(made: Lanes) -> tuple[Meter, int]:
    found = made.asking()
    assert found is not None
    return found


def give(
    made: Lanes,
    now: float,
    requests: int = ALL,
    *,
    first_us: int = 0,
    apart_us: int = 0,
    at_once: int | None = None,
    again_s: float = 0.0,
) -> int:
    """Answer the meter that asks; for how many requests it asked."""
    meter, wanted = asked(made)
    made.granted(meter, Grant(requests, first_us, apart_us, at_once, again_s), now)
    return wanted


def test_nothing_starts_without_a_grant_and_one_is_asked_for_once() -> None:
    made = lanes("crm")
    fill(made, range(3))
    assert starts(made, 10) == []
    assert made.states(10)["limited"] == 1
    meter, wanted = asked(made)
    assert wanted == 3
    assert starts(made, 10) == []
    assert made.asking() is None
    made.granted(meter, Grant(2, 0, 0, None, 0.3), 10)
    assert len(starts(made, 10)) == 2
    assert made.next_due() == pytest.approx(10.3), "spent: more may be asked for then"
    assert starts(made, 10.3) == []
    assert give(made, 10.3) == 1
    assert len(starts(made, 10.3)) == 1


def test_a_grant_that_did_not_come_is_asked_for_again() -> None:
    made = lanes("crm")
    fill(made, range(1))
    starts(made, 10)
    meter, _ = asked(made)
    made.granted(meter, None, 10)
    assert starts(made, 10) == []
    assert asked(made)[0] is meter


def test_what_is_not_used_within_the_block_is_given_up() -> None:
    made = lanes("crm")
    fill(made, range(1))
    starts(made, 10)
    give(made, 10, 5)
    assert len(starts(made, 10)) == 1
    fill(made, [7])
    assert starts(made, 10 + BLOCK_S) == []
    assert give(made, 10 + BLOCK_S) == 1


@pytest.mark.parametrize(
    ("lanes_of", "rows", "requests", "latency", "wanted"),
    [
        pytest.param(1, 1, 16, 0.0, 16, id="before any answer, what may run at once"),
        pytest.param(1, 1, 16, 0.1, 100, id="ten turns of a tenth of a second, and no more than wait"),
        pytest.param(1, 1, 4, 0.1, 40, id="ten turns of four"),
        pytest.param(1, 1, 4, 5.0, 4, id="one turn, however long it takes"),
        pytest.param(1, 30, 16, 0.0, 4, id="requests, not deliveries"),
        pytest.param(3, 1, 16, 0.0, 48, id="every lane that waits"),
    ],
)
def test_what_is_asked_for_is_what_can_be_used(
    lanes_of: int, rows: int, requests: int, latency: float, wanted: int
) -> None:
    """What is granted counts as used: a day's requests must not be given up by the second."""
    made = lanes("crm", rows=rows, requests=requests)
    made.gates["crm"].concurrency.usual = latency
    for partition in range(lanes_of):
        fill(made, range(100), partition=partition)
    starts(made, 10)
    assert asked(made)[1] == wanted


def test_requests_start_at_their_places() -> None:
    made = lanes("crm")
    fill(made, range(9))
    starts(made, 10)
    give(made, 10, 3, first_us=50_000, apart_us=100_000)
    assert starts(made, 10) == []
    found = []
    for _ in range(3):
        due = made.next_due()
        assert due is not None
        found.append(round(due, 3))
        assert len(starts(made, due)) == 1
    assert found == [10.05, 10.15, 10.25]


@pytest.mark.parametrize(
    ("late", "at_once", "afterwards"),
    [
        pytest.param(0.0, 1, 9, id="in time"),
        pytest.param(0.9 * LATE_S, 5, 5, id="what is late by less than may be"),
        pytest.param(0.9, 1, 0, id="missed places are lost, but for the last"),
    ],
)
def test_places_that_were_missed_are_not_made_up_for(late: float, at_once: int, afterwards: int) -> None:
    made = lanes("crm")
    fill(made, range(20))
    starts(made, 10)
    give(made, 10, 10, apart_us=10_000, again_s=1.0)
    assert len(starts(made, 10 + late)) == at_once
    now, more = 10 + late, 0
    while (due := made.next_due()) is not None and due < 10.99:
        now = max(now, due)
        more += len(starts(made, now))
    assert more == afterwards


@pytest.mark.parametrize("tiers", [True, False], ids=["tiers of a lane", "connections of a credential"])
def test_a_paced_credential_serves_everybody_in_turn(tiers: bool) -> None:
    """The one with more that is due earlier must not take all places."""
    made = lanes("a", "b")
    fill(made, range(200), "a", due=1.0)
    if tiers:
        fill(made, range(500, 700), "a", due=5.0, tier=Tier.AGAIN)
    else:
        fill(made, range(200), "b", due=5.0)
    starts(made, 10)
    order = []
    for block in range(4):
        give(made, 10 + block, 10, apart_us=100_000, again_s=1.0)
        for place in range(10):
            for deliveries in starts(made, 10 + block + place / 10 + 0.001):
                order.append(deliveries[0].tier if tiers else deliveries[0].connection)
                end(made, deliveries)
        starts(made, 11 + block)
    assert len(order) == 40
    assert set(Counter(order).values()) == {20}


# Requests at once.


def test_a_share_bounds_the_requests_of_all_connections_of_the_credential() -> None:
    made = lanes("a", "b")
    for name in ("a", "b"):
        fill(made, range(9), name)
    starts(made, 10)
    give(made, 10, at_once=3)
    under_way = starts(made, 10)
    assert len(under_way) == 3
    end(made, under_way.pop())
    under_way += starts(made, 10)
    assert len(under_way) == 3
    assert {each[0].connection for each in under_way} == {"a", "b"}


def test_a_smaller_share_lets_nothing_start_until_enough_have_landed() -> None:
    made = lanes("crm")
    fill(made, range(20))
    starts(made, 10)
    give(made, 10, at_once=5)
    under_way = starts(made, 10)
    assert len(under_way) == 5
    give(made, 10.1, at_once=2, again_s=0.05)
    for left in (4, 3, 2):
        end(made, under_way.pop())
        assert starts(made, 10.1) == []
        assert len(under_way) == left
    end(made, under_way.pop())
    assert len(starts(made, 10.1)) == 1


def test_what_may_start_until_the_grant_comes_is_told_as_under_way() -> None:
    made = lanes("crm")
    fill(made, range(20))
    starts(made, 10)
    give(made, 10, at_once=4)
    under_way = starts(made, 10)
    meter, _ = asked(made)
    end(made, under_way.pop())
    assert (meter.in_flight, meter.under_way) == (3, 4)
    assert len(starts(made, 10.01)) == 1, "the old share goes on"
    made.granted(meter, None, 10)
    starts(made, 10 + BLOCK_S)
    end(made, under_way.pop())
    assert starts(made, 10 + BLOCK_S) == []


def test_an_unused_share_is_given_back_in_part_and_then_whole() -> None:
    made = lanes("crm")
    fill(made, range(3))
    starts(made, 10)
    give(made, 10, at_once=4)
    first, second, third = starts(made, 10)
    end(made, first)
    made.give_up_shares(10.5)
    assert made.asking() is None, "within its block it may be used yet"
    made.give_up_shares(11)
    assert give(made, 11, 0, at_once=2) == 0
    made.give_up_shares(11.4)
    assert made.asking() is None
    end(made, second)
    end(made, third)
    made.give_up_shares(11.8)
    assert give(made, 11.8, 0, at_once=0, again_s=0.05) == 0
    made.give_up_shares(12.2)
    assert made.asking() is None, "it has nothing left"
    fill(made, [9])
    assert starts(made, 12.2) == []
    assert give(made, 12.2, at_once=1) == 1
    assert len(starts(made, 12.2)) == 1


def test_more_is_asked_for_while_requests_hang() -> None:
    made = lanes("crm")
    fill(made, range(9))
    starts(made, 10)
    give(made, 10, at_once=1, again_s=0.05)
    assert len(starts(made, 10)) == 1
    assert made.asking() is None, "not at once: it was told when"
    made.give_up_shares(10.4)
    give(made, 10.4, at_once=3)
    assert len(starts(made, 10.4)) == 2


def test_what_is_left_of_a_costly_grant_is_not_lost_for_more_requests_at_once() -> None:
    made = lanes("crm", limits=Limits(connections=4, per_day=100))
    fill(made, range(9))
    starts(made, 10)
    give(made, 10, 5, at_once=1)
    for _ in range(4):
        (each,) = starts(made, 10.5)
        made.give_up_shares(10.5)
        assert made.asking() is None
        end(made, each)
    (last,) = starts(made, 10.5)
    assert give(made, 10.5, at_once=1) == 4, "spent"
    end(made, last)
    assert len(starts(made, 10.5)) == 1


def test_a_turn_at_the_meter_is_not_lost_on_a_connection_that_stands() -> None:
    made = lanes("a", "b")
    fill(made, range(3), "a")
    fill(made, range(3), "b")
    starts(made, 10)
    give(made, 10, at_once=1)
    (busy,) = starts(made, 10)
    other = "b" if busy[0].connection == "a" else "a"
    made.stand(busy[0].connection)
    fill(made, range(3), busy[0].connection, partition=1)
    starts(made, 10)
    end(made, busy)
    (after,) = starts(made, 10)
    assert after[0].connection == other


@pytest.mark.parametrize("becomes", ["none", "another"])
def test_limits_that_change_take_what_is_in_flight_along(becomes: str) -> None:
    made = lanes("a", "b")
    fill(made, range(9), "a")
    fill(made, range(9), "b")
    starts(made, 10)
    give(made, 10, at_once=2)
    under_way = {each[0].connection: each for each in starts(made, 10)}
    old = made.gates["b"].meter
    assert old is not None
    new = Meter("new", Limits(connections=4), 20.0) if becomes == "another" else None
    made.configure({"a": (16, 1, new), "b": (16, 1, Meter("shared", Limits(connections=4), 20.0))})
    assert made.gates["b"].meter is old
    assert old.in_flight == 1
    assert new is None or new.in_flight == 1
    end(made, under_way["a"])
    assert old.in_flight == 1
    assert new is None or new.in_flight == 0
    end(made, under_way["b"])
    assert old.in_flight == 0


# Several workers on one line.


@dataclass
class Line:
    """Places of a rate as the script gives them, to whoever asks; its clock is the simulation's."""

    apart: float
    next: float = 0.0
    places: list[float] = field(default_factory=list)

    def grant(self, now: float, wanted: int, workers: int) -> Grant:
        self.next = max(self.next, now)
        wait = self.next - now
        fits = max(0, int((BLOCK_S - wait) / self.apart))
        requests = min(wanted, -(-fits // workers))
        self.places += [self.next + n * self.apart for n in range(requests)]
        self.next += requests * self.apart
        again = 0.0 if requests else wait - BLOCK_S + self.apart
        return Grant(requests, round(wait * 1e6), round(self.apart * 1e6), None, max(0.0, again))


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    "lag",
    [pytest.param(0.005, id="quick loops"), pytest.param(0.04, id="busy loops")],
)
def test_workers_that_keep_to_their_grants_stay_within_the_rate(workers: int, lag: float) -> None:
    per_second, draw = 20, random.Random(workers)
    line = Line((1 + LATE_S) / per_second)
    all_lanes = [lanes("crm", limits=Limits(per_second=per_second)) for _ in range(workers)]
    for made in all_lanes:
        fill(made, range(250))
    moments: list[float] = []
    now = 10.0
    while now < 16.0:
        for made in all_lanes:
            now += draw.uniform(0, lag) / workers
            for deliveries in starts(made, now):
                moments.append(now)
                end(made, deliveries)
            if (found := made.asking()) is not None:
                meter, wanted = found
                made.granted(meter, line.grant(now, wanted, workers), now)
                starts_now = starts(made, now)
                moments += [now] * len(starts_now)
                for deliveries in starts_now:
                    end(made, deliveries)
    most = max(sum(moment <= other < moment + 1.0 for other in moments) for moment in moments)
    assert most <= per_second
    assert len(moments) > 6 * per_second * 0.8
