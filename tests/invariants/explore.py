"""Breadth-first search through every state a model can reach, and random walks through the same steps.

A state is any hashable value; a label is a tuple of words and small numbers, so that a walk can be carried out on
the real scripts. The first broken state found is the nearest one, so its trace is the shortest story of the fault.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeVar

State = TypeVar("State", bound=Hashable)
Label = tuple[str | int, ...]
Step = tuple[Label, State, State]  # what happened, before, after

# A model that outgrows this no longer runs in seconds: it is a mistake in the model, not a reason to wait.
MAX_STATES = 400_000


@dataclass(frozen=True, slots=True)
class Model(Generic[State]):
    """`broken` names the promise a state breaks, or is None; `goal` must stay reachable from every state.

    States of equal `same` are explored once: workers that could swap their names, for one.
    """

    initial: State
    steps: Callable[[State], Iterable[tuple[Label, State]]]
    broken: Callable[[State], str | None]
    goal: Callable[[State], bool] | None = None
    same: Callable[[State], Hashable] = lambda state: state


@dataclass(frozen=True, slots=True)
class Verdict:
    """`problem` is None when every one of `states` keeps every promise; else `trace` leads to the nearest fault."""

    states: int
    problem: str | None = None
    trace: tuple[Label, ...] = ()

    def __str__(self) -> str:
        if self.problem is None:
            return f"{self.states} states, no counterexample"
        steps = "\n".join(f"  {i:2} {' '.join(map(str, label))}" for i, label in enumerate(self.trace, 1))
        return f"{self.problem} after {len(self.trace)} steps ({self.states} states seen):\n{steps}"


def explore(model: Model[State]) -> Verdict:
    """Every reachable state, nearest first; then, when the model has a goal, from which of them it is lost."""
    number = {model.same(model.initial): 0}
    order = [model.initial]
    came: list[tuple[int, Label]] = [(-1, ())]
    before: list[list[int]] = [[]]

    def trace(at: int) -> tuple[Label, ...]:
        labels = []
        while came[at][0] >= 0:
            at, label = came[at]
            labels.append(label)
        return tuple(reversed(labels))

    for here, state in enumerate(order):  # grows while it is read
        if (problem := model.broken(state)) is not None:
            return Verdict(len(order), problem, trace(here))
        for label, after in model.steps(state):
            there = number.setdefault(model.same(after), len(order))
            if there == len(order):
                if there == MAX_STATES:
                    raise RuntimeError(f"more than {MAX_STATES} states: give the model smaller bounds")
                order.append(after)
                came.append((here, label))
                before.append([])
            if model.goal is not None:
                before[there].append(here)
    if model.goal is not None:
        lost = _cut_off([model.goal(state) for state in order], before)
        if lost is not None:
            return Verdict(len(order), "the goal can no longer be reached", trace(lost))
    return Verdict(len(order))


def _cut_off(reaches: list[bool], before: list[list[int]]) -> int | None:
    """The nearest state from which no goal state can be reached."""
    todo = [at for at, good in enumerate(reaches) if good]
    while todo:
        for earlier in before[todo.pop()]:
            if not reaches[earlier]:
                reaches[earlier] = True
                todo.append(earlier)
    return next((at for at, good in enumerate(reaches) if not good), None)


def walk(model: Model[State], rng: Random, length: int) -> Iterator[Step[State]]:
    """One random history of at most `length` steps."""
    state = model.initial
    for _ in range(length):
        choices = list(model.steps(state))
        if not choices:
            return
        label, after = rng.choice(choices)
        yield label, state, after
        state = after


def follow(model: Model[State], trace: Iterable[Label]) -> Iterator[Step[State]]:
    """The history a trace tells, up to the first step that this model does not know."""
    state = model.initial
    for label in trace:
        after = dict(model.steps(state)).get(label)
        if after is None:
            return
        yield label, state, after
        state = after
