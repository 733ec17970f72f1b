"""What a credential allows, leased to several workers by the script on a real Valkey.

Laws: never more than allowed in any rolling period, whoever asks when; everybody gets something soon; what a
worker does not use or leaves behind comes back.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

import pytest
import redis

from consumer.keys import Keys, Role
from consumer.lane import Delivery
from consumer.lanes import Lanes
from consumer.limits import LATE_S, LEASE, Grant, Meter, granted, lease
from consumer.store import Argument, Call, Store
from schemas.push import Limits
from tests.support.valkey import Valkey
from tests.support.waiting import frozen

KEYS = Keys("referrals", Role.PUSH)
NAMES = ("a", "b", "c")
SECOND_US = 1_000_000


@dataclass
class Bench:
    """Some workers and the credential they share. `timeout_s`: what a request may take, beside the grace."""

    store: Store
    client: redis.Redis
    timeout_s: float = 1.0

    def ask(self, worker: str, limits: Limits, wanted: int, under_way: int = 0) -> Grant:
        return granted(self.store.call(lease(KEYS, "crm", worker, limits, wanted, under_way, self.timeout_s)))

    def call(self, *args: Argument) -> Grant:
        """With a block and periods of the test's own."""
        return granted(self.store.call(Call(LEASE, KEYS.limits("crm"), args)))

    def field(self, name: str) -> bytes | None:
        return self.client.hget(KEYS.limits("crm"), name)

    @property
    def now_us(self) -> int:
        seconds, us = self.client.time()
        return int(seconds) * SECOND_US + int(us)


@pytest.fixture
def bench(valkey: Valkey) -> Iterator[Bench]:
    store = Store(valkey.url)
    with valkey.client() as client:
        yield Bench(store, client)
    store.close()


def most_in(moments: list[float], period: float) -> int:
    """Of all periods of this length, the most moments in one."""
    ordered = sorted(moments)
    first, most = 0, 0
    for last, moment in enumerate(ordered):
        while ordered[first] <= moment - period:
            first += 1
        most = max(most, last - first + 1)
    return most


# A second.


@pytest.mark.parametrize("workers", [pytest.param(n, id=f"{n} workers") for n in (1, 3)])
@pytest.mark.parametrize("per_second", [pytest.param(n, id=f"{n} a second") for n in (1, 7, 100, 3_000)])
def test_no_second_has_more_places_than_allowed(bench: Bench, workers: int, per_second: int) -> None:
    limits = Limits(per_second=per_second)
    draw = random.Random(per_second * 10 + workers)
    places: list[float] = []
    got = dict.fromkeys(NAMES[:workers], 0)
    until = time.monotonic() + 1.4
    while time.monotonic() < until:
        worker = draw.choice(NAMES[:workers])
        grant = bench.ask(worker, limits, draw.randint(1, 2 * per_second))
        if not grant.requests:
            assert 0 < grant.again_s <= 1 / per_second + 0.1
            continue
        assert grant.first_us < SECOND_US, "beyond the block"
        last = int(bench.field("line") or 0)
        # What is late by as much as it may be must not crowd what is on time.
        late = draw.choice((0.0, LATE_S * SECOND_US))
        places += [last - n * grant.apart_us + late for n in range(1, grant.requests + 1)]
        got[worker] += grant.requests
    assert most_in(places, SECOND_US) <= per_second
    assert len(places) >= per_second, "a second and more, and less than a second's worth"
    if per_second >= 100:
        # Here nobody waits for places used: of few, chance may leave somebody none.
        assert min(got.values()) > 0


@pytest.mark.parametrize(
    ("per_second", "part"),
    [pytest.param(7, 1 / 10, id="7 a second"), pytest.param(100, 1 / 5, id="100 a second")],
)
def test_one_who_wants_all_leaves_a_fair_part_of_the_second(
    bench: Bench, per_second: int, part: float
) -> None:
    limits = Limits(per_second=per_second)
    first = bench.ask("a", limits, 1_000)
    assert 0.94 * per_second <= first.requests <= per_second
    got, ask_at = dict.fromkeys(NAMES, 0), dict.fromkeys(NAMES, 0.0)
    until = time.monotonic() + 3.0
    while (now := time.monotonic()) < until:
        for worker in [name for name in NAMES if ask_at[name] <= now]:
            grant = bench.ask(worker, limits, 1_000)
            got[worker] += grant.requests
            # As a worker does: when its places are used.
            last_us = grant.first_us + grant.requests * grant.apart_us
            ask_at[worker] = now + (min(1.0, last_us / SECOND_US) if grant.requests else grant.again_s)
        time.sleep(0.002)
    assert min(got.values()) > sum(got.values()) * part


@pytest.mark.case(29)
def test_a_clock_that_was_set_back_does_not_stop_the_line(bench: Bench) -> None:
    limits = Limits(per_second=10)
    bench.ask("a", limits, 1)
    bench.client.hset(KEYS.limits("crm"), "line", bench.now_us + 3_600 * SECOND_US)
    assert bench.ask("a", limits, 1) == Grant(1, 0, 105_000, None, 0.0)


