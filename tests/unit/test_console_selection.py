"""What an export holds, and why the rest is left out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console import selection
from console.selection import Reason, Removed, Selection
from consumer.service import Stop
from schemas.referral import Referral
from tests.support.referral_events import decoded

Event = tuple[str, str, int]


def shown(events: Sequence[Referral], **more) -> Selection:
    found = Selection("acme", lambda referral: referral.campaign_id == "c-1")
    for offset, referral in enumerate(events):
        found.show(referral, 0, offset, in_range=more.get("in_range", lambda _: True)(offset))
    return found


def of(referral_id: str, kind: str = "CREATED", revision: int = 0, **changes) -> Referral:
    return decoded(referral_id=referral_id, event_type=kind, revision=revision, **changes)


@pytest.mark.parametrize(
    ("events", "offsets", "left_out"),
    [
        pytest.param([of("a"), of("b")], [0, 1], {}, id="two referrals"),
        pytest.param(
            [of("a"), of("a", "CORRECTED", 1)], [1], {Reason.SUPERSEDED: 1}, id="the latest revision"
        ),
        pytest.param(
            [of("a", "CORRECTED", 2), of("a", "CORRECTED", 1)], [0], {Reason.SUPERSEDED: 1}, id="in any order"
        ),
        pytest.param([of("a"), of("a")], [0], {Reason.SUPERSEDED: 1}, id="published twice: the first"),
        pytest.param([of("a"), of("a", "WITHDRAWN")], [], {Reason.WITHDRAWN: 1}, id="withdrawn"),
        pytest.param(
            [of("a", "WITHDRAWN"), of("a")], [], {Reason.WITHDRAWN: 1}, id="withdrawn before it came"
        ),
        pytest.param(
            [of("a"), of("a", "WITHDRAWN"), of("a", "CORRECTED", 1)],
            [2],
            {Reason.SUPERSEDED: 1},
            id="opted in again",
        ),
        pytest.param(
            [of("a", "CORRECTED", 1), of("a", "WITHDRAWN", 2)],
            [],
            {Reason.WITHDRAWN: 1},
            id="withdrawn at a later revision",
        ),
        pytest.param(
            [of("a"), of("a", "ERASED"), of("a", "CORRECTED", 1)],
            [],
            {Reason.SUPERSEDED: 1, Reason.ERASED: 1},
            id="erased for good",
        ),
        pytest.param([of("a", is_test=True)], [], {Reason.TEST: 1}, id="a test"),
        pytest.param(
            [of("a"), of("a", "WITHDRAWN", is_test=True)], [0], {}, id="a test removal removes nothing"
        ),
        pytest.param([of("a", campaign_id="c-2")], [], {Reason.OTHER_CAMPAIGN: 1}, id="another campaign"),
        pytest.param([of("a", account_id="globex")], [], {}, id="another account is nobody's business"),
        pytest.param(
            [of("a"), of("a", "ERASED", account_id="globex")],
            [],
            {Reason.ERASED: 1},
            id="a removal counts by id alone",
        ),
    ],
)
def test_one_row_per_referral_by_the_rules_of_a_window(events, offsets, left_out) -> None:
    found = shown(events)
    assert found.places().get(0, []) == offsets
    assert {reason: number for reason, number in found.left_out.items() if number} == left_out


def test_outside_the_range_only_removals_count() -> None:
    found = shown(
        [of("a"), of("b"), of("a", "CORRECTED", 1), of("b", "WITHDRAWN")], in_range=lambda offset: offset < 2
    )
    assert found.places() == {0: [0]}


def test_what_redis_knows_of_removals_counts_as_well() -> None:
    found = shown([of("a", revision=1), of("b"), of("c")])
    found.remove("a", Removed(revision=0))
    found.remove("b", Removed(revision=0))
    found.remove("c", Removed(erased=True))
    assert found.places() == {0: [0]}
    assert found.left_out == {Reason.SUPERSEDED: 0, Reason.WITHDRAWN: 1, Reason.ERASED: 1}


def test_places_are_in_order_of_partition_and_offset() -> None:
    found = Selection("acme", lambda _: True)
    for number, (partition, offset) in enumerate([(2, 7), (0, 5), (2, 3), (0, 9)]):
        found.show(of(f"r{number}"), partition, offset, in_range=True)
    assert list(found.places().items()) == [(0, [5, 9]), (2, [3, 7])]


def test_more_than_memory_should_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "MAX_HELD", 3)
    shown([of("a"), of("b"), of("c")])
    with pytest.raises(Stop, match="several shorter ones"):
        shown([of("a"), of("b"), of("c"), of("d", "WITHDRAWN")])


@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.sampled_from(["CREATED", "CORRECTED", "WITHDRAWN", "ERASED"]),
            st.integers(0, 3),
        ),
        max_size=12,
    )
)
def test_every_event_is_exported_or_counted_and_nothing_removed_leaves(history: list[Event]) -> None:
    found = shown([of(*event) for event in history])
    exported = found.places().get(0, [])
    deliveries = [event for event in history if event[1] in {"CREATED", "CORRECTED"}]
    assert len(exported) + found.left_out.total() == len(deliveries)
    assert len({history[offset][0] for offset in exported}) == len(exported)
    for offset in exported:
        referral_id, _, revision = history[offset]
        for other_id, kind, other in history:
            if other_id == referral_id:
                assert kind != "ERASED"
                assert other < revision or (kind != "WITHDRAWN" and other == revision)
