"""The Kafka reader on a real broker: where it starts, when it stops, what it leaves behind for the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from consumer.kafka_out import KafkaOut, Out
from consumer.reading import read_all
from consumer.stream import Record, Stream, StreamFailed, Witness
from consumer.topics import Admin
from tests.support.kafka import Kafka, Kind, delete_records, needs, start_kafka, supports

#: A group's first join takes a session on the embedded broker, and a look or two on Apache Kafka.
WITHIN_S = 30.0
SESSION_MS = 6_000
PARTITIONS = 3
EACH = 10

BOTH = pytest.mark.parametrize("protocol", ["classic", "consumer"])


class Member:
    """A member of the test's group, and what its callbacks were told."""

    def __init__(self, kafka: Kafka, prefix: str, protocol: str, starts: Mapping[int, int]) -> None:
        self.witnesses: dict[int, Witness] = {}
        self.held: set[int] = set()
        self.revoked: list[int] = []
        self.lost: list[int] = []
        self.records: list[Record] = []
        self._starts = starts
        self.stream = Stream(
            kafka.bootstrap,
            {},
            topic=f"{prefix}in",
            group=f"{prefix}group",
            session_timeout_ms=SESSION_MS,
            group_protocol=protocol,
            assigned=self._assigned,
            revoked=self._revoked,
            lost=self.lost.extend,
        )

    def _assigned(self, witnesses: dict[int, Witness]) -> dict[int, int]:
        self.witnesses |= witnesses
        self.held |= witnesses.keys()
        return {p: self._starts.get(p, 0) for p in witnesses}

    def _revoked(self, partitions: list[int]) -> None:
        self.revoked += partitions
        self.held -= set(partitions)

    def poll(self, limit: int = 100) -> None:
        self.records += self.stream.poll(0.05, limit)

    def offsets(self, partition: int) -> list[int]:
        return [record.offset for record in self.records if record.partition == partition]


def eventually(happened: Callable[[], bool], *members: Member) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not happened():
        assert time.monotonic() < deadline, "did not happen in time"
        for member in members:
            member.poll()


@contextmanager
def joined(
    kafka: Kafka, prefix: str, starts: Mapping[int, int] | None = None, protocol: str = "classic"
) -> Iterator[Member]:
    member = Member(kafka, prefix, protocol, starts or {})
    try:
        yield member
    finally:
        member.stream.close()


def fill(kafka: Kafka, out: KafkaOut, prefix: str, partitions: int = PARTITIONS) -> str:
    """A topic with EACH records or more in each partition."""
    topic = f"{prefix}in"
    Admin(kafka.bootstrap, {}).create(topic, partitions, {}, 1)
    # One key of each partition, found by asking where it went.
    left = set(range(partitions))
    for number in range(1_000):
        key = f"key-{number}"
        (partition,) = out.send([Out(topic, key, b"0")])
        if partition in left:
            left.discard(partition)
            out.send([Out(topic, key, b"%d" % n) for n in range(1, EACH)])
        if not left:
            return topic
    raise AssertionError("no key reaches some of the partitions")


@pytest.fixture(scope="module")
def out(kafka: Kafka) -> KafkaOut:
    """A producer's first record takes half a second."""
    return KafkaOut(kafka.bootstrap, {})


@pytest.fixture
def topic(kafka: Kafka, out: KafkaOut, topic_prefix: str) -> str:
    return fill(kafka, out, topic_prefix)


# Where it starts.


