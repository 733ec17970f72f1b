"""The three forms of a schedule: their slots where clocks change, and what people are told of a wrong one."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher import schedule
from schemas import slots
from schemas.connection import Account, EmailConnection, Schedule, load_definition
from schemas.connection_file import assemble, parse


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def walk(given: Schedule, after: datetime, until: datetime) -> list[slots.Slot]:
    """The slots in (after, until] as a desk claims them that wakes up for each."""
    found: list[slots.Slot] = []
    now, last = after, None
    while (then := schedule.next_due(given, last, after, now)) <= until:
        now = then
        slot = schedule.due(given, last, after, now)
        assert slot is not None
        assert slot.due == now
        found.append(slot)
        last = slot.text
    return found


CRON = {"cron": "30 1,2 * * *"}
AT = {"at": ["02:30", "01:30"]}
HALF_HOURLY = {"every": "30m"}
HOURLY = {"every": "1h"}
TWO_HOURLY = {"every": "2h"}
DAILY = {"every": "1d"}


@pytest.mark.parametrize(
    ("form", "zone", "after", "until", "expected"),
    [
        # Clocks go from 02:00 to 03:00 at 07:00Z.
        pytest.param(CRON, "America/New_York", "2026-03-08T05:30", "2026-03-09T05:29", "06:30 07:00", id="New York, gap, cron"),
        pytest.param(AT, "America/New_York", "2026-03-08T05:30", "2026-03-09T05:29", "06:30 07:00", id="New York, gap, at"),
        pytest.param(HALF_HOURLY, "America/New_York", "2026-03-08T05:30", "2026-03-08T08:30", "06:00 06:30 07:00 07:30 08:00 08:30", id="New York, gap, 30m"),
        pytest.param(TWO_HOURLY, "America/New_York", "2026-03-08T03:30", "2026-03-08T10:30", "05:00 07:00 08:00 10:00", id="New York, gap, 2h"),
        # From 02:00 to 01:00 at 06:00Z.
        pytest.param(CRON, "America/New_York", "2026-11-01T04:30", "2026-11-02T06:29", "05:30 07:30", id="New York, fold, cron"),
        pytest.param(AT, "America/New_York", "2026-11-01T04:30", "2026-11-02T06:29", "05:30 07:30", id="New York, fold, at"),
        pytest.param(HALF_HOURLY, "America/New_York", "2026-11-01T04:30", "2026-11-01T07:30", "05:00 05:30 06:00 06:30 07:00 07:30", id="New York, fold, 30m"),
        pytest.param(TWO_HOURLY, "America/New_York", "2026-11-01T03:30", "2026-11-01T10:30", "04:00 07:00 09:00", id="New York, fold, 2h"),
        # From 02:00 to 03:00 at 16:00Z.
        pytest.param(CRON, "Australia/Sydney", "2026-10-03T14:30", "2026-10-04T14:29", "15:30 16:00", id="Sydney, gap, cron"),
        pytest.param(AT, "Australia/Sydney", "2026-10-03T14:30", "2026-10-04T14:29", "15:30 16:00", id="Sydney, gap, at"),
        pytest.param(HALF_HOURLY, "Australia/Sydney", "2026-10-03T14:30", "2026-10-03T17:30", "15:00 15:30 16:00 16:30 17:00 17:30", id="Sydney, gap, 30m"),
        pytest.param(TWO_HOURLY, "Australia/Sydney", "2026-10-03T12:30", "2026-10-03T19:30", "14:00 16:00 17:00 19:00", id="Sydney, gap, 2h"),
        # From 03:00 to 02:00 at 16:00Z.
        pytest.param(CRON, "Australia/Sydney", "2026-04-04T13:30", "2026-04-05T15:29", "14:30 15:30", id="Sydney, fold, cron"),
        pytest.param(AT, "Australia/Sydney", "2026-04-04T13:30", "2026-04-05T15:29", "14:30 15:30", id="Sydney, fold, at"),
        pytest.param(HALF_HOURLY, "Australia/Sydney", "2026-04-04T14:30", "2026-04-04T17:30", "15:00 15:30 16:00 16:30 17:00 17:30", id="Sydney, fold, 30m"),
        pytest.param(TWO_HOURLY, "Australia/Sydney", "2026-04-04T12:30", "2026-04-04T18:30", "13:00 15:00 16:00 18:00", id="Sydney, fold, 2h"),
        # From 01:00 to 02:00 at 01:00Z.
        pytest.param(CRON, "Europe/London", "2026-03-29T00:30", "2026-03-30T00:29", "01:00 01:30", id="London, gap, cron"),
        pytest.param(AT, "Europe/London", "2026-03-29T00:30", "2026-03-30T00:29", "01:00 01:30", id="London, gap, at"),
        pytest.param(HALF_HOURLY, "Europe/London", "2026-03-28T23:30", "2026-03-29T02:00", "00:00 00:30 01:00 01:30 02:00", id="London, gap, 30m"),
        pytest.param(TWO_HOURLY, "Europe/London", "2026-03-28T22:30", "2026-03-29T03:30", "00:00 01:00 03:00", id="London, gap, 2h"),
        # From 02:00 to 01:00 at 01:00Z.
        pytest.param(CRON, "Europe/London", "2026-10-24T23:30", "2026-10-26T01:29", "00:30 02:30", id="London, fold, cron"),
        pytest.param(AT, "Europe/London", "2026-10-24T23:30", "2026-10-26T01:29", "00:30 02:30", id="London, fold, at"),
        pytest.param(HALF_HOURLY, "Europe/London", "2026-10-24T23:30", "2026-10-25T02:30", "00:00 00:30 01:00 01:30 02:00 02:30", id="London, fold, 30m"),
        pytest.param(TWO_HOURLY, "Europe/London", "2026-10-24T22:30", "2026-10-25T04:30", "23:00 02:00 04:00", id="London, fold, 2h"),
        # From 02:00 to 02:30 at 15:30Z: 02:30 is there, and due as the half hour before it is.
        pytest.param({"cron": "0,15 2 * * *"}, "Australia/Lord_Howe", "2026-10-03T12:00", "2026-10-04T14:59", "15:30", id="Lord Howe, gap, cron"),
        pytest.param({"at": ["01:45", "02:15", "02:45"]}, "Australia/Lord_Howe", "2026-10-03T12:00", "2026-10-04T14:44", "15:15 15:30 15:45", id="Lord Howe, gap, at"),
        pytest.param(HALF_HOURLY, "Australia/Lord_Howe", "2026-10-03T14:30", "2026-10-03T16:30", "15:00 15:30 16:00 16:30", id="Lord Howe, gap, 30m"),
        pytest.param(HOURLY, "Australia/Lord_Howe", "2026-10-03T14:00", "2026-10-03T17:30", "14:30 15:30 16:00 17:00", id="Lord Howe, gap, 1h"),
        # From 02:00 to 01:30 at 15:00Z.
        pytest.param({"cron": "0,45 1,2 * * *"}, "Australia/Lord_Howe", "2026-04-04T13:30", "2026-04-05T14:29", "14:00 14:45 15:30 16:15", id="Lord Howe, fold, cron"),
        pytest.param({"at": ["01:45", "02:15"]}, "Australia/Lord_Howe", "2026-04-04T13:30", "2026-04-05T15:14", "14:45 15:45", id="Lord Howe, fold, at"),
        pytest.param(HALF_HOURLY, "Australia/Lord_Howe", "2026-04-04T13:30", "2026-04-04T16:00", "14:00 14:30 15:00 15:30 16:00", id="Lord Howe, fold, 30m"),
        pytest.param(HOURLY, "Australia/Lord_Howe", "2026-04-04T13:30", "2026-04-04T16:30", "14:00 15:30 16:30", id="Lord Howe, fold, 1h"),
        # Midnight twice, midnight never, and a day that never was.
        pytest.param(DAILY, "America/Havana", "2026-10-31T12:00", "2026-11-02T12:00", "04:00 05:00", id="Havana, fold at midnight, 1d: once"),
        pytest.param(HOURLY, "America/Havana", "2026-11-01T03:00", "2026-11-01T06:00", "04:00 05:00 06:00", id="Havana, fold at midnight, 1h: both"),
        pytest.param(DAILY, "America/Havana", "2026-03-07T12:00", "2026-03-09T12:00", "05:00 04:00", id="Havana, gap at midnight, 1d"),
        pytest.param(DAILY, "Pacific/Apia", "2011-12-29T00:00", "2012-01-01T00:00", "10:00 10:00 10:00", id="Apia, a day that never was, 1d: with the next"),
        pytest.param({"every": "15m"}, "Asia/Kathmandu", "2026-01-01T00:00", "2026-01-01T01:00", "00:15 00:30 00:45 01:00", id="Kathmandu, 15m"),
        pytest.param(TWO_HOURLY, "Asia/Kathmandu", "2026-01-01T00:00", "2026-01-01T04:30", "00:15 02:15 04:15", id="Kathmandu, 2h: of the local clock"),
        pytest.param({"at": ["08:00"], "days": ["fri", "mon"]}, "UTC", "2026-03-06T08:00", "2026-03-13T08:00", "08:00 08:00", id="weekdays"),
    ],
)  # fmt: skip
def test_instants(form: dict[str, Any], zone: str, after: str, until: str, expected: str) -> None:
    found = walk(Schedule(**form, zone=zone), utc(after), utc(until))
    assert " ".join(f"{slot.due:%H:%M}" for slot in found) == expected


@pytest.mark.case(29)
@pytest.mark.parametrize(
    "zone", ["Australia/Sydney", "America/New_York", "Europe/London", "Australia/Lord_Howe"]
)
def test_a_year_of_times_has_each_local_time_once(zone: str) -> None:
    given = Schedule(at=["00:15", "01:30", "02:40", "12:00"], zone=zone)
    found = walk(given, slots.parse("2025-12-31T23:00", zone).due, slots.parse("2026-12-31T23:00", zone).due)
    days = [date(2026, 1, 1) + timedelta(days=n) for n in range(365)]
    clock = [datetime.strptime(at, "%H:%M").time() for at in given.at or ()]
    assert [slot.local for slot in found] == [datetime.combine(day, at) for day in days for at in clock]
    assert all(one.due < other.due for one, other in itertools.pairwise(found))


@pytest.mark.case(29)
@pytest.mark.parametrize(
    ("zone", "step"),
    [("Australia/Sydney", "1h"), ("America/New_York", "1h"), ("Europe/London", "1h"), ("Australia/Lord_Howe", "30m")],
)  # fmt: skip
def test_a_year_of_an_interval_has_no_hole_and_no_text_twice(zone: str, step: str) -> None:
    given = Schedule(every=step, zone=zone)
    found = walk(given, utc("2026-01-01T00:00"), utc("2026-12-31T23:00"))
    assert {other.due - one.due for one, other in itertools.pairwise(found)} == {given.step}
    assert len({slot.text for slot in found}) == len(found) > 8_700


FORMS = st.sampled_from(
    [{"cron": "*/7 * * * *"}, {"cron": "30 1,2 * * *"}, {"at": ["00:00", "01:59", "02:00", "02:30"]},
     {"at": ["02:15"], "days": ["sun"]}, {"every": "1m"}, {"every": "15m"}, {"every": "20m"}, {"every": "1h"},
     {"every": "3h"}, {"every": "1d"}]
)  # fmt: skip
ZONES = st.sampled_from(
    ["UTC", "America/New_York", "Australia/Sydney", "Australia/Lord_Howe", "Europe/London", "America/Havana",
     "Asia/Kathmandu", "Africa/Casablanca", "Pacific/Apia", "Antarctica/Troll"]
)  # fmt: skip
#: Within half a day of a change of some zone's clocks.
STARTS = st.builds(
    lambda at, s: utc(at) + timedelta(seconds=s),
    st.sampled_from(["2026-03-08T07:00", "2026-11-01T06:00", "2026-10-03T15:30", "2026-04-04T15:00", "2026-03-29T01:00",
                     "2026-10-25T01:00", "2011-12-30T10:00"]),
    st.integers(-43_200, 43_200),
)  # fmt: skip
PAUSES = st.lists(st.integers(1, 7_200).map(lambda s: timedelta(seconds=s)), max_size=20)


@pytest.mark.case(29)
@settings(max_examples=150)
@given(FORMS, ZONES, STARTS, PAUSES)
def test_however_often_one_looks_every_slot_is_had_once(
    form: dict[str, Any], zone: str, start: datetime, pauses: list[timedelta]
) -> None:
    given = Schedule(**form, zone=zone)
    last, before = None, start
    for pause in pauses:
        now = before + pause
        slot, first = schedule.due(given, last, start, now), schedule.next_slot(given, before)
        # One window for all slots that came due since the last look, none where none did.
        assert (slot is not None) == (first.due <= now)
        if slot is not None:
            assert before < slot.due <= now < schedule.next_slot(given, slot.due).due
            assert slots.parse(slot.text, "UTC") == slot
            last = slot.text
        before = now


SYDNEY = {"zone": "Australia/Sydney"}


@pytest.mark.parametrize(
    ("last", "form", "now", "expected"),
    [
        pytest.param("2026-06-02T08:00+10:00[Australia/Sydney]", {"every": "15m"}, "2026-06-01T22:14", None, id="had"),
        pytest.param("2026-06-02T08:00+10:00[Australia/Sydney]", {"every": "15m"}, "2026-06-01T22:15", "2026-06-02T08:15+10:00", id="the next"),
        pytest.param("2026-06-02T08:00+10:00[Australia/Sydney]", {"every": "15m"}, "2026-06-05T22:16", "2026-06-06T08:15+10:00", id="down: one for all"),
        pytest.param("2026-06-02T08:00[Australia/Sydney]", {"at": ["08:00", "16:30"]}, "2026-06-05T06:29", "2026-06-05T08:00", id="down: one for all times"),
        pytest.param("2026-06-02T08:00[Australia/Sydney]", {"every": "1h"}, "2026-06-01T22:30", None, id="from a time to an interval: not again"),
        pytest.param("2026-06-02T08:00[Australia/Sydney]", {"every": "1h"}, "2026-06-01T23:00", "2026-06-02T09:00+10:00", id="from a time to an interval: next"),
        pytest.param("2026-06-02T08:00+10:00[Australia/Sydney]", {"cron": "0 8 * * *"}, "2026-06-01T22:30", None, id="from an interval to a time: not again"),
        pytest.param("2026-06-02T07:45+10:00[Australia/Sydney]", {"cron": "0 8 * * *"}, "2026-06-01T22:00", "2026-06-02T08:00", id="from an interval to a time: next"),
        pytest.param("2026-06-02T08:00[Australia/Sydney]", {"at": ["08:00"]}, "2026-06-01T22:30", None, id="from cron to at: not again"),
        pytest.param("2026-06-02T08:00[Australia/Sydney]", {"at": ["09:00"]}, "2026-06-02T10:00", "2026-06-02T09:00", id="from cron to at: next"),
        pytest.param("2026-06-02T08:00[Australia/ACT]", {"cron": "0 8 * * *"}, "2026-06-01T22:30", None, id="the zone renamed: not again"),
        pytest.param("2026-06-02T08:00[Australia/ACT]", {"cron": "0 8 * * *"}, "2026-06-02T22:00", "2026-06-03T08:00", id="the zone renamed: next"),
    ],
)  # fmt: skip
def test_due(last: str, form: dict[str, Any], now: str, expected: str | None) -> None:
    slot = schedule.due(Schedule(**form, **SYDNEY), last, utc("2026-01-01T00:00"), utc(now))
    assert (slot and slot.text) == (expected and f"{expected}[Australia/Sydney]")


@pytest.mark.case(29)
def test_an_hour_that_comes_twice_has_other_texts_the_second_time() -> None:
    found = walk(
        Schedule(every="30m", zone="America/New_York"), utc("2026-11-01T04:59"), utc("2026-11-01T06:30")
    )
    assert [slot.text.partition("[")[0] for slot in found] == [
        "2026-11-01T01:00-04:00", "2026-11-01T01:30-04:00", "2026-11-01T01:00-05:00", "2026-11-01T01:30-05:00"
    ]  # fmt: skip


# What is stored, and what people read.


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param({"cron": "0 8 * * 1-5", "zone": "Europe/London"}, id="as the first release wrote it"),
        pytest.param({"at": ["08:00", "16:30"], "days": ["mon"], "zone": "UTC", "or_rows": 5}, id="at"),
        pytest.param({"every": "15m", "zone": "UTC", "or_bytes": 1_000}, id="every"),
    ],
)
def test_a_definition_holds_only_what_was_said(stored: dict[str, Any]) -> None:
    connection = {"name": "a", "kind": "email", "recipients": ["a@example.com"], "fields": ["email"]}
    found = EmailConnection.model_validate({**connection, "schedule": stored})
    assert found.model_dump(mode="json")["schedule"] == stored
    account = Account(account="acme", connections=(found,)).model_dump_json()
    assert load_definition(f'{{"accounts": [{account}]}}').by_name()["a"][1] == found


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"cron": "0 8 * * 1", "zone": "Europe/London"}, "0 8 * * 1 Europe/London"),
        ({"at": ["16:30", "08:00"]}, "08:00, 16:30 UTC"),
        ({"at": ["08:00"], "days": ["sun", "mon"], "or_rows": 50_000}, "08:00 mon, sun UTC or 50,000 rows"),
        ({"every": "15m", "or_bytes": 5_000_000}, "every 15m UTC or 5,000,000 bytes"),
    ],
)
def test_told(given: dict[str, Any], told: str) -> None:
    assert Schedule(**given).told == told


FILE = """\
account: acme
connections:
  - name: daily
    kind: email
    recipients: [leads@acme.example]
    fields: [email]
    schedule:
      %s
