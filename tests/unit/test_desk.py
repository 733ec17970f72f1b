"""Which window a desk takes up, as a table."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from batcher.desk import last_slot, wanted
from batcher.window import State, WindowState
from schemas.connection import SftpConnection

CONNECTION = SftpConnection.model_validate(
    {
        "name": "daily",
        "kind": "sftp",
        "host": "sftp.example.com",
        "username": "acme",
        "password": "${env:PASSWORD}",
        "host_keys": ["SHA256:" + "A" * 43],
        "schedule": {"cron": "0 8 * * *", "zone": "UTC"},
        "fields": ["referral_id"],
    }
)
NOW = datetime(2026, 6, 2, 8, 0, 30, tzinfo=UTC)
YESTERDAY, TODAY = "2026-06-01T08:00[UTC]", "2026-06-02T08:00[UTC]"
EARLIER, LATER = "2026-06-02T08:00:00+00:00", "2026-06-02T08:00:20+00:00"
AHEAD = "2026-06-02T09:00:00+00:00"
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def window(state: State, last: str = YESTERDAY, retry_in: float = 0, **fields: str) -> WindowState:
    given: dict[str, Any] = {"last": last, **fields}
    retry_at = NOW.timestamp() + retry_in if retry_in else 0.0
    return WindowState("daily", 7, state, last, 1, NOW, "", 0, retry_at, given)


tried = str(int(NOW.timestamp()) - 20)


@pytest.mark.parametrize(
    ("found", "asked", "began", "expected"),
    [
        pytest.param(None, None, NOW, None, id="new: nothing before the first slot"),
        pytest.param(None, None, LONG_AGO, TODAY, id="new: its first slot came"),
        pytest.param(None, EARLIER, NOW, f"asked:{EARLIER}", id="new: somebody asked"),
        pytest.param(window(State.CLOSED), None, NOW, TODAY, id="the next slot came"),
        pytest.param(window(State.CLOSED, TODAY), None, NOW, None, id="today's was claimed"),
        pytest.param(window(State.CLOSED, TODAY), EARLIER, NOW, f"asked:{EARLIER}", id="somebody asked between slots"),
        pytest.param(window(State.CLOSED), EARLIER, NOW, f"asked:{EARLIER}", id="a wish goes before the slot, which waits"),
        pytest.param(window(State.CLOSED, ""), None, LONG_AGO, TODAY, id="only ever asked for: the schedule counts from the start"),
        pytest.param(window(State.CLOSED, ""), None, NOW, None, id="only ever asked for: nothing before the first slot"),
        *(
            pytest.param(window(state), None, NOW, "", id=f"{state}: taken up, before the next slot")
            for state in State
            if state is not State.CLOSED
        ),
        pytest.param(window(State.SEALED, retry_in=1), None, NOW, None, id="its pause is not over"),
        pytest.param(window(State.SEALED, retry_in=-1), None, NOW, "", id="its pause is over"),
        pytest.param(window(State.SEALED, retry_in=1), EARLIER, NOW, "", id="asked for, and never tried: at once"),
        pytest.param(window(State.SEALED, retry_in=300, tried_at=tried), LATER, NOW, "", id="asked for after the last try: at once"),
        pytest.param(window(State.SEALED, retry_in=300, tried_at=tried), EARLIER, NOW, None, id="asked for before the last try"),
        pytest.param(window(State.SEALED, retry_in=300, held="1", tried_at=tried), None, NOW, None, id="held"),
        pytest.param(window(State.SEALED, retry_in=86_400, tried_at=tried), None, NOW, "", id="tried by a clock that was ahead: no pause is so long"),
        pytest.param(window(State.SEALED, retry_in=300, tried_at=tried), AHEAD, NOW, None, id="asked by a clock that is ahead: not at every look"),
        pytest.param(window(State.CLOSED, "2026-06-02T08:00[Gone/Zone]"), None, NOW, None, id="a slot of a zone that is gone: not again"),
        pytest.param(window(State.CLOSED, "2026-06-02T08:00[Gone/Zone]"), None, LONG_AGO, TODAY, id="a slot of a zone that is gone: the next one"),
        pytest.param(window(State.CLOSED, "2031-01-01T08:00[UTC]"), None, LONG_AGO, TODAY, id="a slot yet to come: the next one"),
    ],
)  # fmt: skip
def test_wanted(found: WindowState | None, asked: str | None, began: datetime, expected: str | None) -> None:
    assert wanted(("acme", CONNECTION), found, asked, began, NOW) == expected


FULL = "full:2026-06-02T08:00:30.000+00:00"


@pytest.mark.parametrize(
    ("found", "asked", "began", "expected"),
    [
        pytest.param(None, None, NOW, FULL, id="the first window, before the first slot"),
        pytest.param(window(State.CLOSED, TODAY), None, NOW, FULL, id="between slots"),
        pytest.param(window(State.CLOSED, ""), None, NOW, FULL, id="no slot was claimed yet"),
        pytest.param(window(State.CLOSED), None, NOW, TODAY, id="a slot is due as well: it counts"),
        pytest.param(window(State.CLOSED, TODAY), EARLIER, NOW, f"asked:{EARLIER}", id="somebody asked as well: answered"),
        pytest.param(window(State.SEALED, TODAY), None, NOW, "", id="a window under way comes first"),
        pytest.param(window(State.SEALED, TODAY, retry_in=1), None, NOW, None, id="and its pause is not cut short"),
        pytest.param(window(State.SEALED, TODAY, retry_in=300, held="1", tried_at=tried), None, NOW, None, id="held: no other passes it"),
    ],
)  # fmt: skip
def test_wanted_of_a_full_window(
    found: WindowState | None, asked: str | None, began: datetime, expected: str | None
) -> None:
    assert wanted(("acme", CONNECTION), found, asked, began, NOW, full=True) == expected
    assert wanted(None, None, None, began, NOW, full=True) is None


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(None, None, id="never had a window"),
        pytest.param(window(State.CLOSED), None, id="nothing under way"),
        pytest.param(window(State.CLAIMED), None, id="claimed: nobody says how it is to look"),
        pytest.param(window(State.SEALED), "", id="sealed: it goes out"),
        pytest.param(window(State.ENDED), "", id="sent: it is closed"),
        pytest.param(window(State.UPLOADED, retry_in=1), None, id="its pause is not over"),
    ],
)
def test_a_connection_no_longer_in_force(found: WindowState | None, expected: str | None) -> None:
    assert wanted(None, found, None, LONG_AGO, NOW) == expected
    if expected is None:
        assert wanted(None, found, EARLIER, LONG_AGO, NOW) in {None, ""}


def test_last_slot() -> None:
    assert last_slot(None) is None
    assert last_slot(window(State.CLOSED, "")) is None
    assert last_slot(window(State.SEALED)) == YESTERDAY
