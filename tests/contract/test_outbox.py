"""The outbox's way to Kafka, on a real Valkey and a real broker: repeated rather than lost, under the same keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import Random

import pytest

from consumer import receipts
from consumer.kafka_out import KafkaOut, NotAcknowledged, Out
from consumer.keys import Keys, Role
from consumer.layout import Layout
from consumer.reading import read_all
from consumer.receipts import RELAY, duplicate_entry, entry, entry_with_dead_letter
from consumer.store import Store, StoreUnavailable
from consumer.stream import Record
from consumer.topics import Admin, Topics
from deploy.embedded import valkey as embedded
from schemas.delivery import Outcome
from schemas.receipt import Receipt, Subject, decode
from tests.support.kafka import Kafka, needs
from tests.support.proxy import proxy
from tests.support.rows import write_layout
from tests.support.valkey import Valkey

AT = datetime(2026, 6, 1, 8, 0, tzinfo=UTC)
NOW = AT.timestamp()
#: What the topic of dead letters takes in these tests, after compression.
SMALL = 1_000

RECEIPT = Receipt(
    subject=Subject.DELIVERY,
    subject_id="d-1",
    outcome=Outcome.DELIVERED,
    service="push",
    at=AT,
    connection="crm",
    referral_id="r-1",
    revision=2,
    attempts=3,
    status=200,
)
REJECTED = replace(RECEIPT, subject_id="d-2", outcome=Outcome.REJECTED, status=422, reason="Zoë's e-mail")
#: Any bytes: line feeds, and what looks like another entry.
BODY = b'R{"a":\n1}\x00\xff\nX'


@dataclass
class Outbox:
    """Partition 1's outbox, and the topics it goes to."""

    store: Store
    out: KafkaOut
    keys: Keys
    topics: Topics
    kafka: Kafka

    def put(self, *entries: bytes) -> None:
        self.store.command("RPUSH", f"{self.keys.prefix(1)}outbox", *entries)

    def relay(self, now: float = NOW, store: Store | None = None, out: KafkaOut | None = None) -> int:
        return receipts.relay(store or self.store, out or self.out, self.keys, self.topics, 1, now)

    def left(self) -> list[bytes]:
        found: list[bytes] = self.store.command("LRANGE", f"{self.keys.prefix(1)}outbox", 0, -1)
        assert receipts.waiting(self.store, self.keys, [0, 1]) == {0: 0, 1: len(found)}
        return found

    def base(self) -> int:
        return int(self.store.hash(self.keys.head(1))["outbox"])

    def told(self) -> list[tuple[str, Receipt]]:
        return sorted(
            ((_key(r), decode(r.value or b"")) for r in self.read(self.topics.receipts)), key=_first
        )

    def buried(self) -> list[Record]:
        return self.read(self.topics.dead_letters)

    def read(self, topic: str) -> list[Record]:
        return list(read_all(self.kafka.bootstrap, {}, topic))


def _first(pair: tuple[str, Receipt]) -> str:
    return pair[0]


def _key(record: Record) -> str:
    return (record.key or b"").decode()


@pytest.fixture(scope="module")
def out(kafka: Kafka) -> KafkaOut:
    """A producer's first record takes half a second."""
    return KafkaOut(kafka.bootstrap, {})


@pytest.fixture
def outbox(valkey: Valkey, kafka: Kafka, out: KafkaOut, topic_prefix: str) -> Iterator[Outbox]:
    topics = Topics(topic_prefix)
    admin = Admin(kafka.bootstrap, {})
    admin.create(topics.receipts, 2, {}, 1)
    admin.create(topics.dead_letters, 1, {"max.message.bytes": str(SMALL)}, 1)
    store = Store(valkey.url)
    write_layout(store, topics, Layout("topic", 2, (0, 0), b"key"))
    yield Outbox(store, out, Keys(topics.referrals, Role.PUSH), topics, kafka)
    store.close()


def duplicate(outbox: Outbox, offset: int) -> tuple[bytes, str, Receipt]:
    """The entry, its key and its receipt."""
    topic = outbox.topics.referrals
    receipt = Receipt(
        subject=Subject.RECORD,
        subject_id=f"{topic}-1-{offset}",
        outcome=Outcome.DUPLICATE_UPSTREAM,
        reason="published before with the same referral id, revision and kind",
        service="push",
        at=AT,
        referral_id="r-ü",
        revision=4,
        topic=topic,
        partition=1,
        offset=offset,
        digest="abc",
    )
    return duplicate_entry(1, offset, "r-ü", 4, "abc", "push"), receipt.subject_id, receipt


def test_every_kind_of_entry(outbox: Outbox) -> None:
    raw, key, receipt = duplicate(outbox, 77)
    assert outbox.relay() == 0
    outbox.put(entry(RECEIPT), entry_with_dead_letter(REJECTED, BODY), raw)
    assert outbox.relay() == 3
    assert outbox.told() == sorted([("d-1", RECEIPT), ("d-2", REJECTED), (key, receipt)], key=_first)
    (letter,) = outbox.buried()
    assert (_key(letter), letter.value) == ("d-2", BODY)
    assert dict(letter.headers) == {
        "delivery_id": b"d-2",
        "connection": b"crm",
        "referral_id": b"r-1",
        "outcome": b"REJECTED",
        "reason": "Zoë's e-mail".encode(),
        "attempts": b"3",
    }
    assert (outbox.left(), outbox.base()) == ([], 3)
    assert outbox.relay() == 0
    assert len(outbox.told()) == 3