@BOTH
def test_it_starts_exactly_where_it_is_told(
    kafka: Kafka, topic_prefix: str, topic: str, protocol: str
) -> None:
    supports(kafka, protocol)
    with joined(kafka, topic_prefix, protocol=protocol) as member:
        eventually(lambda: len(member.held) == PARTITIONS, member)
        member.stream.commit({p: Witness(9, 9) for p in range(PARTITIONS)})
        eventually(lambda: len(committed(kafka, topic_prefix)) == PARTITIONS, member)
    starts = {0: 3, 1: 0, 2: 7}
    with joined(kafka, topic_prefix, starts, protocol) as member:
        eventually(lambda: all(len(member.offsets(p)) >= EACH - starts[p] for p in starts), member)
        for partition, start in starts.items():
            found = member.offsets(partition)
            assert found == list(range(start, start + len(found)))
        assert member.witnesses == {p: Witness(9, 9) for p in range(PARTITIONS)}


def test_records_as_they_are(kafka: Kafka, out: KafkaOut, topic_prefix: str) -> None:
    topic = f"{topic_prefix}in"
    Admin(kafka.bootstrap, {}).create(topic, 1, {}, 1)
    out.send([Out(topic, "Zoë", b"\x00\xff", {"a": "1", "b": "ü"}, 1_700_000_000_000), Out(topic, "", None)])
    with joined(kafka, topic_prefix) as member:
        eventually(lambda: len(member.records) == 2, member)
        first, second = member.records
        headers = (("a", b"1"), ("b", "ü".encode()))
        assert first == Record(topic, 0, 0, "Zoë".encode(), b"\x00\xff", 1_700_000_000_000, headers)
        assert (second.offset, second.value, second.headers, second.next_offset) == (1, None, (), 2)
        assert abs(second.timestamp_ms / 1000 - time.time()) < 60
        assert member.stream.high_watermark(0) == 2


def test_a_poll_gives_no_more_than_asked_for_and_a_seek_goes_back(
    kafka: Kafka, topic_prefix: str, topic: str
) -> None:
    with joined(kafka, topic_prefix, {0: 0, 1: 1_000, 2: 1_000}) as member:
        # The others stand beyond their ends: only partition 0 is of interest.
        member._starts = {0: 0, **ends(kafka, topic, (1, 2))}
        while not member.records:
            member.poll(1)
        assert len(member.records) == 1
        eventually(lambda: len(member.offsets(0)) >= EACH, member)
        del member.records[:]
        member.stream.seek(0, 4)
        eventually(lambda: len(member.offsets(0)) >= EACH - 4, member)
        assert member.offsets(0)[0] == 4
        with pytest.raises(StreamFailed, match="cannot seek"):
            member.stream.seek(77, 0)


def ends(kafka: Kafka, topic: str, partitions: tuple[int, ...]) -> dict[int, int]:
    found = dict.fromkeys(partitions, 0)
    for record in read_all(kafka.bootstrap, {}, topic, dict.fromkeys(partitions, 0)):
        found[record.partition] = record.next_offset
    return found


# When it stops.


@BOTH
@pytest.mark.case(4)
def test_an_exception_while_assigning_loses_nothing_and_ends_it(
    kafka: Kafka, topic_prefix: str, topic: str, protocol: str
) -> None:
    supports(kafka, protocol)

    class Failing(Member):
        def _assigned(self, witnesses: dict[int, Witness]) -> dict[int, int]:
            raise RuntimeError("Redis cannot be believed")

    member = Failing(kafka, topic_prefix, protocol, {})
    try:
        for _ in range(3):  # and it does not go on when polled again
            with pytest.raises(StreamFailed, match="^Redis cannot be believed$"):
                eventually(lambda: False, member)
        assert member.records == []
    finally:
        member.stream.close()
    with joined(kafka, topic_prefix, protocol=protocol) as other:
        eventually(lambda: all(len(other.offsets(p)) >= EACH for p in range(PARTITIONS)), other)
        assert set(other.witnesses.values()) == {Witness(0, 0)}, "nothing was committed either"


