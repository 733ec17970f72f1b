"""A storm's schedule is its seed's alone, and what a power cut takes spares what stood behind a barrier."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from tests.faults.storm.redis_faults import END, newest_file, to_cut
from tests.faults.storm.schedule import SERVICES, TAIL_BYTES, Fault, Kind, Scene, disturbed, plan

SCENE = Scene(
    points={service: [f"{service}.{n}" for n in range(9)] for service in ("push", "collect", "flush")},
    links=["a-valkey", "b-valkey", "a-kafka-1", "b-kafka-1", "crm", "sftp", "a-smtp", "b-smtp"],
    brokers=(1, 2, 3),
)


def test_a_seed_repeats_its_schedule_and_another_does_not() -> None:
    assert plan(12, 15, SCENE) == plan(12, 15, SCENE)
    assert plan(12, 15, SCENE) != plan(13, 15, SCENE)


def test_long_storms_hold_every_kind_of_fault_and_every_crash_point() -> None:
    faults = [fault for seed in range(4) for fault in plan(seed, 15, SCENE)]
    assert {fault.kind for fault in faults} == set(Kind)
    points = {fault.detail for fault in faults if fault.kind is Kind.CRASH}
    assert points == {name for names in SCENE.points.values() for name in names}
    assert {fault.target for fault in faults if fault.kind is Kind.KILL} == set(SERVICES)
    assert {fault.target for fault in faults if fault.kind is Kind.LINK} == set(SCENE.links)


@pytest.mark.parametrize("minutes", [0.2, 1, 3, 15])
def test_faults_come_in_order_and_within_the_time(minutes: float) -> None:
    faults = plan(5, minutes, SCENE)
    assert all(one.at <= other.at for one, other in pairwise(faults))
    assert 0 < faults[-1].at <= max(30.0, minutes * 60)
    assert all(0 <= fault.seconds <= 30 for fault in faults)
    losses = [fault.kind for fault in faults if fault.kind in {Kind.EMPTIED, Kind.OLDER}]
    assert losses == ([Kind.EMPTIED, Kind.OLDER] if minutes > 4 else [])


def test_brokers_that_lose_their_topics_are_left_alone() -> None:
    scene = Scene(SCENE.points, SCENE.links, brokers=())
    assert all(fault.kind is not Kind.BROKER for seed in range(5) for fault in plan(seed, 15, scene))


@pytest.mark.parametrize(
    ("fault", "workers"),
    [
        (Fault(0, Kind.LINK, "a-valkey"), 1),
        (Fault(0, Kind.LINK, "b-kafka-2"), 1),
        (Fault(0, Kind.LINK, "crm"), 2),
        (Fault(0, Kind.LINK, "kafka-1"), 2),
        (Fault(0, Kind.LINK, "a-smtp"), 0),
        (Fault(0, Kind.LINK, "sftp"), 0),
        (Fault(0, Kind.RECEIVER, "crm"), 2),
        (Fault(0, Kind.RECEIVER, "smtp"), 0),
        (Fault(0, Kind.FREEZE, "push-a"), 1),
        (Fault(0, Kind.FREEZE, "flush-a"), 0),
        (Fault(0, Kind.KILL, "push-a"), 0),
        (Fault(0, Kind.JOIN, "push"), 3),
        (Fault(0, Kind.JOIN, "collect"), 0),
        (Fault(0, Kind.REDIS, "redis"), 2),
        (Fault(0, Kind.BROKER, "kafka"), 2),
        (Fault(0, Kind.ANSWERS, "crm"), 0),
    ],
)
def test_how_many_push_workers_a_fault_disturbs(fault: Fault, workers: int) -> None:
    """Deaths are counted as they happen, not here."""
    assert disturbed(fault) == workers


@pytest.mark.parametrize(
    ("content", "wanted", "cut"),
    [
        pytest.param(b"*3\r\n{r:1}:push:head" * 50, 100, 100, id="rows alone"),
        pytest.param(b"x{r:window:acme}" + END + b"rows of intake", 40, 14, id="behind a window's state"),
        pytest.param(b"x{r:1}:batch:seals:acme then no end", 30, 0, id="a state that is not whole"),
        pytest.param(b"short", TAIL_BYTES, 5, id="a short file"),
    ],
)
def test_a_power_cut_spares_what_stood_behind_a_barrier(
    content: bytes, wanted: int, cut: int, tmp_path: Path
) -> None:
    data = tmp_path / "appendonlydir"
    data.mkdir()
    (data / "appendonly.aof.9.incr.aof").write_bytes(b"older")
    (data / "appendonly.aof.10.incr.aof").write_bytes(content)
    path = newest_file(tmp_path)
    assert path.read_bytes() == content
    assert to_cut(path, wanted) == cut
