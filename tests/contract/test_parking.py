"""Lanes over their cap: parked, refilled by themselves in order, given up in time; never lost in silence."""

from __future__ import annotations

import json
import re
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from console import connections
from consumer import parked
from consumer.intake import MAX_BATCH, MAX_BATCH_BYTES
from consumer.keys import Keys, Role
from consumer.layout import Layout
from consumer.log import silent
from consumer.parked import Item, Place, Room, Standing
from consumer.reading import read_all
from consumer.remake import Remake
from consumer.reread import MAX_GAP, Reread
from consumer.store import Store, StoreRefused
from consumer.stream import Record, StreamFailed
from consumer.topics import DEFAULT_RETENTION_MS, Admin, Topics
from schemas import receipt as receipts
from schemas import referral as referrals
from schemas.delivery import Outcome, delivery_id
from schemas.receipt import Receipt, Subject
from tests.support.batch import until
from tests.support.deployment import PARTITIONS
from tests.support.kafka import Kafka, delete_records, needs
from tests.support.push_entry import Pushing, made, pushing
from tests.support.rows import write_layout
from tests.support.valkey import Valkey

CAP = 20
HOUR = 3_600.0
#: A record is so old that Kafka may delete it within the margin.
NEAR = DEFAULT_RETENTION_MS / 1000 - 11 * HOUR


def test_a_lane_has_room_below_half_its_caps() -> None:
    found = [parked.room(Standing(7, 0, n, size), 100, 1000) for n, size in ((50, 0), (0, 500), (49, 499))]
    assert found == [None, None, Room(51, 501)]
    assert parked.room(Standing(0, 0, 0, 0), 100, 1000) is None
    assert parked.room(Standing(1, 0, 0, 0), 10**6, 10**9) == Room(MAX_BATCH, MAX_BATCH_BYTES)
    bodies = [Item(n, b"x" * 10) for n in range(4)]
    assert [len(parked.fitting(bodies, size)) for size in (5, 10, 29, 40)] == [1, 1, 2, 4]


@pytest.mark.parametrize(
    ("age_s", "retention_ms", "old"),
    [
        pytest.param(89 * HOUR, "360000000", True, id="within the margin"),
        pytest.param(87 * HOUR, "360000000", False, id="before the margin"),
        pytest.param(3.1 * HOUR, "14400000", True, id="a short retention has a short margin"),
        pytest.param(2.9 * HOUR, "14400000", False, id="and most of its time"),
        pytest.param(1e6 * HOUR, "-1", False, id="kept for ever"),
        pytest.param(1e6 * HOUR, None, False, id="unknown"),
    ],
)
def test_what_nears_the_start_of_the_log(age_s: float, retention_ms: str | None, old: bool) -> None:
    now = 5e9
    record = Record("t", 0, 0, None, b"", int((now - age_s) * 1000))
    assert parked.is_old(record, parked.old_before(now, retention_ms)) is old
    assert not parked.is_old(Record("t", 0, 0, None, b"", 0), parked.old_before(now, retention_ms))


# What an offset comes to where its delivery cannot be made.

VALUE = referrals.encode(made("acme", "r-1", 3))


@pytest.mark.parametrize(
    ("value", "removed", "outcome", "letter"),
    [
        pytest.param(VALUE, False, Outcome.EXHAUSTED, VALUE, id="its connection is gone"),
        pytest.param(VALUE, True, Outcome.WITHDRAWN, None, id="and it was removed: nothing is kept"),
        pytest.param(b"garbage", False, Outcome.UNDECODABLE, b"garbage", id="no schema reads it any more"),
        pytest.param(None, False, Outcome.EXHAUSTED, None, id="Kafka deleted it"),
    ],
)
def test_what_cannot_be_made_is_told_by_its_record(
    value: bytes | None, removed: bool, outcome: Outcome, letter: bytes | None
) -> None:
    remake = Remake("referrals", None)
    read = remake.read(41, None if value is None else Record("referrals", 2, 41, b"r-1", value, 1))
    item = remake.given_up(Place(2, "acme-crm"), read, None, 1e9, removed=removed)
    assert (item.offset, item.body, item.outcome, item.lost) == (41, b"", outcome, value is None)
    assert item.letter is (letter is not None)
    if item.letter:
        size = int.from_bytes(item.entry[1:5], "big")
        told, kept = item.entry[5 : 5 + size], item.entry[5 + size :]
        assert kept == letter
    else:
        key, _, told = item.entry[1:].partition(b"\n")
        assert key == b"referrals-2-41:acme-crm"
    receipt = receipts.decode(told)
    assert (receipt.subject, receipt.subject_id) == (Subject.RECORD, "referrals-2-41:acme-crm")
    assert (receipt.connection, receipt.partition, receipt.offset) == ("acme-crm", 2, 41)
    assert receipt.referral_id == ("r-1" if value == VALUE else None)


