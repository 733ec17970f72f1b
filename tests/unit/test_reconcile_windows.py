"""Rows and windows in a reconciliation: where each row is, what became of it, and whether the digests agree."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.removal import Removal
from batcher.render import Rows, digest_of
from batcher.window import State, WindowState
from console.reconcile.books import Trouble
from console.reconcile.filed import Fate, Row, states, window
from console.reconcile.spans import OPEN, Lane, Span
from consumer.intake import row
from schemas import referral as referrals
from schemas.connection import SftpConnection
from schemas.delivery import Outcome
from schemas.manifest import Mark
from schemas.receipt import Receipt, Subject
from tests.support.rows import person

NOW = 1_780_000_000_000
NAME = "acme-files"
DAY = "2026-05-28"
CONNECTION = SftpConnection.model_validate(
    {
        "name": NAME,
        "kind": "sftp",
        "host": "sftp.acme.example",
        "username": "acme",
        "password": "${env:X}",
        "host_keys": ("SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",),
        "schedule": {"cron": "0 8 * * *", "zone": "Europe/Berlin"},
        "fields": ("referral_id",),
    }
)


def chained(rows: Sequence[bytes]) -> str:
    digest = ""
    for one in rows:
        digest = digest_of(digest, one)
    return digest


def span(number: int, start: int, to: int, offsets: Sequence[int], **changes: Any) -> Span:
    """With the digest of these rows."""
    digest = chained([row(offset, b"v") for offset in offsets])
    return replace(Span(NAME, 0, number, start, to, len(offsets), digest, None, DAY), **changes)


def lane(*spans: Span, **changes: Any) -> Lane:
    given = {"wants": CONNECTION, "taken": 100, "read_from": 0, **changes}
    return Lane("acme", NAME, 0, spans, **given)


def offered(one: Lane, offsets: Sequence[int], to: int = 100) -> tuple[list[Any], list[Trouble]]:
    found, troubles = [], []
    for offset in offsets:
        troubles += [difference.trouble for difference in one.passed(offset)]
        found.append(one.offer(offset, "c-1", row(offset, b"v")))
    return found, troubles + [difference.trouble for difference in one.passed(to)]


@pytest.mark.parametrize(
    ("one", "found", "troubles"),
    [
        pytest.param(lane(span(1, 2, 6, [3, 5])), [[1], [1], []], [], id="sealed; what comes later is nowhere"),
        pytest.param(lane(span(1, 2, 6, [3, 5]), span(OPEN, 6, 9, [7])), [[1], [1], [OPEN]], [], id="and open"),
        pytest.param(lane(span(1, 2, 5, [3]), span(OPEN, 6, 9, [7])), [[1], [], [OPEN]], [], id="in a gap"),
        pytest.param(
            lane(span(1, 2, 6, [3, 5]), span(2, 5, 9, [5, 7])), [[1], [1, 2], [2]], [], id="in two windows"
        ),
        pytest.param(
            lane(span(OPEN, 2, 9, [3, 5, 7]), span(1, 2, 9, [3, 5, 7])), [[1]] * 3, [], id="sealed since"
        ),
        pytest.param(lane(span(1, 2, 9, [3, 7])), [[1]] * 3, [Trouble.MISSING], id="one less was sealed"),
        pytest.param(lane(span(1, 2, 9, [3, 4, 5, 7])), [[1]] * 3, [Trouble.DOUBLED], id="one more was"),
        pytest.param(lane(span(1, 2, 9, [3, 5, 6])), [[1]] * 3, [Trouble.CONFLICTING], id="another one was"),
        pytest.param(lane(span(1, 2, 9, [3, 7], rows=None)), [[1]] * 3, [], id="nobody could tell"),
        pytest.param(lane(span(1, 2, 200, [3])), [[1]] * 3, [], id="not read to its end"),
        pytest.param(lane(span(1, 2, 9, [4]), read_from=3), [[1]] * 3, [], id="not read from its start"),
        pytest.param(lane(taken=6), [[], [], None], [], id="collect has yet to read the last"),
        pytest.param(lane(wants=None), [None] * 3, [], id="not in force"),
        pytest.param(
            lane(span(1, 2, 9, [], campaigns=frozenset({"c-2"}))), [None] * 3, [], id="another campaign then"
        ),
    ],
)  # fmt: skip
def test_a_row_is_in_one_window(one: Lane, found: list[Any], troubles: list[Trouble]) -> None:
    assert offered(one, [3, 5, 7]) == (found, troubles)


@given(st.data(), st.sets(st.integers(0, 60), min_size=1), st.sets(st.integers(1, 60), max_size=4))
def test_a_row_lost_or_doubled_anywhere_shows_in_its_window(
    data: st.DataObject, offsets: set[int], seals: set[int]
) -> None:
    edges = [0, *sorted(seals), 61]
    sealed: dict[int, list[int]] = {
        n: [o for o in sorted(offsets) if start <= o < to]
        for n, (start, to) in enumerate(zip(edges, edges[1:], strict=False), 1)
    }
    victim = data.draw(st.sampled_from([None, *sorted(offsets)]), "victim")
    double = data.draw(st.booleans(), "doubled")
    hit = 0
    for number, rows in sealed.items():
        if victim in rows:
            hit = number
            sealed[number] = sorted([*rows, victim]) if double else [o for o in rows if o != victim]
    spans = [
        span(n, start, to, sealed[n]) for n, (start, to) in enumerate(zip(edges, edges[1:], strict=False), 1)
    ]
    found, troubles = offered(lane(*spans), sorted(offsets))
    assert all(len(windows) == 1 for windows in found)
    assert troubles == ([Trouble.DOUBLED if double else Trouble.MISSING] if hit else [])


# --- What became of a window's rows: as the renderer decides. ---------------------------------------------


class InMemory:
    """A window's rows and removals."""

    damage = "made up"

    def __init__(
        self, rows: Sequence[Row], values: Mapping[int, bytes], removals: Mapping[str, Removal]
    ) -> None:
        self._rows, self._values, self._removals = rows, values, removals

    def pages(self, mark: Mark) -> Iterator[list[bytes]]:
        yield [row(r.offset, self._values[r.offset]) for r in self._rows if r.partition == mark.partition]

    def latest(self, partition: int, ids: Sequence[str]) -> Mapping[str, int]:
        mine = [r for r in self._rows if r.partition == partition]
        return {i: max((r.revision for r in mine if r.referral == i), default=0) for i in ids}

    def removals(self, partition: int, ids: Sequence[str]) -> Mapping[str, Removal]:
        return {i: self._removals[i] for i in ids if i in self._removals}


