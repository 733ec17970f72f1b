"""One storm from its first second to its verdict."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import redis

from consumer.keys import Role
from tests.faults.storm import upstream
from tests.faults.storm.calm import calm
from tests.faults.storm.house import FILES, House, house
from tests.faults.storm.judge import Verdict, books, judge
from tests.faults.storm.points import POINTS
from tests.faults.storm.schedule import Scene, plan
from tests.faults.storm.storm import Storm

#: Referrals a second: two cores carry it beside everything that is started again.
RATE = 600.0
#: All services have joined and taken something.
JOIN_S = 90.0
#: What a storm leaves behind is tried again within a minute each: by then something has ended.
SETTLE_S = 180.0
LOOK_S = 0.2
#: A broker of ours takes half a gigabyte at most.
THREE_BROKERS_BYTES = 4 << 30


@dataclass(frozen=True)
class Figures:
    """What one storm came to."""

    seed: int
    minutes: float
    kafka: str
    events: int
    kills: int
    faults: int
    points: frozenset[str]
    repeats_bound: int
    verdict: Verdict
    details: dict[str, int] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        return not self.verdict.troubles


def run(folder: Path, seed: int, minutes: float, say: Callable[[str], None], rate: float = RATE) -> Figures:
    """Raises StartError where something cannot be started, AssertionError where it does not come to rest."""
    begun = datetime.now(UTC)
    with house(folder, brokers_here()) as running:
        brokers = running.kafka.numbers if running.kafka.durable else ()
        schedule = plan(seed, minutes, Scene(points_here(), sorted(running.links.ports), brokers))
        (folder / "schedule.json").write_text(json.dumps([fault.as_json() for fault in schedule], indent=1))
        running.launch_all()
        running.publish(seed, rate)
        storm = Storm(running, schedule, say)
        _joined(running)
        storm.run()
        storm.disarm()
        troubles = settle(storm)
        troubles += calm(storm)
        records = running.all_records()
        storm.stop()
        say("judging")
        wanted = upstream.wanted(folder)
        verdict = judge(running, wanted, storm.bound)
        verdict.troubles += [
            *storm.troubles,
            *troubles,
            *storm.signs.missing(schedule),
            *books(running, begun, records),
        ]
        return Figures(
            seed=seed,
            minutes=minutes,
            kafka=running.kafka.name,
            events=records,
            kills=storm.kills.total(),
            faults=len(schedule),
            points=frozenset(running.parent.covered()),
            repeats_bound=storm.bound,
            verdict=verdict,
            details={**{f"killed {name}": n for name, n in storm.kills.items()}, **storm.done},
        )


def brokers_here() -> int:
    """Three where memory allows."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 3 if free > THREE_BROKERS_BYTES else 1


def points_here() -> dict[str, list[str]]:
    """Crash points by service: those that what happens here reaches."""
    found: dict[str, list[str]] = {}
    for point in POINTS.values():
        if point.needs in {"", "a mail", "a receiver that refuses"}:
            found.setdefault(point.service, []).append(point.name)
    return found


def _joined(running: House) -> None:
    deadline = time.monotonic() + JOIN_S
    while min(running.running.next_offsets(role) for role in Role) <= 0:
        assert time.monotonic() < deadline, f"nothing was taken within {JOIN_S:g} s"
        time.sleep(LOOK_S)


def _left(running: House, records: int) -> int:
    """Records and deliveries that have not ended; the same as before where Redis cannot be asked."""
    with suppress(redis.RedisError):
        return sum(records - running.running.next_offsets(role) for role in Role) + running.running.pending()
    return -1


def settle(storm: Storm) -> list[str]:
    """Upstream ends, and everything it published ends; what does not is told."""
    running = storm.house
    running.silence()
    records = running.all_records()
    taken = [
        (f"{role} takes all", lambda role=role: running.running.next_offsets(role) == records)
        for role in Role
    ]
    steps = [
        *taken,
        ("pushes end", lambda: running.running.pending() == 0),
        ("windows end", lambda: running.running.flushed(FILES)),
    ]
    for what, done in steps:
        left, since = -1, time.monotonic()
        while not storm.quietly(done):
            # A long backlog may take its time, as long as it gets shorter.
            if (now_left := _left(running, records)) != left:
                left, since = now_left, time.monotonic()
            if time.monotonic() > since + SETTLE_S:
                return [f"nothing moved for {SETTLE_S:g} s: {what}"]
            storm.go_on(LOOK_S)
    storm.quiet_windows()
    running.running.flush(FILES)
    storm.quiet_windows()
    return []
