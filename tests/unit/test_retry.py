from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.crm.answers import Retry
from consumer.retry import JITTER, MAX_JITTER_S, Again, Exhausted, next_attempt
from schemas.connection import RETRY_SECONDS

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("attempts", "retry_after", "jitter", "delay"),
    [
        pytest.param(1, None, 0.0, 5, id="first delay"),
        pytest.param(2, None, 0.0, 300, id="second delay"),
        pytest.param(1, None, 0.5, 5.5, id="half the jitter of a fifth"),
        pytest.param(9, None, 0.5, 86_400 + 450, id="jitter of a day is capped"),
        pytest.param(1, 120.0, 0.0, 120, id="Retry-After in full"),
        pytest.param(1, 120.0, 0.5, 132, id="jitter comes on top of Retry-After"),
        pytest.param(2, 120.0, 0.0, 300, id="Retry-After never shortens"),
        pytest.param(1, 0.0, 0.0, 5, id="Retry-After 0"),
    ],
)
def test_again(attempts, retry_after, jitter, delay):
    answer = Retry("answered 503", unknown=False, status=503, retry_after=retry_after)
    assert next_attempt(attempts, answer, RETRY_SECONDS, NOW, jitter) == Again(NOW + delay)


@pytest.mark.parametrize(
    ("schedule", "attempts"),
    [pytest.param((), 1, id="no retries"), pytest.param((5, 10), 3, id="schedule used up")],
)
def test_exhausted_names_the_last_reason(schedule, attempts):
    answer = Retry("no answer in 20 s", unknown=True, retry_after=60.0)
    assert next_attempt(attempts, answer, schedule, NOW, 0.0) == Exhausted(
        f"{attempts} attempts, the last: no answer in 20 s"
    )


@pytest.mark.parametrize(
    ("attempts", "jitter"), [(0, 0.0), (-1, 0.0), (1, 1.0), (1, -0.1), (1, float("nan"))]
)
def test_out_of_range_is_a_defect(attempts, jitter):
    with pytest.raises(ValueError, match="attempts"):
        next_attempt(attempts, Retry("x", unknown=True), (5,), NOW, jitter)


@given(
    schedule=st.lists(st.integers(1, 604_800), max_size=50),
    retry_after=st.none() | st.floats(0, 86_400),
    jitter=st.floats(0, 1, exclude_max=True),
)
def test_each_schedule_ends_and_never_asks_early(schedule, retry_after, jitter):
    answer = Retry("answered 429", unknown=False, status=429, retry_after=retry_after)
    at, attempts = NOW, 0
    while True:
        attempts += 1
        match next_attempt(attempts, answer, schedule, at, jitter):
            case Exhausted():
                break
            case Again(later):
                least = max(schedule[attempts - 1], retry_after or 0.0)
                assert at + least <= later <= at + least + min(JITTER * least, MAX_JITTER_S) + 1e-3
                at = later
    assert attempts == len(schedule) + 1
