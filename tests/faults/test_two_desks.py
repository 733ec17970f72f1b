"""Two flush workers on the same windows, whose clocks differ by hours or step: one rename, each slot once, no hole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from batcher.window import State
from batcher.windows import Gone, Windows
from consumer import metrics
from consumer.keys import Role
from consumer.run import Ground
from consumer.store import Store
from schemas.delivery import Outcome
from schemas.manifest import Mark
from tests.support.batch import House, house
from tests.support.desk import Worker, reading, state
from tests.support.kafka import Kafka
from tests.support.rows import PARTITIONS, csv_of, person

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, kafka: Kafka) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("house"), kafka.bootstrap, "desks.") as running:
        yield running


@pytest.fixture
def other(place: House) -> Iterator[Worker]:
    """Beside `worker`: another process's, as far as Redis and Kafka can tell."""
    running = Worker(place, {}, "other", Ground(place.settings, Role.BATCH))
    yield running
    running.close()


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def contiguous(place: House, name: str) -> None:
    """Every window begins in every partition where the one before it ended."""
    told = place.manifests(name)
    for before, after in zip(told, told[1:], strict=False):
        assert [mark.to for mark in before.marks] == [mark.start for mark in after.marks]
    assert [mark.to for mark in told[-1].marks] == place.intake.next


def rows_of(place: House, name: str) -> list[str]:
    """The ids in all files of a connection, in the windows' order."""
    contents = (content for _, content in sorted(place.files(name).items()))
    return [line.split(",")[0].strip('"') for one in contents for line in one.decode().splitlines()[1:]]


@pytest.mark.case(26)
@pytest.mark.parametrize("step", ["claimed", "sealed", "told", "uploaded", "uploaded durable", "renamed"])
def test_an_early_end_of_the_lease_and_clocks_two_hours_apart_give_one_rename(
    place: House, worker: Worker, other: Worker, step: str
) -> None:
    name = f"apart-{step.replace(' ', '-')}"
    connection = place.sftp_connection(name, schedule={"cron": "0 8 * * *", "zone": "UTC"})
    place.empty(connection)
    day = utc("2024-06-03T08:00")
    for desk in (worker, other):
        desk.go(day - 2 * HOUR)
    place.intake.put(0, [connection], person(1), person(2))
    fenced = reading(metrics.FENCED.labels("token"))

    def overtaken() -> None:
        place.later(name)
        other.go(day - HOUR)

    # By the first one's clock it is nine, by the other's seven.
    worker.at[step] = overtaken
    worker.go(day + HOUR)
    assert reading(metrics.FENCED.labels("token")) == fenced + 1
    for now in (day - HOUR, day, day + HOUR, day - 2 * HOUR):
        other.go(now)
        worker.go(now + 2 * HOUR)
    assert place.closed(name, 1)
    assert place.file(name) == csv_of([person(1), person(2)])
    assert len(place.renames(name)) == 1
    assert [told.outcome for told in place.receipts(name)] == [Outcome.DELIVERED]
    place.intake.put(1, [connection], person(3))
    for desk in (other, worker):
        desk.go(day + 24 * HOUR)
    assert place.closed(name, 2)
    assert rows_of(place, name) == ["r-000001", "r-000002", "r-000003"]


@pytest.mark.case(26)
def test_both_at_once_all_day_each_slot_is_one_file(place: House, worker: Worker, other: Worker) -> None:
    name = "at-once"
    connection = place.sftp_connection(name, schedule={"every": "1h", "zone": "UTC"})
    place.empty(connection)
    begun = utc("2024-06-03T00:30")
    for desk in (worker, other):
        desk.go(begun)
    hours = 6
    for n in range(hours):
        place.intake.put(n % PARTITIONS, [connection], person(n))
        now = begun + (n + 1) * HOUR
        at_once(lambda now=now: worker.go(now + HOUR), lambda now=now: other.go(now - HOUR))
    worker.go(begun + (hours + 2) * HOUR)
    assert rows_of(place, name) == [f"r-{n:06d}" for n in range(hours)]
    slots = [one.slot for one in place.manifests(name)]
    assert len(slots) == len(set(slots))
    assert len(place.renames(name)) == len(set(place.renames(name))) == len(place.files(name))
    contiguous(place, name)


def at_once(*does: Callable[[], object]) -> None:
    ready, raised = threading.Barrier(len(does)), []

    def run(do: Callable[[], object]) -> None:
        ready.wait(10)
        try:
            do()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(do,)) for do in does]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised == []


#: Zone, local time of a daily slot, the day the clocks change there, and the slots' instants around it.
CHANGES = {
    "gap": (
        "30 2 * * *",
        "America/New_York",
        ("2024-03-09T07:30", "2024-03-10T07:00", "2024-03-11T06:30"),
    ),
    "fold": (
        "30 1 * * *",
        "America/New_York",
        ("2024-11-02T05:30", "2024-11-03T05:30", "2024-11-04T06:30"),
    ),
    "half an hour": (
        "15 2 * * *",
        "Australia/Lord_Howe",
        ("2024-10-04T15:45", "2024-10-05T15:30", "2024-10-06T15:15"),
    ),
}
#: How two clocks go through a slot, in minutes from it: on, back over it, and on over it again, in turns.
STEPS = (-90, -1, 0, 1, -61, -30, 0, 59, -120, 2, 90)


