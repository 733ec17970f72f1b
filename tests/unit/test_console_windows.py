"""How a window is shown, and when a flush that was asked for has ended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from batcher.window import State, WindowState
from console.windows import late, outcome, row
from consumer.service import Stop

SINCE = datetime(2026, 3, 8, 2, 30, tzinfo=UTC)


def window(
    number: int = 7, state: State = State.CLOSED, slot: str = "asked:2026-03-08", **fields: Any
) -> WindowState:
    return WindowState(
        connection="drop",
        number=number,
        state=state,
        slot=slot,
        token=1,
        since=SINCE,
        reason=fields.pop("reason", ""),
        tries=0,
        retry_at=0.0,
        fields={"rows": "12", "outcome": "DELIVERED", **fields},
    )


@pytest.mark.parametrize(
    ("seen", "before", "asked", "expected"),
    [
        pytest.param(None, 0, True, None, id="no window yet"),
        pytest.param(window(6), 6, True, None, id="the one before has ended"),
        pytest.param(window(6), 6, False, None, id="claimed, not yet to be seen"),
        pytest.param(window(7, State.SEALED), 6, False, None, id="under way"),
        pytest.param(window(7), 6, True, None, id="another's wish, ours still waits"),
        pytest.param(window(7), 6, False, "window drop-000007: DELIVERED, 12 rows", id="ended"),
        pytest.param(
            window(7, outcome="UNCERTAIN", reason="no answer"),
            6, False, "window drop-000007: UNCERTAIN, 12 rows (no answer)", id="ended with a reason",
        ),
        pytest.param(
            window(8, slot="2026-03-08T03:30"),
            6, False, "the window asked for has ended; another one, drop-000008, came after it", id="overtaken",
        ),
    ],
)  # fmt: skip
def test_a_flush_has_ended_when_its_window_is_closed(
    seen, before: int, asked: bool, expected: str | None
) -> None:
    assert outcome(seen, before, asked=asked) == expected


def test_a_held_window_is_told_at_once() -> None:
    with pytest.raises(Stop, match="window drop-000007 is held: password: not set"):
        outcome(window(7, State.SEALED, held="1", reason="password: not set"), 6, asked=False)


def test_a_flush_that_takes_too_long_says_where_it_stands() -> None:
    assert "does `python -m batcher flush` run?" in late(None, "drop", asked=True)
    assert "does `python -m batcher flush` run?" in late(window(6), "drop", asked=True)
    assert "drop-000007 has not ended yet (SENDING, 451 try later)" in late(
        window(7, State.SENDING, reason="451 try later"), "drop", asked=False
    )


def test_rows_of_windows() -> None:
    assert row("drop", None, None) == ("drop", "", "none yet", "", "", "", "")
    assert (
        row("drop", None, "2026-03-08T02:31:00+00:00")[5]
        == "a flush was asked for at 2026-03-08T02:31:00+00:00"
    )
    shown = row("drop", window(7, State.SEALED, held="1", reason="password: not set"), None)
    assert shown == (
        "drop", "7", "SEALED (held)", "asked:2026-03-08", "12", "password: not set", "2026-03-08T02:30:00+00:00",
    )  # fmt: skip