@pytest.mark.parametrize("given_up", [False, True])
def test_a_defect_met_by_one_parked_referral_is_its_dead_letter(
    given_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defective(*_: Any) -> Any:
        raise KeyError("a value nobody may see")

    monkeypatch.setattr("consumer.remake.frozen", defective)
    remake, place, gone = Remake("referrals", None), Place(2, "acme-crm"), SimpleNamespace(name="acme-crm")
    read = remake.read(41, Record("referrals", 2, 41, b"r-1", VALUE, 1))
    if given_up:
        item = remake.given_up(place, read, gone, 1e9, removed=False)  # type: ignore[arg-type]
    else:
        item = remake.back(place, read, gone, 1e9)  # type: ignore[arg-type]
        assert item.reason.startswith("a defect here, please report it: KeyError at test_parking.py:")
    assert (item.body, item.letter) == (b"", True)
    assert b"nobody may see" not in item.entry


# Reading again.


def test_records_are_read_again_by_their_offsets(kafka: Kafka, topic_prefix: str) -> None:
    needs(kafka, "transactions")
    topic = f"{topic_prefix}again"
    Admin(kafka.bootstrap, {}).create(topic, 2, {}, 1)
    config = {"bootstrap.servers": kafka.bootstrap, "transactional.id": topic}
    producer = Producer(config, logger=silent())
    producer.init_transactions()
    many = MAX_GAP + 100
    for begin, count in ((0, 5), (5, many)):
        producer.begin_transaction()
        for partition in range(2):
            for n in range(begin, begin + count):
                producer.produce(topic, b"%d" % n, partition=partition)
        producer.commit_transaction()
    # Offset 5 is where the first transaction was closed. The marker that closes the second is written after
    # the commit has been answered.
    look = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": topic}, logger=silent())
    places = [TopicPartition(topic, partition) for partition in range(2)]
    until(
        lambda: all(look.get_watermark_offsets(place, timeout=10)[1] == many + 7 for place in places),
        "both transactions are readable",
    )
    look.close()
    reader = Reread(kafka.bootstrap, {}, topic)
    try:

        def read(partition: int, *wanted: int, size: int = 10**6) -> list[bytes | None]:
            return [record and record.value for record in reader.read(partition, wanted, size)]

        assert read(0, 0, 1, 2) == [b"0", b"1", b"2"]
        assert read(0, 3, 4, 6, size=2) == [b"3", b"4"]
        assert read(0, 4, 5, 6) == [b"4", None, b"5"]
        assert read(0, 7, 8) == [b"6", b"7"]
        assert read(1, 1, 5, 7, many) == [b"1", None, b"6", b"%d" % (many - 1)]
        reader.rest()
        assert read(0, 2, size=1) == [b"2"]
        with pytest.raises(StreamFailed, match="cut off"):
            read(0, 10**6)
        delete_records(kafka, topic, {0: 3})
        assert read(0, 0, 2, 3) == [None, None, b"3"]
    finally:
        reader.close()


# The script.

KEYS = Keys(Topics().referrals, Role.PUSH)
LANE = f"{KEYS.prefix(0)}lane:crm"
HERE = Place(0, "crm")


@pytest.fixture
def store(valkey: Valkey) -> Iterator[Store]:
    """Partition 0 with offsets 98 to 101 parked behind two deliveries."""
    found = Store(valkey.url)
    write_layout(found, Topics(), Layout("topic", 1, (0,), b"key"))
    head = KEYS.head(0)
    found.commands(
        [
            ("HSET", head, "epoch", 7),
            ("RPUSH", f"{LANE}:parked", 98, 99, 100, 101),
            ("HSET", f"{LANE}:body", 8, b"eight", 9, b"nine"),
            ("ZADD", f"{LANE}:due", 1_000, 8, 2_000, 9),
            ("SET", f"{LANE}:bytes", 9),
        ]
    )
    yield found
    found.close()


def state(store: Store) -> tuple[list[bytes], list[bytes], list[bytes], int]:
    order, left, outbox, size = store.commands(
        [
            ("ZRANGE", f"{LANE}:due", 0, -1),
            ("LRANGE", f"{LANE}:parked", 0, -1),
            ("LRANGE", f"{KEYS.prefix(0)}outbox", 0, -1),
            ("GET", f"{LANE}:bytes"),
        ]
    )
    return order, left, outbox, int(size)


def test_refilling_keeps_the_order_and_comes_behind_what_is_there(store: Store) -> None:
    # Their records are older than what waits, and one millisecond's.
    items = [Item(98, b"98", 500), Item(99, entry=b"gone"), Item(100, b"100", 500)]
    assert store.call(parked.refill(KEYS, HERE, 7, items)) == [b"OK", 1]
    assert state(store) == ([b"8", b"9", b"98", b"100"], [b"101"], [b"gone"], 14)
    assert store.call(parked.refill(KEYS, HERE, 7, [Item(101, b"101", 3_000)])) == [b"OK", 0]
    assert store.command("ZSCORE", f"{LANE}:due", 101) in (3_000.0, b"3000")
    assert not store.command("EXISTS", f"{LANE}:parked")


@pytest.mark.parametrize(
    ("epoch", "offset", "reply"),
    [
        pytest.param(6, 98, [b"FENCED", b"7"], id="of a former owner"),
        pytest.param(7, 99, [b"MOVED", b"98"], id="not the first"),
        pytest.param(7, 102, [b"MOVED", b"98"], id="not parked"),
    ],
)
def test_a_refill_that_is_refused_changes_nothing(
    store: Store, epoch: int, offset: int, reply: list[bytes]
) -> None:
    before = state(store)
    assert store.call(parked.refill(KEYS, HERE, epoch, [Item(offset, b"body", 1, b"note")])) == reply
    more = [Item(n, b"body", 1, b"note") for n in (98, 99, 100, 101, 102)]
    assert store.call(parked.refill(KEYS, HERE, 7, more)) == [b"MOVED", b"98"]
    assert state(store) == before


@pytest.mark.case(16)
def test_a_full_redis_refuses_a_refill_whole(store: Store, valkey: Valkey) -> None:
    before = state(store)
    with valkey.client() as client:
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(StoreRefused):
                store.call(parked.refill(KEYS, HERE, 7, [Item(98, b"body", 1)]))
        finally:
            client.config_set("maxmemory", 0)
    assert state(store) == before


def test_a_refill_without_a_head_is_lost(store: Store) -> None:
    store.command("DEL", KEYS.head(0))
    assert store.call(parked.refill(KEYS, HERE, 7, [Item(98, b"body", 1)])) == [b"LOST"]


# The service.


def metric(push: Pushing, series: str) -> float:
    output = push.running.children["push"].output()
    started = next(line for line in output.splitlines() if '"service.started"' in line)
    with urllib.request.urlopen(f"http://127.0.0.1:{json.loads(started)['port']}/metrics", timeout=10) as got:
        found = re.search(rf"^{re.escape(series)} (\S+)$", got.read().decode(), re.MULTILINE)
    assert found is not None, f"no {series} in /metrics"
    return float(found[1])


def parked_of(push: Pushing, account: str) -> int:
    keys = push.running.keys(Role.PUSH)
    with push.running.valkey.client() as client:
        lanes = [f"{keys.prefix(p)}lane:{account}-crm:parked" for p in range(PARTITIONS)]
        return sum(client.llen(lane) for lane in lanes)


def offsets(push: Pushing) -> dict[tuple[bytes | None, int], list[int]]:
    """Where each referral stands in the topic."""
    found: dict[tuple[bytes | None, int], list[int]] = {}
    for record in read_all(push.running.settings.kafka, {}, push.running.topics.referrals):
        found.setdefault((record.key, record.partition), []).append(record.offset)
    return found


@dataclass
class Outage:
    """What was published for each account, and what stood in the way after it."""

    push: Pushing
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    pending: dict[str, int] = field(default_factory=dict)
    parked: dict[str, int] = field(default_factory=dict)
    metric: float = 0.0

    def ids(self, account: str) -> list[str]:
        return [event["referral_id"] for event in self.events[account]]


EACH = 400
WITHDRAWN = range(200, 220)


@pytest.fixture(scope="module")
def outage(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outage]:
    """Both connections pause, everything is published, the worker is killed while it refills."""
    folder = tmp_path_factory.mktemp("parking")
    with pushing(folder, kafka.bootstrap, REFERRALS_LANE_DELIVERIES=str(CAP)) as push:
        push.connect("down", max_in_flight="1")
        push.connect("mixed")
        push.running.init()
        push.start("push", jumps=False)
        push.wait_shared("push")
        for account in ("down", "mixed"):
            assert connections.pause(push.running.settings, f"{account}-crm", "on holiday")
        push.wait(lambda: metric(push, "referral_connections_paused") == 2, "it knows of the pauses")
        found = Outage(push)
        publish(found)
        for account in found.events:
            found.pending[account], found.parked[account] = push.count(account), parked_of(push, account)
        total = sum(found.parked.values())
        push.wait(lambda: metric(push, "referral_push_parked") == total, "the metric counts what is parked")
        found.metric = metric(push, "referral_push_parked")
        for account in found.events:
            assert connections.resume(push.running.settings, f"{account}-crm")
        push.wait(lambda: len(push.effects("down")) > EACH // 4, "it refills itself")
        push.running.children["push"].kill()
        assert parked_of(push, "down") > 0
        push.start("push", jumps=False)
        for account in found.events:
            push.wait(lambda a=account: not parked_of(push, a) + push.count(a), f"{account} is delivered")
        yield found


def publish(outage: Outage) -> None:
    push = outage.push
    down = [made("down") for _ in range(EACH)]
    mixed = [made("mixed") for _ in range(EACH)]
    push.publish([event for pair in zip(down, mixed, strict=True) for event in pair])
    outage.events = {"down": down, "mixed": mixed}
    # Among what is parked already: repeats of upstream, corrections, and referrals that are withdrawn.
    push.publish(mixed[100:150])
    push.publish([made("mixed", event["referral_id"], 2) for event in mixed[300:350]])
    push.wait_taken()
    push.publish([{**mixed[n], "event_type": "WITHDRAWN", "event_id": f"w{n}"} for n in WITHDRAWN])
    push.wait_taken()


def test_redis_holds_no_more_than_the_cap(outage: Outage) -> None:
    assert outage.pending["down"] == CAP * PARTITIONS
    assert outage.parked["down"] == EACH - CAP * PARTITIONS
    # Repeats are none, corrections are.
    assert outage.pending["mixed"] + outage.parked["mixed"] == EACH + 50
    assert outage.metric == sum(outage.parked.values())


def test_everything_is_delivered_once_and_in_order(outage: Outage) -> None:
    push, wanted = outage.push, outage.ids("down")
    verdict = push.verdict("down", wanted)
    assert (verdict.delivered, verdict.lost, verdict.duplicates) == (EACH, 0, 0)
    place = {key.decode(): (p, at) for (key, p), at in offsets(push).items() if key is not None}
    for partition in range(PARTITIONS):
        arrived = [place[e["referral_id"]] for e in push.effects("down")]
        order = [at[0] for p, at in arrived if p == partition]
        assert order == sorted(order)
        assert len(order) > CAP
    ends = Counter(receipt.outcome for receipt in push.receipts("down", EACH))
    assert ends == {Outcome.DELIVERED: EACH}
    assert metric(push, "referral_push_parked") == 0
    assert metric(push, "referral_push_oldest_parked_timestamp_seconds") == 0


def test_repeats_and_withdrawn_referrals_are_not_brought_back(outage: Outage) -> None:
    push, events = outage.push, outage.events["mixed"]
    gone = {events[n]["referral_id"] for n in WITHDRAWN}
    wanted = [e["referral_id"] for e in events if e["referral_id"] not in gone]
    wanted += [e["referral_id"] for e in events[300:350]]
    verdict = push.verdict("mixed", wanted)
    assert (verdict.delivered, verdict.lost, verdict.duplicates) == (EACH - len(gone), 0, 0)
    receipts = push.receipts("mixed", EACH + 50)
    withdrawn = {r.referral_id for r in receipts if r.outcome is Outcome.WITHDRAWN}
    assert withdrawn == gone
    assert len(receipts) == EACH + 50
    # A correction comes after what it corrects.
    arrived = [effect["key"].strip('"') for effect in push.effects("mixed")]
    for event in events[300:350]:
        first, second = (arrived.index(delivery_id("mixed-crm", event["referral_id"], n)) for n in (1, 2))
        assert first < second


#: Late ones: all are parked.
ERASED = range(70, 74)


def test_what_nears_the_start_of_the_log_is_kept_as_dead_letters(kafka: Kafka, tmp_path: Any) -> None:
    needs(kafka, "deletion")
    with pushing(tmp_path, kafka.bootstrap, REFERRALS_LANE_DELIVERIES="5") as push:
        push.connect("late")
        push.running.init()
        push.start("push")
        push.wait_shared("push")
        assert connections.pause(push.running.settings, "late-crm", "on holiday")
        push.wait(lambda: metric(push, "referral_connections_paused") == 1, "it knows of the pause")
        events = [made("late") for _ in range(80)]
        push.publish(events)
        push.wait_taken()
        erased = [{**events[n], "event_type": "ERASED", "event_id": f"e{n}"} for n in ERASED]
        push.publish(erased)
        push.wait_taken()
        assert push.running.stop() == {"push": 0}
        pending, waiting = push.count("late"), parked_of(push, "late")
        assert (pending, pending + waiting) == (5 * PARTITIONS, 80)
        # One partition's log is cut off further than it should be.
        place = {key: (p, at[0]) for (key, p), at in offsets(push).items()}
        cut = sorted(at for p, at in place.values() if p == 0)
        delete_records(kafka, push.running.topics.referrals, {0: cut[7]})
        push.clock.jump(NEAR)
        push.start("push")
        push.wait(lambda: parked_of(push, "late") == 0, "nothing is parked any more")
        waits = pending_ids(push)
        given_up = receipts_of(push, 80 - len(waits))
        check(push, events, place, waits, given_up, cut[5:7])


def pending_ids(push: Pushing) -> set[str]:
    keys = push.running.keys(Role.PUSH)
    with push.running.valkey.client() as client:
        lanes = [f"{keys.prefix(p)}lane:late-crm:body" for p in range(PARTITIONS)]
        return {json.loads(raw.split(b"\n")[0])[1] for lane in lanes for raw in client.hvals(lane)}


def receipts_of(push: Pushing, count: int) -> list[Receipt]:
    found = push.receipts("late", count)
    assert len(found) == count
    return found


def check(
    push: Pushing,
    events: Sequence[Mapping[str, Any]],
    place: Mapping[bytes | None, tuple[int, int]],
    waits: set[str],
    given_up: Sequence[Receipt],
    lost: Sequence[int],
) -> None:
    """Every referral waits or has its receipt; what ended undelivered has its dead letter."""
    erased = {events[n]["referral_id"] for n in ERASED}
    gone = [receipt for receipt in given_up if receipt.subject is Subject.RECORD]
    assert sorted((r.partition, r.offset) for r in gone) == [(0, at) for at in lost]
    ended = {receipt.referral_id: receipt for receipt in given_up if receipt not in gone}
    lost_ids = {key.decode() for key, at in place.items() if key and at in {(0, n) for n in lost}}
    assert waits | ended.keys() | lost_ids == {event["referral_id"] for event in events}
    assert {r.outcome for i, r in ended.items() if i not in erased} == {Outcome.EXHAUSTED}
    assert {ended[i].outcome for i in erased} == {Outcome.WITHDRAWN}
    letters = {
        (letter.key or b"").decode(): letter.value
        for letter in read_all(push.running.settings.kafka, {}, push.running.topics.dead_letters)
    }
    exhausted = [r for i, r in ended.items() if i not in erased]
    assert letters.keys() == {receipt.subject_id for receipt in exhausted}
    assert all(json.loads(letters[r.subject_id] or b"")["referral_id"] == r.referral_id for r in exhausted)
    assert metric(push, "referral_push_parked_lost_total") == len(lost)
    assert metric(push, "referral_push_parked_given_up_total") == len(ended)