ROWS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 3), st.integers(0, 2), st.booleans()), min_size=1, max_size=10
)
REMOVALS = st.dictionaries(
    st.integers(0, 3).map("r-{:06d}".format),
    st.builds(Removal, st.integers(0, 2), st.integers(0, 3), st.integers(0, 3)),
)


@given(ROWS, REMOVALS, st.integers(0, 3), st.one_of(st.none(), st.integers(0, 3)))
def test_states_are_what_the_renderer_makes(
    given_rows: list[tuple[int, int, int, bool]],
    removals: Mapping[str, Removal],
    sealed: int,
    first_byte: int | None,
) -> None:
    values: dict[int, bytes] = {}
    rows: list[Row] = []
    for offset, (partition, number, revision, whole) in enumerate(sorted(given_rows, key=lambda r: r[0])):
        event = {**person(number), "revision": revision}
        values[offset] = referrals.encode(event)
        referral = f"r-{number:06d}"
        if not whole:
            # Routing reads past what is wrong: the second publication of a field that is text no more.
            values[offset] = values[offset].replace(b"Wagga", b"\xff\xfe\xff\xfe\xff")
        rows.append(Row(partition, offset, NOW, "acme", "c-1", referral, revision, whole, counted=True))
    marks = tuple(
        Mark(
            partition=p,
            start=0,
            to=100,
            rows=len(mine := [r for r in rows if r.partition == p]),
            digest=chained([row(r.offset, values[r.offset]) for r in mine]),
            removals=sealed,
        )
        for p in (0, 1)
    )
    first = None if first_byte is None else dict.fromkeys((0, 1), first_byte)
    fate = Fate(NAME, 1, "acme", Outcome.DELIVERED, marks=marks, first_byte=first)
    found: Counter[Outcome] = Counter()
    inside: list[int] = []
    for referral in {r.referral for r in rows}:
        mine = [r for r in rows if r.referral == referral]
        known = {p: removals[referral] for p in (0, 1) if referral in removals}
        for one, state in states(mine, fate, known):
            found[state] += 1
            inside += [one.offset] if state is Outcome.DELIVERED else []
    fields = {"marks": json.dumps([asdict(mark) for mark in marks])}
    sealed_window = WindowState(NAME, 1, State.SEALED, "", 1, datetime.now(UTC), "", 0, 0.0, fields)
    made = Rows(InMemory(rows, values, removals), sealed_window, CONNECTION, first, None)
    written = [at for at, _ in made]
    assert sorted(inside) == sorted(rows[at].offset for at in written)
    assert found.total() - found[Outcome.DELIVERED] == made.left_out