def test_an_empty_body_is_a_dead_letter_too(outbox: Outbox) -> None:
    outbox.put(entry_with_dead_letter(REJECTED, b""))
    assert outbox.relay() == 1
    assert [letter.value for letter in outbox.buried()] == [b""]


def test_a_bounded_number_at_a_time_oldest_first(outbox: Outbox) -> None:
    numbered = [replace(RECEIPT, subject_id=f"d-{n:05d}") for n in range(RELAY + 2)]
    outbox.put(*map(entry, numbered))
    assert outbox.relay() == RELAY
    assert outbox.left() == [entry(receipt) for receipt in numbered[RELAY:]]
    assert [outbox.relay(), outbox.relay()] == [2, 0]
    assert [key for key, _ in outbox.told()] == [receipt.subject_id for receipt in numbered]
    assert outbox.base() == RELAY + 2


def test_what_kafka_did_not_acknowledge_stays(kafka: Kafka, outbox: Outbox) -> None:
    needs(kafka, "size")
    entries = [entry(RECEIPT), entry_with_dead_letter(REJECTED, Random(1).randbytes(10 * SMALL))]
    outbox.put(*entries)
    for _ in range(2):
        with pytest.raises(NotAcknowledged, match="MSG_SIZE_TOO_LARGE"):
            outbox.relay()
        assert (outbox.left(), outbox.base()) == (entries, 0)
    outbox.store.command("LSET", f"{outbox.keys.prefix(1)}outbox", 1, entry_with_dead_letter(REJECTED, b"x"))
    assert outbox.relay() == 2
    # What was acknowledged the first time is repeated under its key, with its content.
    assert dict(outbox.told()) == {"d-1": RECEIPT, "d-2": REJECTED}
    assert [letter.value for letter in outbox.buried()] == [b"x"]


class Died(Exception):
    """The process's end."""


class Dies(KafkaOut):
    """Kafka acknowledges, and the process dies."""

    def send(self, records: Sequence[Out]) -> None:  # type: ignore[override]
        super().send(records)
        raise Died


def test_a_crash_before_the_trim_repeats_the_same_keys(outbox: Outbox) -> None:
    raw, key, _ = duplicate(outbox, 5)
    entries = [entry(RECEIPT), entry_with_dead_letter(REJECTED, BODY), raw]
    outbox.put(*entries)
    with pytest.raises(Died):
        outbox.relay(out=Dies(outbox.kafka.bootstrap, {}))
    assert (outbox.left(), outbox.base()) == (entries, 0)
    assert outbox.relay(now=NOW + 60) == 3
    told = outbox.told()
    assert [key for key, _ in told] == sorted(["d-1", "d-1", "d-2", "d-2", key, key])
    for one, receipt in told:
        first = next(other for name, other in told if name == one)
        # Only the time of a duplicate's receipt is the relay's own.
        assert replace(receipt, at=first.at) == first
    assert [(_key(letter), letter.value) for letter in outbox.buried()] == [("d-2", BODY)] * 2
    assert (outbox.left(), outbox.base()) == ([], 3)


def test_two_relays_at_once_drop_each_entry_once(outbox: Outbox) -> None:
    later = entry(replace(RECEIPT, subject_id="d-9"))

    class Overtaken(KafkaOut):
        """Another relay finishes, and a new entry arrives, while Kafka takes ours."""

        def send(self, records: Sequence[Out]) -> None:  # type: ignore[override]
            super().send(records)
            assert outbox.relay() == 2
            outbox.put(later)

    outbox.put(entry(RECEIPT), entry_with_dead_letter(REJECTED, BODY))
    outbox.relay(out=Overtaken(outbox.kafka.bootstrap, {}))
    assert (outbox.left(), outbox.base()) == ([later], 2)
    assert outbox.relay() == 1
    assert sorted({key for key, _ in outbox.told()}) == ["d-1", "d-2", "d-9"]


@pytest.mark.case(10)
def test_a_trim_whose_reply_is_lost_drops_nothing_more(outbox: Outbox, valkey: Valkey) -> None:
    with proxy(valkey.port) as line:
        store = Store(embedded.url(line.port))

        class Breaks(KafkaOut):
            """Redis's replies are lost once Kafka has acknowledged."""

            def send(self, records: Sequence[Out]) -> None:  # type: ignore[override]
                super().send(records)
                line.cut()
                line.cut_after = 1

        outbox.put(entry(RECEIPT))
        with pytest.raises(StoreUnavailable):
            outbox.relay(store=store, out=Breaks(outbox.kafka.bootstrap, {}))
        line.cut_after = None
        outbox.put(entry(REJECTED))
        assert outbox.relay(store=store) == 2
        store.close()
    assert sorted(key for key, _ in outbox.told()) == ["d-1", "d-1", "d-2"]
    assert (outbox.left(), outbox.base()) == ([], 2)
