"""After the storm: a known number of referrals in fair weather, which every counter must tell exactly."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from consumer.kafka_out import KafkaOut
from consumer.keys import Role
from tests.faults.storm import upstream
from tests.faults.storm.house import ACCOUNTS, FILES, House
from tests.faults.storm.schedule import COLLECT, FLUSH, PUSH
from tests.faults.storm.signs import read

if TYPE_CHECKING:
    from tests.faults.storm.storm import Storm

PUBLISHED = 2_000
#: No seed of a batch that upstream published.
SEED = 1 << 63
WITHIN_S, LOOK_S = 90.0, 0.2
AT_REST = (
    "referral_push_pending",
    "referral_push_in_flight",
    "referral_outbox_length",
    "referral_lag_records",
)


def calm(storm: Storm) -> list[str]:
    """What does not agree, a line each."""
    house = storm.house
    before = _counters(house)
    _publish(house)
    records = house.all_records()
    deadline = time.monotonic() + WITHIN_S

    def at_rest() -> bool:
        taken = all(house.running.next_offsets(role) == records for role in Role)
        return taken and house.running.pending() == 0 and not _busy(house)

    for begin in (lambda: None, lambda: house.running.flush(FILES)):
        begin()
        while not (at_rest() and house.running.flushed(FILES)):
            if time.monotonic() > deadline:
                return [f"no rest within {WITHIN_S:g} s of fair weather: {_busy(house) or 'windows'}"]
            time.sleep(LOOK_S)
    after = _counters(house)
    wanted = {
        (PUSH, "referral_consumed_total"): PUBLISHED,
        (COLLECT, "referral_consumed_total"): PUBLISHED,
        (PUSH, 'referral_push_attempts_total{outcome="delivered"}'): PUBLISHED,
        (PUSH, 'referral_deliveries_ended_total{outcome="DELIVERED"}'): PUBLISHED,
        (PUSH, "referral_redis_rewind_total"): 0,
        (COLLECT, "referral_redis_rewind_total"): 0,
        (FLUSH, "windows delivered"): len(FILES),
    }
    return [
        f"fair weather: {service} says {name} {after[service, name] - before[service, name]:g}, not {number}"
        for (service, name), number in wanted.items()
        if after[service, name] - before[service, name] != number
    ]


def _publish(house: House) -> None:
    settings, topic = house.running.settings, house.running.topics.referrals
    records = upstream.one_more(house.folder, topic, ACCOUNTS, SEED, PUBLISHED)
    KafkaOut(settings.kafka, settings.kafka_config).send(records)


def _counters(house: House) -> Counter[tuple[str, str]]:
    """By service and name, over both sides."""
    found: Counter[tuple[str, str]] = Counter()
    for name, service in house.services.items():
        role = name.partition("-")[0]
        for sample, value in read(service.metrics()).items():
            found[role, sample] += value
            if sample.startswith("referral_flush_artefacts_total") and 'outcome="delivered"' in sample:
                found[role, "windows delivered"] += value
    return found


def _busy(house: House) -> str:
    """Which gauge says that something is under way, or nothing."""
    counters = _counters(house)
    return next((f"{s} says {n} {v:g}" for (s, n), v in counters.items() if n.startswith(AT_REST) and v), "")
