"""Dead letters on a real broker: whole, with where they came from, and never too large for it to take."""

from __future__ import annotations

import pytest

from consumer import dead_letters
from consumer.dead_letters import MAX_HEADER, MAX_HEADERS
from consumer.kafka_out import KafkaOut, Out
from consumer.reading import read_all
from consumer.stream import Record
from consumer.topics import Admin, Topics
from schemas.delivery import Outcome
from schemas.receipt import Receipt, Subject, utc
from schemas.referral import MAX_BYTES
from tests.support.kafka import Kafka

#: Several times what a broker takes by default.
HUGE = b"x" * 5_000_000


class Letters:
    """The topic, with what it takes and gives back."""

    def __init__(self, kafka: Kafka, topics: Topics) -> None:
        self.kafka, self.topics = kafka, topics
        self.out = KafkaOut(kafka.bootstrap, {})

    def kept(self, letter: Out) -> Record:
        self.out.send([letter])
        return list(read_all(self.kafka.bootstrap, {}, self.topics.dead_letters))[-1]


@pytest.fixture
def letters(kafka: Kafka, topic_prefix: str) -> Letters:
    topics = Topics(topic_prefix)
    Admin(kafka.bootstrap, {}).create(topics.dead_letters, 1, {}, 1)
    return Letters(kafka, topics)


def record(value: bytes | None, *headers: tuple[str, bytes]) -> Record:
    return Record("referrals", 3, 7, b"k", value, 5, headers)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"\xff\x00junk", id="bytes"),
        pytest.param(b"", id="empty"),
        pytest.param(None, id="tombstone"),
        pytest.param(b"x" * MAX_BYTES, id="the largest that is kept"),
    ],
)
def test_the_record_whole_with_where_it_came_from(letters: Letters, value: bytes | None) -> None:
    given = record(value, ("trace", b"abc"), ("trace", b"again"), ("bad", b"\xff"), ("reason", b"theirs"))
    letter = letters.kept(dead_letters.of_record(letters.topics, given, "no header in front"))
    assert (letter.key, letter.value) == (b"referrals-3-7", value)
    assert dict(letter.headers) == {
        "topic": b"referrals",
        "partition": b"3",
        "offset": b"7",
        "reason": b"no header in front",
        "original-trace": b"abc",
        "original-bad": "\N{REPLACEMENT CHARACTER}".encode(),
        "original-reason": b"theirs",
    }


def test_a_record_too_large_stays_in_its_topic(letters: Letters) -> None:
    """With our headers around it the broker would refuse it, and it would hold up its partition."""
    given = record(HUGE, *((f"h{n}", b"x" * 100_000) for n in range(100)))
    letter = letters.kept(dead_letters.of_record(letters.topics, given, "too large"))
    told = dict(letter.headers)
    assert letter.value is None
    assert told["left-out"] == b"5000000 bytes"
    originals = [value for name, value in told.items() if name.startswith("original-")]
    assert [len(value) for value in originals] == [MAX_HEADER] * MAX_HEADERS


def test_a_body_too_large_does_not_hold_up_the_outbox(letters: Letters) -> None:
    """Escapes can make a body several times as large as its record."""
    receipt = Receipt(
        subject=Subject.DELIVERY, subject_id="d1", outcome=Outcome.REJECTED, service="push", at=utc(0)
    )
    letter = letters.kept(dead_letters.of_delivery(letters.topics, receipt, HUGE))
    assert (letter.key, letter.value, dict(letter.headers)["left-out"]) == (b"d1", None, b"5000000 bytes")
