"""Workers killed in a storm of retries: nothing lost, every key with the same bytes, one effect each."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from schemas.delivery import Outcome
from tests.support.beside import repeating
from tests.support.kafka import Kafka
from tests.support.push_entry import Pushing, key_of, made, pushing

REFERRALS = 300
KILLS = 4
WORKERS = ("push", "push-2")
#: The receiver does each for part of the referrals, another part every moment; some answer keeps it alive.
WEATHER = ("503", "503:2", "reset", "reset", "lost", "lost", "ok")
PARTS = [f"/storm-crm/{digit:x}" for digit in range(16)]
#: The clock runs so much faster than time, so that breakers and schedules do not make the test long.
MOMENT_S, STRIDE_S = 0.05, 30.0
#: More attempts than the whole storm has time for.
PATIENT = str([600] * 50)
#: Requests between one kill and the next: each kill meets a storm.
GUST = 60


@pytest.mark.case(19)
@pytest.mark.timeout(240)
def test_workers_killed_in_a_retry_storm_lose_and_change_nothing(kafka: Kafka, tmp_path: Path) -> None:
    seed = int(os.environ.get("TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}: TEST_SEED={seed} repeats the schedule")
    chance = random.Random(seed)
    with pushing(tmp_path, kafka.bootstrap) as push:
        push.connect("storm", "/{referral_id}", retry_seconds=PATIENT, key_ttl="604800")
        push.running.init()
        push.start(*WORKERS)
        push.wait_shared(*WORKERS)
        events = [made("storm") for _ in range(REFERRALS)]
        share = REFERRALS // KILLS
        with going_on(push, lambda: {part: chance.choice(WEATHER) for part in PARTS}):
            for number in range(KILLS):
                seen = len(push.requests("storm"))
                push.publish(events[number * share : (number + 1) * share])
                push.wait(lambda since=seen: len(push.requests("storm")) >= since + GUST, "the storm goes on")
                assert push.count("storm") > 0, "the storm was over before the kill"
                victim = WORKERS[number % len(WORKERS)]
                push.running.children[victim].kill()
                push.start(victim)
        with going_on(push, lambda: dict.fromkeys(PARTS, "ok")):
            push.wait_taken()
            push.wait(lambda: push.count("storm") == 0, "every delivery has ended")
        judge(push, events)


@contextmanager
def going_on(push: Pushing, weather: Callable[[], dict[str, str]]) -> Iterator[None]:
    """The receiver does what `weather` says anew every moment, and the clock hurries."""

    def blow() -> None:
        push.modes(weather())
        push.clock.jump(STRIDE_S)

    with repeating(blow, MOMENT_S):
        yield


def judge(push: Pushing, events: list) -> None:
    verdict = push.verdict("storm", [event["referral_id"] for event in events])
    requests = push.requests("storm")
    print(f"{len(requests)} requests, {dict(push.modes({})['storm-crm'])}, {verdict}")
    assert verdict.repeats > 0, "no answer was lost: this run proves nothing"
    assert (verdict.delivered, verdict.lost, verdict.duplicates, verdict.mismatches) == (REFERRALS, 0, 0, 0)
    bodies: dict[str, set[str]] = {}
    for request in requests:
        bodies.setdefault(request["key"], set()).add(request["sha256"])
    assert bodies.keys() == {key_of(event) for event in events}
    assert {key: found for key, found in bodies.items() if len(found) > 1} == {}
    receipts = push.receipts("storm", REFERRALS)
    assert len(receipts) == REFERRALS
    assert {receipt.outcome for receipt in receipts} == {Outcome.DELIVERED}
