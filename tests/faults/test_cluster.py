"""The storm's Kafka: through a side's link, acknowledged by two, nothing is lost with a leader."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.faults.storm import cluster
from tests.faults.storm.cluster import Cluster
from tests.faults.storm.links import Links
from tests.support.apache_kafka import JAVA, java_version
from tests.support.receivers import eventually

TOPIC = "storm"
#: How long a producer keeps trying: far longer than the election of a new leader takes.
PRODUCE_SECONDS = 60
AFTER = 200


@pytest.fixture
def links_of() -> Iterator[dict[str, Links]]:
    running: dict[str, Links] = {}
    yield running
    for links in running.values():
        links.stop()


@pytest.mark.long
@pytest.mark.timeout(300)  # five starts of Java, on cores that others may use
@pytest.mark.skipif(java_version() < JAVA, reason="three brokers need Java")
def test_nothing_acknowledged_is_lost_with_the_leader(tmp_path: Path, links_of: dict[str, Links]) -> None:
    kafka = cluster.apache(tmp_path)
    try:
        links = links_of["links"] = Links.start(tmp_path, kafka.links())
        kafka.wait_serving()
        _create(kafka, replication=-1)
        kafka.wait_serving()
        acknowledged, stop = set[int](), threading.Event()
        producing = threading.Thread(target=_produce, args=(kafka.side_bootstrap("a"), acknowledged, stop))
        producing.start()
        try:
            eventually(lambda: len(acknowledged) > AFTER, "records are acknowledged")
            first = kafka.leader(TOPIC, 0)
            assert first is not None
            kafka.kill(first)
            seen = len(acknowledged)
            eventually(lambda: kafka.leader(TOPIC, 0) not in {None, first}, "another leads", PRODUCE_SECONDS)
            eventually(lambda: len(acknowledged) > seen + AFTER, "it goes on", PRODUCE_SECONDS)
            kafka.restart(first)
            kafka.wait_serving()
            assert kafka.running == {1, 2, 3}
            links.order("a-kafka-*", "reset")
            seen = len(acknowledged)
            eventually(lambda: len(acknowledged) > seen + AFTER, "it goes on", PRODUCE_SECONDS)
        finally:
            stop.set()
            producing.join()
        counts = links.counts()
        assert all(counts[f"b-kafka-{number}"]["connections"] == 0 for number in kafka.numbers)
        assert _read(kafka.bootstrap, acknowledged) == sorted(acknowledged)
        assert _read(kafka.side_bootstrap("b"), acknowledged) == sorted(acknowledged)
        assert all(links.counts()[f"b-kafka-{number}"]["down"] for number in kafka.numbers)
    finally:
        kafka.stop()


def test_everybody_reaches_the_embedded_broker_through_its_one_link(tmp_path: Path, links_of) -> None:
    kafka = cluster.embedded(tmp_path)
    try:
        links = links_of["links"] = Links.start(tmp_path, kafka.links())
        kafka.wait_serving()
        _create(kafka, replication=1)
        acknowledged, stop = set[int](), threading.Event()
        producing = threading.Thread(target=_produce, args=(kafka.side_bootstrap("b"), acknowledged, stop))
        producing.start()
        eventually(lambda: len(acknowledged) > AFTER, "records are acknowledged")
        stop.set()
        producing.join()
        assert links.counts()["kafka-1"]["up"] > AFTER
        assert kafka.side_bootstrap("a") == kafka.side_bootstrap("b") != kafka.bootstrap
        assert _read(kafka.bootstrap, acknowledged) == sorted(acknowledged)
    finally:
        kafka.stop()


def _create(kafka: Cluster, replication: int) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.create_topics([NewTopic(TOPIC, 1, replication)])[TOPIC].result(PRODUCE_SECONDS)


def _produce(bootstrap: str, acknowledged: set[int], stop: threading.Event) -> None:
    """Numbers from 0, each once, until told to stop."""

    def told(number: int) -> None:
        producer.produce(
            TOPIC,
            str(number).encode(),
            on_delivery=lambda error, _: error is None and acknowledged.add(number),
        )

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "enable.idempotence": True,
            "delivery.timeout.ms": PRODUCE_SECONDS * 1000,
            "log_level": 0,
        }
    )
    number = 0
    while not stop.is_set():
        if len(producer) < 50:
            told(number)
            number += 1
        producer.poll(0.002)
    producer.flush(PRODUCE_SECONDS)


def _read(bootstrap: str, expected: set[int]) -> list[int]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "log_level": 0})
    try:
        consumer.assign([TopicPartition(TOPIC, 0, OFFSET_BEGINNING)])
        read: list[int] = []

        def all_there() -> bool:
            read.extend(int(record.value()) for record in consumer.consume(500, 0.2) if not record.error())
            return len(read) >= len(expected)

        eventually(all_there, "every acknowledged record is there", PRODUCE_SECONDS)
        return sorted(read)
    finally:
        consumer.close()
