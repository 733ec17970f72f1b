"""Windows in any order of events, by the desk itself on real Redis, Kafka and receivers.

Law: whatever is published, corrected, removed, crashed, overtaken, edited or sent again, in any order: once
all is quiet, every referral's newest revision stands in exactly one file, no revision in two, nobody who was
erased in time in any, and manifests, documents and receipts say the same as the files.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from batcher.files.manifest import parse
from batcher.window import State
from schemas.connection import SftpConnection
from tests.support.batch import House, house
from tests.support.desk import Worker
from tests.support.kafka import Kafka
from tests.support.rows import PARTITIONS, person

STEPS = ("claimed", "sealed", "told", "uploaded", "uploaded durable", "renamed", "ended", "closing")
FORMS: tuple[dict[str, Any], ...] = (
    {},
    {"split": {"rows": 2}, "sidecar": True},
    {"sidecar": True, "empty": "header"},
    {"split": {"rows": 3}, "delimiter": ";"},
)
#: Looks until a window in whatever state is closed: a crash costs one, a takeover another.
LOOKS = 6


class Died(Exception):  # noqa: N818 - what the worker did
    """Here the worker ends."""


class Windows(RuleBasedStateMachine):
    """`sent`: rows given to intake, by referral: the revisions."""

    place: House
    #: Every example has a connection of its own: what Kafka keeps of others does not count.
    names = (f"any-order-{n}" for n in count(1))

    @initialize(form=st.sampled_from(FORMS))
    def begin(self, form: dict[str, Any]) -> None:
        self.name = next(self.names)
        self.connection = self._connection(form)
        self.place.empty(self.connection)
        self.sent: dict[int, list[int]] = {}
        self.erased: set[int] = set()
        self.withdrawn: dict[int, int] = {}

    def _connection(self, form: dict[str, Any]) -> SftpConnection:
        return self.place.sftp_connection(self.name, file=form, fields=["referral_id", "email"])

    @rule(partition=st.integers(0, PARTITIONS - 1), number=st.integers(1, 4))
    def publish(self, partition: int, number: int) -> None:
        numbers = range(len(self.sent), len(self.sent) + number)
        # A referral stays in its partition, as its key decides.
        mine = [n * PARTITIONS + partition for n in numbers]
        self.place.intake.put(partition, [self.connection], *(row(n, 0) for n in mine))
        self.sent |= {n: [0] for n in mine}

    @rule(data=st.data())
    def correct(self, data: st.DataObject) -> None:
        if self.sent:
            number = data.draw(st.sampled_from(sorted(self.sent)))
            revision = self.sent[number][-1] + 1
            self.place.intake.put(number % PARTITIONS, [self.connection], row(number, revision))
            self.sent[number].append(revision)

    @rule(data=st.data(), erased=st.booleans())
    def remove(self, data: st.DataObject, *, erased: bool) -> None:
        if self.sent:
            number = data.draw(st.sampled_from(sorted(self.sent)))
            revision = self.sent[number][-1]
            self.place.intake.remove(row(number, 0)["referral_id"], erased=erased, revision=revision)
            if erased:
                self.erased.add(number)
            else:
                self.withdrawn[number] = revision

    @rule(form=st.sampled_from(FORMS))
    def edit(self, form: dict[str, Any]) -> None:
        self.connection = self._connection(form)
        self.place.apply(self.connection)

    @rule()
    def ask(self) -> None:
        self.place.ask(self.name)

    @rule()
    def look(self) -> None:
        self._look({})

    @rule(step=st.sampled_from(STEPS))
    def crash(self, step: str) -> None:
        def die() -> None:
            raise Died

        self._some()
        self._look({step: die})

    @rule(step=st.sampled_from(STEPS))
    def overtaken(self, step: str) -> None:
        """At this step somebody else does all there is to do."""
        self._some()
        self._look({step: lambda: self._look({})})

    def _some(self) -> None:
        """Something to do, so that the steps come."""
        self.publish(partition=0, number=3)
        self.place.ask(self.name)

    def _look(self, at: dict[str, Callable[[], object]]) -> None:
        if self.place.state(self.name) is not None:
            self.place.later(self.name)
        worker = Worker(self.place, at)
        try:
            worker.go()
        finally:
            worker.close()

    def teardown(self) -> None:
        if not hasattr(self, "sent"):
            return
        for _ in range(LOOKS):
            self._look({})
        self.place.ask(self.name)
        for _ in range(LOOKS):
            self._look({})
        self.check()

    def check(self) -> None:
        window = self.place.state(self.name)
        assert window is not None
        assert window.state is State.CLOSED, window.reason
        files = self.place.files(self.name)
        assert not [name for name in files if name.startswith(".")], "leftovers"
        told = self.place.manifests(self.name)
        named = [artefact for manifest in told for artefact in manifest.artefacts]
        documents = {name: parse(content) for name, content in files.items() if name.endswith(".json")}
        assert sorted(files) == sorted([*(one.name for one in named), *documents])
        assert Counter(e.name for d in documents.values() for e in d.files) <= Counter(
            one.name for one in named
        )
        rows = [one for artefact in named for one in lines(files[artefact.name])]
        assert len(rows) == sum(artefact.rows for artefact in named)
        assert len(rows) == sum(receipt.rows or 0 for receipt in self.place.receipts(self.name))
        assert Counter(rows).most_common(1)[0][1] == 1 if rows else True, "a revision stands in two files"
        for number, revisions in self.sent.items():
            newest = (row(number, 0)["referral_id"], row(number, revisions[-1])["email"])
            gone = number in self.erased or self.withdrawn.get(number, -1) >= revisions[-1]
            assert gone or newest in rows, f"{newest} is in no file"


def row(number: int, revision: int) -> dict[str, Any]:
    return {**person(number), "revision": revision, "email": f"p{number}.{revision}@example.com"}


def lines(content: bytes) -> list[tuple[str, str]]:
    text = content.decode()
    delimiter = ";" if text.startswith('"referral_id";') else ","
    return [(cells[0], cells[1]) for cells in csv.reader(io.StringIO(text), delimiter=delimiter)][1:]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, kafka: Kafka) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("house"), kafka.bootstrap, "any.") as running:
        yield running


def run(place: House, examples: int, steps: int) -> None:
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(type("OfThisPlace", (Windows,), {"place": place}), settings=chosen)


def test_windows_in_any_order(place: House) -> None:
    run(place, 12, 10)


@pytest.mark.long
def test_windows_in_any_order_for_longer(place: House) -> None:
    run(place, 200, 25)
