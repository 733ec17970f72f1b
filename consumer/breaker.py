"""When a receiver that fails is asked again: a circuit breaker with half-open probes. Pure.

While it is open its deliveries wait and no attempt is spent. Then one request probes: an answer closes
it, another failure opens it for twice as long. What was sent before it opened and fails after says nothing
new.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Failures in a row: one is an accident.
FAILURES = 5
#: Seconds open, the first time and at most: a receiver that is back must not be left waiting for long.
OPEN_S = 5.0
MAX_OPEN_S = 120.0


@dataclass(slots=True)
class Breaker:
    """`open_until`: seconds of the caller's clock; 0 while closed."""

    failures: int = 0
    open_until: float = 0.0
    _open_s: float = 0.0
    _probing: bool = False

    @property
    def closed(self) -> bool:
        return self.open_until == 0.0

    def succeeded(self) -> None:
        """The receiver answered as one that works."""
        self.failures, self.open_until, self._open_s, self._probing = 0, 0.0, 0.0, False

    def started(self) -> None:
        """A request starts: a probe, unless it is closed."""
        self._probing = not self.closed

    def failed(self, now: float) -> None:
        self.failures += 1
        if self._probing or (self.closed and self.failures >= FAILURES):
            self._probing = False
            self._open_s = min(MAX_OPEN_S, 2 * self._open_s or OPEN_S)
            self.open_until = now + self._open_s
