"""What became of a record before any delivery: its one class. Pure.

Two services read every record, push and collect, and each says by a receipt of its own why a record became
no delivery; both receipts carry the record's coordinates as key, so they are told apart by their service.
The class of a record is what both say. They may differ where one reads more than the other (push reads
records whole, so UNDECODABLE counts), or where the set of connections changed between their readings (one
says UNROUTED: ROUTED counts). Any other disagreement is a conflict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache

from console.reconcile.books import Class, Difference, Place, Trouble
from consumer.intake import DEDUPE_HORIZON_S
from consumer.keys import Role
from schemas.delivery import Outcome
from schemas.receipt import coordinates

PUSH, COLLECT = Role.PUSH.service, Role.BATCH.service
SERVICES = (PUSH, COLLECT)
_DAY_MS = 86_400_000
#: What a delivery excludes. A duplicate's and a removal's are those of another record.
NO_DELIVERY = frozenset({Class.UNDECODABLE, Class.UNROUTED, Class.TEST})


@dataclass(frozen=True, slots=True)
class Published:
    """A record of the topic. `counted`: of the range and account asked for; others are context alone.

    `kind`: the event's type, '' where nobody can read it. `readable`, `taken`: the services that can read
    it, and whose intake is past it. `wanted`: push connections by the present set; `filed`: whether a file
    connection has or wants it. `notes`: by service, the outcomes receipts give the record. `parked`:
    connections for which Redis holds its offset. `passed`: how parked deliveries of it ended unread.
    """

    topic: str
    partition: int
    offset: int
    at_ms: int
    counted: bool
    account: str = ""
    campaign: str = ""
    referral: str = ""
    revision: int = 0
    kind: str = ""
    removes: bool = False
    test: bool = False
    readable: frozenset[str] = frozenset()
    taken: frozenset[str] = frozenset(SERVICES)
    wanted: tuple[str, ...] = ()
    filed: bool = False
    notes: Mapping[str, frozenset[Outcome]] = field(default_factory=dict)
    parked: frozenset[str] = frozenset()
    passed: Mapping[str, Outcome] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return coordinates(self.topic, self.partition, self.offset)

    def place(self, connection: str = "") -> Place:
        return Place(self.account, self.campaign, day(self.at_ms), connection)


@dataclass(frozen=True, slots=True)
class Ground:
    """`since_ms`: the present set is in force since then. `seen_ms`: when Redis was read. `cut`: Kafka's log
    begins in what was to be read.
    """

    since_ms: int
    seen_ms: int
    cut: bool = False


def day(at_ms: int) -> str:
    """Of a time in ms since the epoch, UTC."""
    return _day(at_ms // _DAY_MS)


@lru_cache(maxsize=400)
def _day(number: int) -> str:
    return f"{datetime.fromtimestamp(number * _DAY_MS / 1000, UTC):%Y-%m-%d}"


def class_of(
    record: Published, published: Sequence[Published], ground: Ground, *, evident: bool
) -> tuple[Class, list[Difference]]:
    """`published`: all records of this referral and revision. `evident`: a delivery of it is known."""
    wrong: list[tuple[Trouble, str]] = []
    classes: dict[str, Class] = {}
    for service in SERVICES:
        own = _own(record, service, evident=evident)
        told = record.notes.get(service, frozenset())
        classes[service] = Class.WAITING
        if service in record.taken:
            classes[service] = Class(min(told)) if told else own
            trouble = _trouble(service, own, told, record, published, ground)
            wrong += [trouble] if trouble else []
    kinds = set(classes.values())
    if len(kinds) > 1:
        kinds.discard(Class.WAITING)
    if len(kinds) > 1 and Class.UNDECODABLE not in kinds and kinds != {Class.ROUTED, Class.UNROUTED}:
        said = ", ".join(f"{service} {kind}" for service, kind in classes.items())
        wrong.append((Trouble.CONFLICTING, f"the services disagree: {said}"))
    judged = next((kind for kind in (Class.UNDECODABLE, Class.ROUTED) if kind in kinds), min(kinds))
    return judged, [Difference(trouble, record.name, record.place(), why) for trouble, why in wrong]


def _trouble(
    service: str,
    own: Class,
    told: AbstractSet[Outcome],
    record: Published,
    published: Sequence[Published],
    ground: Ground,
) -> tuple[Trouble, str] | None:
    """What is wrong with what a service's receipts say of a record that is `own` by itself."""
    if not told:
        if own not in NO_DELIVERY:
            return None
        return Trouble.MISSING, f"no receipt of {service} says what became of it; it is {own}"
    if len(told) > 1:
        return Trouble.CONFLICTING, f"{service} says both {' and '.join(sorted(told))}"
    if not _agrees(Class(min(told)), own, record, ground):
        return Trouble.CONFLICTING, f"{service} says {min(told)}, but it is {own}"
    again = Outcome.DUPLICATE_UPSTREAM in told
    if again and not ground.cut and not _published_before(record, published):
        return Trouble.MISSING, f"{service} dropped it as published before, but nothing was"
    return None


def _own(record: Published, service: str, *, evident: bool) -> Class:
    """What the record itself says."""
    if service not in record.readable:
        return Class.UNDECODABLE
    if record.test:
        return Class.TEST
    if record.removes:
        return Class.REMOVAL
    return Class.ROUTED if record.wanted or record.filed or evident else Class.UNROUTED


def _agrees(told: Class, own: Class, record: Published, ground: Ground) -> bool:
    """Whether a receipt may say so of such a record. What cannot be read now may have been readable then."""
    if told is own or Class.UNDECODABLE in {told, own}:
        return True
    if told is Class.DUPLICATE_UPSTREAM:
        return own is not Class.TEST
    return told is Class.UNROUTED and own is Class.ROUTED and record.at_ms < ground.since_ms


def _published_before(record: Published, published: Sequence[Published]) -> bool:
    """As intake tells duplicates: the same kind, in this partition, in the same hour or the one before."""
    slot = record.at_ms // (DEDUPE_HORIZON_S * 1000)
    return any(
        other.partition == record.partition
        and other.offset < record.offset
        and other.kind == record.kind
        and abs(slot - other.at_ms // (DEDUPE_HORIZON_S * 1000)) <= 1
        for other in published
    )
