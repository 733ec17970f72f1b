"""What leaves us does what its models do, step by step, over a real Redis; altered scripts are caught doing otherwise.

Pushes with their limits, files on a server, mails: the code that decides is the real one, receivers and time are the
models'. Histories are random walks through a model and the traces of the faults planted in it.
"""

import functools
from contextlib import closing
from random import Random

import pytest

from consumer.keys import Role
from consumer.store import Store
from tests.invariants import model_attempts, model_mail, model_pace, model_quiet, model_share, model_upload
from tests.invariants.drive import Altered, Bench, Diverged, drive
from tests.invariants.drive_attempts import AttemptsDriver
from tests.invariants.drive_mail import MailDriver
from tests.invariants.drive_pace import PaceDriver
from tests.invariants.drive_quiet import QuietDriver
from tests.invariants.drive_share import ShareDriver
from tests.invariants.drive_upload import UploadDriver
from tests.invariants.explore import explore, follow, walk
from tests.invariants.model_attempts import attempts
from tests.invariants.model_mail import mail
from tests.invariants.model_pace import pace
from tests.invariants.model_quiet import quiet
from tests.invariants.model_share import share
from tests.invariants.model_upload import upload

STEPS = 60  # of each walk: most bounded models have come to rest by then
WALKS = 12  # of each model
MANY = 100  # of each model, where there is time


@functools.cache
def trace(model_of, bug):
    """The way to a planted fault: on the right code it must lead elsewhere."""
    return explore(model_of(bug, 1) if model_of is upload else model_of(bug)).trace


def histories(model, walks, traces=()):
    for labels in traces:
        yield follow(model, labels)
    for seed in range(walks):
        yield walk(model, Random(seed), STEPS)


class Drivers:
    """One Redis for all drivers, with some scripts altered; the number of steps each carried out."""

    def __init__(self, url, store):
        self.url, self.store = url, store

    def attempts(self, *altered, walks=WALKS):
        for hold in (True, False):
            traces = [trace(attempts, bug) for bug in model_attempts.Bug] if hold else []
            for history in histories(attempts(hold=hold), walks, traces):
                yield drive(AttemptsDriver(self.bench(Role.PUSH, altered), self.store, hold), history)

    def share(self, *altered, walks=WALKS):
        for connections in (1, 2):
            traces = [trace(share, bug) for bug in model_share.Bug] if connections == 1 else []
            for history in histories(share(connections=connections), walks, traces):
                yield drive(ShareDriver(self.bench(Role.PUSH, altered), connections), history)

    def pace(self, *altered, walks=WALKS):
        for history in histories(pace(), walks, [trace(pace, bug) for bug in model_pace.Bug]):
            yield drive(PaceDriver(self.bench(Role.PUSH, altered)), history)

    def quiet(self, *altered, walks=WALKS):
        # Each has a loop of its own, which takes longest.
        for history in histories(quiet(), walks // 3, [trace(quiet, bug) for bug in model_quiet.Bug]):
            with closing(QuietDriver(self.bench(Role.PUSH, altered), self.store)) as driver:
                yield drive(driver, history)

    def upload(self, *altered, walks=WALKS):
        traces = [trace(upload, bug) for bug in model_upload.Bug]
        # Where there is no trouble, the next window is reached.
        for history in (*histories(upload(), walks, traces), *histories(upload(troubles=0), walks // 4)):
            with closing(UploadDriver(self.bench(Role.BATCH, altered), self.url)) as driver:
                yield drive(driver, history)

    def mail(self, *altered, walks=WALKS):
        for hold in (True, False):
            traces = [trace(mail, bug) for bug in model_mail.Bug] if hold else []
            for history in histories(mail(hold=hold, troubles=3), walks, traces):
                with closing(MailDriver(self.bench(Role.BATCH, altered), self.url, hold=hold)) as driver:
                    yield drive(driver, history)

    def bench(self, role, altered):
        return Bench(self.store, role, 1, altered)


@pytest.fixture
def drivers(valkey):
    with closing(Store(valkey.url)) as store:
        yield Drivers(valkey.url, store)


ALL = {"attempts": 1_000, "share": 1_000, "pace": 500, "quiet": 200, "upload": 400, "mail": 600}


@pytest.mark.parametrize(("driven", "floor"), ALL.items())
def test_the_code_does_what_its_model_does(drivers, driven, floor):
    assert sum(getattr(drivers, driven)()) > floor


@pytest.mark.long
@pytest.mark.parametrize("driven", ALL)
def test_the_code_does_what_its_model_does_for_long(drivers, driven):
    assert sum(getattr(drivers, driven)(walks=MANY)) > ALL[driven]


def altered(package, name, old, new):
    return Altered(package, name, ((old, new),))


@pytest.mark.parametrize(
    ("driven", "script"),
    [
        pytest.param(
            "attempts",
            altered(
                "consumer",
                "settle",
                "for i = 1, tonumber(ARGV[5]) do",
                "for i = 1, owner and tonumber(ARGV[5]) or 0 do",
            ),
            id="settle drops a former owner's facts",
        ),
        pytest.param(
            "attempts",
            altered("consumer", "settle", "local number = tonumber(ARGV[at])", "local number = 0"),
            id="settle forgets what an attempt left behind",
        ),
        pytest.param(
            "attempts",
            altered("consumer", "settle", "if owner then\n  local number", "if true then\n  local number"),
            id="settle takes a former owner's reschedule",
        ),
        pytest.param(
            "share",
            altered("consumer", "lease", "others, live = others + held, live + 1", "live = live + 1"),
            id="lease counts no other's share",
        ),
        pytest.param(
            "share",
            altered("consumer", "lease", "if tonumber(ends) <= now then", "if false then"),
            id="lease takes no share back",
        ),
        pytest.param(
            "share",
            altered("consumer", "lease", "now + block + tonumber(ARGV[5])", "now + block"),
            id="lease takes a share back while its requests are under way",
        ),
        pytest.param(
            "share",
            altered(
                "consumer",
                "lease",
                "local held = at_once and math.max(share, under_way) or 0",
                "local held = at_once and share or 0",
            ),
            id="lease forgets what is under way beside the share",
        ),
        pytest.param(
            "pace",
            altered("consumer", "lease", "line = math.max(us, tonumber(value))", "line = us"),
            id="lease gives a place twice",
        ),
        pytest.param(
            "upload",
            altered("batcher", "advance", "if w[1] ~= ARGV[1] or w[2] ~= ARGV[2]", "if w[1] ~= ARGV[1]"),
            id="advance looks at no token",
        ),
        pytest.param(
            "upload",
            altered("batcher", "claim", "redis.call('DEL', key)", ""),
            id="claim leaves the files of the window before",
        ),
        pytest.param(
            "mail",
            altered("batcher", "advance", "if w[1] ~= ARGV[1] or w[2] ~= ARGV[2]", "if w[1] ~= ARGV[1]"),
            id="advance looks at no token, of mails",
        ),
    ],
)
def test_an_altered_script_is_caught(drivers, driven, script):
    with pytest.raises(Diverged):
        sum(getattr(drivers, driven)(script))
