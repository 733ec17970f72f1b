"""The oracle sees what is wrong: with a wrong piece in a service it says so, without it the same run is clean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from consumer.keys import Role
from consumer.store import Script
from tests.faults.storm.cell import Cell
from tests.faults.storm.judged import judge
from tests.faults.storm.place import Place, standing_place
from tests.faults.storm.planted import PLANTED, wrong_script
from tests.faults.storm.points import POINTS
from tests.faults.storm.sweep import die, flushed
from tests.support.deployment import SFTP_USER
from tests.support.kafka import Kafka

#: Rows, so that every partition has some.
ROWS = 40


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, kafka: Kafka) -> Iterator[Place]:
    with standing_place(tmp_path_factory.mktemp("planted"), kafka) as found:
        yield found


def answer_lost(one: Cell, how: Mapping[str, Any]) -> None:
    """A request is applied, its answer never comes, and it is sent again."""
    one.answers("lost")
    one.publish(1)
    service = one.start("push", **how)
    one.wait(lambda: one.effects("effect"), "it was applied")
    one.deaths += 1
    one.answers("ok")
    one.wait_pushed()
    one.stop(service)


def two_lives(one: Cell, how: Mapping[str, Any]) -> None:
    for _ in range(2):
        one.publish(ROWS)
        service = one.start("push", **how)
        one.wait_pushed()
        one.stop(service)


def put_off(one: Cell, how: Mapping[str, Any]) -> None:
    one.answers("503")
    one.publish(3)
    service = one.start("push", **how)
    one.wait(lambda: one.waiting("tries") == 3, "all were tried and put off")
    one.stop(service)
    one.answers("ok")
    service = one.start("push", **how)
    one.wait(lambda: "partition.taken" in service.output() and one.idle(), "nothing is to be tried any more")
    one.stop(service)


def killed_at(one: Cell, how: Mapping[str, Any], point: str, connection: str) -> None:
    """A window of a connection, whose worker dies at a point, and the next one."""
    collecting = one.start("collect")
    one.publish(ROWS)
    one.wait_taken(Role.BATCH)
    one.stop(collecting)
    one.ask(connection)
    die(one, one.start("flush", point=point, **how), POINTS[point])
    for file in (one.running.sftp.folder / SFTP_USER).glob(f"{one.sftp}-*.csv"):
        # The advertiser has taken it away.
        file.rename(file.with_name(f"{one.sftp}-taken.csv"))
    flushed(one, connection, how)
    if connection != one.sftp:
        flushed(one, one.sftp, how)


def half_sealed(one: Cell, how: Mapping[str, Any]) -> None:
    killed_at(one, how, "flush.sealed", one.sftp)


def taken_away(one: Cell, how: Mapping[str, Any]) -> None:
    killed_at(one, how, "flush.renamed", one.sftp)


def mailed(one: Cell, how: Mapping[str, Any]) -> None:
    killed_at(one, how, "flush.mail.sent", one.mail)


RUNS = {
    "key": answer_lost,
    "body": answer_lost,
    "intake": two_lives,
    "settle": put_off,
    "seal": half_sealed,
    "upload": taken_away,
    "mail": mailed,
}


#: A short run shows these; each class of wrong is among them all.
FEW = ("key", "settle", "upload")
REST = tuple(name for name in PLANTED if name not in FEW)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("names", [FEW, pytest.param(REST, marks=pytest.mark.long)], ids=["few", "rest"])
def test_the_oracle_sees_each_wrong_piece_and_nothing_without_it(place: Place, names: Sequence[str]) -> None:
    assert RUNS.keys() == PLANTED.keys()

    def judged(run: tuple[str, bool]) -> set[str]:
        name, wrong = run
        pushed = "push" in PLANTED[name].services
        called = f"{name}-{'wrong' if wrong else 'right'}"
        one = place.cell(called, pushed=pushed)
        RUNS[name](one, {"planted": PLANTED[name].name} if wrong else {})
        return judge(one)

    runs = [(name, wrong) for name in names for wrong in (True, False)]
    with ThreadPoolExecutor(len(runs)) as threads:
        found = dict(zip(runs, threads.map(judged, runs), strict=True))
    assert {name: found[name, False] for name in names} == {name: set() for name in names}
    assert {name: PLANTED[name].seen in found[name, True] for name in names} == dict.fromkeys(names, True)


def test_a_piece_whose_original_is_gone_fails_loudly() -> None:
    source = Script.source
    with pytest.raises(LookupError, match="does not say this once"):
        wrong_script("consumer", "intake", "what no script says", "")
    assert Script.source is source
