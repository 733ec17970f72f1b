"""A receiver asks for quiet: two workers of one credential, what each remembers, and how they learn of each other's.

Times are ticks left, so time never ends and the states stay finite. Law: nobody starts what its own answers forbid,
nor, once Redis has known it for as long as a look is valid, what anybody's answers forbid; and quiet ends.
"""

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from tests.invariants.explore import Label, Model

VALID = 1  # ticks a look may be gone by
WAITS = (1, 3)  # what the receiver asks for
WORKERS = 2


class Bug(Enum):
    PER_WORKER = "not-before is kept by each worker for itself"
    SHORTER_REPLACES = "a shorter quiet replaces a longer one in Redis"
    LOOKS_KEEP = "a look is gone by for ever"


class Worker(NamedTuple):
    """`forbidden`: ticks its own answers forbid. `memory`: what it goes by. `telling`: what Redis is to be told.
    `valid`: ticks its last look is good for.
    """

    forbidden: int = 0
    memory: int = 0
    telling: int = 0
    valid: int = 0


class State(NamedTuple):
    """`redis`: ticks of quiet it knows of. `known`: what it was to be told, by how long ago, the last for that long
    and longer.
    """

    workers: tuple[Worker, ...] = (Worker(),) * WORKERS
    redis: int = 0
    known: tuple[int, ...] = (0,) * (VALID + 1)
    breach: str | None = None


def quiet(bug: Bug | None = None) -> Model[State]:
    return Model(
        initial=State(),
        steps=lambda state: _steps(state, bug),
        broken=lambda state: state.breach,
        goal=lambda state: all(may_start(worker, None) for worker in state.workers),
        same=lambda state: state._replace(workers=tuple(sorted(state.workers, key=hash))),
    )


def may_start(worker: Worker, bug: Bug | None) -> bool:
    return worker.memory == 0 and (worker.valid > 0 or bug is Bug.LOOKS_KEEP)


def _steps(state: State, bug: Bug | None) -> Iterator[tuple[Label, State]]:
    yield ("tick",), _tick(state)
    for i, worker in enumerate(state.workers):
        for wait in WAITS:
            told = worker._replace(
                forbidden=max(wait, worker.forbidden),
                memory=max(wait, worker.memory),
                telling=max(wait, worker.telling),
            )
            yield ("busy", i, wait), _with(state, i, told)
        yield ("look", i), _looked(state, i, bug)
        if may_start(worker, bug):
            yield ("start", i), _started(state, worker)


def _looked(state: State, i: int, bug: Bug | None) -> State:
    """What it was told itself goes to Redis first, in the same round."""
    worker = state.workers[i]
    redis, told = state.redis, worker.telling
    if told and bug is not Bug.PER_WORKER:
        redis = told if bug is Bug.SHORTER_REPLACES else max(told, redis)
    known = (max(told, state.known[0]), *state.known[1:])
    looked = worker._replace(memory=max(worker.memory, redis), telling=0, valid=VALID)
    return _with(state._replace(redis=redis, known=known), i, looked)


def _started(state: State, worker: Worker) -> State:
    if worker.forbidden:
        return state._replace(breach="a worker starts what its own answer forbids")
    if state.known[-1]:
        return state._replace(breach="a worker starts what another's answer forbids")
    return state


def _tick(state: State) -> State:
    workers = tuple(Worker(*(max(0, left - 1) for left in worker)) for worker in state.workers)
    older = [max(0, left - 1) for left in state.known]
    known = (0, *older[:-2], max(older[-2:]))
    return state._replace(workers=workers, redis=max(0, state.redis - 1), known=known)


def _with(state: State, i: int, worker: Worker) -> State:
    return state._replace(workers=(*state.workers[:i], worker, *state.workers[i + 1 :]))
