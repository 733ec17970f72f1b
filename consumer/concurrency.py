"""How many requests at once a receiver takes well: additive increase, multiplicative decrease. Pure.

It begins at one and doubles with every full round of good answers, until the first sign of trouble;
from then on it grows by one a round. A refusal for load, an answer that never came, or one that takes
far longer than usual halve or shrink it. It stays between one and what the connection allows.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOOR = 1.0
#: After a refusal for load, or silence.
HALVE = 0.5
#: After a slow answer: a hint, not a refusal.
SHRINK = 0.9
#: An answer is slow over SLOW times the usual and this much more: below, it is noise of ours.
SLOW = 3.0
NOISE_S = 0.1
#: Weight of one answer in what is usual: about the last fifty count.
NEWS = 0.02


@dataclass(slots=True)
class Concurrency:
    """`limit`: requests at once. Times in seconds of one clock."""

    cap: int
    limit: float = FLOOR
    usual: float = 0.0
    _trouble_met: bool = False
    #: One decrease a round: what was sent before it says nothing new.
    _settled_at: float = 0.0

    @property
    def requests(self) -> int:
        return min(self.cap, int(self.limit))

    def good(self, latency: float, in_flight: int, now: float) -> None:
        """An answer in good time, or late. `in_flight`: with this one."""
        usual, self.usual = self.usual, self.usual + NEWS * (latency - self.usual) if self.usual else latency
        if usual and latency > SLOW * usual + NOISE_S:
            self._decrease(SHRINK, latency, now)
        elif 2 * in_flight >= self.limit:
            # Below half its use, the limit says nothing about the receiver.
            more = 1 / self.limit if self._trouble_met else 1.0
            self.limit = max(FLOOR, min(float(self.cap), self.limit + more))

    def bad(self, latency: float, now: float) -> None:
        """Refused for load, or no answer."""
        self._decrease(HALVE, latency, now)

    def _decrease(self, factor: float, latency: float, now: float) -> None:
        self._trouble_met = True
        if now >= self._settled_at:
            self._settled_at = now + max(latency, self.usual)
            self.limit = max(FLOOR, min(self.limit, float(self.cap)) * factor)
