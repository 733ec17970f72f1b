"""Points in time as operators write them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from console.moment import moment
from consumer.service import Stop


@pytest.mark.parametrize(
    ("given", "zone", "utc"),
    [
        pytest.param("2026-01-31T08:00:00+00:00", None, (2026, 1, 31, 8), id="offset"),
        pytest.param("2026-01-31T08:00Z", None, (2026, 1, 31, 8), id="Z"),
        pytest.param(
            "2026-01-31T08:00+11:00", "Europe/Berlin", (2026, 1, 30, 21), id="an offset wins over the zone"
        ),
        pytest.param(
            "2026-01-31T08:00", "Australia/Sydney", (2026, 1, 30, 21), id="in the zone, summer time"
        ),
        pytest.param(
            "2026-07-31T08:00", "Australia/Sydney", (2026, 7, 30, 22), id="in the zone, winter time"
        ),
        pytest.param("2026-01-31", "Asia/Tokyo", (2026, 1, 30, 15), id="a day begins at the zone's midnight"),
        pytest.param("2026-03-29T03:00", "Europe/Berlin", (2026, 3, 29, 1), id="just after a gap"),
    ],
)
def test_a_moment_is_one_instant(given: str, zone: str | None, utc: tuple[int, int, int, int]) -> None:
    found = moment(given, zone)
    assert found == datetime(*utc, tzinfo=UTC)
    assert found.tzinfo is not None


@pytest.mark.parametrize(
    ("given", "zone", "says"),
    [
        pytest.param(
            "yesterday", None, "is not a time: use earliest, latest or one such as", id="not a time"
        ),
        pytest.param("2026-02-30T08:00Z", None, "is not a time", id="no such day"),
        pytest.param("2026-01-31T08:00", None, "does not say which zone", id="no offset and no zone"),
        pytest.param(
            "2026-10-25T02:30",
            "Europe/Berlin",
            "clocks of Europe/Berlin change",
            id="an hour that comes twice",
        ),
        pytest.param(
            "2026-03-29T02:30",
            "Europe/Berlin",
            "clocks of Europe/Berlin change",
            id="an hour that is not there",
        ),
    ],
)
def test_what_is_no_instant_is_refused(given: str, zone: str | None, says: str) -> None:
    with pytest.raises(Stop, match=says):
        moment(given, zone, also="earliest, latest or ")