# Minutes, hours, days.

PERIODS = {"per_minute": 60, "per_hour": 3_600, "per_day": 86_400}


@pytest.mark.parametrize("workers", [pytest.param(n, id=f"{n} workers") for n in (1, 2, 3)])
@pytest.mark.parametrize("name", PERIODS)
def test_no_period_grants_more_than_allowed_and_says_when_there_is_more(
    bench: Bench, name: str, workers: int
) -> None:
    limits = Limits(**{name: 50})
    got = dict.fromkeys(NAMES[:workers], 0)
    for worker, wanted in itertools.product(NAMES[:workers], (1, 3, 7)):
        got[worker] += bench.ask(worker, limits, wanted).requests
    for worker in itertools.islice(itertools.cycle(got), 60):
        got[worker] += bench.ask(worker, limits, 1_000).requests
    assert sum(got.values()) == 50
    assert min(got.values()) >= 50 // (2 * workers)
    spent = bench.ask("a", limits, 1)
    assert spent.requests == 0
    # Until the slice they were counted in is over a period ago.
    assert PERIODS[name] < spent.again_s <= PERIODS[name] * 1.1 + 1


@pytest.mark.parametrize(
    ("age", "free"),
    [
        pytest.param(20, 0, id="a period ago or just less"),
        pytest.param(21, 5, id="over a period ago"),
        pytest.param(400, 5, id="long ago, when nobody asked since"),
    ],
)
def test_what_is_counted_leaves_with_its_slice(bench: Bench, age: int, free: int) -> None:
    def slice_now() -> int:
        return bench.now_us // SECOND_US // 180

    name = f"3600000:{slice_now() - age}"
    bench.client.hset(KEYS.limits("crm"), name, 5)
    assert bench.ask("a", Limits(per_hour=5), 5).requests == free
    assert (bench.field(name) is None) == (free > 0), "what is over must not pile up"


@pytest.mark.parametrize("workers", [pytest.param(1, id="alone"), pytest.param(3, id="3 workers")])
def test_no_rolling_period_sees_more_though_grants_are_used_late(bench: Bench, workers: int) -> None:
    """A period of a second and blocks of a fifth of it, over three periods: used at once or at the last moment."""
    draw = random.Random(workers)
    used: list[float] = []
    until = time.monotonic() + 2.4
    while time.monotonic() < until:
        worker = draw.choice(NAMES[:workers])
        before = bench.now_us
        grant = bench.call(worker, 200, draw.randint(1, 30), 0, 100, "", "", 1_000, 20)
        if grant.requests:
            # By Redis's clock: no earlier than it was asked, and no later than a block after.
            used += [draw.choice((bench.now_us, before + 199_000)) for _ in range(grant.requests)]
        else:
            time.sleep(min(0.02, grant.again_s))
    assert most_in(used, SECOND_US) <= 20
    assert len(used) > 20, "the period rolls"


# Requests at the same time.


class Peer:
    """A worker whose lanes never run dry, its requests under way and when they are answered."""

    def __init__(self, bench: Bench, name: str, limits: Limits) -> None:
        self.bench, self.name, self.offsets = bench, name, itertools.count()
        self.lanes = Lanes(lambda _: True)
        self.lanes.configure({"crm": (16, 1, Meter("crm", limits, bench.timeout_s))})
        self.lanes.gates["crm"].concurrency.limit = 16.0
        self.under_way: list[tuple[float, list[Delivery]]] = []
        self.done = 0

    def turn(self, takes: float) -> None:
        """What a worker does in a round; a request of it is answered after `takes` seconds."""
        now = time.monotonic()
        for answered, deliveries in list(self.under_way):
            if answered <= now:
                self.under_way.remove((answered, deliveries))
                self.lanes.landed(deliveries)
                for delivery in deliveries:
                    self.lanes.ended(delivery)
                    self.lanes.settled(0, "crm", {delivery.offset: inf})
                    self.done += 1
        while len(self.lanes) < 40:
            offset = next(self.offsets)
            self.lanes.accept(Delivery(0, "crm", offset, 0.0, frozen(f"r{offset}")))
        self.start(takes)
        self.lanes.give_up_shares(now)
        if (found := self.lanes.asking()) is not None:
            meter, wanted = found
            call = lease(KEYS, "crm", self.name, meter.limits, wanted, meter.under_way, self.bench.timeout_s)
            asked_at = time.monotonic()
            self.lanes.granted(meter, granted(self.bench.store.call(call)), asked_at)
            self.start(takes)

    def start(self, takes: float) -> None:
        while deliveries := self.lanes.start(now := time.monotonic()):
            self.under_way.append((now + takes, deliveries))