def test_an_exception_while_giving_back_ends_it_too(kafka: Kafka, topic_prefix: str, topic: str) -> None:
    class Failing(Member):
        def _revoked(self, partitions: list[int]) -> None:
            super()._revoked(partitions)
            raise RuntimeError("could not give back")

    member = Failing(kafka, topic_prefix, "classic", {})
    try:
        eventually(lambda: len(member.held) == PARTITIONS, member)
        with joined(kafka, topic_prefix) as other, pytest.raises(StreamFailed, match="^could not give back$"):
            eventually(lambda: False, member, other)
    finally:
        member.stream.close()


@pytest.mark.parametrize(
    ("start", "deleted"),
    [
        pytest.param(10_000, 0, id="above the end"),
        pytest.param(2, 5, id="records deleted before they were read"),
    ],
)
@pytest.mark.case(8)
def test_an_offset_that_is_not_in_the_log(
    kafka: Kafka, topic_prefix: str, topic: str, start: int, deleted: int
) -> None:
    needs(kafka, "range")
    if deleted:
        delete_records(kafka, topic, {0: deleted})
    with joined(kafka, topic_prefix, dict.fromkeys(range(PARTITIONS), start)) as member:
        with pytest.raises(StreamFailed, match=f"of {topic} is not in Kafka's log any more") as raised:
            eventually(lambda: False, member)
        assert "records were deleted before they were read" in str(raised.value)
        assert member.offsets(0) == []


def test_a_topic_that_is_not_there(kafka: Kafka, topic_prefix: str) -> None:
    with joined(kafka, topic_prefix) as member:
        with pytest.raises(StreamFailed, match=f"topic {topic_prefix}in is not there"):
            eventually(lambda: False, member)


# Members come and go.


def beat_often(kafka: Kafka, group: str) -> None:
    """A step of a rebalance takes a heartbeat, which the broker decides on: 5 s by default."""
    value = ConfigEntry("consumer.heartbeat.interval.ms", "500", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.GROUP, group, incremental_configs=[value])
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.incremental_alter_configs([resource])[resource].result(timeout=WITHIN_S)


@BOTH
def test_members_share_the_partitions(kafka: Kafka, topic_prefix: str, topic: str, protocol: str) -> None:
    supports(kafka, protocol)
    if protocol == "consumer":
        beat_often(kafka, f"{topic_prefix}group")
    everything = set(range(PARTITIONS))
    with joined(kafka, topic_prefix, protocol=protocol) as first:
        eventually(lambda: first.held == everything, first)
        with joined(kafka, topic_prefix, protocol=protocol) as second:
            eventually(lambda: bool(second.held) and first.held | second.held == everything, first, second)
            assert first.held.isdisjoint(second.held)
            assert set(first.revoked) == second.held, "what the other holds was given back first"
            assert second.revoked == []
            taken = set(second.held)
        assert set(second.revoked) == taken, "leaving gives back as well"
        eventually(lambda: first.held == everything, first)
        assert first.lost == second.lost == []
    assert first.held == set()


# What it leaves behind.


def committed(kafka: Kafka, prefix: str) -> dict[int, tuple[int, str]]:
    """Offsets and metadata as lag tools see them."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    group = f"{prefix}group"
    futures = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
    found = futures[group].result(timeout=WITHIN_S).topic_partitions
    return {one.partition: (one.offset, one.metadata or "") for one in found if one.offset >= 0}


@pytest.fixture(params=list(Kind))
def either(request: pytest.FixtureRequest, kafka: Kafka, tmp_path: Path) -> Iterator[Kafka]:
    """The run's broker, and the one that `referrals up` starts."""
    if request.param is kafka.kind:
        yield kafka
    elif request.param is Kind.EMBEDDED:
        embedded = start_kafka(tmp_path, Kind.EMBEDDED)
        yield embedded
        embedded.stop()
    else:
        pytest.skip(f"the run's broker is another: {kafka.kind}")


