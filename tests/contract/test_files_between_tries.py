"""What becomes of a window's files when its tries end anywhere and its connection is edited between them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from batcher.deliver_upload import SWEEP_EVERY
from batcher.window import State
from schemas.delivery import Outcome
from tests.support.batch import House, house
from tests.support.desk import Worker, state
from tests.support.kafka import Kafka
from tests.support.rows import csv_of, person


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, kafka: Kafka) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("house"), kafka.bootstrap, "tries.") as running:
        yield running


def named(place: House, name: str) -> list[tuple[str, bytes]]:
    """The files in the connection's folder, by their names' ends, in order."""
    return sorted((file.partition("-000001")[2], content) for file, content in place.files(name).items())


def fail() -> None:
    raise AssertionError("here the worker ends")


def begin(place: House, worker: Worker, name: str) -> None:
    place.ask(name)
    worker.go()


def again(place: House, name: str) -> None:
    """Another worker's try."""
    place.later(name)
    other = Worker(place, {})
    other.go()
    other.close()


def test_files_that_have_their_names_are_told_done_once_the_connection_asks_for_it(
    place: House, worker: Worker
) -> None:
    """The first file was renamed, then the server took that right away."""
    connection = place.sftp_connection("halfway", file={"split": {"rows": 1}})
    place.empty(connection)
    people = [person(n) for n in range(2)]
    place.intake.put(0, [connection], *people)
    worker.at["renamed"] = lambda: worker.at.update(renamed=fail)
    begin(place, worker, "halfway")
    assert state(place, "halfway")[0] is State.UPLOADED
    place.apply(place.sftp_connection("halfway", file={"split": {"rows": 1}}, completion="done_file"))
    again(place, "halfway")
    assert state(place, "halfway")[0] is State.CLOSED
    assert named(place, "halfway") == [
        ("-001.csv", csv_of(people[:1])),
        ("-001.csv.done", b""),
        ("-002.csv", csv_of(people[1:])),
        ("-002.csv.done", b""),
    ]


@pytest.mark.parametrize("sidecar", [False, True])
def test_a_connection_that_gives_up_on_done_files_begins_again(
    place: House, worker: Worker, sidecar: bool
) -> None:
    """Uploaded to be renamed, then to be told done, and that was taken back while the server was down."""
    name = "wavers-with" if sidecar else "wavers"
    connection = place.sftp_connection(name, file={"sidecar": sidecar})
    place.empty(connection)
    place.intake.put(0, [connection], person(1))
    # The first is the file; the second, where there is one, the document.
    worker.at["uploaded durable"] = (
        (lambda: worker.at.update({"uploaded durable": fail})) if sidecar else fail
    )
    begin(place, worker, name)
    assert state(place, name)[0] is State.UPLOADED
    place.apply(place.sftp_connection(name, file={"sidecar": sidecar}, completion="done_file"))
    place.later(name)
    other = Worker(place, {"uploaded": fail})
    other.go()
    other.close()
    assert state(place, name)[0] is State.SEALED
    place.apply(connection)
    again(place, name)
    assert state(place, name) == (State.CLOSED, "")
    assert [end for end, _ in named(place, name)] == [".csv", ".manifest.json"][: 1 + sidecar]


def test_a_server_without_a_rename_elsewhere_gets_nothing_of_what_was_uploaded_here(
    place: House, worker: Worker
) -> None:
    first, second = (place.sftp_connection("away", directory=folder) for folder in ("away", "away-b"))
    third = place.sftp_connection("away", directory="away-c", completion="done_file")
    for folder in ("away-b", "away-c"):
        place.sftp_connection(folder)
    place.empty(first)
    place.intake.put(0, [first], person(1))
    worker.at["told"] = fail
    begin(place, worker, "away")
    place.apply(second)
    place.later("away")
    other = Worker(place, {"renamed": fail})
    other.go()
    other.close()
    assert len(place.files("away-b")) == 1
    place.apply(third)
    again(place, "away")
    assert "/away-b, which is no longer configured" in state(place, "away")[1]
    assert place.files("away-c") == {}


