"""When a delivery is tried again. Pure.

Its law: every answered attempt is spent, those answered by 429 or 503 with `Retry-After` too, so the
schedule's length alone bounds how often a receiver is asked. `Retry-After` moves an attempt later,
never earlier, and adds none. Jitter only adds: nobody is asked before the agreed time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from consumer.crm.answers import Retry

#: Spreads the retries of a lane that failed at one moment.
JITTER = 0.2
#: Seconds it may add: a fifth of a day-long delay would only be late.
MAX_JITTER_S = 900.0


@dataclass(frozen=True, slots=True)
class Again:
    """Try again at this time, in Unix seconds."""

    at: float


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The schedule is used up; nothing more is tried on its own."""

    reason: str


def next_attempt(
    attempts: int, answer: Retry, schedule: Sequence[int], now: float, jitter: float
) -> Again | Exhausted:
    """What follows attempt number `attempts` (the first is 1), which came to `answer`.

    `schedule`: seconds between one attempt and the next, so that it allows one attempt more than it
    has entries. `jitter`: in [0, 1), drawn by the caller. Raises ValueError for either out of range.
    """
    if attempts < 1 or not 0 <= jitter < 1:
        raise ValueError(f"attempts {attempts} must be at least 1, jitter {jitter} in [0, 1)")
    if attempts > len(schedule):
        return Exhausted(f"{attempts} attempts, the last: {answer.reason}")
    delay = max(float(schedule[attempts - 1]), answer.retry_after or 0.0)
    return Again(now + delay + jitter * min(JITTER * delay, MAX_JITTER_S))
