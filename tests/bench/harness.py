"""What every point of the bench is measured with: repeats, medians, and processes on cores of their own.

Its law: ours and what it is held against run in the same repeat, one after the other, so that whatever
else the machine does meets both. A ratio is taken within a repeat, never between medians.
"""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: How often a condition is looked at: a thousandth of what is measured.
LOOK_S = 0.01


@dataclass(frozen=True, slots=True)
class Options:
    """`records`: of one run; points that need a million or few take their share of it."""

    records: int
    repeats: int
    log_level: str


@dataclass(frozen=True, slots=True)
class Figure:
    """`spread`: from the least to the greatest value, as a part of the median."""

    median: float
    spread: float
    values: tuple[float, ...]

    def told(self) -> dict[str, Any]:
        return {"median": self.median, "spread": self.spread, "values": list(self.values)}


class TooLate(Exception):
    """A wait ended without what was waited for."""


def figure(values: Sequence[float]) -> Figure:
    median = statistics.median(values)
    spread = (max(values) - min(values)) / median if median else 0.0
    return Figure(median, spread, tuple(values))


def measure(repeats: int, run: Callable[[int], Mapping[str, float]]) -> dict[str, Figure]:
    """`run(n)` gives the figures of one repeat by their keys."""
    found: dict[str, list[float]] = {}
    for number in range(repeats):
        for key, value in run(number).items():
            found.setdefault(key, []).append(value)
    return {key: figure(values) for key, values in found.items()}


def quantile(values: Sequence[float], part: float) -> float:
    """The smallest value that so many of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def wait(condition: Callable[[], Any], what: str, within: float, look: float = LOOK_S) -> float:
    """When it came true, on the monotonic clock. Raises TooLate."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TooLate(f"not within {within:g} s: {what}")
        time.sleep(look)
    return time.monotonic()


def _cores() -> tuple[frozenset[int], frozenset[int]]:
    first, *others = sorted(os.sched_getaffinity(0))
    return frozenset({first}), frozenset(others or [first])


#: The measured process's core, and everybody else's: what this process may use when it starts.
MEASURED, OTHERS = _cores()


@contextmanager
def pinned(to: frozenset[int]) -> Iterator[None]:
    """Processes started meanwhile run on these cores, with all their threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, to)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_s(pid: int) -> float:
    """Seconds of processor of all threads so far."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> float:
    """The most memory it ever had, in MB of 10^6 bytes."""
    told = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(told[1]) * 1024 / 1e6 if told else 0.0
