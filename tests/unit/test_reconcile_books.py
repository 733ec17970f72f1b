"""The books of a reconciliation: every class and state has one place, and whatever is planted is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.reconcile import books as module
from console.reconcile.books import Books, Class, Difference, Place, Trouble, Unexplained, compare, rows
from console.reconcile.facts import PARKED, PASSED, Facts
from console.reconcile.filed import Row
from console.reconcile.judge import Found, judge
from console.reconcile.record_class import COLLECT, PUSH, SERVICES, Ground, Published, class_of
from schemas.delivery import Action, Outcome, delivery_id

NOW = 1_780_000_000_000
TERMS = Ground(since_ms=0, seen_ms=NOW + 7_200_000)
CRM = "acme-crm"
O = Outcome  # noqa: E741


def record(offset: int = 5, **changes: Any) -> Published:
    given = {
        "topic": "referrals", "partition": 0, "offset": offset, "at_ms": NOW, "counted": True,
        "account": "acme", "campaign": "c-1", "referral": "r-1", "revision": 2, "kind": "CREATED",
        "readable": frozenset(SERVICES), "wanted": (CRM,),
    }  # fmt: skip
    return Published(**{**given, **changes})


def both(*outcomes: Outcome) -> dict[str, frozenset[Outcome]]:
    return dict.fromkeys(SERVICES, frozenset(outcomes))


def ended(state: Outcome = O.DELIVERED, connection: str = CRM, **changes: Any) -> Found:
    its_id = delivery_id(connection, "r-1", 2, changes.get("action", Action.DELIVER))
    return replace(Found(connection, Action.DELIVER, its_id, state, NOW + 1_000), **changes)


def waiting(offset: int = 5, state: Outcome = O.PENDING, **changes: Any) -> Found:
    return ended(state, at_ms=TERMS.seen_ms, offset=offset, **changes)


def judged(published: Sequence[Published], found: Sequence[Found] = (), terms: Ground = TERMS) -> Books:
    books, unexplained = Books(), []
    for one in judge(published, found, terms):
        if isinstance(one, Unexplained):
            unexplained.append(one)
        else:
            books.add(one)
    books.close(unexplained)
    return books


CLASSES = [
    pytest.param({}, Class.ROUTED, [], id="routed"),
    pytest.param({"removes": True}, Class.REMOVAL, [], id="a removal"),
    pytest.param({"test": True, "notes": both(O.TEST)}, Class.TEST, [], id="a test"),
    pytest.param({"wanted": (), "notes": both(O.UNROUTED)}, Class.UNROUTED, [], id="unrouted"),
    pytest.param(
        {"readable": frozenset(), "notes": both(O.UNDECODABLE)}, Class.UNDECODABLE, [], id="undecodable"
    ),
    pytest.param(
        {"readable": frozenset({COLLECT}), "filed": True, "notes": {PUSH: frozenset({O.UNDECODABLE})}},
        Class.UNDECODABLE, [], id="undecodable for push, which reads it whole",
    ),
    pytest.param({"taken": frozenset()}, Class.WAITING, [], id="not taken yet"),
    pytest.param({"test": True, "taken": frozenset()}, Class.WAITING, [], id="a test not taken yet"),
    pytest.param({"taken": frozenset({PUSH})}, Class.ROUTED, [], id="taken by push alone"),
    pytest.param({"wanted": (), "filed": True}, Class.ROUTED, [], id="routed to a file"),
    pytest.param({"test": True}, Class.TEST, [Trouble.MISSING] * 2, id="a test without receipts"),
    pytest.param(
        {"test": True, "notes": {PUSH: frozenset({O.TEST})}}, Class.TEST, [Trouble.MISSING],
        id="a test with one receipt of two",
    ),
    pytest.param({"wanted": ()}, Class.UNROUTED, [Trouble.MISSING] * 2, id="unrouted without receipts"),
    pytest.param({"readable": frozenset()}, Class.UNDECODABLE, [Trouble.MISSING] * 2, id="undecodable without"),
    pytest.param(
        {"notes": both(O.UNROUTED)}, Class.UNROUTED, [Trouble.CONFLICTING] * 2, id="unrouted, but wanted"
    ),
    pytest.param({"notes": both(O.TEST)}, Class.TEST, [Trouble.CONFLICTING] * 2, id="a test that is none"),
    pytest.param(
        {"test": True, "notes": {PUSH: frozenset({O.TEST, O.UNROUTED}), COLLECT: frozenset({O.TEST})}},
        Class.TEST, [Trouble.CONFLICTING], id="two receipts of one service",
    ),
    pytest.param(
        {"notes": both(O.DUPLICATE_UPSTREAM)}, Class.DUPLICATE_UPSTREAM, [Trouble.MISSING] * 2,
        id="a duplicate of nothing",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected", "troubles"), CLASSES)
def test_a_record_has_one_class(changes: dict[str, Any], expected: Class, troubles: list[Trouble]) -> None:
    one = record(**changes)
    found, differences = class_of(one, [one], TERMS, evident=False)
    assert found is expected
    assert [difference.trouble for difference in differences] == troubles
    assert {difference.id for difference in differences} <= {"referrals-0-5"}


def test_services_may_have_routed_with_different_sets_but_not_disagree_on_duplicates() -> None:
    old = replace(TERMS, since_ms=NOW + 1)
    changed = record(notes={COLLECT: frozenset({O.UNROUTED})})
    assert class_of(changed, [changed], old, evident=False) == (Class.ROUTED, [])
    first, again = record(1), record(5, notes={PUSH: frozenset({O.DUPLICATE_UPSTREAM})})
    _, differences = class_of(again, [first, again], TERMS, evident=False)
    assert [one.trouble for one in differences] == [Trouble.CONFLICTING]


@pytest.mark.parametrize(
    ("first", "right"),
    [
        pytest.param({}, True, id="an hour before at most"),
        pytest.param({"at_ms": NOW - 3 * 3_600_000}, False, id="too long ago"),
        pytest.param({"kind": "CORRECTED"}, False, id="another kind"),
        pytest.param({"partition": 1}, False, id="in another partition"),
        pytest.param({"offset": 6}, False, id="behind it"),
        pytest.param({"counted": False}, True, id="before the range"),
    ],
)
def test_a_duplicate_has_a_first_publication(first: dict[str, Any], right: bool) -> None:
    published = [replace(record(1), **first), record(5, notes=both(O.DUPLICATE_UPSTREAM))]
    books = judged(published, [ended()])
    assert (books.troubles[Trouble.MISSING] == 0) is right
    assert judged(published, [ended()], replace(TERMS, cut=True)).troubles[Trouble.MISSING] == 0


DELIVERIES = [
    *(
        pytest.param([ended(state)], state, [], id=f"ended {state}")
        for state in (O.DELIVERED, O.DUPLICATE_AT_DESTINATION, O.REJECTED, O.EXHAUSTED, O.WITHDRAWN, O.SUPERSEDED)
    ),
    *(pytest.param([waiting(state=s)], s, [], id=f"open {s}") for s in (O.PENDING, O.HELD, O.UNCERTAIN)),
    pytest.param([ended(), ended(at_ms=NOW + 9)], O.DELIVERED, [], id="a repeated receipt is harmless"),
    pytest.param(
        [ended(), ended(O.DUPLICATE_AT_DESTINATION)], O.DELIVERED, [], id="the receiver has it, say both"
    ),
    pytest.param([ended(), ended(O.REJECTED)], O.DELIVERED, [Trouble.CONFLICTING], id="ended twice"),
    pytest.param([], None, [Trouble.MISSING], id="neither ended nor open"),
    pytest.param(
        [ended(O.UNCERTAIN, id=f"{delivery_id(CRM, 'r-1', 2)}:uncertain")], None, [Trouble.MISSING],
        id="only said to be uncertain",
    ),
    pytest.param([waiting(5), waiting(6)], O.PENDING, [Trouble.DOUBLED], id="open twice"),
    pytest.param([waiting(), ended(at_ms=TERMS.seen_ms)], O.DELIVERED, [], id="ended while Redis was read"),
    pytest.param(
        [waiting(), ended(at_ms=NOW)], O.DELIVERED, [Trouble.CONFLICTING], id="ended long ago, and still open"
    ),
    pytest.param([ended(id="another")], O.DELIVERED, [Trouble.CONFLICTING], id="under another id"),
]  # fmt: skip


@pytest.mark.parametrize(("found", "state", "troubles"), DELIVERIES)
def test_a_delivery_has_one_state(found: list[Found], state: Outcome | None, troubles: list[Trouble]) -> None:
    books = judged([record()], found)
    place = Place("acme", "c-1", "2026-05-28", CRM)
    assert {key: n for key, n in books.counts.items() if key[0].connection} == (
        {(place, state): 1} if state else {}
    )
    assert [one.trouble for one in books.differences] == troubles
    assert {one.id for one in books.differences} <= {delivery_id(CRM, "r-1", 2)}


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        pytest.param({"parked": frozenset({CRM})}, O.PARKED, id="parked"),
        pytest.param({"passed": {CRM: O.EXHAUSTED}}, O.EXHAUSTED, id="parked and given up"),
    ],
)
def test_what_only_its_offset_tells_of(changes: dict[str, Any], state: Outcome) -> None:
    books = judged([record(**changes)])
    assert books.balanced
    assert state in {found for _, found in books.counts}


def test_a_delivery_that_takes_one_back_is_its_own() -> None:
    books = judged([record()], [ended(), ended(action=Action.REMOVE)])
    assert books.balanced
    assert {place.connection for place, _ in books.counts} == {"", CRM, f"{CRM} (remove)"}


@pytest.mark.parametrize(
    ("published", "found"),
    [
        pytest.param([record(removes=True)], [ended(O.WITHDRAWN)], id="of the record a removal removes"),
        pytest.param([record(taken=frozenset())], [ended()], id="of a record that was taken since"),
        pytest.param([record(counted=False)], [ended(), ended(O.REJECTED)], id="of another range"),
        pytest.param(
            [record(1, counted=False), record(5, notes=both(O.DUPLICATE_UPSTREAM))], [], id="before"
        ),
    ],
)
def test_deliveries_of_other_records_are_not_judged(published: list[Published], found: list[Found]) -> None:
    books = judged(published, found)
    assert books.balanced
    assert not any(place.connection for place, _ in books.counts)


def test_published_again_after_the_horizon_it_may_end_once_more() -> None:
    published = [record(1), record(5, at_ms=NOW + 3_600_000 * 5)]
    assert judged(published, [ended(), ended(O.REJECTED)]).balanced
    assert judged(published, [waiting(1), waiting(5)]).balanced


@pytest.mark.parametrize("notes", [both(O.UNROUTED), both(O.TEST)])
def test_what_was_not_routed_has_no_delivery(notes: dict[str, frozenset[Outcome]]) -> None:
    one = record(notes=notes, wanted=(), test=O.TEST in notes[PUSH])
    assert Trouble.CONFLICTING in judged([one], [ended()]).troubles


class TestOfSetsThatChanged:
    OLD = replace(TERMS, since_ms=NOW + 1)

    def test_a_connection_that_is_gone_is_told_and_no_difference(self) -> None:
        books = judged([record(wanted=())], [ended(connection="gone-crm")], self.OLD)
        assert books.balanced
        assert books.former == {"gone-crm": 1}
        assert not judged([record(wanted=())], [ended(connection="gone-crm")]).balanced

    @pytest.mark.parametrize(("at_ms", "missing"), [(NOW - 10, 0), (NOW + 10, 1)])
    def test_what_came_before_its_connection_is_told_and_no_difference(
        self, at_ms: int, missing: int
    ) -> None:
        books = Books()
        for found in judge([record()], [ended()], self.OLD):
            assert not isinstance(found, Unexplained)
            books.add(found)
        (lost,) = (
            f
            for f in judge([record(at_ms=at_ms)], [], replace(TERMS, since_ms=NOW + 99))
            if isinstance(f, Unexplained)
        )
        books.close([lost])
        assert (books.troubles[Trouble.MISSING], books.later[CRM]) == (missing, 1 - missing)


def test_the_list_is_bounded_and_the_count_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LISTED", 2)
    books = Books()
    for number in range(5):
        books.add(Difference(Trouble.MISSING, str(number), Place("a", "", ""), "lost"))
    assert ([one.id for one in books.differences], books.troubles[Trouble.MISSING]) == (["0", "1"], 5)


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_compared_multisets_add_up(wanted: list[str], found: list[str]) -> None:
    compared = compare(Counter(wanted), Counter(found))
    assert Counter(wanted) - compared.missing + compared.doubled + compared.strays == Counter(found)
    assert not compared.doubled.keys() & compared.strays.keys()


# --- Whole histories, sorted on disk as the command does. -----------------------------------------------

STATES = st.sampled_from([O.DELIVERED, O.REJECTED, O.EXHAUSTED, O.PENDING, O.PARKED, O.UNCERTAIN])
KINDS = st.sampled_from(["routed", "routed", "routed", "test", "unrouted", "broken", "duplicate", "removal"])
FAULTS = ("lose", "double", "contradict")


def history(kinds: Sequence[tuple[str, Outcome]], facts: Facts, fault: tuple[int, str] | None) -> set[str]:
    """Write it down as the readers would, with one fault at the place given; the ids it must show under."""
    planted: set[str] = set()
    for offset, (kind, state) in enumerate(kinds):
        what = fault[1] if fault is not None and fault[0] == offset else ""
        referral = f"r-{offset}"
        one = record(2 * offset + 1, referral=referral, revision=0)
        outcomes = {
            "test": O.TEST, "unrouted": O.UNROUTED, "broken": O.UNDECODABLE, "duplicate": O.DUPLICATE_UPSTREAM,
        }  # fmt: skip
        if kind in outcomes:
            told = {outcomes[kind]}
            one = replace(
                one,
                test=kind == "test",
                wanted=() if kind == "unrouted" else one.wanted,
                readable=frozenset() if kind == "broken" else one.readable,
            )
            if what == "lose":
                told = set()
            elif what:
                told.add(O.UNROUTED if kind != "unrouted" else O.TEST)
            # Without its receipt a duplicate is a second publication like any other.
            planted |= {one.name} if what and (kind, what) != ("duplicate", "lose") else set()
            if kind == "duplicate":
                facts.published(replace(one, offset=2 * offset))
                push(facts, one, O.DELIVERED, "")
            facts.published(replace(one, notes=both(*told) if told else {}))
        elif kind == "removal":
            facts.published(replace(one, removes=True))
        else:
            planted |= {delivery_id(CRM, referral, 0)} if what else set()
            parked = state is O.PARKED and what != "lose"
            facts.published(replace(one, parked=frozenset({CRM}) if parked else frozenset()))
            push(facts, one, state, what)
    return planted


def push(facts: Facts, one: Published, state: Outcome, what: str) -> None:
    its_id = delivery_id(CRM, one.referral, 0)
    is_open = state in {O.PENDING, O.UNCERTAIN, O.PARKED}
    found = Found(CRM, Action.DELIVER, its_id, state, NOW, one.offset if is_open else None)
    if what != "lose" and state is not O.PARKED:
        facts.found(one.referral, 0, found)
    if what == "double":
        extra = replace(found, offset=10_000, state=O.PENDING)
        facts.found(one.referral, 0, extra)
    if what == "contradict":
        for other in (O.WITHDRAWN, O.SUPERSEDED):
            facts.found(one.referral, 0, replace(found, offset=None, state=other))


@given(st.data(), st.lists(st.tuples(KINDS, STATES), min_size=1, max_size=12))
def test_a_history_balances_and_one_planted_fault_is_found_by_its_id(
    data: st.DataObject, kinds: list[tuple[str, Outcome]]
) -> None:
    places = [(at, kind) for at, (kind, _) in enumerate(kinds) if kind not in {"removal"}]
    fault = None
    if places and data.draw(st.booleans(), "faulty"):
        fault = data.draw(st.sampled_from(places), "place")[0], data.draw(st.sampled_from(FAULTS), "fault")
    with Facts() as facts:
        planted = history(kinds, facts, fault)
        books = Books()
        for published, found in facts.revisions():
            for one in judge(published, found, TERMS):
                assert not isinstance(one, Unexplained)
                books.add(one)
    assert {one.id for one in books.differences} == planted
    records = [state for place, state in books.counts.elements() if not place.connection]
    assert len(records) == len(kinds) + sum(kind == "duplicate" for kind, _ in kinds)


def test_facts_come_back_as_they_went_in() -> None:
    with Facts() as facts:
        one = record(notes={PUSH: frozenset({O.TEST})}, parked=frozenset({"x"}), passed={"y": O.EXHAUSTED})
        facts.published(one)
        facts.found("r-1", 2, waiting())
        facts.found("r-9", 0, ended())
        assert list(facts.revisions()) == [([one], [waiting()])]
        facts.note(0, 7, PUSH, O.TEST)
        facts.note(0, 3, PARKED, O.PARKED, CRM)
        facts.note(0, 3, PASSED, O.EXHAUSTED, "b")
        facts.note(1, 4, COLLECT, O.TEST)
        (three, noted), (seven, tested) = facts.notes(0)
        assert (three, noted.parked, noted.passed) == (3, {CRM}, {"b": O.EXHAUSTED})
        assert (seven, tested.notes) == (7, {PUSH: {O.TEST}})
        row = Row(0, 5, NOW, "acme", "c-1", "r-1", 2, whole=True, counted=False)
        facts.filed("acme-files", 3, row)
        assert list(facts.rows()) == [(("acme-files", 3), "r-1", [row])]
        lost = Unexplained(Difference(Trouble.MISSING, "id", one.place(CRM), "why"), NOW)
        facts.unexplained(lost)
        assert list(facts.all_unexplained()) == [lost]


def test_lines_come_records_first() -> None:
    books = judged([record()], [ended()])
    assert [(place.connection, states) for place, states in rows(books.counts)] == [
        ("", {"ROUTED": 1}),
        (CRM, {"DELIVERED": 1}),
    ]