def test_a_mended_file_stays_mended_when_the_next_try_is_cut(place: House, worker: Worker) -> None:
    changes = {"fields": ["referral_id", "first_name"]}
    split = {"split": {"rows": 1}}
    name = "mended"
    connection = place.sftp_connection(name, file={**split, "encoding": "windows-1252"}, **changes)
    place.empty(connection)
    people = [person(1), person(2, first_name="Łucja")]
    place.intake.put(0, [connection], *people)
    begin(place, worker, name)
    assert "windows-1252" in state(place, name)[1]
    place.apply(place.sftp_connection(name, file={**split, "delimiter": ";", "header": False}, **changes))
    place.later(name)
    worker.at["uploaded durable"] = place.sftp.kill
    worker.go()
    place.sftp.restart()
    place.later(name)
    worker.go()
    assert state(place, name) == (State.CLOSED, "")
    assert [content for _, content in named(place, name)] == [
        csv_of([one], changes["fields"]).partition(b"\r\n")[2].replace(b",", b";") for one in people
    ]


@pytest.mark.parametrize("step", ["uploaded", "uploaded durable"])
def test_of_a_window_whose_people_were_all_erased_nothing_is_left(
    place: House, worker: Worker, step: str
) -> None:
    """A worker died behind the first file. Before the next try its connection was edited, and everybody
    erased.
    """
    name = f"erased-{'-'.join(step.split())}"
    connection = place.sftp_connection(name, file={"split": {"rows": 1}})
    place.empty(connection)
    place.intake.put(0, [connection], person(1), person(2))
    worker.at[step] = fail
    begin(place, worker, name)
    assert len(place.files(name)) == 1
    place.apply(place.sftp_connection(name, file={"split": {"rows": 1}}, timeout=6.0))
    for one in (1, 2):
        place.intake.remove(person(one)["referral_id"], erased=True)
    again(place, name)
    assert state(place, name)[0] is State.CLOSED
    assert place.files(name) == {}
    (told,) = place.receipts(name)
    assert (told.outcome, told.rows, told.left_out, told.digest) == (Outcome.DELIVERED, 0, 2, None)
    (manifest,) = place.manifests(name)
    assert manifest.artefacts == ()


def test_what_a_dead_worker_left_is_gone_before_more_comes(place: House, worker: Worker) -> None:
    connection = place.sftp_connection("cut", file={"split": {"rows": 1}})
    place.empty(connection)
    place.intake.put(0, [connection], person(1), person(2))
    worker.at["uploaded"] = lambda: worker.at.update(uploaded=fail)
    begin(place, worker, "cut")
    assert len(place.files("cut")) == 2  # one of them pinned
    place.store.command("HSET", place.keys.window("cut"), "tries", SWEEP_EVERY - 1)
    seen: list[int] = []
    place.later("cut")
    other = Worker(place, {"uploaded": lambda: seen.append(len(place.files("cut")))})
    other.go()
    other.close()
    assert seen == [2]
    assert [content for _, content in named(place, "cut")] == [csv_of([person(1)]), csv_of([person(2)])]


def test_tries_of_damaged_rows_leave_nothing_behind(place: House, worker: Worker) -> None:
    """The damage shows behind the last row of a file that is full."""
    connection = place.sftp_connection("full", file={"split": {"rows": 1}})
    place.empty(connection)
    rows = place.intake.put(0, [connection], person(1), person(2))
    worker.at["told"] = lambda: place.store.command(
        "LSET", f"{place.keys.prefix(0)}sealed:full:1", 1, rows[0][:8] + rows[1][8:-1] + b"\x00"
    )
    begin(place, worker, "full")
    for _ in range(3):
        again(place, "full")
    assert "the sealed rows cannot be sent" in state(place, "full")[1]
    assert len(place.files("full")) <= 1
