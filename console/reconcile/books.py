"""The books of a time range: what was published against what became of it, by id. Pure.

Law: published = each record in exactly one class; routed = each delivery in exactly one state. Whatever
breaks that is a difference: missing (no class, no state), doubled (more than were to be) or conflicting
(two that exclude each other). `compare` is the one comparison; tests and the demo judge receivers with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from schemas.delivery import Outcome

#: Differences kept with their ids, about 0.3 kB each; beyond, they are counted.
MAX_LISTED = 10_000

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Compared(Generic[Key]):
    """`missing`: wanted and not there. `doubled`: there more often than wanted. `strays`: never wanted."""

    missing: Counter[Key]
    doubled: Counter[Key]
    strays: Counter[Key]


def compare(wanted: Counter[Key], found: Counter[Key]) -> Compared[Key]:
    """Two multisets of ids."""
    beyond = found - wanted
    return Compared(
        missing=wanted - found,
        doubled=Counter({key: count for key, count in beyond.items() if wanted[key]}),
        strays=Counter({key: count for key, count in beyond.items() if not wanted[key]}),
    )


class Class(StrEnum):
    """What became of a record before any delivery. WAITING: no intake has come to it yet."""

    ROUTED = "ROUTED"
    REMOVAL = "REMOVAL"
    DUPLICATE_UPSTREAM = "DUPLICATE_UPSTREAM"
    UNDECODABLE = "UNDECODABLE"
    UNROUTED = "UNROUTED"
    TEST = "TEST"
    WAITING = "WAITING"


class Trouble(StrEnum):
    MISSING = "missing"
    DOUBLED = "doubled"
    CONFLICTING = "conflicting"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something is counted. `day`: of the record's time in Kafka, UTC. `connection`: '' for records,
    with `(remove)` behind it for deliveries that take one back.
    """

    account: str
    campaign: str
    day: str
    connection: str = ""


@dataclass(frozen=True, slots=True)
class Counted:
    """One record or delivery, in its one class or state. `at_ms`: when its record was published."""

    place: Place
    state: Class | Outcome
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """`id`: of the delivery, coordinates of the record, or id of the window. Never personal data."""

    trouble: Trouble
    id: str
    place: Place
    why: str


@dataclass(frozen=True, slots=True)
class Unexplained:
    """A delivery without a state, of a record older than the set of connections in force: missing, unless
    the connection or its campaign came later.
    """

    difference: Difference
    at_ms: int


@dataclass(frozen=True, slots=True)
class FormerSet:
    """A delivery that the present set does not ask for, of a record older than that set."""

    place: Place


Finding = Counted | Difference | Unexplained | FormerSet


@dataclass(slots=True)
class Books:
    """Takes findings in any order; `close` decides what could not be decided before."""

    counts: Counter[tuple[Place, str]] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)
    troubles: Counter[Trouble] = field(default_factory=Counter)
    #: By connection: deliveries asked for today whose connection or campaign came after them.
    later: Counter[str] = field(default_factory=Counter)
    #: By connection: deliveries of a set that is no longer in force.
    former: Counter[str] = field(default_factory=Counter)
    _first: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, found: Counted | Difference | FormerSet) -> None:
        match found:
            case Counted(place, state, at_ms):
                self.counts[place, state] += 1
                if place.connection:
                    key = place.connection, place.campaign
                    self._first[key] = min(at_ms, self._first.get(key, at_ms))
            case Difference(trouble=trouble):
                self.troubles[trouble] += 1
                if len(self.differences) < MAX_LISTED:
                    self.differences.append(found)
            case FormerSet(place):
                self.former[place.connection] += 1

    def close(self, unexplained: Iterable[Unexplained]) -> None:
        """Once all is added. What was published after the first sign of its connection and campaign is
        missing; before that, or where there is no sign at all, they came later.
        """
        for one in unexplained:
            place = one.difference.place
            first = self._first.get((place.connection, place.campaign))
            if first is not None and one.at_ms >= first:
                self.add(one.difference)
            else:
                self.later[place.connection] += 1

    @property
    def balanced(self) -> bool:
        return not self.troubles.total()


def rows(counts: Mapping[tuple[Place, str], int]) -> list[tuple[Place, dict[str, int]]]:
    """The counts as lines in order: records first, then each connection."""
    lines: dict[Place, dict[str, int]] = {}
    for (place, state), number in counts.items():
        lines.setdefault(place, {})[str(state)] = number
    return [(place, dict(sorted(lines[place].items()))) for place in sorted(lines)]
