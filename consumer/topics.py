"""Our topics: their names, their creation and their checks. The only user of Kafka's admin API."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from confluent_kafka import (
    ConsumerGroupState,
    ConsumerGroupType,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec  # type: ignore[attr-defined]

from consumer.log import silent
from consumer.service import Stop

#: Admin requests end in any case.
TIMEOUT_S = 15.0
#: Between two looks for a topic just made.
VISIBLE_PAUSE_S = 0.05
DEFAULT_PARTITIONS = 8
#: What `init` gives a referral topic it creates: twice the horizon it must outlive.
DEFAULT_RETENTION_MS = 14 * 86_400_000


class TopicTrouble(Exception):  # noqa: N818 - what an operator must mend
    """A topic is missing, unreachable or not as we need it; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Topics:
    """The names, after the deployment's prefix."""

    prefix: str = ""

    def group(self, service: str) -> str:
        """The consumer group of a service."""
        return f"{self.prefix}referral-{service}"

    @property
    def referrals(self) -> str:
        return f"{self.prefix}referrals"

    @property
    def receipts(self) -> str:
        return f"{self.prefix}referral-receipts"

    @property
    def dead_letters(self) -> str:
        return f"{self.prefix}referral-dead-letters"

    @property
    def manifests(self) -> str:
        return f"{self.prefix}referral-manifests"


@dataclass(frozen=True, slots=True)
class Description:
    """A topic as Kafka knows it. `topic_id` changes when it is deleted and made again."""

    topic_id: str
    partitions: int


class Admin:
    """Raises TopicTrouble from every method."""

    def __init__(self, bootstrap: str, config: Mapping[str, Any]) -> None:
        """Raises Stop where librdkafka does not take `config`."""
        self._bootstrap = bootstrap
        try:
            self._admin = AdminClient({**config, "bootstrap.servers": bootstrap}, logger=silent())
        except KafkaException as error:
            # What stands behind the property's name may be its value.
            what = str(error.args[0].str()).partition('": ')[0]
            raise Stop(f"REFERRALS_KAFKA_CONFIG: {what}") from None

    def describe(self, topic: str) -> Description | None:
        """None where the topic does not exist."""
        try:
            futures = self._admin.describe_topics(TopicCollection([topic]), request_timeout=TIMEOUT_S)
            found = futures[topic].result(timeout=TIMEOUT_S + 5)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                return None
            raise self._unreachable(error) from error
        return Description(str(found.topic_id), len(found.partitions))

    def create(self, topic: str, partitions: int, config: Mapping[str, str], replication: int) -> None:
        """Make the topic and wait until it can be used; that it exists already is fine."""
        new = NewTopic(topic, partitions, replication, config=dict(config))
        try:
            self._admin.create_topics([new], request_timeout=TIMEOUT_S)[topic].result(timeout=TIMEOUT_S + 5)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise TopicTrouble(f"cannot create topic {topic}: {error.args[0].str()}") from error
        # A controller's word reaches the brokers a moment later.
        deadline = time.monotonic() + TIMEOUT_S
        while self.describe(topic) is None or self._settings(topic) is None:
            if time.monotonic() > deadline:
                raise TopicTrouble(f"topic {topic} was created but does not appear")
            time.sleep(VISIBLE_PAUSE_S)

    def setting(self, topic: str, name: str) -> str | None:
        """A topic's setting, or None where the broker does not say."""
        return (self._settings(topic) or {}).get(name)

    def _settings(self, topic: str) -> dict[str, str] | None:
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        try:
            futures = self._admin.describe_configs([resource], request_timeout=TIMEOUT_S)
            entries = futures[resource].result(timeout=TIMEOUT_S + 5)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                return None
            raise self._unreachable(error) from error
        return {name: str(entry.value) for name, entry in entries.items()}

    def offsets(self, topic: str, partitions: int, spec: OffsetSpec) -> dict[int, int]:
        """Where `spec` points in each partition."""
        asked = {TopicPartition(topic, p): spec for p in range(partitions)}
        try:
            futures = self._admin.list_offsets(asked, request_timeout=TIMEOUT_S)
            return {tp.partition: int(f.result(timeout=TIMEOUT_S + 5).offset) for tp, f in futures.items()}
        except KafkaException as error:
            raise self._unreachable(error) from error

    def earliest(self, topic: str, partitions: int) -> dict[int, int]:
        return self.offsets(topic, partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]

    def latest(self, topic: str, partitions: int) -> dict[int, int]:
        return self.offsets(topic, partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]

    def at(self, topic: str, partitions: int, timestamp_ms: int) -> dict[int, int]:
        """The first record at or after the time; -1 where there is none."""
        return self.offsets(topic, partitions, OffsetSpec.for_timestamp(timestamp_ms))

    def reading(self, group: str) -> bool:
        """Whether the group has members now."""
        try:
            described = self._admin.describe_consumer_groups([group], request_timeout=TIMEOUT_S)
            if described[group].result(timeout=TIMEOUT_S + 5).members:
                return True
        except KafkaException as error:
            if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
                raise self._unreachable(error) from error
        try:
            listed = self._admin.list_consumer_groups(request_timeout=TIMEOUT_S).result(timeout=TIMEOUT_S + 5)
        except KafkaException as error:
            raise self._unreachable(error) from error
        # Groups of the newer protocol have no description of the older kind.
        mine = [
            one for one in listed.valid if one.group_id == group and one.type is ConsumerGroupType.CONSUMER
        ]
        return any(one.state not in {ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD} for one in mine)

    def _unreachable(self, error: KafkaException) -> TopicTrouble:
        return TopicTrouble(
            f"Kafka at {self._bootstrap} does not answer ({error.args[0].name()}): "
            "check REFERRALS_KAFKA and that the broker runs"
        )


def needed_retention_ms(longest: timedelta = timedelta(days=3)) -> int:
    """How long the referral topic must keep records: the longest schedule interval, retry horizon or
    hold (`longest`), plus a day to notice.
    """
    return int((longest + timedelta(days=1)).total_seconds() * 1000)


def retention_trouble(topic: str, retention_ms: str | None, needed_ms: int) -> str | None:
    """Why the topic's retention is too short for what may still have to be read, or None. Pure."""
    if retention_ms is None or int(retention_ms) < 0 or int(retention_ms) >= needed_ms:
        return None
    return (
        f"topic {topic} keeps records for {int(retention_ms) / 3_600_000:.1f} h, but schedules, retries and "
        f"holds may need them for {needed_ms / 3_600_000:.1f} h: raise retention.ms to at least {needed_ms}"
    )
