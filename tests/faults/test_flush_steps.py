"""A flush worker that dies, freezes or loses its Redis at a named step: what receivers get, and what we say."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.delivery import Outcome
from tests.support.batch import House, csv_of, house, person, until
from tests.support.flush_entry import Flush, Parent, parent
from tests.support.kafka import Kafka

SFTP_STEPS = ("claimed", "sealed", "told", "uploaded", "uploaded durable", "renamed", "ended", "closing")
FENCED = 'referral_fenced_total{reason="token"}'
AMBIGUOUS = 'referral_ambiguous_total{sink="email"}'


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, kafka: Kafka) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("house"), kafka.bootstrap, "flush-steps.") as running:
        yield running


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parent]:
    with parent(tmp_path_factory.mktemp("services")) as running:
        yield running


def finish(place: House, service: Flush, name: str, number: int) -> None:
    """Have the window closed by whoever runs, however long it may have to wait for a lease or a pause."""

    def closed() -> bool:
        if place.closed(name, number):
            return True
        place.later(name)
        return False

    until(closed, lambda: f"window {number} of {name} closed; the last output: {service.output()[-1500:]}")


@pytest.mark.parametrize("step", SFTP_STEPS)
def test_killed_at_a_step_one_file_arrives(place: House, services: Parent, step: str) -> None:
    name = f"killed-{SFTP_STEPS.index(step)}"
    connection = place.sftp_connection(name)
    place.empty(connection)
    first = [person(n) for n in range(5)]
    place.intake.put(0, [connection], *first[:3])
    place.intake.put(1, [connection], *first[3:])
    place.ask(name)
    assert services.flush(place.environment, step).ended() == -signal.SIGKILL
    more = [person(n) for n in range(10, 14)]
    place.intake.put(0, [connection], *more)

    fresh = services.flush(place.environment)
    finish(place, fresh, name, 1)
    place.ask(name)
    finish(place, fresh, name, 2)
    assert fresh.stop() == 0

    one, two = place.manifests(name)
    assert [one.outcome, two.outcome] == [Outcome.DELIVERED, Outcome.DELIVERED]
    assert [mark.to for mark in one.marks] == [mark.start for mark in two.marks]
    assert [mark.to for mark in two.marks] == place.intake.next
    # What came between the claim and the seal is in the first window already.
    early = more if step == "claimed" else []
    late = [] if step == "claimed" else more
    contents = sorted(place.files(name).items())
    expected = [csv_of([*first[:3], *early, *first[3:]]), *([csv_of(late)] if late else [])]
    assert [content for _, content in contents] == expected
    assert place.renames(name) == [f"{name}/{file}" for file, _ in contents]
    told = {receipt.subject_id: receipt for receipt in place.receipts(name)}
    assert sorted(told) == [f"{name}-000001", f"{name}-000002"]
    assert {receipt.outcome for receipt in told.values()} == {Outcome.DELIVERED}
    assert told[f"{name}-000001"].rows == 5 + len(early)
