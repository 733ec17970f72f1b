"""A delivery frozen and thawed; a backlog cut into batches Redis can take."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.frozen import Frozen, thaw
from consumer.intake import MAX_BATCH, MAX_BATCH_BYTES
from consumer.offers import batch
from consumer.stream import Record
from schemas.delivery import Action, delivery_id

TEXT = st.text(st.characters(codec="utf-8"), max_size=80)
KIB = 1 << 10


@given(
    st.builds(
        Frozen,
        delivery_id=TEXT,
        referral_id=TEXT,
        revision=st.integers(0, 2**31 - 1),
        account_id=TEXT,
        campaign_id=TEXT,
        produced_at_us=st.integers(-(2**62), 2**62),
        body=st.binary(max_size=400),
        values=st.dictionaries(TEXT, TEXT, max_size=4),
        removal=st.none() | TEXT.map(str.encode),
        action=st.sampled_from(Action),
    )
)
def test_what_was_frozen_comes_back(frozen: Frozen) -> None:
    assert thaw(frozen.freeze()) == frozen


def test_what_takes_a_delivery_back_has_its_own_key_and_the_same_values() -> None:
    made = Frozen("d", "r", 3, "a", "c", 0, b"{}", {"email": "zoe@example.com"}, b"")
    back = made.taken_back("crm")
    assert back == Frozen(
        delivery_id("crm", "r", 3, Action.REMOVE), "r", 3, "a", "c", 0, b"", made.values, None, Action.REMOVE
    )
    assert back.taken_back("crm") is None
    assert "zoe" not in repr(made) + repr(back)


@given(body=st.binary(max_size=400))
def test_the_body_stands_at_the_end_byte_for_byte(body: bytes) -> None:
    """Line feeds, NULs and what is no UTF-8 included: the CRM gets what was rendered."""
    raw = Frozen("d", "r\nr", 1, "a", "c\n", 0, body).freeze()
    head, _, rest = raw.partition(b"\n")
    assert rest == body
    assert head.isascii()


def records(*sizes: int | None) -> list[Record]:
    return [
        Record("referrals", 0, i, b"k", None if size is None else bytes(size), 0)
        for i, size in enumerate(sizes)
    ]


@pytest.mark.parametrize(
    ("sizes", "taken"),
    [
        pytest.param([], 0, id="nothing"),
        pytest.param([10], 1, id="one"),
        pytest.param([None] * 3, 3, id="without values"),
        pytest.param([1] * (MAX_BATCH - 1), MAX_BATCH - 1, id="one below the count"),
        pytest.param([1] * MAX_BATCH, MAX_BATCH, id="exactly the count"),
        pytest.param([1] * (MAX_BATCH + 1), MAX_BATCH, id="one above the count"),
        pytest.param([MAX_BATCH_BYTES], 1, id="exactly the bytes"),
        pytest.param([MAX_BATCH_BYTES - 1, 1], 2, id="two that just fit"),
        pytest.param([MAX_BATCH_BYTES, 1], 1, id="one byte too many"),
        pytest.param([MAX_BATCH_BYTES + 1], 1, id="too large alone: still one, or it would stand for ever"),
        pytest.param([10, MAX_BATCH_BYTES + 1, 10], 1, id="a large one waits for the next call"),
        pytest.param([400 * KIB] * 4, 2, id="large ones"),
    ],
)
def test_a_batch_is_the_oldest_that_fit(sizes: list[int | None], taken: int) -> None:
    backlog = records(*sizes)
    assert batch(backlog) == backlog[:taken]


@given(st.lists(st.sampled_from([None, 0, 1, 600, 100 * KIB, 700 * KIB, MAX_BATCH_BYTES + 1]), max_size=40))
def test_batch_after_batch_takes_all_within_bounds(sizes: list[int | None]) -> None:
    rest, batches = records(*sizes), []
    while rest:
        batches.append(batch(rest))
        rest = rest[len(batches[-1]) :]
    assert [r for taken in batches for r in taken] == records(*sizes)
    weight = [sum(len(r.value or b"") for r in taken) for taken in batches]
    assert all(
        len(taken) == 1 or size <= MAX_BATCH_BYTES for taken, size in zip(batches, weight, strict=True)
    )
    # None is cut short: what follows would not have fitted.
    for (_, size), (after, _) in pairwise(zip(batches, weight, strict=True)):
        assert size + len(after[0].value or b"") > MAX_BATCH_BYTES
