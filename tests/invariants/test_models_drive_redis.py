"""The real scripts do what their models do, step by step, on a real server; altered scripts are caught doing otherwise.

Histories are random walks through a model and the traces of the faults planted in it. Redis falls back by restoring
its keys; time passes by moving the stored times back, since the scripts only compare them with now.
"""

import functools
from random import Random

import pytest

from consumer.keys import Role
from consumer.store import Store
from tests.invariants import model_intake, model_ownership, model_seal
from tests.invariants.drive import Altered, Bench, Diverged, drive
from tests.invariants.drive_intake import IntakeDriver
from tests.invariants.drive_ownership import OwnershipDriver
from tests.invariants.drive_seal import SealDriver
from tests.invariants.explore import explore, follow, walk
from tests.invariants.model_intake import intake
from tests.invariants.model_ownership import Late, ownership
from tests.invariants.model_seal import seal

WALKS = 25  # of each model
STEPS = 60  # of each walk: most bounded models have come to rest by then


@pytest.fixture
def store(valkey):
    store = Store(valkey.url)
    yield store
    store.close()


@functools.cache
def trace(model_of, *arguments):
    """The way to a planted fault: on the right scripts it must lead elsewhere."""
    return explore(model_of(*arguments)).trace


def histories(model, traces):
    for labels in traces:
        yield follow(model, labels)
    for seed in range(WALKS):
        yield walk(model, Random(seed), STEPS)


def drive_intake(store, *altered):
    # That an idle owner looks at the offset is up to its worker, not to a script.
    bugs = [bug for bug in model_intake.Bug if bug is not model_intake.Bug.IDLE_ASKS_NOTHING]
    for history in histories(intake(crashes=2), [trace(intake, bug) for bug in bugs]):
        yield drive(IntakeDriver(Bench(store, Role.PUSH, 1, altered)), history)


def drive_ownership(store, *altered):
    at_once = [trace(ownership, Late.REPORTS, bug) for bug in model_ownership.Bug]
    late = [trace(ownership, Late.CALLS, model_ownership.Bug.REPEAT_KEEPS_LEASE)]
    both = (*histories(ownership(Late.REPORTS), at_once), *histories(ownership(Late.CALLS), late))
    for history in both:
        yield drive(OwnershipDriver(Bench(store, Role.PUSH, 1, altered), store), history)


def drive_seal(store, *altered):
    for history in histories(seal(), [trace(seal, bug) for bug in model_seal.Bug]):
        yield drive(SealDriver(Bench(store, Role.BATCH, model_seal.PARTITIONS, altered)), history)


@pytest.mark.parametrize(
    "driven", [drive_ownership, drive_intake, pytest.param(drive_seal, marks=pytest.mark.case(31))]
)
def test_the_scripts_do_what_their_models_do(store, driven):
    assert sum(driven(store)) > 700


def altered(package, name, old, new):
    return Altered(package, name, ((old, new),))


@pytest.mark.parametrize(
    ("driven", "script"),
    [
        pytest.param(
            drive_ownership,
            altered("consumer", "take", "local barrier = tonumber(h[4])", "local barrier = 0"),
            id="take forgets the owner before the last one",
        ),
        pytest.param(
            drive_ownership,
            altered("consumer", "give_back", "'lease', '0'", "'lease', '0', 'barrier', '0'"),
            id="give_back clears the barrier",
        ),
        pytest.param(
            drive_ownership,
            altered(
                "consumer", "give_back", "if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1]", "if false"
            ),
            id="give_back accepts anyone",
        ),
        pytest.param(
            drive_ownership,
            altered("consumer", "settle", "local owner = h[1] == ARGV[2]", "local owner = true"),
            id="settle renews for anyone",
        ),
        pytest.param(
            drive_ownership,
            altered(
                "consumer",
                "settle",
                "if redis.call('HEXISTS', lane .. ':body', offset) == 1 then",
                "if true then",
            ),
            id="settle revives what was delivered",
        ),
        pytest.param(
            drive_intake,
            altered(
                "consumer", "intake", "if h[2] ~= ARGV[3] then", "if tonumber(ARGV[3]) < tonumber(h[2]) then"
            ),
            id="intake accepts any later offset",
        ),
        pytest.param(
            drive_intake,
            altered("consumer", "intake", "if h[1] ~= ARGV[2] then", "if false then"),
            id="intake accepts anyone",
        ),
        pytest.param(
            drive_intake,
            Altered(
                "consumer",
                "intake",
                (
                    ("if h[3] == ARGV[3] and h[2] == ARGV[4] then", "if false then"),
                    (
                        "if h[2] ~= ARGV[3] then",
                        "if h[2] ~= ARGV[3] and not (h[3] == ARGV[3] and h[2] == ARGV[4]) then",
                    ),
                ),
            ),
            id="intake judges a repeat anew",
        ),
        pytest.param(
            drive_seal,
            altered(
                "batcher",
                "seal",
                "if redis.call('EXISTS', p .. 'open:' .. name) == 1 then",
                "if redis.call('EXISTS', p .. 'open:' .. name) == 0 then\n"
                "  return {'OK', n, from, to, rows, digest, h[2]}\n"
                "else",
            ),
            id="seal leaves no mark when empty",
        ),
        pytest.param(
            drive_seal,
            altered("batcher", "seal", "if tonumber(n) <= tonumber(s[1] or '0') then", "if false then"),
            id="a late seal moves rows",
        ),
    ],
)
def test_an_altered_script_is_caught(store, driven, script):
    with pytest.raises(Diverged):
        sum(driven(store, script))
