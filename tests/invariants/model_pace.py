"""Requests a second that a credential allows: two workers take places on one line that Redis keeps.

A place may be used a little late, for a loop has other work, and a grant takes a little time to come, which its
holder cannot tell from the first: places lie further apart by both. Law: no second begins more requests than allowed.
It holds while a call is answered, and a place used, within LATE and BUSY. Slower ones are not in here: a meter then
uses the last place it has however late, so that a slow Redis leaves something to start.
"""

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from tests.invariants.explore import Label, Model

SECOND = 4  # ticks
PER_SECOND = 2
LATE = 1  # ticks from asking to the answer
BUSY = 1  # ticks from a place to its request
APART = (SECOND + LATE + BUSY) // PER_SECOND
WORKERS = 2


class Bug(Enum):
    NOT_APART = "places lie no further apart for what is late"
    LINE_PER_WORKER = "each worker has a line of its own"
    MISSED_MADE_UP = "a place that was missed is used later"
    LINE_GOES_BACK = "places in the future are given to whoever asks next"


class Worker(NamedTuple):
    """`asked`: ticks since, None for not. `place`: ticks until its place, None for none; below 0 it is late."""

    asked: int | None = None
    place: int | None = None


class State(NamedTuple):
    """`line`: ticks to the next free place. `starts`: how many requests began, by ticks ago."""

    workers: tuple[Worker, ...] = (Worker(),) * WORKERS
    line: tuple[int, ...] = (0,) * WORKERS
    starts: tuple[int, ...] = (0,) * SECOND


def pace(bug: Bug | None = None) -> Model[State]:
    return Model(
        initial=State(),
        steps=lambda state: _steps(state, bug),
        broken=lambda state: (
            "a second with more requests than allowed" if sum(state.starts) > PER_SECOND else None
        ),
        goal=lambda state: state.starts[0] > 0,
    )


def _steps(state: State, bug: Bug | None) -> Iterator[tuple[Label, State]]:
    if not any(worker.asked == LATE for worker in state.workers):
        yield ("tick",), _tick(state, bug)
    for i, worker in enumerate(state.workers):
        if worker.place is not None:
            if worker.place <= 0:
                began = (min(PER_SECOND + 1, state.starts[0] + 1), *state.starts[1:])
                yield ("start", i), _with(state, i, Worker())._replace(starts=began)
        elif worker.asked is None:
            yield ("ask", i), _with(state, i, Worker(asked=0))
        else:
            yield ("answer", i), _granted(state, i, worker.asked, bug)
            yield ("answer lost", i), _with(_granted(state, i, 0, bug), i, Worker())


def _granted(state: State, i: int, asked: int, bug: Bug | None) -> State:
    """One place, if it lies within a second from now; its holder counts from when it asked."""
    at = i if bug is Bug.LINE_PER_WORKER else 0
    first = state.line[at]
    if first >= SECOND:
        return _with(state, i, Worker())
    apart = SECOND // PER_SECOND if bug is Bug.NOT_APART else APART
    line = 0 if bug is Bug.LINE_GOES_BACK else first + apart
    lines = tuple(line if n == at else old for n, old in enumerate(state.line))
    return _with(state._replace(line=lines), i, Worker(place=first - asked))


def _tick(state: State, bug: Bug | None) -> State:
    workers = tuple(
        worker._replace(
            asked=None if worker.asked is None else worker.asked + 1,
            place=None if worker.place is None else _nearer(worker.place, bug),
        )
        for worker in state.workers
    )
    line = tuple(max(0, left - 1) for left in state.line)
    return state._replace(workers=workers, line=line, starts=(0, *state.starts[:-1]))


def _nearer(place: int, bug: Bug | None) -> int | None:
    """A place that is missed is lost."""
    if place - 1 >= -BUSY:
        return place - 1
    return -BUSY if bug is Bug.MISSED_MADE_UP else None


def _with(state: State, i: int, worker: Worker) -> State:
    return state._replace(workers=(*state.workers[:i], worker, *state.workers[i + 1 :]))