def test_a_witness_comes_back_as_it_was_left(either: Kafka, topic_prefix: str) -> None:
    fill(either, KafkaOut(either.bootstrap, {}), topic_prefix, 2)
    with joined(either, topic_prefix) as member:
        eventually(lambda: member.held == {0, 1}, member)
        assert member.witnesses == {0: Witness(0, 0), 1: Witness(0, 0)}
        member.stream.commit({})
        member.stream.commit({0: Witness(5, 4)})
        member.stream.commit({0: Witness(7, 6)})
        eventually(lambda: committed_by(either, topic_prefix).offset == 7, member)
    with joined(either, topic_prefix, {0: 7}) as member:
        eventually(lambda: member.held == {0, 1}, member)
        assert member.witnesses[1] == Witness(0, 0)
        assert member.witnesses[0].offset == 7
        if either.kind is Kind.EMBEDDED:
            # It keeps the offset and drops what stands beside it.
            assert not committed_by(either, topic_prefix).metadata
        else:
            assert committed_by(either, topic_prefix).metadata == "durable=6"
            assert member.witnesses[0] == Witness(7, 6)


def committed_by(kafka: Kafka, prefix: str) -> TopicPartition:
    """Of partition 0, asked for as a member would: the embedded broker answers admins less."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": f"{prefix}group"})
    try:
        (found,) = consumer.committed([TopicPartition(f"{prefix}in", 0)], timeout=WITHIN_S)
        return found
    finally:
        consumer.close()


def test_a_commit_of_somebody_elses_is_taken_at_its_word(kafka: Kafka, topic_prefix: str, topic: str) -> None:
    stranger = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": f"{topic_prefix}group"})
    metadata = ("reset by hand", "durable=-3", "")
    offsets = [TopicPartition(topic, p, 4 + p, metadata[p]) for p in range(PARTITIONS)]
    stranger.commit(offsets=offsets, asynchronous=False)
    stranger.close()
    with joined(kafka, topic_prefix) as member:
        eventually(lambda: len(member.held) == PARTITIONS, member)
        assert member.witnesses == {p: Witness(4 + p, 4 + p) for p in range(PARTITIONS)}


# Reading a topic whole.


def test_a_topic_is_read_to_its_end(kafka: Kafka, topic: str) -> None:
    records = list(read_all(kafka.bootstrap, {}, topic))
    by_partition = {p: [r.offset for r in records if r.partition == p] for p in range(PARTITIONS)}
    for offsets in by_partition.values():
        assert len(offsets) >= EACH
        assert offsets == list(range(len(offsets)))
    end = len(by_partition[0])
    for starts, expected in (
        ({0: 4}, list(range(4, end))),
        ({0: end}, []),
        ({}, []),
    ):
        assert [record.offset for record in read_all(kafka.bootstrap, {}, topic, starts)] == expected


def test_an_empty_topic_and_one_whose_records_are_gone(kafka: Kafka, topic_prefix: str, topic: str) -> None:
    empty = f"{topic_prefix}empty"
    Admin(kafka.bootstrap, {}).create(empty, 2, {}, 1)
    assert list(read_all(kafka.bootstrap, {}, empty)) == []
    delete_records(kafka, topic, {0: 5})
    assert [r.offset for r in read_all(kafka.bootstrap, {}, topic) if r.partition == 0][0] == 5
    delete_records(kafka, topic, {0: -1})
    assert [r for r in read_all(kafka.bootstrap, {}, topic) if r.partition == 0] == []


@pytest.mark.parametrize("starts", [None, {0: 0}])
def test_a_topic_that_cannot_be_read(kafka: Kafka, topic_prefix: str, starts: dict[int, int] | None) -> None:
    with pytest.raises(StreamFailed, match=f"topic {topic_prefix}missing is not there"):
        list(read_all(kafka.bootstrap, {}, f"{topic_prefix}missing", starts))


def test_a_reading_that_is_given_up_leaves_nothing_open(kafka: Kafka, topic: str) -> None:
    reading = read_all(kafka.bootstrap, {}, topic)
    assert next(reading).topic == topic
    reading.close()
    with pytest.raises(StopIteration):
        next(reading)
