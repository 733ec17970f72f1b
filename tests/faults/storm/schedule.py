"""What goes wrong and when: a pure function of the seed and the length. Pure.

Law: the same seed and length give the same faults at the same seconds, whatever the machine does. A storm is
a row of rounds; in each, services die at random and at named crash points, something around them fails, and
then there is some quiet, so that what was taken over goes on.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import cycle
from typing import Any

#: A group of six-second sessions has its partitions again before the next round begins.
ROUND_S = 12.0
#: The faults of a round fall into its beginning.
BURST_S = 4.0
#: Everything runs and has work before the first.
FIRST_S = 10.0
#: Services that die at a named point in a round, and one more that dies at once.
CRASHES = 3
#: Longer than two sessions and a lease: whoever thaws then is nobody's owner.
ZOMBIE_S = 14.0
#: The most a power cut takes of the file's end.
TAIL_BYTES = 4_096
#: Emptying Redis and putting an older copy in its place cost a rebuilding each, so they come early and once.
LOSSES_FROM_MINUTES = 4.0

PUSH, COLLECT, FLUSH = "push", "collect", "flush"
SIDES = ("a", "b")
SIDE_LINKS = tuple(f"{side}-" for side in SIDES)
SERVICES = tuple(f"{service}-{side}" for service in (PUSH, COLLECT, FLUSH) for side in SIDES)
RECEIVERS = ("crm", "sftp", "smtp")


class Kind(StrEnum):
    KILL = "kill"  # a service, at once
    CRASH = "crash"  # killed, and once more at a named point
    FREEZE = "freeze"
    JOIN = "join"  # one more member of a group, for some seconds
    BROKER = "broker"  # kill -9, back after some seconds
    REDIS = "redis"  # kill -9 and started again
    TAIL = "tail"  # the same, and the append-only file loses its end
    MEMORY = "memory"  # its limit is reached
    DISK = "disk"  # its file cannot grow
    EMPTIED = "emptied"  # FLUSHALL while all run
    OLDER = "older"  # a copy put back while none runs
    LINK = "link"
    RECEIVER = "receiver"  # killed or frozen
    ANSWERS = "answers"  # what one CRM does


@dataclass(frozen=True, slots=True)
class Fault:
    """`at` and `seconds` from the storm's beginning and for how long; `detail` and `number` as the kind has it."""

    at: float
    kind: Kind
    target: str
    seconds: float = 0.0
    detail: str = ""
    number: int = 0

    def __str__(self) -> str:
        """One line for a person."""
        number, seconds = str(self.number or ""), f"{self.seconds:.1f} s" if self.seconds else ""
        return " ".join(word for word in (self.kind, self.target, self.detail, number, seconds) if word)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


#: What happens around the services, by how often.
AROUND: Mapping[Kind, float] = {
    Kind.LINK: 6,
    Kind.ANSWERS: 3,
    Kind.REDIS: 2,
    Kind.RECEIVER: 2,
    Kind.BROKER: 1.5,
    Kind.FREEZE: 2,
    Kind.TAIL: 1,
    Kind.JOIN: 1,
    Kind.MEMORY: 0.7,
    Kind.DISK: 0.5,
}
#: A fault of a link, how long it lasts at most, and its number's range.
LINK_FAULTS: Sequence[tuple[str, float, tuple[int, int]]] = (
    ("cut", 4.0, (0, 0)),
    ("reset", 0.0, (0, 0)),
    ("stall", 7.0, (0, 0)),
    ("deaf", 3.0, (0, 0)),
    ("mute", 3.0, (0, 0)),
    ("drop_reply", 0.0, (1, 3)),
    ("throttle", 4.0, (20_000, 400_000)),
    ("cut_after", 0.0, (1, 50_000)),
    ("delay", 4.0, (0, 0)),
)
#: What a CRM may do to requests for some seconds; `applied` answers so although it did what was asked.
ANSWERS = ("503", "503:2", "429:1", "500", "409", "hang", "lost", "reset", "slow:1500", "applied:500")


@dataclass(frozen=True, slots=True)
class Scene:
    """What there is to go wrong: crash points by service, the links' names, brokers that keep what they have."""

    points: Mapping[str, Sequence[str]]
    links: Sequence[str]
    brokers: Sequence[int]


