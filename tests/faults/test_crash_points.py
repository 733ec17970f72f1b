"""A service killed at each named crash point, and started again: nothing lost, nothing doubled, all of it told."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.storm.around import replace_with, standing
from tests.faults.storm.entry import parent
from tests.faults.storm.place import Place, standing_place
from tests.faults.storm.points import POINTS
from tests.faults.storm.sweep import sweep
from tests.support.kafka import Kafka
from tests.support.receivers import eventually

#: Of each service, what a short run shows: each cell's points, one after another.
FEW: Mapping[str, Sequence[str]] = {
    "push-1": ("push.intake.unobeyed",),
    "push-2": ("push.request.answered",),
    "push-3": ("push.settle.asking",),
    "collect-1": ("collect.marks.in-half",),
    "flush-1": ("flush.sealed-in-half", "flush.uploading", "flush.renamed", "flush.mail.after-dot"),
}
#: Cells beside each other in the full sweep: most of a life is waiting for a session or a lease to end.
SIDE_BY_SIDE = 8


pytestmark = pytest.mark.case(1)

Tell = Callable[[str, object], None]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, kafka: Kafka) -> Iterator[Place]:
    with standing_place(tmp_path_factory.mktemp("points"), kafka) as found:
        yield found


def swept(place: Place, cells: Mapping[str, Sequence[str]], at_once: int) -> Mapping[str, set[str]]:
    """What went wrong in each cell."""

    def one(name: str) -> set[str]:
        points = cells[name]
        service = POINTS[points[0]].service
        made = place.cell(name, pushed=service == "push")
        collecting = made.start("collect").wait_started() if service == "flush" else None
        try:
            return sweep(made, points)
        finally:
            if collecting is not None:
                collecting.stop()

    with ThreadPoolExecutor(at_once) as threads:
        return dict(zip(cells, threads.map(one, cells), strict=True))


def dealt(at_once: int) -> dict[str, list[str]]:
    """All points, dealt to cells of one service each: push and collect wait most, so they get most cells."""
    shares = {"push": max(1, at_once - 4), "collect": 2, "flush": 2}
    found = {f"all-{s}-{n}": [] for s, count in shares.items() for n in range(count)}
    for number, point in enumerate(POINTS.values()):
        found[f"all-{point.service}-{number % shares[point.service]}"].append(point.name)
    return found


@pytest.mark.timeout(180)
def test_killed_at_a_point_of_each_kind_nothing_is_lost_or_doubled(
    place: Place, record_property: Tell
) -> None:
    wrong = swept(place, FEW, len(FEW))
    assert wrong == {name: set() for name in FEW}
    covered = place.parent.covered()
    assert set(covered) >= {name for names in FEW.values() for name in names}
    told(covered, record_property)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_killed_at_every_point_nothing_is_lost_or_doubled(place: Place, record_property: Tell) -> None:
    cells = dealt(SIDE_BY_SIDE)
    wrong = swept(place, cells, len(cells))
    covered = place.parent.covered()
    told(covered, record_property)
    assert wrong == {name: set() for name in cells}
    assert set(covered) == set(POINTS)


def told(covered: Collection[str], record_property: Tell) -> None:
    """How many of how many; by name in the file that FAULTS_POINTS names, for who counts over several runs."""
    print(f"points covered: {len(covered)} of {len(POINTS)}")
    record_property("points_covered", len(covered))
    record_property("points_total", len(POINTS))
    if name := os.environ.get("FAULTS_POINTS"):
        with Path(name).open("a") as file:
            file.writelines(f"{point}\n" for point in covered)


def test_a_point_whose_place_is_gone_fails_loudly() -> None:
    with pytest.raises(LookupError, match="Offers._buried is not there any more"):
        replace_with("consumer.offers:Offers._buried", lambda original: original)


def test_every_point_has_a_place() -> None:
    for point in POINTS.values():
        assert callable(standing(point.where)), point.name


def test_services_die_with_their_parent(tmp_path: Path) -> None:
    nobody = {"REFERRALS_REDIS": "redis://127.0.0.1:1/0", "REFERRALS_KAFKA": "127.0.0.1:1"}
    with parent(tmp_path) as running:
        waiting = running.start("flush", "waiting", {}, planted="signal.pause")
        refused = running.start("collect", "refused", nobody)
        assert refused.wait() == 1
        assert "check REFERRALS_REDIS" in refused.output()
        assert waiting.exit_code is None
        os.kill(running._process.pid, signal.SIGKILL)
        eventually(lambda: waiting.state in {"", "Z"}, "it died, too")