@pytest.mark.parametrize(
    ("fate", "state"),
    [
        pytest.param(Fate(NAME, 1, "acme"), Outcome.PENDING, id="under way"),
        pytest.param(Fate(NAME, 1, "acme", held=True), Outcome.HELD, id="held"),
        pytest.param(
            Fate(NAME, 1, "acme", Outcome.UNCERTAIN), Outcome.UNCERTAIN, id="nobody knows of its mails"
        ),
    ],
)
def test_a_row_has_the_state_of_its_window(fate: Fate, state: Outcome) -> None:
    one = Row(0, 5, NOW, "acme", "c-1", "r-1", 0, whole=True, counted=True)
    assert [found for _, found in states([one], fate, {})] == [state]


def told(outcome: Outcome = Outcome.DELIVERED, rows: int = 3, left_out: int = 1) -> Receipt:
    return Receipt(
        subject=Subject.WINDOW,
        subject_id=f"{NAME}-000001",
        outcome=outcome,
        service="flush",
        at=datetime.now(UTC),
        rows=rows,
        left_out=left_out,
    )


@pytest.mark.parametrize(
    ("receipts", "whole", "troubles"),
    [
        pytest.param([told()], True, [], id="as its manifest"),
        pytest.param([told(), told()], True, [], id="told twice"),
        pytest.param([], True, [Trouble.MISSING], id="not told"),
        pytest.param([told(Outcome.UNCERTAIN)], True, [Trouble.CONFLICTING], id="told otherwise"),
        pytest.param([told(), told(Outcome.UNCERTAIN)], True, [Trouble.CONFLICTING], id="told both"),
        pytest.param([told(rows=2)], True, [Trouble.CONFLICTING], id="a row less in the file"),
        pytest.param([told(left_out=0)], True, [Trouble.CONFLICTING], id="a row less left out"),
        pytest.param([told(rows=2)], False, [], id="not read whole"),
    ],
)
def test_a_window_ended_as_its_receipt_says(
    receipts: list[Receipt], whole: bool, troubles: list[Trouble]
) -> None:
    fate = Fate(NAME, 1, "acme", Outcome.DELIVERED, sealed_ms=NOW)
    found = Counter({Outcome.DELIVERED: 3, Outcome.WITHDRAWN: 1})
    differences = list(window(fate, receipts, found, receipts_from_ms=0, whole=whole))
    assert [one.trouble for one in differences] == troubles
    assert {one.id for one in differences} <= {f"{NAME}-000001"}


def test_a_window_under_way_has_no_receipt_yet() -> None:
    assert not list(window(Fate(NAME, 1, "acme"), [], Counter(), receipts_from_ms=0, whole=True))
