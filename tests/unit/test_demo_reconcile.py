"""The demo's judge sees every loss and every double, and lets nothing else pass as one."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace

import pytest

from deploy.embedded import reconcile, report
from deploy.embedded.accounts import Plan, Planned
from deploy.embedded.publisher import Published
from deploy.embedded.reconcile import Artefact, Request, Tally, WindowEnd
from deploy.embedded.report import Result
from deploy.embedded.times import Moments, Times, times

ROWS = [("crm", "", "r1"), ("crm", "", "r2"), ("slow", "", "r3")]


def effect(connection: str, referral: str, key: str = "", body: str = "b", kind: str = "effect") -> Request:
    return Request(kind, connection, key or f"key of {referral}", referral, body)


GOOD = [effect("crm", "r1"), effect("crm", "r2"), effect("slow", "r3")]


def figures(tally: Tally) -> dict[str, int]:
    """Those that are not 0."""
    names = ("pending", "uncertain", "repeats", "lost", "duplicates", "strays", "mismatches")
    return {name: getattr(tally, name) for name in names if getattr(tally, name)}


@pytest.mark.parametrize(
    ("requests", "held", "found"),
    [
        pytest.param(GOOD, (), {}, id="everything once"),
        pytest.param(GOOD[:2], (), {"lost": 1}, id="one is missing and nobody says why"),
        pytest.param(GOOD[:2], {("slow", "r3")}, {"pending": 1}, id="one is missing and waits"),
        pytest.param(GOOD[:2], {("crm", "r3")}, {"lost": 1}, id="it waits for another connection"),
        pytest.param(GOOD, {("slow", "r3")}, {}, id="waits, but has arrived"),
        pytest.param([*GOOD, effect("crm", "r1", key="new")], (), {"duplicates": 1}, id="again, new key"),
        pytest.param([*GOOD, effect("crm", "r1", body="x")], (), {"duplicates": 1}, id="again, other bytes"),
        pytest.param([*GOOD, effect("crm", "r1")], (), {"repeats": 1}, id="again, at one that ignores keys"),
        pytest.param(
            [*GOOD, effect("crm", "r1", kind="repeat")], (), {"repeats": 1}, id="again, and recognised"
        ),
        pytest.param(
            [*GOOD, effect("crm", "r1", kind="mismatch")], (), {"mismatches": 1}, id="a body that changed"
        ),
        pytest.param([*GOOD, effect("crm", "r3")], (), {"strays": 1}, id="at the wrong advertiser"),
        pytest.param([*GOOD, effect("crm", "r9")], (), {"strays": 1}, id="never published"),
        pytest.param(
            [Request("effect", "crm", "", "r1", "b")] * 2 + GOOD[1:],
            (),
            {"duplicates": 1},
            id="without a key",
        ),
        pytest.param([], (), {"lost": 3}, id="nothing came"),
    ],
)
def test_requests(requests: list[Request], held: set[tuple[str, str]], found: dict[str, int]):
    tally = reconcile.push(ROWS, requests, held)
    assert figures(tally) == found
    assert tally.expected == 3 == tally.delivered + tally.pending + tally.lost
    assert tally.right is not bool(found.keys() - {"pending", "repeats"})


def artefact(window: str, *ids: str, recipient: str = "", sha256: str = "s") -> Artefact:
    name = f"<{window}.{recipient}@us>" if recipient else f"{window}.csv"
    return Artefact(window.rpartition("-")[0], recipient, window, name, sha256, ids)


IN_FILES = [("f", "", "r1"), ("f", "", "r2")]
IN_MAILS = [("m", box, i) for box in ("a", "b") for i in ("r1", "r2")]
MAILS = [artefact("m-000001", "r1", "r2", recipient=box) for box in ("a", "b")]
ONE_FILE = [artefact("f-000001", "r1", "r2")]


def end(*, attempts: int = 1, rows: int = 2, uncertain: bool = False) -> WindowEnd:
    return WindowEnd(attempts, rows, uncertain)


@pytest.mark.parametrize(
    ("expected", "artefacts", "held", "ends", "found"),
    [
        pytest.param(IN_FILES, ONE_FILE, (), {}, {}, id="a file"),
        pytest.param(
            IN_FILES, [artefact("f-000001", "r1"), artefact("f-000002", "r2")], (), {}, {}, id="two files"
        ),
        pytest.param(IN_FILES, [artefact("f-000001", "r1")], (), {}, {"lost": 1}, id="a row is missing"),
        pytest.param(
            IN_FILES, [artefact("f-000001", "r1")], {("f", "r2")}, {}, {"pending": 1}, id="in an open window"
        ),
        pytest.param(
            IN_FILES, [artefact("f-000001", "r1", "r2", "r2")], (), {}, {"duplicates": 1}, id="a row twice"
        ),
        pytest.param(
            IN_FILES,
            [*ONE_FILE, artefact("f-000002", "r1")],
            (),
            {},
            {"duplicates": 1},
            id="a row in two files",
        ),
        pytest.param(
            IN_FILES,
            ONE_FILE * 2,
            (),
            {"f-000001": end(attempts=5)},
            {"duplicates": 2},
            id="a file again, however often it was tried",
        ),
        pytest.param(IN_MAILS, MAILS, (), {}, {}, id="a mail for each recipient"),
        pytest.param(IN_MAILS, MAILS[:1], (), {}, {"lost": 2}, id="no mail for one of them"),
        pytest.param(
            IN_MAILS,
            MAILS[:1],
            (),
            {"m-000001": end(uncertain=True)},
            {"uncertain": 2},
            id="no mail, and shown as uncertain",
        ),
        pytest.param(
            IN_MAILS,
            MAILS[:1],
            (),
            {"m-000001": end(rows=1, uncertain=True)},
            {"uncertain": 1, "lost": 1},
            id="uncertain explains only its own rows",
        ),
        pytest.param(
            IN_MAILS,
            MAILS[:1],
            (),
            {"other-000001": end(uncertain=True)},
            {"lost": 2},
            id="another connection's uncertain mail explains nothing",
        ),
        pytest.param(
            IN_MAILS, MAILS, (), {"m-000001": end(uncertain=True)}, {}, id="uncertain, but it has arrived"
        ),
        pytest.param(
            IN_MAILS,
            [*MAILS, MAILS[0]],
            (),
            {"m-000001": end(attempts=2)},
            {"repeats": 2},
            id="a mail sent again",
        ),
        pytest.param(
            IN_MAILS,
            [*MAILS, MAILS[0], MAILS[0]],
            (),
            {"m-000001": end(attempts=2)},
            {"repeats": 2, "duplicates": 2},
            id="a mail more often than it was tried",
        ),
        pytest.param(
            IN_MAILS,
            [*MAILS, MAILS[0]],
            (),
            {"m-000001": end()},
            {"duplicates": 2},
            id="a mail twice, tried once",
        ),
        pytest.param(
            IN_MAILS,
            [*MAILS, replace(MAILS[0], sha256="other")],
            (),
            {"m-000001": end(attempts=2)},
            {"duplicates": 2},
            id="sent again with other bytes",
        ),
    ],
)
def test_files_and_mails(
    expected: list[tuple[str, str, str]],
    artefacts: list[Artefact],
    held: set[tuple[str, str]],
    ends: dict[str, WindowEnd],
    found: dict[str, int],
):
    tally = reconcile.files(expected, artefacts, held, ends)
    assert figures(tally) == found
    assert tally.expected == len(expected) == tally.delivered + tally.pending + tally.uncertain + tally.lost


@pytest.mark.parametrize("seed", range(20))
def test_any_damage_is_counted_exactly(seed: int):
    choose = random.Random(seed)
    rows = [(f"c{n % 7}", "", f"r{n}") for n in range(200)]
    got = {row: choose.choice((0, 1, 1, 1, 2, 3)) for row in rows}
    requests = [
        effect(connection, i, key=f"{i}-{copy}")
        for (connection, _, i), count in got.items()
        for copy in range(count)
    ]
    choose.shuffle(requests)
    waiting = {(c, i) for c, _, i in rows if choose.random() < 0.2}
    tally = reconcile.push(rows, requests, waiting)
    absent = [row for row, count in got.items() if not count]
    assert tally.duplicates == sum(max(0, count - 1) for count in got.values())
    assert tally.pending_at == Counter(c for c, _, i in absent if (c, i) in waiting)
    assert tally.lost == sum((c, i) not in waiting for c, _, i in absent)


def test_percentiles_are_values_that_occurred():
    values = [float(n) for n in range(1, 101)]
    assert [reconcile.percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50.0, 99.0, 100.0]
    assert reconcile.percentile([7.0], 0.5) == 7.0
    assert reconcile.percentile([], 0.5) == 0.0


NOTHING = reconcile.push([], [], ())
WAITS = reconcile.push([("hangs", "", "r1"), ("crm", "", "r2")], [effect("crm", "r2")], {("hangs", "r1")})
RESULT = Result(
    published=2,
    accounts=2,
    unrouted=0,
    push=WAITS,
    sftp=NOTHING,
    email=NOTHING,
    hanging=("hangs", 1),
    held={},
    receipts={"DELIVERED": 1},
    times=Times(0.01, 0.25, 1, 1.0, 2.0, 1.0, 3.0, 4.0, 5.0),
    versions={"kafka": "k"},
    artefacts={"files": 0, "mails": 0},
)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        pytest.param({}, [], id="all is well"),
        pytest.param({"push": replace(WAITS, lost=3)}, ["push: 3 lost"], id="lost"),
        pytest.param({"sftp": replace(NOTHING, duplicates=1)}, ["sftp: 1 duplicates"], id="doubled"),
        pytest.param(
            {"hanging": ("hangs", 2)}, ["push: 1 pending at hangs, not 2"], id="the hanging CRM got something"
        ),
        pytest.param(
            {"push": replace(WAITS, pending_at={"hangs": 1, "crm": 1})},
            ["push: 1 pending at crm, not 0"],
            id="another one waits",
        ),
        pytest.param(
            {"push": replace(WAITS, pending_at={})},
            ["push: 0 pending at hangs, not 1"],
            id="the hanging CRM's is not pending",
        ),
        pytest.param(
            {"email": replace(NOTHING, pending_at={"m": 4})},
            ["email: 4 pending at m, not 0"],
            id="a mail waits",
        ),
        pytest.param(
            {"held": {"f-000001": "no space"}}, ["window f-000001 is held: no space"], id="a held window"
        ),
    ],
)
def test_the_verdict(change: dict[str, object], found: list[str]):
    result = replace(RESULT, **change)
    assert report.wrong(result) == found
    assert report.document(result)["ok"] is not bool(found)


def test_the_document_holds_what_is_promised():
    found = json.loads(json.dumps(report.document(RESULT)))
    assert found["published"] == 2
    for kind in ("push", "sftp", "email"):
        assert {"expected", "delivered", "pending", "repeats", "lost", "duplicates"} <= found[kind].keys()
    assert found["push"]["pending"] == 1


def test_the_table_names_every_kind_and_column():
    told = report.table(RESULT)
    assert all(name in told for name in (*report.COLUMNS, *report.KINDS.values(), "hangs", "10 ms"))


def test_times_count_healthy_crms_and_what_was_published_when():
    connections = (
        Planned("a", "crm", "http", "/a/"),
        Planned("b", "late", "http", "/b/", behaviour="troubled"),
    )
    moments = Moments(
        began=0.0, steady=10.0, burst=20.0, burst_ended=22.0, recovered=25.0, asked=30.0, flushed=33.0
    )
    published = [Published(f"r{at}", float(at), ()) for at in (5, 10, 11, 12, 20, 21)]
    accepted = [(9.0, "crm", 5), (10.5, "crm", 10), (11.25, "crm", 11), (28.0, "late", 12), (24.0, "crm", 21)]
    requests = [(at, effect(connection, f"r{number}")) for at, connection, number in accepted]
    requests.append((29.0, effect("crm", "r21", kind="repeat")))
    found = times(Plan(connections, {}, {}, {}), published, requests, moments, 40.0)
    assert found == Times(0.25, 0.5, 2, 2.0, 4.0, 0.5, 3.0, 3.0, 40.0)
