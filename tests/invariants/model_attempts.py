"""One delivery, tried until its end at a receiver that forgets keys: unknown attempts, take-overs, late reports.

Two workers own its partition in turn; which of them may start when is the ownership model's affair. An attempt is
not noted before it is sent: what is under way when a worker loses the partition, or dies, is unaccounted for. A
request reaches the receiver within its timeout, or never. Law: but for what is unaccounted for, no second effect at
a receiver that honours keys for KEY_TTL; a fact is taken from anyone.
"""

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from tests.invariants.explore import Label, Model

TIMEOUT = 1  # ticks a request may take
KEY_TTL = 4  # ticks a receiver remembers a key, from when it first got it
WORKERS = 2


class Bug(Enum):
    AGE_FROM_LAST = "the age is counted from the last unknown attempt"
    UNKNOWN_AS_NOT_SENT = "an unknown attempt counts as not sent"
    FORGOTTEN_BY_NEXT = "an answered attempt makes the unknown one before it forgotten"
    TIMEOUT_NOT_COUNTED = "only one of the two attempts is taken to be long on its way"
    LOOKED_AT_ONCE_ONLY = "too late is looked at when a try is planned, not when it starts"
    FORMER_FACT_DROPPED = "a former owner's fact is dropped"
    RESCHEDULE_NOT_FENCED = "a former owner's reschedule is taken"


class Standing(Enum):
    PENDING = "pending"
    HELD = "held"
    DONE = "done"

    def __hash__(self) -> int:
        """The same in every run, so that equal states are found in the same order."""
        return len(self.value)


class Report(NamedTuple):
    """Of an answer. `kind`: delivered, later or hold; `mine`: its sender is the owner still. `unknown`: ticks since
    an answer that told nothing, whatever `since` says.
    """

    kind: str
    since: int | None
    mine: bool
    unknown: int | None = None

    def older(self) -> "Report":
        return self._replace(since=_older(self.since), unknown=_older(self.unknown))


class Flight(NamedTuple):
    arrived: bool = False
    left: int = TIMEOUT


class Worker(NamedTuple):
    """`since`: ticks since the first attempt whose outcome nobody knows, as memory has it."""

    mine: bool = False
    loaded: bool = False
    since: int | None = None
    flight: Flight | None = None
    report: Report | None = None

    def busy(self) -> bool:
        return self.flight is not None or self.report is not None


class State(NamedTuple):
    """`standing`, `since`: in Redis. `known`: ticks since the first unknown attempt Redis was told of, whatever it makes of it.
    `key`: how long the receiver has had it. `unaccounted`: an attempt was under way when its worker lost the right.
    """

    workers: tuple[Worker, ...] = (Worker(),) * WORKERS
    standing: Standing = Standing.PENDING
    since: int | None = None
    known: int | None = None
    key: int | None = None
    effects: int = 0
    unaccounted: bool = False
    breach: str | None = None


def attempts(bug: Bug | None = None, *, hold: bool = True) -> Model[State]:
    """`hold`: what becomes of uncertain deliveries, else they are tried on."""
    return Model(
        initial=State(),
        steps=lambda state: _steps(state, bug, hold=hold),
        broken=lambda state: _broken(state, hold=hold),
        goal=lambda state: state.standing is not Standing.PENDING,
        same=lambda state: state._replace(workers=tuple(sorted(state.workers, key=hash))),
    )


def _broken(state: State, *, hold: bool) -> str | None:
    if state.standing is Standing.DONE and not state.effects:
        return "it counts as delivered, and never was"
    if hold and state.effects > 1 and not state.unaccounted:
        return "a second effect, and every attempt was accounted for"
    if not hold and state.standing is Standing.HELD:
        return "held, although the advertiser wants it tried on"
    return state.breach


def too_late(since: int | None, *, hold: bool, bug: Bug | None = None) -> bool:
    """Whether the receiver may have forgotten the key of an attempt that ended `since` ticks ago."""
    margin = TIMEOUT if bug is Bug.TIMEOUT_NOT_COUNTED else 2 * TIMEOUT
    return hold and since is not None and since + margin >= KEY_TTL


def _steps(state: State, bug: Bug | None, *, hold: bool) -> Iterator[tuple[Label, State]]:
    if all(worker.flight is None or worker.flight.left for worker in state.workers):
        yield ("tick",), _tick(state)
    for i, worker in enumerate(state.workers):
        if worker.loaded or worker.busy():
            lost = _with(state, i, Worker())
            yield ("die", i), lost._replace(unaccounted=state.unaccounted or worker.busy())
        if not worker.mine and not worker.busy():
            yield ("take", i), _taken(state, i)
        if worker.mine and not worker.loaded and not worker.busy() and state.standing is Standing.PENDING:
            yield ("load", i), _with(state, i, worker._replace(loaded=True, since=state.since))
        if worker.mine and worker.loaded:
            yield ("start", i), _started(state, i, bug, hold=hold)
        if worker.flight is not None:
            yield from _answers(state, i, worker, worker.flight, bug, hold=hold)
        if worker.report is not None:
            settled = _settled(state, i, worker.report, bug)
            yield ("settle", i), settled
            # Its sender says the same once more.
            yield ("settle, reply lost", i), _with(settled, i, worker)


