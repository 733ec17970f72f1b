"""What paces requests: the breaker, the concurrency a receiver takes well, and what attempts leave behind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer import tries
from consumer.breaker import FAILURES, MAX_OPEN_S, OPEN_S, Breaker
from consumer.concurrency import FLOOR, HALVE, NOISE_S, SHRINK, SLOW, Concurrency
from consumer.tries import Tries

# The breaker.


def failing(times: int, now: float = 0.0) -> Breaker:
    made = Breaker()
    for _ in range(times):
        made.started()
        made.failed(now)
    return made


@pytest.mark.parametrize(
    ("events", "open_until"),
    [
        pytest.param("f" * (FAILURES - 1), 0.0, id="accidents"),
        pytest.param("f" * FAILURES, OPEN_S, id="a row"),
        pytest.param("ff.ffff", 0.0, id="a good answer begins anew"),
        pytest.param("f" * 3 * FAILURES, OPEN_S, id="those sent before it opened say nothing new"),
        pytest.param("f" * FAILURES + ".", 0.0, id="a good answer closes it, whenever it was asked for"),
    ],
)
def test_opens_after_failures_in_a_row(events: str, open_until: float) -> None:
    made = Breaker()
    for event in events:
        if event == "f":
            made.failed(0.0)
        else:
            made.succeeded()
    assert made.open_until == open_until
    assert made.closed == (open_until == 0.0)


def test_each_probe_that_fails_opens_it_for_twice_as_long() -> None:
    made, now, spans = failing(FAILURES), 0.0, []
    for _ in range(8):
        spans.append(made.open_until - now)
        now = made.open_until
        made.started()
        made.failed(now)
    assert spans == [min(MAX_OPEN_S, OPEN_S * 2**n) for n in range(8)]
    made.succeeded()
    assert made.closed
    assert failing(FAILURES).open_until == OPEN_S, "and the next time it begins anew"


def test_a_late_failure_of_before_is_no_probe() -> None:
    made = failing(FAILURES)
    made.failed(made.open_until + 1)
    assert made.open_until == OPEN_S


# Requests at once.


def good(made: Concurrency, rounds: int = 1, latency: float = 0.1) -> Concurrency:
    """Full rounds of good answers."""
    for _ in range(rounds):
        for _ in range(made.requests):
            made.good(latency, made.requests, 0.0)
    return made


@pytest.mark.parametrize(
    ("cap", "rounds", "expected"),
    [
        pytest.param(100, 0, 1, id="begins at one"),
        pytest.param(100, 1, 2, id="doubles"),
        pytest.param(100, 4, 16, id="and doubles"),
        pytest.param(100, 9, 100, id="up to what the connection allows"),
        pytest.param(1, 5, 1, id="one allowed"),
        pytest.param(0, 3, 0, id="none allowed"),
    ],
)
def test_doubles_until_the_first_trouble(cap: int, rounds: int, expected: int) -> None:
    assert good(Concurrency(cap), rounds).requests == expected


def test_halves_once_a_round_and_then_grows_by_one_a_round() -> None:
    made = good(Concurrency(100), 5)
    assert made.requests == 32
    for _ in range(32):
        made.bad(0.2, 10.0)
    assert made.requests == 16
    made.bad(0.2, 10.3)
    assert made.requests == 32 * HALVE * HALVE
    assert good(made).requests == 8, "not quite one more: it grew within the round"
    assert good(made, 2).requests in {9, 10}


@pytest.mark.parametrize(
    ("latency", "factor"),
    [
        pytest.param(0.1, 1.0, id="as usual"),
        pytest.param(SLOW * 0.1 + NOISE_S, 1.0, id="within the noise"),
        pytest.param(SLOW * 0.1 + NOISE_S + 0.01, SHRINK, id="far slower than usual"),
    ],
)
def test_a_slow_answer_is_a_hint(latency: float, factor: float) -> None:
    made = good(Concurrency(16), 6)
    made.good(latency, 16, 1.0)
    assert made.limit == pytest.approx(16 * factor)


def test_an_idle_receiver_proves_nothing() -> None:
    made = good(Concurrency(100), 3)
    for _ in range(50):
        made.good(0.1, 1, 0.0)
    assert made.requests == 8


@given(
    st.integers(0, 1_000),
    st.lists(st.tuples(st.sampled_from(("good", "bad")), st.floats(0, 200), st.integers(1, 1_000))),
)
def test_stays_between_one_and_what_is_allowed(cap: int, answers: list[tuple[str, float, int]]) -> None:
    made, now = Concurrency(cap), 0.0
    for kind, latency, in_flight in answers:
        now += latency
        if kind == "good":
            made.good(latency, in_flight, now)
        else:
            made.bad(latency, now)
        assert FLOOR <= made.limit <= max(FLOOR, cap)
        assert made.requests == min(cap, int(made.limit))


# What attempts leave behind.


@pytest.mark.parametrize(
    ("left", "written"),
    [
        pytest.param(tries.NONE, "0 0", id="none"),
        pytest.param(Tries(3), "3 0", id="known not to be applied"),
        pytest.param(Tries(2, 1_800_000_000.123), "2 1800000000123", id="one nobody knows"),
        pytest.param(Tries(1, 5.0, "5e9d-a b"), "1 5000 5e9d-a b", id="in a group"),
        pytest.param(Tries(0, 0.0, "half"), "0 0 half", id="half of a request"),
    ],
)
def test_what_redis_keeps_reads_back(left: Tries, written: str) -> None:
    assert left.text() == written
    assert tries.parse(written) == left


def test_nothing_kept_is_none_yet() -> None:
    assert tries.parse("") == tries.NONE
