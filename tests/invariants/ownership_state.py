"""What there is in the ownership model: the delivery, the messages, the workers and Redis. Times are ticks left."""

from enum import IntEnum
from typing import NamedTuple

LEASE = 2  # ticks: long enough for a call to be sent, carried out and answered at three different times


class Delivery(IntEnum):
    IN_KAFKA = 0
    PENDING = 1
    DONE = 2


class Held(IntEnum):
    NOTHING = 0
    IDLE = 1
    IN_FLIGHT = 2


class Call(NamedTuple):
    """A message on its way; `mine` turns False when somebody else takes. `reply` is None until carried out.

    A take is answered with its wait; renew and load with 0 refused, 1 granted, 2 granted and here is the delivery.
    """

    kind: str
    mine: bool
    age: int = 0
    reply: int | None = None

    def counts(self) -> bool:
        """Its age decides how much of a lease is left."""
        return self.kind == "take" or (self.kind == "renew" and self.reply != 0)

    def older(self) -> "Call":
        return self._replace(age=min(LEASE, self.age + 1))


class Worker(NamedTuple):
    owner: bool = False  # what it believes
    mine: bool = False  # whether the stored epoch is the one it got
    left: int = 0  # of its lease, as it believes
    wait: int = 0  # before it may load what it inherits
    held: Held = Held.NOTHING
    repeats: bool = False  # its call was accepted and the answer lost: the next one says the same again
    stray: bool = False  # a request still in flight from an assignment that was revoked
    call: Call | None = None
    report: Call | None = None  # a fact or a reschedule on its way

    def may_start(self) -> bool:
        return self.left > 0 and self.held is not Held.NOTHING

    def ends_it(self) -> bool:
        """Its request is under way, or has ended and Redis does not know yet."""
        return self.stray or (self.report is not None and self.report.kind == "delivered")

    def dropped(self) -> "Worker":
        stray = self.stray or self.held is Held.IN_FLIGHT
        return self._replace(
            owner=False, mine=False, left=0, wait=0, held=Held.NOTHING, repeats=False, stray=stray
        )


class State(NamedTuple):
    """Redis (`lease`, `barrier`: ticks left), the workers, and one call whose sender has given up on it."""

    workers: tuple[Worker, ...]
    lease: int = 0
    barrier: int = 0
    delivery: Delivery = Delivery.IN_KAFKA
    fact: bool = False
    orphan: Call | None = None