@pytest.mark.case(29)
@pytest.mark.parametrize("change", CHANGES)
def test_clocks_that_step_and_change_seal_each_slot_once(
    place: House, worker: Worker, other: Worker, change: str
) -> None:
    cron, zone, instants = CHANGES[change]
    name = f"steps-{change.replace(' ', '-')}"
    connection = place.sftp_connection(name, schedule={"cron": cron, "zone": zone})
    place.empty(connection)
    due = [utc(text) for text in instants]
    worker.go(due[0] - 12 * HOUR)
    for n, slot in enumerate(due, 1):
        place.intake.put(n % PARTITIONS, [connection], person(n))
        for minutes in STEPS:
            now = slot + timedelta(minutes=minutes)
            (worker if minutes % 2 else other).go(now)
            found = place.state(name)
            number = found.number if found is not None else 0
            past = any(step >= 0 for step in STEPS[: STEPS.index(minutes) + 1])
            assert number == (n if past else n - 1), (now, slot)
    assert rows_of(place, name) == [f"r-{n:06d}" for n in (1, 2, 3)]
    slots = [(one.slot or "").partition("T")[0] for one in place.manifests(name)]
    assert len(slots) == len(set(slots)) == len(due)
    contiguous(place, name)
    # Nothing is late, and nothing is held: no alert fires for a clock that was set right.
    other.go(due[-1] + 2 * HOUR)
    assert reading(metrics.FLUSH_STATE.labels("HELD")) == 0
    assert reading(metrics.FLUSH_OVERDUE) == 0


@pytest.mark.case(29)
def test_a_clock_a_day_ahead_seals_early_and_skips_nothing_once_it_is_right(
    place: House, worker: Worker
) -> None:
    name = "a-day-ahead"
    connection = place.sftp_connection(name, schedule={"cron": "0 8 * * *", "zone": "Europe/Berlin"})
    place.empty(connection)
    day = utc("2024-03-30T09:00")
    worker.go(day - 12 * HOUR)
    place.intake.put(0, [connection], person(1))
    worker.go(day + 24 * HOUR)
    assert place.closed(name, 1)
    place.intake.put(0, [connection], person(2))
    # Right again: the slot it was ahead of is taken, the next one is not.
    for now, number in ((day, 1), (day + 23 * HOUR, 1), (day + 24 * HOUR, 1), (day + 48 * HOUR, 2)):
        worker.go(now)
        assert place.closed(name, number), now
    assert rows_of(place, name) == ["r-000001", "r-000002"]
    contiguous(place, name)


@pytest.mark.case(31)
def test_both_inside_one_seal_close_the_same_window(place: House) -> None:
    """Rows come in meanwhile: each is in one window, whoever sealed which partition."""
    name = "one-seal"
    connection = place.sftp_connection(name)
    place.empty(connection)
    stores = [Store(place.valkey.url) for _ in range(2)]
    desks = [Windows(store, place.keys) for store in stores]
    sealed: list[bytes] = []
    given: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
    ends = [0] * PARTITIONS
    for number in range(1, 31):
        window = desks[0].claim(name, "one", f"slot-{number}", number - 1, scheduled=True)
        assert window is not None
        place.later(name)
        taken = desks[1].claim(name, "two", "", number, scheduled=True)
        assert taken is not None
        marks: list[tuple[Mark, ...]] = []

        def put(number: int = number) -> None:
            for n in range(4):
                p = n % PARTITIONS
                given[p] += place.intake.put(p, [connection], person(10 * number + n))

        at_once(
            put,
            lambda w=window, m=marks: m.append(desks[0].seal(w, PARTITIONS)),
            lambda w=taken, m=marks: m.append(desks[1].seal(w, PARTITIONS)),
        )
        assert marks[0] == marks[1]
        for p, mark in enumerate(marks[0]):
            assert number == 1 or mark.start == ends[p]
            ends[p] = mark.to
            rows = desks[1].rows(taken, p, 0, 100)
            assert len(rows) == mark.rows
            sealed += rows
        with pytest.raises(Gone):
            desks[0].advance(window, {"state": State.SEALED}, durable=False)
        desks[1].release(taken, {"state": State.CLOSED})
    window = desks[0].claim(name, "one", "last", 30, scheduled=True)
    assert window is not None
    for p, mark in enumerate(desks[0].seal(window, PARTITIONS)):
        assert (mark.start, mark.to) == (ends[p], place.intake.next[p])
        sealed += desks[0].rows(window, p, 0, 100)
    assert sorted(sealed) == sorted(row for rows in given for row in rows)
    for store in stores:
        store.close()


@pytest.mark.case(31)
def test_overtaken_between_two_partitions_of_a_seal(place: House, worker: Worker, other: Worker) -> None:
    name = "half-sealed"
    connection = place.sftp_connection(name)
    place.empty(connection)
    place.intake.put(0, [connection], person(1))
    place.intake.put(1, [connection], person(2))
    fenced = reading(metrics.FENCED.labels("token"))

    def half() -> None:
        window = place.state(name)
        assert window is not None
        place.windows.seal(window, 1)
        # After the first partition's share was closed, and before the other's.
        place.intake.put(0, [connection], person(3))
        place.intake.put(1, [connection], person(4))
        place.later(name)
        other.go()

    worker.at["claimed"] = half
    place.ask(name)
    worker.go()
    assert reading(metrics.FENCED.labels("token")) == fenced + 1
    assert place.closed(name, 1)
    assert place.file(name) == csv_of([person(1), person(2), person(4)])
    place.ask(name)
    worker.go()
    assert state(place, name)[0] is State.CLOSED
    assert rows_of(place, name) == ["r-000001", "r-000002", "r-000004", "r-000003"]
    assert len(place.renames(name)) == 2
    contiguous(place, name)
