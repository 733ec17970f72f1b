"""`referrals rebuild` and the judges of Redis do what their model does; altered ones are caught doing otherwise.

Histories are walks in which Redis is often lost, and the traces of the faults planted in the model.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import closing
from random import Random
from typing import Any

import pytest

from console.rebuild import run, survey
from console.rebuild.restored import Newest
from console.rebuild.told import Told
from consumer.ownership import Ownership
from consumer.store import Store
from tests.invariants import drive_rebuild
from tests.invariants.drive import Diverged, drive
from tests.invariants.drive_rebuild import RebuildDriver
from tests.invariants.explore import Step, explore, follow
from tests.invariants.model_rebuild import Bug, Side, State, Trouble, rebuild
from tests.support.valkey import Valkey, start_valkey

STEPS = 70
WALKS = 8  # of each trouble and side
MANY = 100
#: Else a rebuilding would rarely come to its end, and services would mostly stand.
WEIGHTS = {
    "begin": 1,
    "rebuild": 8,
    "die": 1,
    "die, applied": 1,
    "start": 8,
    "emptied": 2,
    "copy": 1,
    "commit": 2,
}


@functools.cache
def trace(side: Side, bug: Bug) -> Any:
    return explore(rebuild(Trouble.EMPTIED, side, bug)).trace


def story(trouble: Trouble, side: Side, rng: Random) -> Iterator[Step[State]]:
    """One random history."""
    model = rebuild(trouble, side)
    state = model.initial
    for _ in range(STEPS):
        choices = list(model.steps(state))
        if not choices:
            return
        weights = [WEIGHTS.get(str(label[0]), 4) for label, _ in choices]
        label, after = rng.choices(choices, weights)[0]
        yield label, state, after
        state = after


def histories(walks: int) -> Iterator[Iterator[Step[State]]]:
    for side in Side:
        for bug in Bug:
            yield follow(rebuild(Trouble.EMPTIED, side), trace(side, bug))
        for trouble in Trouble:
            for seed in range(walks):
                yield story(trouble, side, Random(seed))


def driven(store: Store, walks: int = WALKS) -> tuple[int, int]:
    """How often something was rebuilt, and judged."""
    drivers = []
    for history in histories(walks):
        drivers.append(RebuildDriver(store))
        drive(drivers[-1], history)
    return sum(one.rebuilt for one in drivers), sum(one.judged for one in drivers)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    running = start_valkey(tmp_path_factory.mktemp("valkey"), extra=("--appendonly", "no"))
    yield running
    running.stop()


@pytest.fixture
def store(server: Valkey) -> Iterator[Store]:
    with closing(Store(server.url, append_only=False)) as opened:
        yield opened


def test_a_rebuilding_does_what_its_model_does(store: Store) -> None:
    rebuilt, judged = driven(store)
    assert rebuilt > 20
    assert judged > 50


@pytest.mark.long
def test_a_rebuilding_does_what_its_model_does_for_long(store: Store) -> None:
    assert driven(store, MANY)[0] > 300


def nothing(*_: object, **__: object) -> None:
    """In the place of what is forgotten."""


def not_held(fields: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    return lambda *given, **named: {**fields(*given, **named), "held": 0, "unsure": ""}


@pytest.mark.parametrize(
    ("place", "name", "other"),
    [
        pytest.param(run._Work, "_floors", nothing, id="floors are forgotten"),
        pytest.param(survey.Survey, "_remove", nothing, id="removals are forgotten"),
        pytest.param(survey.Survey, "_pushed", lambda *_: False, id="commits alone say what was taken"),
        pytest.param(Told, "ended", nothing, id="receipts are forgotten"),
        pytest.param(Newest, "fields", not_held(Newest.fields), id="a window is let go by itself"),
        pytest.param(run.Replay, "feed", nothing, id="nothing is taken in once more"),
        pytest.param(Ownership, "judge", nothing, id="Redis is believed"),
        pytest.param(drive_rebuild, "require_windows", nothing, id="Redis is believed about windows"),
    ],
)
def test_an_altered_rebuilding_is_caught(
    store: Store, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, other: Any
) -> None:
    monkeypatch.setattr(place, name, other)
    with pytest.raises(Diverged):
        driven(store)
