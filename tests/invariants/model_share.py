"""The requests at once that a credential allows, leased to two workers in blocks, over calls that take their time.

Times are ticks left, so time never ends and the states stay finite. A worker that dies leaves requests that the
receiver still works on. A call to Redis is carried out before its sender's next one, or never. Law: never more under
way at the receiver than it allows, and what a worker does not use or leaves behind comes back.
"""

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from tests.invariants.explore import Label, Model

BLOCK = 2  # ticks a grant may be used
TIMEOUT = 1  # ticks a request may take
LATE = 1  # ticks a call to Redis may take
WORKERS = 2


class Bug(Enum):
    NOT_RETURNED = "a share is not returned by a worker that died"
    RETURNED_TWICE = "a share is given back while its requests are under way, and again when they end"
    LEASE_FROM_REPLY = "the block is counted from the reply"
    OLD_GRANT_FORGOTTEN = "what may start until the answer comes is not told"
    OTHERS_NOT_COUNTED = "only those waiting are counted, not what others hold"


class Entry(NamedTuple):
    """A worker in Redis: `age` ticks since it holds, or waits."""

    held: int
    age: int
    ends: int


class Call(NamedTuple):
    """`share`: the answer, None until it is carried out."""

    wanted: int
    under_way: int
    age: int = 0
    share: int | None = None


class Worker(NamedTuple):
    """`share`: of its last grant, which may be used for `left` ticks. `flights`: ticks left of each request."""

    alive: bool = True
    share: int = 0
    left: int = 0
    flights: tuple[int, ...] = ()
    call: Call | None = None

    def startable(self) -> bool:
        return self.alive and self.left > 0 and len(self.flights) < self.share


class State(NamedTuple):
    """`elder`: of two entries, whose has stood longer."""

    workers: tuple[Worker, ...] = (Worker(),) * WORKERS
    entries: tuple[Entry | None, ...] = (None,) * WORKERS
    elder: int | None = None
    deaths: int = 1
    connections: int = 1


def share(bug: Bug | None = None, *, connections: int = 1) -> Model[State]:
    """`connections`: requests at once that the credential allows."""
    return Model(
        initial=State(connections=connections),
        steps=lambda state: _steps(state, bug),
        broken=_broken,
        goal=lambda state: any(worker.alive and worker.flights for worker in state.workers),
    )


def _broken(state: State) -> str | None:
    if sum(len(worker.flights) for worker in state.workers) > state.connections:
        return "more requests at once than the receiver allows"
    return None


def _steps(state: State, bug: Bug | None) -> Iterator[tuple[Label, State]]:
    if not any(0 in worker.flights or (worker.call and worker.call.age == LATE) for worker in state.workers):
        yield ("tick",), _tick(state, bug)
    for i, worker in enumerate(state.workers):
        for left in sorted(set(worker.flights)):
            n = worker.flights.index(left)
            others = worker.flights[:n] + worker.flights[n + 1 :]
            yield ("end", i, left), _with(state, i, worker._replace(flights=others))
        if not worker.alive:
            continue
        if state.deaths:
            dead = _with(state, i, Worker(alive=False, flights=worker.flights))
            yield ("die", i), dead._replace(deaths=state.deaths - 1)
        if worker.startable():
            flights = tuple(sorted((*worker.flights, TIMEOUT)))
            yield ("start", i), _with(state, i, worker._replace(flights=flights))
        if worker.call is None:
            # It gives back what it may use no more; it wants more once it uses all it may.
            for wanted in (0, 1) if worker.left == 0 else (1,):
                asked = worker._replace(call=Call(wanted, under_way(worker, wanted, bug)))
                yield ("ask", i, wanted), _with(state, i, asked)
        elif worker.call.share is None:
            yield ("run", i), _run(state, i, worker.call, bug)
        else:
            age = 0 if bug is Bug.LEASE_FROM_REPLY else worker.call.age
            # Who wants nothing, or gets nothing, may start nothing.
            left = BLOCK - age if worker.call.wanted and worker.call.share else 0
            granted = worker._replace(share=worker.call.share if left else 0, left=left, call=None)
            yield ("reply", i), _with(state, i, granted)
            yield ("reply lost", i), _with(state, i, worker._replace(call=None))


def under_way(worker: Worker, wanted: int, bug: Bug | None = None) -> int:
    """Its requests in flight, at most, until the answer comes."""
    if bug is Bug.RETURNED_TWICE and not wanted:
        return 0
    spent = worker.left == 0 or bug is Bug.OLD_GRANT_FORGOTTEN
    return max(len(worker.flights), 0 if spent else worker.share)


def _run(state: State, i: int, call: Call, bug: Bug | None) -> State:
    """The script, as far as requests at once go."""
    mine = state.entries[i]
    others = [(j, entry) for j, entry in enumerate(state.entries) if entry is not None and j != i]
    waiting = [(j, entry) for j, entry in others if not entry.held]
    holds = mine is not None and mine.held > 0
    age = mine.age if mine is not None else 0
    held = 0 if bug is Bug.OTHERS_NOT_COUNTED else sum(entry.held for _, entry in others)
    free = state.connections - held
    if not holds:
        free -= sum(mine is None or state.elder == j for j, _ in waiting)
    granted = min(call.under_way + call.wanted, free)
    if waiting:
        live = 1 + len(others)
        granted = min(granted, max(1, state.connections // live))
        if holds and live > state.connections and age >= BLOCK:
            granted = 0
    granted = max(0, granted)
    if not call.wanted or not granted:
        granted = min(granted, call.under_way)
    stands = max(granted, call.under_way)
    entry = None
    if stands or call.wanted:
        ends = BLOCK + TIMEOUT if stands else 2 * BLOCK
        entry = Entry(stands, age if (stands > 0) == holds else 0, ends)
    entries = tuple(entry if j == i else old for j, old in enumerate(state.entries))
    # It stands anew where it was not there, or has changed between holding and waiting.
    anew = mine is None or (stands > 0) != holds
    elder = None if entry is None or not others else others[0][0] if anew else state.elder
    worker = state.workers[i]._replace(call=call._replace(share=granted))
    return _with(state._replace(entries=entries, elder=elder), i, worker)


def _tick(state: State, bug: Bug | None) -> State:
    workers = tuple(
        worker._replace(
            left=max(0, worker.left - 1),
            share=worker.share if worker.left > 1 else 0,
            flights=tuple(left - 1 for left in worker.flights),
            call=worker.call and worker.call._replace(age=min(LATE, worker.call.age + 1)),
        )
        for worker in state.workers
    )
    entries = tuple(_older(entry, bug) for entry in state.entries)
    elder = None if None in entries else state.elder
    return state._replace(workers=workers, entries=entries, elder=elder)


def _older(entry: Entry | None, bug: Bug | None) -> Entry | None:
    if entry is None or (entry.ends == 1 and bug is not Bug.NOT_RETURNED):
        return None
    return entry._replace(age=min(BLOCK, entry.age + 1), ends=max(1, entry.ends - 1))


def _with(state: State, i: int, worker: Worker) -> State:
    return state._replace(workers=(*state.workers[:i], worker, *state.workers[i + 1 :]))
