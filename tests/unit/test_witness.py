"""Whether Redis still knows the windows Kafka was told of."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from batcher.window import State, WindowState
from batcher.witness import require_windows
from consumer.manifests import Remembered
from consumer.service import Stop
from schemas.manifest import Kind, Manifest

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def told(number: int, outcome: str | None) -> Remembered:
    manifest = Manifest(kind=Kind.WINDOW, at=NOW, connection="daily", window=number, outcome=outcome)
    return Remembered(None, None, {"daily": {number: manifest, number - 1: manifest}})


def known(number: int, state: State) -> dict[str, WindowState]:
    return {"daily": WindowState("daily", number, state, "", 1, NOW, "", 0, 0.0, {})}


@pytest.mark.parametrize(
    ("remembered", "states"),
    [
        pytest.param(Remembered(), {}, id="nothing was told"),
        pytest.param(told(3, "DELIVERED"), known(3, State.CLOSED), id="as told"),
        pytest.param(told(3, "DELIVERED"), known(3, State.ENDED), id="told, and died before closing"),
        pytest.param(told(3, None), known(3, State.SEALED), id="under way"),
        pytest.param(told(3, "DELIVERED"), known(4, State.CLAIMED), id="the next one is claimed"),
    ],
)
def test_a_redis_that_knows_as_much_is_believed(remembered: Remembered, states: dict) -> None:
    require_windows(remembered, states)


@pytest.mark.case(32)
@pytest.mark.parametrize(
    ("remembered", "states", "knows"),
    [
        pytest.param(told(3, None), {}, "none of its windows", id="the window's key is gone"),
        pytest.param(told(3, None), known(2, State.CLOSED), "daily-000002 as CLOSED", id="an older number"),
        pytest.param(
            told(3, "DELIVERED"), known(3, State.UPLOADED), "daily-000003 as UPLOADED", id="it ended"
        ),
    ],
)
def test_a_redis_that_knows_less_stops_the_flush(remembered: Remembered, states: dict, knows: str) -> None:
    with pytest.raises(Stop, match=f"daily-000003 was told to Kafka.*but Redis knows {knows}"):
        require_windows(remembered, states)