@pytest.mark.parametrize(
    ("allowed", "workers", "takes"),
    [
        pytest.param(10, 3, 0.03, id="ten among three"),
        pytest.param(10, 1, 0.03, id="ten for one"),
        pytest.param(2, 3, 0.1, id="two among three"),
        pytest.param(1, 3, 0.1, id="one among three"),
        pytest.param(1, 2, 1.5, id="one among two, requests longer than a block"),
    ],
)
def test_connections_are_never_exceeded_and_everybody_gets_some(
    bench: Bench, allowed: int, workers: int, takes: float
) -> None:
    peers = [Peer(bench, name, Limits(connections=allowed)) for name in NAMES[:workers]]
    until = time.monotonic() + (3.6 if allowed < workers else 1.5)
    most = 0
    while time.monotonic() < until:
        for peer in peers:
            peer.turn(takes)
            most = max(most, sum(len(one.under_way) for one in peers))
        time.sleep(0.002)
    assert most == allowed
    done = [peer.done for peer in peers]
    assert min(done) > 0
    if allowed >= workers:
        assert min(done) > sum(done) / (2 * workers)
        assert sum(done) > 0.5 * allowed * 1.5 / takes, "the places are used"


def test_all_limits_together_hold(bench: Bench) -> None:
    limits = Limits(connections=3, per_second=40, per_minute=70)
    peers = [Peer(bench, name, limits) for name in NAMES]
    began = time.monotonic()
    moments: list[float] = []
    while time.monotonic() < began + 2.5:
        for peer in peers:
            before = {id(deliveries) for _, deliveries in peer.under_way}
            peer.turn(0.02)
            moments += [at - 0.02 for at, each in peer.under_way if id(each) not in before]
            assert sum(len(one.under_way) for one in peers) <= 3
        time.sleep(0.002)
    assert most_in(moments, 1.0) <= 40
    assert 60 <= sum(peer.done + len(peer.under_way) for peer in peers) <= 70


def test_a_newcomer_gets_its_share_as_soon_as_it_is_free(bench: Bench) -> None:
    limits = Limits(connections=10)
    assert bench.ask("a", limits, 50).at_once == 10
    waits = bench.ask("b", limits, 5)
    assert (waits.requests, waits.at_once, waits.again_s) == (0, 0, 0.05)
    assert bench.ask("a", limits, 50, under_way=10).at_once == 5, "new requests only below a fair part"
    assert bench.ask("b", limits, 5).at_once == 0, "they are still under way"
    assert bench.ask("a", limits, 50, under_way=5).at_once == 5
    assert bench.ask("b", limits, 5).at_once == 5


def test_an_idle_share_is_returned_at_once(bench: Bench) -> None:
    limits = Limits(connections=10)
    bench.ask("a", limits, 10)
    assert bench.ask("a", limits, 0, under_way=3).at_once == 3
    assert bench.ask("b", limits, 10).at_once == 7
    assert bench.ask("a", limits, 0).at_once == 0
    assert bench.field("w:a") is None
    assert bench.ask("b", limits, 10, under_way=7).at_once == 10


def test_who_waits_longest_is_next(bench: Bench) -> None:
    limits = Limits(connections=1)
    assert bench.ask("a", limits, 9).at_once == 1
    assert bench.ask("c", limits, 9).at_once == 0
    time.sleep(0.01)
    assert bench.ask("b", limits, 9).at_once == 0
    assert bench.ask("a", limits, 0).at_once == 0
    assert bench.ask("b", limits, 9).at_once == 0
    assert bench.ask("a", limits, 9).at_once == 0
    assert bench.ask("c", limits, 9).at_once == 1


def test_the_share_of_a_dead_worker_returns_after_its_time(bench: Bench) -> None:
    began = time.monotonic()
    # Requests of the dead one may take 300 ms, its block 200.
    assert bench.call("dead", 200, 10, 0, 300, 10, "").at_once == 10
    while not bench.call("b", 200, 1, 0, 300, 10, "").at_once:
        assert time.monotonic() - began < 2, "kept for good"
        time.sleep(0.01)
    assert time.monotonic() - began >= 0.49


def test_what_the_rate_refuses_takes_no_share(bench: Bench) -> None:
    limits = Limits(connections=1, per_day=1)
    assert bench.ask("a", limits, 1) == Grant(1, 0, 0, 1, 0.0)
    bench.ask("a", limits, 0)
    assert bench.ask("a", limits, 1).at_once == 0
    assert bench.field("w:a") is not None
    assert bench.ask("b", Limits(connections=1), 1).at_once == 0, "it waits longer"


def test_nothing_piles_up(bench: Bench) -> None:
    limits = Limits(per_second=50, per_minute=100, connections=5)
    for number in range(200):
        bench.call(f"w{number}", 1, 1, 0, 0, 5, 20_000, 60, 100)
        time.sleep(0.004)
    bench.ask("a", limits, 1)
    assert bench.client.hlen(KEYS.limits("crm")) < 40
    assert 0 < bench.client.ttl(KEYS.limits("crm")) <= 2 * 86_400
