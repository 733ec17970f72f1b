"""A connection's name that another account takes: what waits under it stays with the account it came for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from batcher.window import State
from consumer import connection_sets
from consumer.service import Stop
from schemas.connection import Account, ConnectionSet
from tests.support.batch import USER, House, house
from tests.support.desk import Worker, flushed
from tests.support.kafka import Kafka
from tests.support.rows import PARTITIONS, FileConnection, csv_of, person


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, kafka: Kafka) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("house"), kafka.bootstrap, "hands.") as running:
        yield running


def given_to(place: House, account: str, *connections: FileConnection) -> None:
    wanted = ConnectionSet(accounts=(Account(account=account, connections=connections),))
    connection_sets.apply(place.store, place.ground.out, place.topics, wanted, PARTITIONS)


def test_a_sealed_window_goes_to_the_account_it_was_sealed_for(place: House, worker: Worker) -> None:
    connection = place.sftp_connection("sealed")
    place.empty(connection)
    place.intake.put(0, [connection], person(1))
    folder = place.sftp.folder / USER / "sealed"
    folder.rmdir()
    place.ask("sealed")
    worker.go()
    window = place.state("sealed")
    assert window is not None
    assert window.state is State.SEALED
    folder.mkdir()
    (place.sftp.folder / USER / "others").mkdir()
    given_to(place, "globex", connection.model_copy(update={"directory": "others"}))
    place.later("sealed")
    worker.go()
    assert place.file("sealed") == csv_of([person(1)])
    assert place.files("others") == {}


@pytest.mark.parametrize("taken_out", [False, True], ids=["at once", "after it was taken out"])
def test_rows_that_wait_keep_the_name(place: House, worker: Worker, *, taken_out: bool) -> None:
    name = f"waits-{int(taken_out)}"
    connection = place.sftp_connection(name)
    place.empty(connection)
    place.intake.put(0, [connection], person(1), person(2))
    if taken_out:
        given_to(place, "acme")
    with pytest.raises(Stop) as refused:
        given_to(place, "globex", connection)
    assert str(refused.value) == (
        f"{name} has 2 rows or deliveries waiting for account acme, so account globex cannot have that name "
        "yet: let them end first, or give the new connection a name of its own"
    )
    given_to(place, "acme", connection)
    flushed(place, worker, name)
    assert place.file(name) == csv_of([person(1), person(2)])
    given_to(place, "globex", connection)


def test_rows_of_another_account_never_leave(place: House, worker: Worker) -> None:
    """Whatever became of the accounts' names in Redis."""
    connection = place.sftp_connection("net")
    place.empty(connection)
    place.intake.put(0, [connection], person(1), {**person(2), "account_id": "globex"})
    place.ask("net")
    worker.go()
    window = place.state("net")
    assert window is not None
    assert (window.state, window.held) == (State.SEALED, True)
    assert "has rows of another account than acme" in window.reason
    assert place.files("net") == {}
