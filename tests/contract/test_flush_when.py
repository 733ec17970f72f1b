"""Windows that are flushed for their size, by the desk itself: once, between slots, in their turn."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from batcher import full
from batcher.full import FULL, Full
from batcher.window import State
from schemas.connection import Schedule
from tests.support.batch import House, house, until
from tests.support.desk import Worker
from tests.support.kafka import Kafka
from tests.support.rows import PARTITIONS, csv_of, person

DAY = datetime(2026, 6, 1, 9, 0, tzinfo=UTC)
DAILY = {"cron": "0 8 * * *", "zone": "UTC"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, kafka: Kafka) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("house"), kafka.bootstrap, "when.") as running:
        yield running


def look(worker: Worker, now: datetime, *, anew: bool = True) -> None:
    """Look once, and do all there is to do. `anew`: the time after which sizes are read again has passed."""
    if anew:
        worker.sizes_anew()
    worker.go(now)


def slots(place: House, name: str) -> list[str]:
    return [(one.slot or "").partition("T")[0] for one in place.manifests(name)]


def test_a_full_window_leaves_between_slots_and_the_schedule_does_not_count_it(
    place: House, worker: Worker
) -> None:
    connection = place.sftp_connection("rows", schedule={**DAILY, "or_rows": 3})
    place.empty(connection)
    look(worker, DAY)
    people = [person(n) for n in range(6)]
    place.intake.put(0, [connection], *people[:2])
    look(worker, DAY)
    assert place.state("rows") is None
    place.intake.put(1, [connection], people[2])
    look(worker, DAY)
    assert place.file("rows") == csv_of(people[:3])
    look(worker, DAY + timedelta(hours=1))
    assert place.closed("rows", 1)
    place.intake.put(1, [connection], people[3])
    look(worker, DAY + timedelta(days=1))
    assert place.closed("rows", 2)
    # Both are due: the window is the slot's, and nothing is left for another.
    place.intake.put(0, [connection], *people[4:], person(6))
    look(worker, DAY + timedelta(days=2))
    look(worker, DAY + timedelta(days=2))
    assert place.closed("rows", 3)
    assert slots(place, "rows") == [f"{FULL}2026-06-01", "2026-06-02", "2026-06-03"]


def test_bytes_of_the_records_fill_a_window_too(place: House, worker: Worker) -> None:
    connection = place.sftp_connection("size", schedule={"every": "12h", "or_bytes": 2_000})
    place.empty(connection)
    look(worker, DAY)
    size = 0
    for n in range(20):
        size += sum(map(len, place.intake.put(n % PARTITIONS, [connection], person(n))))
        look(worker, DAY)
        assert (place.state("size") is not None) == (size >= 2_000)
        if size >= 2_000:
            break
    assert place.closed("size", 1)
    assert slots(place, "size") == [f"{FULL}2026-06-01"]


def test_a_full_window_waits_while_paused_and_behind_one_under_way(place: House, worker: Worker) -> None:
    connection = place.sftp_connection("waits", schedule={**DAILY, "or_rows": 2})
    other = place.sftp_connection("goes", schedule={**DAILY, "or_rows": 2})
    place.empty(connection, other)
    people = [person(n) for n in range(4)]
    place.intake.put(0, [connection, other], *people[:2])
    place.store.command("HSET", place.keys.paused, "waits", "by hand")
    look(worker, DAY)
    assert place.closed("goes", 1)
    assert place.state("waits") is None
    place.store.command("HDEL", place.keys.paused, "waits")
    window = place.windows.claim("waits", "somebody else", "2026-06-01T08:00[UTC]", 0, scheduled=True)
    assert window is not None
    place.windows.seal(window, PARTITIONS)
    place.intake.put(1, [connection], *people[2:])
    look(worker, DAY)
    found = place.state("waits")
    assert found is not None
    assert (found.number, found.state) == (1, State.CLAIMED)
    place.later("waits")
    look(worker, DAY)
    assert place.closed("waits", 1)
    look(worker, DAY)
    assert place.closed("waits", 2)
    assert sorted(place.files("waits").values(), key=len) == sorted(
        (csv_of(people[:2]), csv_of(people[2:])), key=len
    )
    assert slots(place, "waits") == ["2026-06-01", f"{FULL}2026-06-01"]


def test_its_own_timer_finds_it_without_new_data(place: House, worker: Worker) -> None:
    connection = place.sftp_connection("timer", schedule={**DAILY, "or_rows": 1})
    place.empty(connection)
    look(worker, DAY)
    place.intake.put(0, [connection], person(1))
    until(
        lambda: look(worker, DAY, anew=False) or place.closed("timer", 1), "flushed", within=full.AGAIN_S + 10
    )


def test_connections_take_turns_where_all_cannot_be_read_at_once(
    place: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections = [place.sftp_connection(f"turn-{n}") for n in range(5)]
    place.empty(*connections)
    place.intake.put(0, connections, person(1))
    schedules = {one.name: Schedule(every="1h", or_rows=1) for one in connections}
    monkeypatch.setattr(full, "MOST_READS", 2 * PARTITIONS)
    turns, clock = Full(place.windows, PARTITIONS), 50.0
    first, second, third = (turns.among(schedules, clock + n / 10) for n in range(3))
    assert sorted([*first, *second, *third]) == sorted(schedules)
    assert turns.among(schedules, clock + 0.9) == set()
    assert turns.among(schedules, clock + full.AGAIN_S) == first
    assert turns.among({name: Schedule(every="1h") for name in schedules}, clock + 100) == set()
