"""Receivers in trouble for 26 hours of the service's clock, and what it delivers afterwards."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from schemas.delivery import Outcome
from tests.support import oracle
from tests.support.kafka import Kafka
from tests.support.push_entry import Pushing, key_of, made, pushing

#: The first test waits for the whole outage.
pytestmark = [pytest.mark.timeout(240), pytest.mark.case(23)]

HOUR = 3_600.0
OUTAGE = 26 * HOUR
#: In the last hours of the outage: its key is remembered when the receiver is back.
LATE = 20 * HOUR
#: An open breaker asks again within two minutes: a longer step is always followed by a request.
STEP, LONG_STEP = 130.0, 0.5 * HOUR
#: Once the receivers are back: all that waits is due after it, and no key of the late ones is forgotten.
LEAP = 15 * HOUR
#: The first attempts of the early ones are made in small steps.
EARLY = HOUR
#: Referrals of each account before the outage, corrections of some, and referrals late in it.
EARLY_ONES, CORRECTED, LATE_ONES = 10, 3, 4
PER_SECOND = 20
#: The busy one has many: its rate must mean something.
BUSY_ONES, BUSY_CORRECTED = 80, 30
#: Requests arrive apart by other times than they were started.
ARRIVAL = 2

SILENT = {"timeout": "0.3", "max_in_flight": "4"}
ACCOUNTS: dict[str, tuple[str, dict[str, str]]] = {
    "busy": ("503", {"limits": f"{{per_second: {PER_SECOND}}}"}),
    "held": ("hang", SILENT),
    "week": ("hang", {**SILENT, "key_ttl": "604800"}),
    "tried": ("hang", {**SILENT, "on_uncertain": "retry"}),
}


@dataclass
class Outage:
    """What was published, by account, and when the receivers were back, in real time."""

    push: Pushing
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    late: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    back_at: float = 0.0
    #: Before that: receivers known not to work, and when the oldest that waits was published.
    away: float = 0.0
    oldest: float = 0.0

    def wanted(self, account: str) -> list[dict[str, Any]]:
        return self.events[account] + self.late.get(account, [])


@pytest.fixture(scope="module")
def outage(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outage]:
    with pushing(tmp_path_factory.mktemp("outage"), kafka.bootstrap) as push:
        for account, (_, options) in ACCOUNTS.items():
            push.connect(account, **options)
        push.running.init()
        push.modes({f"/{account}-crm": mode for account, (mode, _) in ACCOUNTS.items()})
        push.start("push")
        push.wait_shared("push")
        yield passed(push)


def passed(push: Pushing) -> Outage:
    """Drive the clock through the outage and all that follows."""
    found, begun = Outage(push), push.clock()
    for account in ACCOUNTS:
        count, corrected = (BUSY_ONES, BUSY_CORRECTED) if account == "busy" else (EARLY_ONES, CORRECTED)
        first = [made(account) for _ in range(count)]
        found.events[account] = first + [made(account, e["referral_id"], 2) for e in first[:corrected]]
        push.publish(found.events[account])
    push.wait_taken()
    steps = 0
    while (elapsed := push.clock() - begun) < OUTAGE:
        if elapsed >= LATE and not found.late:
            found.late = {account: [made(account) for _ in range(LATE_ONES)] for account in ACCOUNTS}
            for events in found.late.values():
                push.publish(events)
            push.wait_taken()
        step(push, STEP if elapsed < EARLY else LONG_STEP)
        steps += 1
    found.away = push.metric('referral_connections_held_back{state="open"}')
    found.oldest = push.metric("referral_push_oldest_pending_timestamp_seconds")
    found.back_at = time.time()
    push.modes({f"/{account}-crm": "ok" for account in ACCOUNTS})
    push.clock.jump(LEAP)
    push.wait(lambda: all(left(push, account) <= 0 for account in ACCOUNTS), "all that may end has ended")
    print(f"{steps} steps to {elapsed / HOUR:.1f} h")
    return found


def left(push: Pushing, account: str) -> int:
    """Deliveries that have not ended, without those held and their corrections."""
    held = push.count(account, "held")
    return push.count(account) - held - (CORRECTED if held else 0)


def step(push: Pushing, least: float) -> None:
    """Jump to when something is due, and wait until something became of it for each account."""
    schedule = push.schedule(ACCOUNTS)
    next_due = min((due for dues in schedule.values() for due in dues.values()), default=0.0)
    push.clock.jump(max(least, next_due - push.clock() + 1.0))
    now = push.clock()
    waiting = {a: dues for a, dues in schedule.items() if any(due <= now for due in dues.values())}

    def moved() -> bool:
        found = push.schedule(waiting)
        return all(found[account] != dues for account, dues in waiting.items())

    push.wait(moved, f"something becomes of what is due: {[(a, len(d)) for a, d in waiting.items()]}")


def in_order(push: Pushing, account: str, events: list[dict[str, Any]]) -> None:
    """A correction comes after what it corrects."""
    place = {one["key"]: number for number, one in enumerate(push.effects(account))}
    revisions: dict[str, list[int]] = {}
    for event in sorted(events, key=lambda e: e["revision"]):
        revisions.setdefault(event["referral_id"], []).append(place[key_of(event)])
    assert all(a < b for places in revisions.values() for a, b in pairwise(places))


def all_arrived(outage: Outage, account: str) -> None:
    push, wanted = outage.push, outage.wanted(account)
    verdict = push.verdict(account, [event["referral_id"] for event in wanted])
    print(account, verdict, dict(push.modes({})[f"{account}-crm"]))
    count = len(wanted)
    assert verdict == oracle.Verdict(expected=count, delivered=verdict.delivered, lost=0, duplicates=0)
    assert Counter(e["key"] for e in push.effects(account)) == Counter(map(key_of, wanted))
    in_order(push, account, wanted)
    receipts = push.receipts(account, count)
    assert {receipt.outcome for receipt in receipts} == {Outcome.DELIVERED}
    assert len(receipts) == count


def test_who_is_on_duty_is_told_of_receivers_that_do_not_work(outage: Outage) -> None:
    """By what ReferralReceiversAway and ReferralPendingOld look at."""
    assert outage.away == len(ACCOUNTS)
    earliest = min(e["produced_at"] for events in outage.events.values() for e in events)
    assert abs(outage.oldest - earliest.timestamp()) < 60


def test_a_receiver_busy_for_a_day_gets_everything_within_its_rate(outage: Outage) -> None:
    all_arrived(outage, "busy")
    at = sorted(one["at"] for one in outage.push.requests("busy"))
    most = max(sum(1 for one in at[i : i + 5 * PER_SECOND] if one < start + 1) for i, start in enumerate(at))
    print(f"{len(at)} requests, at most {most} in a second")
    assert most <= PER_SECOND + ARRIVAL


@pytest.mark.parametrize("account", ["week", "tried"])
def test_a_receiver_silent_for_a_day_gets_everything(outage: Outage, account: str) -> None:
    """Where its keys live long enough, and where it is to be tried on in any case."""
    all_arrived(outage, account)


def test_what_the_receiver_may_have_forgotten_waits_for_a_person(outage: Outage) -> None:
    push, early, late = outage.push, outage.events["held"], outage.late["held"]
    receipts = push.receipts("held", EARLY_ONES + LATE_ONES)
    uncertain = {r.subject_id for r in receipts if r.outcome is Outcome.UNCERTAIN}
    firsts = [event for event in early if event["revision"] == 1]
    assert uncertain == {f"{key_of(event)}:uncertain" for event in firsts}
    assert push.count("held", "held") == EARLY_ONES
    assert push.count("held") == EARLY_ONES + CORRECTED
    assert {r.subject_id for r in receipts} - uncertain == set(map(key_of, late))
    # Nothing of them was sent once the receiver was back.
    sent = {one["key"] for one in push.requests("held") if one["at"] >= outage.back_at}
    assert sent == set(map(key_of, late))
