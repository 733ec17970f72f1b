"""What the services say of themselves: their counters, added up over lives that end without a last word."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from tests.faults.storm.entry import Service
from tests.faults.storm.schedule import ZOMBIE_S, Fault, Kind

SAMPLE = re.compile(r"^(referral_\w+(?:\{[^}]*\})?) (\S+)$", re.MULTILINE)


def read(text: str) -> dict[str, float]:
    """Samples of a page of metrics by their name with labels."""
    return {name: float(value) for name, value in SAMPLE.findall(text)}


#: What alerts read, and which faults move it: once so many of them came, one at least was seen before its
#: witness died.
MOVED: Mapping[str, Callable[[Fault], bool]] = {
    'referral_push_attempts_total{outcome="retry"}': lambda fault: fault.detail in {"503", "503:2", "429:1"},
    'referral_push_attempts_total{outcome="unknown"}': lambda fault: (
        fault.kind is Kind.ANSWERS and fault.detail in {"lost", "reset", "hang"}
    ),
    "referral_fenced_total": lambda fault: fault.kind is Kind.FREEZE and fault.seconds >= ZOMBIE_S,
    "referral_duplicates_dropped_total": lambda fault: fault.kind is Kind.KILL,
}
ENOUGH = 3


class Signs:
    """`total`: of every sample, what lives that ended had last said, and what the others say now."""

    def __init__(self) -> None:
        self._past: Counter[str] = Counter()
        self._now: dict[str, dict[str, float]] = {}

    def look(self, services: Mapping[str, Service]) -> None:
        for name, service in services.items():
            if service.exit_code is None:
                with suppress(OSError):
                    self._now[name] = read(service.metrics())

    def forget(self, name: str) -> None:
        """This life is over."""
        for sample, value in self._now.pop(name, {}).items():
            if "_total" in sample:
                self._past[sample] += value

    def missing(self, done: Sequence[Fault]) -> list[str]:
        """What should have moved and did not."""
        return [
            f"{name} never moved, though {number} faults were to move it"
            for name, moves in MOVED.items()
            if (number := sum(map(moves, done))) >= ENOUGH and not self.total(name)
        ]

    def total(self, start: str) -> float:
        """Of all samples whose name begins so."""
        every = [self._past, *self._now.values()]
        return sum(value for one in every for name, value in one.items() if name.startswith(start))
