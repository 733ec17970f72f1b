"""A steady stream, and how long each record took from its publication to its receiver."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from confluent_kafka import Producer

from consumer.log import silent
from schemas.delivery import delivery_id
from tests.bench import harness
from tests.bench.receiver import Receiver
from tests.bench.record import Made
from tests.bench.stage import START_S, Site

#: The stream's step: records due within it go together.
STEP_S = 0.002
#: Behind the stream by so much, its rate is not what it says.
LATE_S = 1.0
#: What is asked of the receiver this often costs nothing.
LOOK_S = 0.2


@dataclass(frozen=True)
class Sent:
    """By the delivery's key: when its record was published, in seconds since the epoch, and its account."""

    at: Mapping[str, float]
    account: Mapping[str, str]


def stream(site: Site, records: Iterable[Made], rate: float) -> Sent:
    """Publish so many a second, each at its moment. Raises TooLate where this machine cannot."""
    producer = Producer(
        {
            "bootstrap.servers": site.settings.kafka,
            "enable.idempotence": True,
            "linger.ms": 0,
            "partitioner": "murmur2_random",
            "logger": silent(),
        }
    )
    sent: dict[str, float] = {}
    account: dict[str, str] = {}
    ready = list(records)
    begun = time.monotonic()
    for number, record in enumerate(ready):
        ahead = begun + number / rate - time.monotonic()
        if ahead > STEP_S:
            producer.poll(0)
            time.sleep(ahead)
        elif ahead < -LATE_S:
            raise harness.TooLate(f"the stream of {rate:.0f} records a second is {-ahead:.1f} s behind")
        key = delivery_id(f"{record.account}-crm", record.referral_id, 0)
        account[key], sent[key] = record.account, time.time()
        producer.produce(site.topics.referrals, record.value, record.referral_id)
    assert producer.flush(START_S) == 0
    return Sent(sent, account)


def taken(receiver: Receiver, sent: Iterable[str], within: float) -> dict[str, float]:
    """When each of these keys came; all are waited for."""
    missing, found = set(sent), {}

    def all_there() -> bool:
        for key, at in receiver.seen().items():
            found.setdefault(key, at)
        missing.difference_update(found)
        return not missing

    harness.wait(all_there, "every delivery reached its receiver", within, LOOK_S)
    return found


def latencies_ms(sent: Sent, seen: Mapping[str, float], keys: Iterable[str] | None = None) -> list[float]:
    return [(seen[key] - sent.at[key]) * 1000 for key in (sent.at if keys is None else keys)]
