"""The upstream of the demo: makes referrals and publishes them, and remembers who is to get each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from consumer.kafka_out import KafkaOut, Out
from consumer.service import Settings
from consumer.topics import Topics
from deploy.embedded import people
from deploy.embedded.accounts import ACCOUNTS, Plan, Planned
from schemas import referral


@dataclass(frozen=True, slots=True)
class Published:
    """One referral: when, in seconds since the epoch, and the connections it must reach."""

    referral_id: str
    at: float
    wanted_by: tuple[Planned, ...]


class Publisher:
    """Each batch has people of its own; the first `seed` gives the same ones again."""

    def __init__(self, settings: Settings, plan: Plan, clock: Callable[[], datetime], seed: int = 1) -> None:
        self._out = KafkaOut(settings.kafka, settings.kafka_config)
        self._topic = Topics(settings.prefix).referrals
        self._plan, self._clock, self._seed = plan, clock, seed

    def publish(self, count: int) -> list[Published]:
        """Publish `count` new referrals and wait for Kafka's acknowledgement. Raises NotAcknowledged."""
        now = self._clock()
        events = list(people.referrals(self._seed, count, ACCOUNTS, now))
        self._seed += 1
        self._out.send([Out(self._topic, event["referral_id"], referral.encode(event)) for event in events])
        return [
            Published(event["referral_id"], now.timestamp(), tuple(self._plan.wants(event)))
            for event in events
        ]
