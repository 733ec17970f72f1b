"""All that is known of one revision of a referral, judged: its records, and its deliveries by push. Pure.

Which connections wanted a record is decided by the set in force now; a receipt or an open delivery proves
that another one did at the time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from console.reconcile.books import (
    Class,
    Counted,
    Difference,
    Finding,
    FormerSet,
    Trouble,
    Unexplained,
    compare,
)
from console.reconcile.record_class import NO_DELIVERY, PUSH, Ground, Published, class_of
from schemas.delivery import Action, Outcome, delivery_id

#: Clocks of Kafka's producers and of Redis may differ by so much.
CLOCKS_MS = 60_000
TERMINAL = frozenset(
    {
        Outcome.DELIVERED,
        Outcome.DUPLICATE_AT_DESTINATION,
        Outcome.REJECTED,
        Outcome.EXHAUSTED,
        Outcome.WITHDRAWN,
        Outcome.SUPERSEDED,
        Outcome.UNDECODABLE,  # of a parked delivery whose record nobody can read any more
    }
)


@dataclass(frozen=True, slots=True)
class Found:
    """A receipt of a delivery (`offset` None; `at_ms`: when Kafka got it), or an open one in Redis."""

    connection: str
    action: Action
    id: str
    state: Outcome
    at_ms: int
    offset: int | None = None


def judge(published: Sequence[Published], found: Sequence[Found], ground: Ground) -> Iterator[Finding]:
    """Of the records and deliveries of one referral and revision; nothing where none of them counts."""
    if not any(record.counted for record in published):
        return
    classes: list[tuple[Published, Class]] = []
    evident = any(one.action is Action.DELIVER for one in found) or any(
        record.parked or record.passed for record in published
    )
    for record in published:
        judged, differences = class_of(record, published, ground, evident=evident)
        classes.append((record, judged))
        if record.counted:
            yield Counted(record.place(), judged, record.at_ms)
            yield from differences
    routed = [record for record, judged in classes if judged is Class.ROUTED and PUSH in record.taken]
    refused = [record for record, judged in classes if judged in NO_DELIVERY and record.counted]
    if any(record.counted for record in routed) or refused:
        yield from _deliveries(published, routed, refused, found, ground)


def _deliveries(
    published: Sequence[Published],
    routed: Sequence[Published],
    refused: Sequence[Published],
    found: Sequence[Found],
    ground: Ground,
) -> Iterator[Finding]:
    """Each connection's delivery, and the one that takes it back where there is one."""
    # Published again after the dedupe horizon, it is one delivery still: the same id, tried once more.
    times = Counter(name for record in routed for name in record.wanted)
    counted = [record for record in routed if record.counted]
    names = {one.connection for one in found} | times.keys()
    names |= {name for record in published for name in (*record.parked, *record.passed)}
    actions = [
        action for action in Action if action is Action.DELIVER or any(f.action is action for f in found)
    ]
    for name in sorted(names):
        wanting = [record for record in counted if name in record.wanted]
        record = (wanting or counted or refused)[0]
        for action in actions:
            known = _Known.of(name, action, published, found)
            if known.state is None:
                if wanting and action is Action.DELIVER:
                    yield _missing(record, name, ground)
                continue
            yield from _delivery(record, name, known, max(1, times[name]), ground)
            if not times[name] and action is Action.DELIVER:
                yield _unwanted(record, name, known.state, ground, routed=bool(counted))


def _missing(record: Published, name: str, ground: Ground) -> Difference | Unexplained:
    its_id = delivery_id(name, record.referral, record.revision)
    what = Difference(Trouble.MISSING, its_id, record.place(name), "routed, but neither ended nor open")
    return what if record.at_ms >= ground.since_ms else Unexplained(what, record.at_ms)


def _unwanted(
    record: Published, name: str, state: Outcome, ground: Ground, *, routed: bool
) -> Difference | FormerSet:
    if routed and record.at_ms < ground.since_ms:
        return FormerSet(record.place(name))
    why = "the connection does not want it" if routed else "its record was not routed"
    its_id = delivery_id(name, record.referral, record.revision)
    return Difference(Trouble.CONFLICTING, its_id, record.place(name), f"{state}, but {why}")


@dataclass(frozen=True, slots=True)
class _Known:
    action: Action
    ends: frozenset[Outcome]
    ended_ms: int
    open: Mapping[int, Outcome]
    ids: frozenset[str]

    @classmethod
    def of(cls, name: str, action: Action, published: Sequence[Published], found: Sequence[Found]) -> _Known:
        mine = [one for one in found if one.connection == name and one.action is action]
        ends = [one for one in mine if one.offset is None and one.state in TERMINAL]
        open_ = {one.offset: one.state for one in mine if one.offset is not None}
        passed: list[Outcome] = []
        if action is Action.DELIVER:
            passed = [record.passed[name] for record in published if name in record.passed]
            # One that was just brought back is seen in both places.
            open_ = {r.offset: Outcome.PARKED for r in published if name in r.parked} | open_
        outcomes: set[Outcome] = {
            # The receiver has it, both say.
            Outcome.DELIVERED if state is Outcome.DUPLICATE_AT_DESTINATION else state
            for state in (*(one.state for one in ends), *passed)
        }
        if ends and all(one.state is Outcome.DUPLICATE_AT_DESTINATION for one in ends):
            outcomes = {one.state for one in ends}
        ended_ms = min((one.at_ms for one in ends), default=0)
        return cls(action, frozenset(outcomes), ended_ms, open_, frozenset(one.id for one in mine))

    @property
    def state(self) -> Outcome | None:
        if self.ends:
            return min(self.ends)
        return min(self.open.values(), default=None)


def _delivery(
    record: Published, name: str, known: _Known, times: int, ground: Ground
) -> Iterator[Counted | Difference]:
    """One that has a state. `times`: so often was it published."""
    its_id = delivery_id(name, record.referral, record.revision, known.action)
    place = record.place(f"{name} (remove)" if known.action is Action.REMOVE else name)
    state = known.state
    assert state is not None
    yield Counted(place, state, record.at_ms)

    def differs(trouble: Trouble, why: str) -> Difference:
        return Difference(trouble, its_id, place, why)

    if len(known.ends) > times:
        yield differs(Trouble.CONFLICTING, f"ended as {' and as '.join(sorted(known.ends))}")
    if compare(Counter({its_id: times}), Counter({its_id: len(known.open)})).doubled:
        yield differs(Trouble.DOUBLED, f"open {len(known.open)} times in Redis")
    if times == 1 and known.ends and known.open and known.ended_ms < ground.seen_ms - CLOCKS_MS:
        still = min(known.open.values())
        yield differs(Trouble.CONFLICTING, f"ended as {state}, but Redis has it {still}: it may go again")
    for wrong in sorted(known.ids - {its_id, f"{its_id}:uncertain"}):
        yield differs(Trouble.CONFLICTING, f"a receipt or a waiting body calls it {wrong}")