def _taken(state: State, i: int) -> State:
    """The others may start nothing more, and what they have to say of a next try is void."""
    lost = any(worker.mine and worker.busy() for worker in state.workers)
    others = tuple(
        worker._replace(mine=False, loaded=False, since=worker.since if worker.flight else None)._replace(
            report=worker.report and worker.report._replace(mine=False)
        )
        for worker in state.workers
    )
    mine = Worker(mine=True)
    return _with(state._replace(workers=others, unaccounted=state.unaccounted or lost), i, mine)


def _started(state: State, i: int, bug: Bug | None, *, hold: bool) -> State:
    worker = state.workers[i]
    if bug is not Bug.LOOKED_AT_ONCE_ONLY and too_late(worker.since, hold=hold, bug=bug):
        held = Report("hold", worker.since, mine=True)
        return _with(state, i, worker._replace(loaded=False, report=held))
    breach = state.breach
    if too_late(state.known, hold=hold):
        breach = "sent, although an unknown attempt is older than its key may be"
    after = _with(state, i, worker._replace(loaded=False, flight=Flight()))
    return after._replace(breach=breach)


def _answers(
    state: State, i: int, worker: Worker, flight: Flight, bug: Bug | None, *, hold: bool
) -> Iterator[tuple[Label, State]]:
    done = worker._replace(flight=None)
    if not flight.arrived:
        forgotten = state.key is None or state.key >= KEY_TTL
        received = state._replace(
            key=0 if forgotten else state.key, effects=min(2, state.effects + forgotten)
        )
        yield ("arrive", i), _with(received, i, worker._replace(flight=Flight(arrived=True)))
    if flight.arrived:
        told = Report("delivered", worker.since, worker.mine)
        yield ("answer", i, "delivered"), _with(state, i, done._replace(report=told))
    else:
        since = None if bug is Bug.FORGOTTEN_BY_NEXT else worker.since
        yield (
            ("answer", i, "busy"),
            _with(state, i, done._replace(report=_later(worker, since, bug, hold=hold))),
        )
    since = 0 if worker.since is None or bug is Bug.AGE_FROM_LAST else worker.since
    if bug is Bug.UNKNOWN_AS_NOT_SENT:
        since = worker.since
    unknown = _later(worker, since, bug, hold=hold)._replace(unknown=0)
    yield ("answer", i, "unknown"), _with(state, i, done._replace(report=unknown))


def _later(worker: Worker, since: int | None, bug: Bug | None, *, hold: bool) -> Report:
    return Report("hold" if too_late(since, hold=hold, bug=bug) else "later", since, worker.mine)


def _settled(state: State, i: int, report: Report, bug: Bug | None) -> State:
    """The script, and what its sender goes on with."""
    worker = state.workers[i]._replace(report=None, since=None)
    if report.kind == "delivered":
        if bug is Bug.FORMER_FACT_DROPPED and not report.mine:
            return _with(state, i, worker)._replace(
                breach="a delivery was made and said so, and is pending still"
            )
        return _with(state._replace(standing=Standing.DONE, since=None), i, worker)
    taken = report.mine or bug is Bug.RESCHEDULE_NOT_FENCED
    if not taken or state.standing is not Standing.PENDING:
        return _with(state, i, worker)
    if report.mine and state.known is None:
        state = state._replace(known=report.unknown)
    if report.kind == "hold":
        return _with(state._replace(standing=Standing.HELD, since=report.since), i, worker)
    goes_on = worker._replace(loaded=worker.mine, since=report.since if worker.mine else None)
    return _with(state._replace(standing=Standing.PENDING, since=report.since), i, goes_on)


def _tick(state: State) -> State:
    workers = tuple(
        worker._replace(
            since=_older(worker.since),
            flight=worker.flight and worker.flight._replace(left=worker.flight.left - 1),
            report=worker.report and worker.report.older(),
        )
        for worker in state.workers
    )
    return state._replace(
        workers=workers, since=_older(state.since), known=_older(state.known), key=_older(state.key)
    )


def _older(age: int | None) -> int | None:
    return None if age is None else min(KEY_TTL, age + 1)


def _with(state: State, i: int, worker: Worker) -> State:
    return state._replace(workers=(*state.workers[:i], worker, *state.workers[i + 1 :]))
