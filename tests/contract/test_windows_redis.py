"""Claiming, sealing, advancing and dropping windows, on a real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from batcher.removal import Removal
from batcher.window import State, WindowState
from batcher.windows import ASKED, Gone, Windows
from consumer.keys import Keys, Role
from consumer.layout import Layout
from consumer.store import Store
from consumer.topics import Topics
from schemas.connection import EmailConnection
from tests.support.rows import Intake, chained, person, write_layout
from tests.support.valkey import Valkey

NAME = "acme-daily"
KEYS = Keys(Topics().referrals, Role.BATCH)
PARTITIONS = 3
CONNECTION = EmailConnection.model_validate(
    {
        "name": NAME,
        "kind": "email",
        "recipients": ["a@example.com"],
        "schedule": {"cron": "0 8 * * *"},
        "fields": ["email"],
    }
)
FIRST, SECOND, THIRD = (f"2026-06-0{day}T08:00[UTC]" for day in (1, 2, 3))
NOW, STAMP = datetime(2026, 6, 1, 8, 0, tzinfo=UTC), "2026-06-01T08:00:00.000+00:00"


@pytest.fixture
def store(valkey: Valkey) -> Iterator[Store]:
    store = Store(valkey.url)
    write_layout(store, Topics(), Layout("topic", PARTITIONS, (0,) * PARTITIONS, b"key"))
    yield store
    store.close()


@pytest.fixture
def windows(store: Store) -> Windows:
    return Windows(store, KEYS)


@pytest.fixture
def intake(store: Store) -> Intake:
    return Intake(store, KEYS, PARTITIONS)


def claimed(
    windows: Windows, slot: str = FIRST, seen: int = 0, owner: str = "one", *, scheduled: bool = True
) -> WindowState:
    window = windows.claim(NAME, owner, slot, seen, scheduled=scheduled)
    assert window is not None
    return window


def lease_ends(windows: Windows) -> None:
    windows.store.command("HSET", KEYS.window(NAME), "until", 0)


def close(windows: Windows, window: WindowState) -> None:
    windows.release(window, {"state": State.CLOSED})


# Claiming.


def test_the_first_window(windows: Windows) -> None:
    assert windows.state(NAME) is None
    before = datetime.now(UTC)
    window = claimed(windows)
    assert (window.number, window.state, window.slot) == (1, State.CLAIMED, FIRST)
    assert abs((window.since - before).total_seconds()) < 5
    assert windows.state(NAME) == window
    assert windows.states([NAME, "other"]) == {NAME: window}


def test_an_open_window_belongs_to_its_holder(windows: Windows) -> None:
    window = claimed(windows)
    assert windows.claim(NAME, "two", "", 1, scheduled=True) is None
    assert windows.claim(NAME, "two", SECOND, 1, scheduled=True) is None
    assert windows.state(NAME) == window


def test_its_holder_claims_it_again_at_once(windows: Windows) -> None:
    window = claimed(windows)
    again = claimed(windows, "", 1)
    assert again.number == 1
    assert again.token > window.token
    with pytest.raises(Gone):
        windows.beat(window)
    windows.beat(again)


@pytest.mark.case(26)
def test_after_the_lease_another_takes_over(windows: Windows) -> None:
    window = windows.advance(claimed(windows), {"state": State.SEALED, "part": "p"}, durable=False)
    lease_ends(windows)
    taken = claimed(windows, "", 1, "two")
    assert (taken.number, taken.state, taken.fields["part"]) == (1, State.SEALED, "p")
    assert taken.token > window.token
    for refused in (windows.beat, lambda w: windows.advance(w, {"state": "ENDED"}, durable=False)):
        with pytest.raises(Gone):
            refused(window)
    with pytest.raises(Gone):
        windows.release(window, {"state": State.CLOSED})
    assert windows.state(NAME) == taken


def test_a_lease_ends_by_itself_and_a_beat_renews_it(windows: Windows) -> None:
    window = claimed(windows)

    def left() -> float:
        until = int(windows.store.hash(KEYS.window(NAME))["until"])
        return until / 1000 - time.time()

    assert 14 < left() < 16
    lease_ends(windows)
    windows.beat(window)
    assert 14 < left() < 16
    windows.release(window, {"reason": "later"})
    assert claimed(windows, "", 1, "two").reason == "later"


@pytest.mark.case(26)
def test_of_many_workers_one_opens_the_window(valkey: Valkey, windows: Windows) -> None:
    for number in range(20):
        ready = threading.Barrier(4)
        won: list[WindowState] = []

        def race(owner: str, seen: int) -> None:
            store = Store(valkey.url)
            mine = Windows(store, KEYS)
            mine.state(NAME)
            ready.wait()
            window = mine.claim(NAME, owner, FIRST, seen, scheduled=True)
            if window is not None:
                won.append(window)
            store.close()

        threads = [threading.Thread(target=race, args=(f"worker-{n}", number)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [window.number for window in won] == [number + 1]
        close(windows, won[0])


def test_who_saw_an_older_window_must_look_again(windows: Windows) -> None:
    close(windows, claimed(windows))
    # Another worker has opened and closed the second one meanwhile.
    close(windows, claimed(windows, SECOND, 1, "two"))
    assert windows.claim(NAME, "one", SECOND, 1, scheduled=True) is None
    assert windows.claim(NAME, "one", f"{ASKED}x", 1, scheduled=False) is None
    assert claimed(windows, THIRD, 2).number == 3


def test_nothing_to_take_over(windows: Windows) -> None:
    assert windows.claim(NAME, "one", "", 0, scheduled=True) is None
    close(windows, claimed(windows))
    assert windows.claim(NAME, "one", "", 1, scheduled=True) is None


def test_a_new_window_keeps_nothing_of_the_one_before(windows: Windows) -> None:
    first = windows.advance(
        claimed(windows), {"held": 1, "reason": "r", "tries": 3, "part": "p"}, durable=False
    )
    close(windows, first)
    second = claimed(windows, SECOND, 1)
    assert second.token > first.token
    assert (second.number, second.state, second.reason, second.tries) == (2, State.CLAIMED, "", 0)
    assert second.fields.keys() == {"n", "state", "slot", "last", "since", "token", "owner", "until"}


# Wishes.


def test_a_wish_does_not_move_the_schedule(windows: Windows) -> None:
    close(windows, claimed(windows))
    windows.ask(NAME, NOW)
    slot = f"{ASKED}{windows.asked()[NAME]}"
    window = claimed(windows, slot, 1, scheduled=False)
    assert (window.number, window.slot, window.fields["last"]) == (2, slot, FIRST)
    assert windows.asked() == {}
    close(windows, window)
    assert claimed(windows, SECOND, 2).fields["last"] == SECOND


def test_the_first_window_may_be_asked_for(windows: Windows) -> None:
    assert claimed(windows, f"{ASKED}now", 0, scheduled=False).fields["last"] == ""


def test_asking_twice_before_it_happens_is_asking_once(windows: Windows) -> None:
    windows.ask(NAME, NOW)
    windows.ask(NAME, NOW.replace(hour=9))
    assert windows.asked() == {NAME: STAMP}


def test_a_wish_its_worker_died_before_forgetting_is_forgotten_by_the_next(windows: Windows) -> None:
    windows.ask(NAME, NOW)
    claimed(windows, f"{ASKED}{STAMP}", 0, scheduled=False)
    windows.ask(NAME, NOW)  # as the dead worker left it
    lease_ends(windows)
    claimed(windows, "", 1, "two")
    assert windows.asked() == {}


def test_a_wish_that_came_meanwhile_stays(windows: Windows) -> None:
    windows.ask(NAME, NOW)
    claimed(windows, f"{ASKED}{STAMP}", 0, scheduled=False)
    windows.ask(NAME, NOW.replace(microsecond=1_000))
    claimed(windows, "", 1)
    assert windows.asked() == {NAME: "2026-06-01T08:00:00.001+00:00"}


@pytest.mark.case(29)
def test_since_when_a_connection_has_windows(windows: Windows) -> None:
    assert windows.began(NAME, NOW) == NOW
    assert windows.began(NAME, NOW.replace(hour=9)) == NOW
    assert windows.connections() == {NAME}
    # A clock that was ahead noted a time yet to come.
    assert windows.began(NAME, NOW.replace(hour=7)) == NOW.replace(hour=7)
    assert windows.began(NAME, NOW) == NOW.replace(hour=7)


# Sealing.


@pytest.mark.case(31)
def test_seals_are_contiguous_and_chained(windows: Windows, intake: Intake) -> None:
    """Rows come in before, between and after the seals of the partitions; every row is in one window."""
    expected: list[list[bytes]] = []
    waiting: dict[int, list[bytes]] = {p: [] for p in range(PARTITIONS)}
    ends = {0: 0, 1: 0}
    count = 0
    for number in range(1, 6):
        for p, rows in ((0, 3), (1, number % 2)):  # partition 2 never has any, 1 every other time
            people = [person(count + n) for n in range(rows)]
            count += rows
            waiting[p] += intake.put(p, [CONNECTION], *people) if rows else []
        window = claimed(windows, f"{ASKED}{number}", number - 1, scheduled=False)
        marks = windows.seal(window, PARTITIONS)
        for p, mark in enumerate(marks):
            assert (mark.partition, mark.rows, mark.digest) == (p, len(waiting[p]), chained(waiting[p]))
            assert mark.to == intake.next[p]
            assert windows.rows(window, p, 0, 100) == waiting[p]
            if number > 1 and p in ends:
                assert mark.start == ends[p]
            ends[p] = mark.to
        expected.append([row for p in range(PARTITIONS) for row in waiting[p]])
        waiting = {p: [] for p in range(PARTITIONS)}
        # A row after the seal, and the same call again: it moves nothing.
        waiting[0] += intake.put(0, [CONNECTION], person(1_000 + number))
        assert windows.seal(window, PARTITIONS) == marks
        assert windows.rows(window, 0, 0, 100) == expected[-1][: marks[0].rows]
        close(windows, window)
    assert len({row for rows in expected for row in rows}) == sum(map(len, expected)) == count + 4


def test_an_empty_window_has_marks_too(windows: Windows, intake: Intake) -> None:
    window = claimed(windows)
    marks = windows.seal(window, PARTITIONS)
    assert [(mark.start, mark.to, mark.rows, mark.digest) for mark in marks] == [(0, 0, 0, "")] * PARTITIONS
    assert windows.rows(window, 0, 0, 10) == []


def test_a_connections_first_window_begins_with_its_first_row(windows: Windows, intake: Intake) -> None:
    intake.put(0, [], person(1), person(2))
    rows = intake.put(0, [CONNECTION], person(3))
    intake.put(0, [], person(4))
    first, *_ = windows.seal(claimed(windows), PARTITIONS)
    assert (first.start, first.to, first.rows, first.digest) == (2, 4, 1, chained(rows))


def test_a_mark_says_how_many_removals_were_known(windows: Windows, intake: Intake) -> None:
    intake.put(0, [CONNECTION], person(1))
    intake.remove("r-000001")
    window = claimed(windows)
    assert {mark.removals for mark in windows.seal(window, PARTITIONS)} == {1}
    intake.remove("r-000002", erased=True, revision=4)
    assert {mark.removals for mark in windows.seal(window, PARTITIONS)} == {1}
    assert windows.marks_now(PARTITIONS) == dict.fromkeys(range(PARTITIONS), 2)
    found = windows.removals(1, ["r-000001", "r-000002", "r-000003"])
    assert found == {"r-000001": Removal(0, 1, 0), "r-000002": Removal(4, 0, 2)}
    assert windows.removals(1, []) == {}


def test_corrections_move_with_their_window(windows: Windows, intake: Intake) -> None:
    intake.put(0, [CONNECTION], person(1), {**person(1), "revision": 3}, {**person(1), "revision": 2})
    first = claimed(windows)
    windows.seal(first, PARTITIONS)
    intake.put(0, [CONNECTION], {**person(1), "revision": 4})
    close(windows, first)
    second = claimed(windows, SECOND, 1)
    windows.seal(second, PARTITIONS)
    asked = ["r-000001", "r-000002"]
    assert windows.latest(first, 0, asked) == {"r-000001": 3}
    assert windows.latest(second, 0, asked) == {"r-000001": 4}


@pytest.mark.case(31)
def test_an_overtaken_worker_seals_nothing_again(windows: Windows, intake: Intake) -> None:
    intake.put(0, [CONNECTION], person(1))
    late = claimed(windows)
    windows.seal(late, PARTITIONS)
    lease_ends(windows)
    other = claimed(windows, "", 1, "two")
    windows.drop(other, PARTITIONS)
    close(windows, other)
    rows = intake.put(0, [CONNECTION], person(2))
    with pytest.raises(Gone):
        windows.seal(late, PARTITIONS)
    second = claimed(windows, SECOND, 1, "two")
    assert windows.seal(second, PARTITIONS)[0].rows == 1
    assert windows.rows(second, 0, 0, 10) == rows


def test_drop_forgets_all_of_a_window_and_nothing_else(windows: Windows, intake: Intake) -> None:
    intake.put(0, [CONNECTION], person(1), {**person(1), "revision": 1})
    first = claimed(windows)
    windows.seal(first, PARTITIONS)
    windows.drop(first, PARTITIONS)
    windows.drop(first, PARTITIONS)
    close(windows, first)
    intake.put(0, [CONNECTION], person(2), {**person(2), "revision": 1})
    second = claimed(windows, SECOND, 1)
    marks = windows.seal(second, PARTITIONS)
    windows.drop(first, PARTITIONS)
    assert len(windows.rows(second, 0, 0, 10)) == 2
    assert windows.latest(second, 0, ["r-000002"]) == {"r-000002": 1}
    assert windows.seal(second, PARTITIONS) == marks
    windows.drop(second, PARTITIONS)
    kept = {key.decode() for key in windows.store.command("KEYS", f"*:batch:*{NAME}*")}
    assert kept == {f"{KEYS.prefix(p)}seals:{NAME}" for p in range(PARTITIONS)}
    fields = windows.store.hash(f"{KEYS.prefix(0)}seals:{NAME}")
    assert fields == {"last": "2", "to": str(intake.next[0]), "from": "0"}


def test_the_oldest_open_row(windows: Windows, intake: Intake) -> None:
    assert windows.opened([NAME], PARTITIONS) is None
    assert windows.opened([], PARTITIONS) is None
    before = time.time()
    intake.put(1, [CONNECTION], person(1))
    opened = windows.opened(["other", NAME], PARTITIONS)
    assert opened is not None
    assert abs(opened - before) < 5
    windows.seal(claimed(windows), PARTITIONS)
    assert windows.opened([NAME], PARTITIONS) is None


def test_another_number_is_not_ours(windows: Windows) -> None:
    window = claimed(windows)
    with pytest.raises(Gone):
        windows.beat(replace(window, number=2))
