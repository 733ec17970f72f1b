"""Schedules: each local slot once, also when the clocks change, and a missed one caught up once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher import schedule
from schemas import cron, slots
from schemas.connection import Schedule


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def walked(line: str, zone: str, after: str, until: str) -> list[str]:
    """Local and UTC times of the slots due in (after, until], as one who looks every minute claims them."""
    found: list[str] = []
    last: str | None = None
    now, since = utc(after), utc(after)
    while now <= utc(until):
        slot = schedule.due(Schedule(cron=line, zone=zone), last, since, now)
        if slot is not None:
            last = slot.text
            found.append(f"{slot.local:%d %H:%M} = {slot.due:%d %H:%M}Z")
        now += timedelta(minutes=1)
    return found


@pytest.mark.case(29)
@pytest.mark.parametrize(
    ("zone", "line", "after", "until", "expected"),
    [
        pytest.param("America/New_York", "30 2 * * *", "2026-03-07T12:00", "2026-03-09T12:00",
                     ["08 02:30 = 08 07:00Z", "09 02:30 = 09 06:30Z"], id="New York, gap, daily: at its end"),
        pytest.param("America/New_York", "*/30 * * * *", "2026-03-08T05:45", "2026-03-08T08:00",
                     ["08 01:00 = 08 06:00Z", "08 01:30 = 08 06:30Z", "08 03:00 = 08 07:00Z", "08 03:30 = 08 07:30Z",
                      "08 04:00 = 08 08:00Z"], id="New York, gap, half-hourly: the slots of one instant are one window"),
        pytest.param("America/New_York", "30 1 * * *", "2026-10-31T12:00", "2026-11-02T12:00",
                     ["01 01:30 = 01 05:30Z", "02 01:30 = 02 06:30Z"], id="New York, fold, daily: once, the first"),
        pytest.param("America/New_York", "*/30 * * * *", "2026-11-01T04:30", "2026-11-01T07:30",
                     ["01 01:00 = 01 05:00Z", "01 01:30 = 01 05:30Z", "01 02:00 = 01 07:00Z", "01 02:30 = 01 07:30Z"],
                     id="New York, fold, half-hourly: no slot twice"),
        pytest.param("Australia/Sydney", "30 2 * * *", "2026-10-02T20:00", "2026-10-04T20:00",
                     ["04 02:30 = 03 16:00Z", "05 02:30 = 04 15:30Z"], id="Sydney, gap"),
        pytest.param("Australia/Sydney", "30 2 * * *", "2026-04-04T00:00", "2026-04-05T20:00",
                     ["05 02:30 = 04 15:30Z", "06 02:30 = 05 16:30Z"], id="Sydney, fold"),
        pytest.param("Europe/London", "30 1 * * *", "2026-03-28T12:00", "2026-03-30T12:00",
                     ["29 01:30 = 29 01:00Z", "30 01:30 = 30 00:30Z"], id="London, gap"),
        pytest.param("Europe/London", "30 1 * * *", "2026-10-24T12:00", "2026-10-26T12:00",
                     ["25 01:30 = 25 00:30Z", "26 01:30 = 26 01:30Z"], id="London, fold"),
        pytest.param("Australia/Lord_Howe", "15 2 * * *", "2026-10-03T12:00", "2026-10-04T16:00",
                     ["04 02:15 = 03 15:30Z", "05 02:15 = 04 15:15Z"], id="Lord Howe, half-hour gap"),
        pytest.param("Australia/Lord_Howe", "*/15 * * * *", "2026-04-04T14:20", "2026-04-04T15:45",
                     ["05 01:30 = 04 14:30Z", "05 01:45 = 04 14:45Z", "05 02:00 = 04 15:30Z", "05 02:15 = 04 15:45Z"],
                     id="Lord Howe, half-hour fold"),
        pytest.param("Australia/Lord_Howe", "0 */2 * * *", "2026-04-04T12:30", "2026-04-04T18:00",
                     ["05 00:00 = 04 13:00Z", "05 02:00 = 04 15:30Z", "05 04:00 = 04 17:30Z"],
                     id="Lord Howe, fold, every two hours: 02:00 is not skipped"),
        pytest.param("Pacific/Apia", "0 12 * * *", "2011-12-29T00:00", "2012-01-01T00:00",
                     ["29 12:00 = 29 22:00Z", "30 12:00 = 30 10:00Z", "31 12:00 = 30 22:00Z", "01 12:00 = 31 22:00Z"],
                     id="Apia, a day that never was: at its end"),
        pytest.param("UTC", "0 8 * * 1-5", "2026-03-06T07:00", "2026-03-09T09:00",
                     ["06 08:00 = 06 08:00Z", "09 08:00 = 09 08:00Z"], id="weekdays"),
        pytest.param("UTC", "0 0 29 2 *", "2028-02-28T22:00", "2028-03-01T00:00", ["29 00:00 = 29 00:00Z"], id="29 February"),
    ],
)  # fmt: skip
def test_each_local_slot_is_due_once(
    zone: str, line: str, after: str, until: str, expected: list[str]
) -> None:
    assert walked(line, zone, after, until) == expected


DAILY = Schedule(cron="0 8 * * *", zone="Australia/Sydney")
STARTED = utc("2026-06-01T00:00")


@pytest.mark.parametrize(
    ("last", "now", "expected"),
    [
        pytest.param(None, "2026-06-01T21:59", None, id="new: nothing before the first slot"),
        pytest.param(None, "2026-06-01T22:00", "2026-06-02T08:00", id="new: at its first slot"),
        pytest.param("2026-06-02T08:00[Australia/Sydney]", "2026-06-01T22:00", None, id="claimed: not again"),
        pytest.param("2026-06-02T08:00[Australia/Sydney]", "2026-06-02T21:59", None, id="claimed: until the next"),
        pytest.param("2026-06-02T08:00[Australia/Sydney]", "2026-06-02T22:00", "2026-06-03T08:00", id="the next"),
        pytest.param("2026-06-02T08:00[Australia/Sydney]", "2026-06-20T05:00", "2026-06-20T08:00", id="down: the latest"),
        pytest.param("1990-01-01T08:00[Australia/Sydney]", "2026-06-20T05:00", "2026-06-20T08:00", id="down for years"),
        pytest.param("2026-06-02T08:00", "2026-06-02T22:00", "2026-06-03T08:00", id="a text without zone"),
        pytest.param("2026-06-02T08:00[America/New_York]", "2026-06-02T12:00", None, id="edited zone: not again"),
        pytest.param("2026-06-02T08:00[America/New_York]", "2026-06-02T22:00", "2026-06-03T08:00", id="edited zone: next"),
        pytest.param("2026-06-02T23:00[Australia/Sydney]", "2026-06-02T22:00", "2026-06-03T08:00", id="edited line"),
    ],
)  # fmt: skip
def test_due(last: str | None, now: str, expected: str | None) -> None:
    slot = schedule.due(DAILY, last, STARTED, utc(now))
    assert (slot and slot.text) == (expected and f"{expected}[Australia/Sydney]")


def test_an_edited_zone_does_not_lose_the_slot_of_the_same_local_time() -> None:
    claimed = "2026-06-02T08:00[Australia/Sydney]"
    west = Schedule(cron="0 8 * * *", zone="America/New_York")
    assert schedule.due(west, claimed, STARTED, utc("2026-06-02T11:59")) is None
    slot = schedule.due(west, claimed, STARTED, utc("2026-06-02T12:00"))
    assert slot is not None
    assert slot.text == "2026-06-02T08:00[America/New_York]"


def test_the_timer_is_set_to_what_is_due_or_to_the_next_slot() -> None:
    claimed = "2026-06-02T08:00[Australia/Sydney]"
    now = utc("2026-06-02T10:00")
    assert schedule.next_due(DAILY, claimed, STARTED, now) == utc("2026-06-02T22:00")
    assert schedule.next_due(DAILY, claimed, STARTED, utc("2026-06-05T10:00")) == utc("2026-06-04T22:00")
    assert schedule.next_due(DAILY, None, now, now) == utc("2026-06-02T22:00")


def test_a_window_that_began_at_a_slot_waits_for_the_next() -> None:
    assert schedule.due(DAILY, None, utc("2026-06-01T22:00"), utc("2026-06-01T22:00")) is None


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01T00:00[UTC]", "2026-12-01T00:00[No/Where]"])
def test_a_slot_that_cannot_be_read_counts_from_when_it_was_claimed(text: str) -> None:
    with pytest.raises(ValueError):
        slots.parse(text, "UTC")
    claimed = utc("2026-06-01T22:00:01")
    assert schedule.due(DAILY, text, claimed, utc("2026-06-02T21:59")) is None
    slot = schedule.due(DAILY, text, claimed, utc("2026-06-02T22:00"))
    assert slot is not None
    assert slot.text == "2026-06-03T08:00[Australia/Sydney]"


@pytest.mark.case(29)
def test_a_slot_claimed_by_a_clock_that_was_ahead_stops_nothing_once_it_is_right() -> None:
    ahead, claimed = "2031-06-03T08:00[Australia/Sydney]", utc("2026-06-02T05:00")
    assert schedule.due(DAILY, ahead, claimed, utc("2026-06-02T05:01")) is None
    slot = schedule.due(DAILY, ahead, claimed, utc("2026-06-02T22:00"))
    assert slot is not None
    assert slot.text == "2026-06-03T08:00[Australia/Sydney]"
    # Where all clocks were ahead it is not known when that was.
    assert schedule.due(DAILY, ahead, utc("2031-06-02T22:00"), utc("2026-06-02T22:00")) is None
    # While it is ahead it is not due again and again.
    assert schedule.due(DAILY, ahead, claimed, utc("2031-06-02T22:01")) is None


@pytest.mark.case(29)
def test_a_slot_claimed_a_moment_early_is_claimed_once() -> None:
    """One worker's clock is a second ahead of another's, and of the one of Redis."""
    last, claimed = "2026-06-03T08:00[Australia/Sydney]", utc("2026-06-02T21:59:59")
    for now in ("2026-06-02T21:59:59", "2026-06-02T22:00:00", "2026-06-02T22:00:01"):
        assert schedule.due(DAILY, last, claimed, utc(now)) is None


LINES = st.sampled_from(
    ["* * * * *", "*/7 * * * *", "*/30 * * * *", "0 * * * *", "30 1 * * *", "30 2 * * *", "15 */2 * * *", "0 0 * * *",
     "45 1,2,3 * * *", "0 3 * * 0", "59 23 L * *", "0 0 1 * 1"]
)  # fmt: skip
ZONES = st.sampled_from(
    ["UTC", "America/New_York", "Australia/Sydney", "Australia/Lord_Howe", "Europe/London", "America/St_Johns",
     "Asia/Kathmandu", "Africa/Casablanca", "Pacific/Apia", "America/Nuuk"]
)  # fmt: skip
#: Half of them within three hours of a change of some zone's clocks.
NEAR = ["2026-03-08T07:00", "2026-11-01T06:00", "2026-10-03T15:30", "2026-04-04T15:00", "2026-03-29T01:00",
        "2026-10-25T01:00", "2011-12-30T10:00"]  # fmt: skip
INSTANTS = st.one_of(
    st.datetimes(datetime(2000, 1, 1), datetime(2036, 1, 1)).map(lambda at: at.replace(tzinfo=UTC)),
    st.builds(
        lambda at, s: utc(at) + timedelta(seconds=s), st.sampled_from(NEAR), st.integers(-10_800, 10_800)
    ),
)


@pytest.mark.case(29)
@given(LINES, ZONES, INSTANTS)
def test_slots_strictly_increase_and_none_comes_twice(line: str, zone: str, start: datetime) -> None:
    given = Schedule(cron=line, zone=zone)
    now, last, seen = start, None, []
    for _ in range(12):
        now = schedule.next_due(given, last, start, now)
        slot = schedule.due(given, last, start, now)
        assert slot is not None, "the timer fires when something is due"
        assert slot.due == now
        assert schedule.due(given, slot.text, start, now) is None
        seen.append(slot)
        last = slot.text
    assert all(a.due < b.due and a.local < b.local for a, b in zip(seen, seen[1:], strict=False))


@given(LINES, ZONES, INSTANTS)
def test_the_last_slot_is_the_one_a_search_forward_ends_at(line: str, zone: str, at: datetime) -> None:
    given = Schedule(cron=line, zone=zone)
    last, following = schedule.last_slot(given, at), schedule.next_slot(given, at)
    assert last is not None
    assert last.due <= at < following.due
    before = schedule.last_slot(given, following.due - timedelta(microseconds=1))
    assert before == last


@given(LINES, ZONES, INSTANTS)
def test_a_slot_is_due_at_its_local_time_or_when_the_gap_ends(line: str, zone: str, at: datetime) -> None:
    slot = schedule.next_slot(Schedule(cron=line, zone=zone), at)
    there = slot.due.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    if there != slot.local:
        second_before = (slot.due - timedelta(seconds=1)).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
        assert second_before < slot.local < there
    else:
        assert slot.due.astimezone(ZoneInfo(zone)).fold == 0


@given(LINES, ZONES, INSTANTS)
def test_a_slots_text_names_it(line: str, zone: str, at: datetime) -> None:
    slot = schedule.next_slot(Schedule(cron=line, zone=zone), at)
    assert slots.parse(slot.text, "UTC") == slot


@pytest.mark.parametrize(
    "line",
    ["", "* * * *", "* * * * * *", "@daily", "H * * * *", "60 * * * *", "* 24 * * *", "0 0 30 2 *", "0 0 31 4,6 *",
     "*/0 * * * *", "5-1 * * * *", "0 0 * * 8", "a b c d e", "0 0 * * MON#6", "\n", "0 8 * * *" + " " * 600],
)  # fmt: skip
def test_lines_refused(line: str) -> None:
    with pytest.raises(ValueError):
        cron.check(line)


@pytest.mark.parametrize(
    "line", ["* * * * *", "0 8 * * MON-FRI", "0 0 29 2 *", "0 0 L * *", "0 0 LW * *", "0 0 * * 5L"]
)
def test_lines_taken(line: str) -> None:
    assert cron.check(line) == line
