"""The protocols hold in every state their models can reach, and each fault planted in a model is found.

A model in which a planted fault stays hidden proves nothing about the others: both halves belong together.
"""

import pytest

from tests.invariants import model_intake, model_ownership, model_seal
from tests.invariants.explore import explore
from tests.invariants.model_intake import intake
from tests.invariants.model_ownership import Late, ownership
from tests.invariants.model_seal import seal

# Far fewer states than the model has today would mean that something no longer happens in it.
RIGHT = [
    pytest.param(ownership(Late.CALLS), 50_000, id="ownership, calls and answers late"),
    pytest.param(ownership(Late.REPORTS), 2_000, id="ownership, facts and reschedules late"),
    pytest.param(ownership(Late.REPORTS, workers=3), 10_000, id="ownership, three workers"),
    pytest.param(intake(), 50_000, id="intake"),
    pytest.param(intake(log=model_intake.LOG[:2], crashes=2), 60_000, id="intake, Redis crashes twice"),
    pytest.param(seal(), 50_000, id="seal"),
]
LATE_REPORTS = {
    model_ownership.Bug.RELOADS_ITS_OWN,
    model_ownership.Bug.RESCHEDULE_NOT_FENCED,
    model_ownership.Bug.RESCHEDULE_REVIVES,
}
PLANTED = [
    *(
        (ownership(Late.REPORTS if bug in LATE_REPORTS else Late.CALLS, bug), bug)
        for bug in model_ownership.Bug
    ),
    *((intake(bug), bug) for bug in model_intake.Bug),
    *((seal(bug), bug) for bug in model_seal.Bug),
]


@pytest.mark.parametrize(("model", "floor"), RIGHT)
def test_every_reachable_state_keeps_every_promise(model, floor):
    verdict = explore(model)
    assert verdict.problem is None, str(verdict)
    assert verdict.states >= floor, str(verdict)


@pytest.mark.parametrize(("model", "bug"), [pytest.param(model, bug, id=bug.value) for model, bug in PLANTED])
def test_a_planted_fault_is_found(model, bug):
    verdict = explore(model)
    assert verdict.problem is not None, f"{bug.value}: {verdict}"
    assert verdict.trace
    print(f"\n{bug.value}: {verdict}")