def plan(seed: int, minutes: float, scene: Scene) -> list[Fault]:
    """The faults in the order of their seconds."""
    chance, points = random.Random(seed), scene.points
    around = {kind: often for kind, often in AROUND.items() if scene.brokers or kind is not Kind.BROKER}
    # Each in turn, in an order of the seed's own: a long storm meets all of them.
    ahead = {service: cycle(chance.sample(sorted(names), len(names))) for service, names in points.items()}
    rounds = max(1, int((minutes * 60 - FIRST_S) / ROUND_S))
    losses: dict[int, Kind] = {}
    if minutes >= LOSSES_FROM_MINUTES:
        losses = {max(1, rounds // 8): Kind.EMPTIED, max(2, rounds // 4): Kind.OLDER}
    found: list[Fault] = []
    for number in range(rounds):
        begin = FIRST_S + number * ROUND_S
        if number in losses:
            found.append(Fault(begin, losses[number], "redis"))
            continue
        victims = chance.sample(SERVICES, CRASHES + 1)
        for victim in victims[:CRASHES]:
            at = begin + chance.uniform(0, BURST_S)
            point = next(ahead[victim.partition("-")[0]])
            found.append(Fault(at, Kind.CRASH, victim, detail=point, number=chance.choice((1, 1, 2, 5))))
        found.append(Fault(begin + chance.uniform(0, BURST_S), Kind.KILL, victims[CRASHES]))
        kind = chance.choices(list(around), list(around.values()))[0]
        found.append(_around(chance, begin + chance.uniform(0, BURST_S), kind, scene))
    return sorted(found, key=lambda fault: fault.at)


def _around(chance: random.Random, at: float, kind: Kind, scene: Scene) -> Fault:
    match kind:
        case Kind.LINK:
            name, longest, (low, high) = chance.choice(LINK_FAULTS)
            seconds = chance.uniform(longest / 4, longest)
            return Fault(at, kind, chance.choice(scene.links), seconds, name, chance.randint(low, high))
        case Kind.ANSWERS:
            return Fault(at, kind, "crm", chance.uniform(2, 8), chance.choice(ANSWERS))
        case Kind.RECEIVER:
            frozen = chance.random() < 0.5
            target = chance.choice(RECEIVERS)
            return Fault(
                at, kind, target, chance.uniform(1, 5) if frozen else 0.0, "freeze" if frozen else "kill"
            )
        case Kind.BROKER:
            return Fault(at, kind, "kafka", chance.uniform(0, 5), number=chance.choice(scene.brokers))
        case Kind.FREEZE:
            seconds = ZOMBIE_S if chance.random() < 0.3 else chance.uniform(1, 5)
            return Fault(at, kind, chance.choice(SERVICES), seconds)
        case Kind.JOIN:
            return Fault(at, kind, chance.choice((PUSH, COLLECT)), chance.uniform(3, 7))
        case Kind.TAIL:
            return Fault(at, kind, "redis", number=chance.randint(1, TAIL_BYTES))
        case Kind.MEMORY:
            return Fault(at, kind, "redis", chance.uniform(1, 5))
        case _:
            return Fault(at, kind, "redis")


def disturbed(fault: Fault) -> int:
    """How many push workers' requests a fault can leave without a word of how they ended, at most."""
    match fault:
        case Fault(kind=Kind.KILL | Kind.CRASH | Kind.FREEZE, target=target):
            # Killed and crashed: their deaths are counted as they happen.
            return int(fault.kind is Kind.FREEZE and target.startswith(PUSH))
        case Fault(kind=Kind.LINK, target=target):
            return (
                0 if target.endswith(("smtp", "sftp")) else 1 if target.startswith(SIDE_LINKS) else len(SIDES)
            )
        case Fault(kind=Kind.RECEIVER, target=target):
            return len(SIDES) * (target == "crm")
        case Fault(kind=Kind.JOIN, target=target):
            # Who joins takes from both, and gives back.
            return (len(SIDES) + 1) * (target == PUSH)
        case Fault(kind=Kind.ANSWERS):
            return 0
        case _:
            return len(SIDES)
