"""What happens around the services: to brokers, links and receivers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.storm.house import FLAKY
from tests.faults.storm.link_rules import NEEDS
from tests.faults.storm.link_rules import Fault as LinkFault
from tests.faults.storm.schedule import Fault, Kind

if TYPE_CHECKING:
    from tests.faults.storm.storm import Storm

#: A slow line: a tenth of what a request may take, there and back.
DELAY_S = 0.2


def do(storm: Storm, fault: Fault) -> None:
    house = storm.house
    match fault.kind:
        case Kind.BROKER:
            house.kafka.kill(fault.number)
            storm.kills["kafka"] += 1
            storm.later(fault.seconds, lambda: house.kafka.launch(fault.number))
        case Kind.LINK:
            house.links.order(fault.target, fault.detail, **_values(fault))
        case Kind.RECEIVER:
            _receiver(storm, fault)
        case Kind.ANSWERS:
            house.answers(FLAKY, fault.detail)
            storm.later(fault.seconds, lambda: house.answers(FLAKY, "ok"))


def _values(fault: Fault) -> dict[str, float]:
    """What the link's fault needs beside its name."""
    given: dict[str, float] = {"seconds": fault.seconds} if fault.seconds else {}
    needed = NEEDS.get(LinkFault(fault.detail))
    if needed is not None:
        given[needed] = DELAY_S if needed == "delay" else fault.number
    return given


def _receiver(storm: Storm, fault: Fault) -> None:
    receiver = getattr(storm.house.running, fault.target)
    if fault.detail == "freeze":
        receiver.freeze()
        storm.later(fault.seconds, receiver.thaw)
    else:
        receiver.kill()
        storm.kills[fault.target] += 1
        receiver.restart()
