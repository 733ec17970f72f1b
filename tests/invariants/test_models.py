"""The protocols hold in every state their models can reach, and each fault planted in a model is found.

A model in which a planted fault stays hidden proves nothing about the others: both halves belong together.
"""

import pytest

from tests.invariants import (
    model_attempts,
    model_intake,
    model_mail,
    model_ownership,
    model_pace,
    model_quiet,
    model_rebuild,
    model_seal,
    model_share,
    model_upload,
)
from tests.invariants.explore import explore
from tests.invariants.model_attempts import attempts
from tests.invariants.model_intake import intake
from tests.invariants.model_mail import mail
from tests.invariants.model_ownership import Late, ownership
from tests.invariants.model_pace import pace
from tests.invariants.model_quiet import quiet
from tests.invariants.model_rebuild import Side, Trouble, rebuild
from tests.invariants.model_seal import seal
from tests.invariants.model_share import share
from tests.invariants.model_upload import upload

# Far fewer states than the model has today would mean that something no longer happens in it.
RIGHT = [
    pytest.param(ownership(Late.CALLS), 50_000, id="ownership, calls and answers late"),
    pytest.param(ownership(Late.REPORTS), 2_000, id="ownership, facts and reschedules late"),
    pytest.param(ownership(Late.REPORTS, workers=3), 10_000, id="ownership, three workers"),
    pytest.param(intake(), 50_000, id="intake"),
    pytest.param(intake(log=model_intake.LOG[:2], crashes=2), 60_000, id="intake, Redis crashes twice"),
    pytest.param(seal(), 50_000, id="seal"),
    pytest.param(attempts(), 8_000, id="attempts, the uncertain held"),
    pytest.param(attempts(hold=False), 9_000, id="attempts, the uncertain tried on"),
    pytest.param(share(), 30_000, id="share of one request at once"),
    pytest.param(share(connections=2), 80_000, id="share of two", marks=pytest.mark.long),
    pytest.param(pace(), 700, id="pace"),
    pytest.param(quiet(), 500, id="quiet"),
    pytest.param(upload(), 80_000, id="upload"),
    pytest.param(mail(), 6_000, id="mail, the uncertain held"),
    pytest.param(mail(hold=False), 8_000, id="mail, the uncertain sent again"),
    pytest.param(mail(troubles=3), 40_000, id="mail, held, more troubles", marks=pytest.mark.long),
    pytest.param(
        mail(hold=False, troubles=3), 60_000, id="mail, sent again, more troubles", marks=pytest.mark.long
    ),
    pytest.param(mail(leaving=True), 10_000, id="mail, an address is gone"),
    pytest.param(
        mail(hold=False, leaving=True),
        10_000,
        id="mail, an address is gone, sent again",
        marks=pytest.mark.long,
    ),
    pytest.param(rebuild(Trouble.EMPTIED, Side.PUSH), 3_000, id="rebuild, emptied, push"),
    pytest.param(rebuild(Trouble.EMPTIED, Side.BATCH), 1_000, id="rebuild, emptied, windows"),
    pytest.param(rebuild(Trouble.OLDER, Side.PUSH), 10_000, id="rebuild, an older copy, push"),
    pytest.param(rebuild(Trouble.OLDER, Side.BATCH), 4_000, id="rebuild, an older copy, windows"),
    pytest.param(rebuild(Trouble.CRASHED, Side.PUSH), 30_000, id="rebuild, crashed before, push"),
    pytest.param(rebuild(Trouble.CRASHED, Side.BATCH), 4_000, id="rebuild, crashed before, windows"),
]
LATE_REPORTS = {
    model_ownership.Bug.RELOADS_ITS_OWN,
    model_ownership.Bug.RESCHEDULE_NOT_FENCED,
    model_ownership.Bug.RESCHEDULE_REVIVES,
}
# Where these do harm.
PLANTED_MAIL = {
    model_mail.Bug.CLEARS_FIRST_BYTE: {"hold": False},
    model_mail.Bug.WAITS_FOR_REFUSED: {"leaving": True},
}
PLANTED_REBUILD = {
    model_rebuild.Bug.FORGETS_FLOORS: (Trouble.EMPTIED, Side.BATCH),
    model_rebuild.Bug.RELEASES: (Trouble.EMPTIED, Side.BATCH),
    model_rebuild.Bug.NO_WITNESS: (Trouble.OLDER, Side.PUSH),
    model_rebuild.Bug.NO_WINDOW_WITNESS: (Trouble.OLDER, Side.BATCH),
}
PLANTED = [
    *(
        (ownership(Late.REPORTS if bug in LATE_REPORTS else Late.CALLS, bug), bug)
        for bug in model_ownership.Bug
    ),
    *((intake(bug), bug) for bug in model_intake.Bug),
    *((seal(bug), bug) for bug in model_seal.Bug),
    *((attempts(bug), bug) for bug in model_attempts.Bug),
    *((share(bug), bug) for bug in model_share.Bug),
    *((pace(bug), bug) for bug in model_pace.Bug),
    *((quiet(bug), bug) for bug in model_quiet.Bug),
    *((upload(bug, troubles=1), bug) for bug in model_upload.Bug),
    *((mail(bug, **PLANTED_MAIL.get(bug, {})), bug) for bug in model_mail.Bug),
    *(
        (rebuild(*PLANTED_REBUILD.get(bug, (Trouble.EMPTIED, Side.PUSH)), bug), bug)
        for bug in model_rebuild.Bug
    ),
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