"""
NEVER = "this cron line never comes due: no month it names has such a day; change one of them"
FIVE = "a cron line has five fields such as 0 8 * * 1-5: minute, hour, day of the month, month and weekday, without"
PARTS = "write how often, as a part of an hour or a day: 1m, 2m"


@pytest.mark.parametrize(
    ("said", "where", "line", "sentence"),
    [
        pytest.param("zone: UTC", "", 7, "does not say when; give one of cron, at or every", id="nothing"),
        pytest.param("cron: '0 8 * * *'\n      every: 1h", ".every", 9, "stands beside cron; give one of cron, at and every", id="two forms"),
        pytest.param("at: ['08:00']\n      cron: '0 8 * * *'\n      every: 1h", ".at", 8, "stands beside cron", id="three forms"),
        pytest.param("cron: '* * * * * *'", ".cron", 8, FIVE, id="every second"),
        pytest.param("cron: '@daily'", ".cron", 8, FIVE, id="@daily"),
        pytest.param("cron: '60 * * * *'", ".cron", 8, "the minute of this cron line cannot be read: write it as in 0 8 * * 1-5", id="minute 60"),
        pytest.param("cron: '0 25 * * *'", ".cron", 8, "the hour of this cron line", id="hour 25"),
        pytest.param("cron: '0 0 32 * *'", ".cron", 8, "the day of the month of this cron line", id="day 32"),
        pytest.param("cron: '0 0 1 13 *'", ".cron", 8, "the month of this cron line", id="month 13"),
        pytest.param("cron: '0 8 * * mon..fri'", ".cron", 8, "the weekday of this cron line", id="weekday"),
        pytest.param("cron: '0 0 30 2 *'", ".cron", 8, NEVER, id="30 February"),
        pytest.param("cron: '0 0 31 4,6 *'", ".cron", 8, NEVER, id="never"),
        pytest.param("cron: 5", ".cron", 8, "put it in quotes", id="cron a number"),
        pytest.param("at: ['25:00']", ".at[0]", 8, 'write a time of day from "00:00" to "23:59", in quotes', id="25:00"),
        pytest.param("at: ['08:00', '24:00']", ".at[1]", 8, "write a time of day", id="24:00"),
        pytest.param("at: ['8:00']", ".at[0]", 8, "write a time of day", id="one digit"),
        pytest.param("at: ['08:00:30']", ".at[0]", 8, "write a time of day", id="seconds"),
        pytest.param("at: [16:30]", ".at[0]", 8, "put it in quotes", id="16:30 is 990"),
        pytest.param("at: '08:00'", ".at", 8, "a list is wanted, here stands a text; write a list", id="one time"),
        pytest.param("at: []", ".at", 8, "needs at least 1 entry", id="no time"),
        pytest.param("at:\n      - '08:00'\n      - '09:00'\n      - '08:00'", ".at[2]", 11, "stands here twice; take one of them out", id="a time twice"),
        pytest.param(f"at: {[f'{n // 60:02}:{n % 60:02}' for n in range(49)]}", ".at", 8, "has more than 48 entries", id="49 times"),
        pytest.param("cron: '0 8 * * *'\n      days: [mon]", ".days", 9, 'goes with times of day; give at: ["08:00"], or leave it out', id="days without at"),
        pytest.param("at: ['08:00']\n      days: [mon, mon]", ".days[1]", 9, "stands here twice", id="a day twice"),
        pytest.param("at: ['08:00']\n      days: [monday]", ".days[0]", 9, "must be 'mon', 'tue'", id="a day's whole name"),
        pytest.param("at: ['08:00']\n      days: []", ".days", 9, "needs at least 1 entry", id="no day"),
        pytest.param("every: 7m", ".every", 8, PARTS, id="7m divides no hour"),
        pytest.param("every: 1s", ".every", 8, PARTS, id="every second, as an interval"),
        pytest.param("every: 2d", ".every", 8, PARTS, id="more than a day"),
        pytest.param("every: 15", ".every", 8, PARTS, id="no unit"),
        pytest.param("every: [1h]", ".every", 8, PARTS, id="every a list"),
        pytest.param("every: 1h\n      or_rows: 0", ".or_rows", 9, "must be at least 1", id="no row"),
        pytest.param("every: 1h\n      or_rows: '5'", ".or_rows", 9, "a whole number is wanted, here stands a text", id="rows a text"),
        pytest.param("every: 1h\n      or_bytes: 999", ".or_bytes", 9, "must be at least 1,000", id="too few bytes"),
        pytest.param("every: 1h\n      or_byte: 5000", ".or_byte", 9, "did you mean or_bytes?", id="misspelt"),
        pytest.param("every: 1h\n      zone: Sydney", ".zone", 9, "give an IANA time zone: did you mean Australia/Sydney?", id="a city alone"),
        pytest.param("every: 1h\n      zone: America/Newyork", ".zone", 9, "did you mean America/New_York?", id="a zone misspelt"),
        pytest.param("every: 1h\n      zone: right/Europe/London", ".zone", 9, "did you mean Europe/London?", id="leap seconds"),
        pytest.param("every: 1h\n      zone: localtime", ".zone", 9, "give an IANA time zone", id="this machine's zone"),
        pytest.param("every: 1h\n      zone: [UTC, Europe/Paris]", ".zone", 9, "a text is wanted, here stands a list", id="two zones"),
        pytest.param("every: 1h\n      zone: Mars/Olympus_Mons", ".zone", 9, "such as Australia/Sydney", id="no such zone"),
    ],
)  # fmt: skip
def test_a_wrong_schedule_is_one_sentence_in_its_line(
    said: str, where: str, line: int, sentence: str
) -> None:
    found = assemble([("acme.yaml", FILE % said)])
    assert isinstance(found, list)
    (problem,) = found
    assert (problem.where, problem.line) == (f"connections[0].schedule{where}", line)
    assert sentence in f"{problem.what}; {problem.remedy}"


@pytest.mark.parametrize(
    "said",
    [
        "{cron: '0 8 * * MON-FRI', zone: Asia/Calcutta}",
        "{at: ['16:30', '08:00'], days: [mon, fri], zone: Australia/Sydney, or_rows: 1}",
        "{every: 12h, or_bytes: 50000000}",
    ],
)
def test_schedules_taken(said: str) -> None:
    assert isinstance(parse(FILE.replace("schedule:\n      %s", f"schedule: {said}"), "acme.yaml"), Account)
