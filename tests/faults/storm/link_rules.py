"""What a link does with a chunk of bytes now: pure, so that it can be read and tested.

Law: a stream has no hole. A connection that lost bytes in one direction is reset, at the latest when
the fault that lost them ends; it never goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

#: A throttled line reads at most what it may pass in this time, so that it is slow and not bursty.
THROTTLE_SLICE_SECONDS = 0.05


class Way(StrEnum):
    #: What the client says.
    UP = "up"
    #: What the server says.
    DOWN = "down"


class Fault(StrEnum):
    #: Connections are closed in good order, new ones are refused.
    CUT = "cut"
    #: Connections are reset once; new ones work.
    RESET = "reset"
    #: Nothing passes either way; connections stay, new ones are accepted and stall too.
    STALL = "stall"
    #: What the server says is thrown away, also that it went: the client is half open.
    DEAF = "deaf"
    #: What the client says is thrown away, also that it went: the server is half open.
    MUTE = "mute"
    #: The next `n` chunks from servers are thrown away, each with the reset of its connection.
    DROP_REPLY = "drop_reply"
    #: The line passes `rate` bytes a second each way, all connections together.
    THROTTLE = "throttle"
    #: Every connection is reset once `n` more bytes of its client have passed.
    CUT_AFTER = "cut_after"
    #: Every chunk passes `delay` seconds late, in order.
    DELAY = "delay"


#: The number each fault needs beside its name.
NEEDS: Mapping[Fault, str] = {
    Fault.DROP_REPLY: "n",
    Fault.CUT_AFTER: "n",
    Fault.THROTTLE: "rate",
    Fault.DELAY: "delay",
}
_LOST_WAY = {Fault.DEAF: Way.DOWN, Fault.MUTE: Way.UP}


@dataclass(frozen=True, slots=True)
class Order:
    """A fault that holds until it is healed, for `seconds` when given, or until it is spent."""

    fault: Fault
    #: Bytes, replies, bytes a second or seconds, as the fault needs.
    number: float = 0
    seconds: float | None = None

    def loses(self, way: Way) -> bool:
        """Whether everything in this direction is thrown away, the end of the stream too."""
        return _LOST_WAY.get(self.fault) is way

    @property
    def slice(self) -> int | None:
        """The most bytes to read at once; None: no limit."""
        if self.fault is not Fault.THROTTLE:
            return None
        return max(1, int(self.number * THROTTLE_SLICE_SECONDS))


def order_of(fault: str, values: Mapping[str, Any]) -> Order:
    """Raises ValueError, with what is wrong, when `fault` or `values` make no order."""
    kind = Fault(fault)
    needed = NEEDS.get(kind)
    allowed = {"seconds", *([needed] if needed else [])}
    if unknown := set(values) - allowed:
        raise ValueError(f"{kind} knows no {', '.join(sorted(unknown))}")
    number = values.get(needed, 0) if needed else 0
    if needed and not number > 0:
        raise ValueError(f"{kind} needs {needed} above 0")
    return Order(kind, number, values.get("seconds"))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one chunk. What does not pass is lost."""

    #: So many of its first bytes pass.
    passes: int
    #: The connection is reset after that.
    reset: bool = False
    #: Seconds until they pass.
    late: float = 0
    #: The line takes nothing more in this direction before this time; 0: no such limit.
    free_at: float = 0


def judge(order: Order, way: Way, size: int, *, said: int, free_at: float, now: float) -> Verdict:
    """`said`: bytes its client has said since the order. `free_at`: this direction's last such answer."""
    match order.fault:
        case Fault.DEAF | Fault.MUTE:
            return Verdict(0 if order.loses(way) else size)
        case Fault.DROP_REPLY if way is Way.DOWN:
            return Verdict(0, reset=True)
        case Fault.CUT_AFTER if way is Way.UP:
            left = int(order.number) - said
            return Verdict(min(size, left), reset=size >= left)
        case Fault.THROTTLE:
            return Verdict(size, free_at=max(now, free_at) + size / order.number)
        case Fault.DELAY:
            return Verdict(size, late=order.number)
        case _:
            # A stalled line is not read, a cut one has no connections: what still comes was read before.
            return Verdict(size)
