"""What a batch of records comes to before intake sees it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.intake import DEDUPE_HORIZON_S, DEDUPE_SHARDS, Entry, LaneTarget, Removal
from consumer.partitioner import partition_of
from consumer.plan import Plan, Planner
from consumer.route import AnyConnection, Router
from consumer.stream import Record
from schemas import receipt as receipts
from schemas import referral as referrals
from schemas.codec import Undecodable
from schemas.connection import Account, ConnectionSet, HttpConnection
from schemas.delivery import Outcome
from schemas.receipt import Receipt, Subject, utc
from schemas.referral import Referral
from tests.support.referral_events import PERSONAL_VALUES, event

NOW, TIMESTAMP_MS = 1_800_000_000.0, 1_799_999_000_000
TOPIC, PARTITION = "referrals", 3
SLOT_MS = DEDUPE_HORIZON_S * 1000


def connection(name: str, campaigns: Any = "all") -> HttpConnection:
    given = {"name": name, "kind": "http", "url": "https://crm.example.com/", "fields": ["email"]}
    return HttpConnection.model_validate({**given, "campaigns": campaigns})


ROUTER = Router(
    ConnectionSet(
        accounts=(
            Account(account="acme", connections=(connection("every"), connection("spring", ("c-1",)))),
            Account(account="idle", connections=()),
        )
    )
)


def targets(referral: Referral, record: Record, wanted: Sequence[AnyConnection]) -> list[LaneTarget]:
    return [LaneTarget(c.name, f"{referral.referral_id}@{record.offset}".encode(), 7) for c in wanted]


def record(
    value: bytes | None, offset: int = 40, timestamp_ms: int = TIMESTAMP_MS, key: bytes = b""
) -> Record:
    return Record(TOPIC, PARTITION, offset, key, value, timestamp_ms)


def published(offset: int = 40, timestamp_ms: int = TIMESTAMP_MS, **changes: Any) -> Record:
    given = event(**changes)
    return record(referrals.encode(given), offset, timestamp_ms, given["referral_id"].encode())


def planned(*records: Record, whole: bool = True, key: bytes = b"key") -> Plan:
    return Planner("push", key, whole, targets).plan(records, ROUTER, NOW)


def note(entry: Entry) -> Receipt:
    assert entry.note[:1] == b"R"
    key, _, value = entry.note[1:].partition(b"\n")
    receipt = receipts.decode(value)
    assert key.decode() == receipt.subject_id
    return receipt


WHOLE = referrals.encode(event())
DAMAGED = [
    pytest.param(None, "has no value", id="tombstone"),
    pytest.param(b"", "has no value", id="empty value"),
    pytest.param(b"garbage", "no Avro single-object header", id="garbage"),
    pytest.param(b"\xc3\x01" + bytes(30), "a schema this version does not ship", id="foreign schema"),
    pytest.param(WHOLE[:-9], "not an Avro datum", id="truncated"),
    pytest.param(WHOLE + b"!", "1 bytes left over", id="trailing byte"),
    pytest.param(WHOLE + bytes(referrals.MAX_BYTES), f"over {referrals.MAX_BYTES}", id="too large"),
    pytest.param(
        b"\0\0\0\0\x07" + WHOLE[10:], "no Avro single-object header", id="Confluent without a registry"
    ),
    pytest.param(
        referrals.encode(event(event_type="UNKNOWN")), "newer than this release", id="event type of tomorrow"
    ),
]


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "routing only"])
@pytest.mark.parametrize(("value", "reason"), DAMAGED)
def test_poison_is_a_dead_letter_with_a_note_and_no_more(
    value: bytes | None, reason: str, whole: bool
) -> None:
    good = published(41)
    plan = planned(record(value), good, whole=whole)
    [(dead, why)] = plan.dead
    assert dead == record(value)
    assert reason in why
    assert not any(personal in why for personal in PERSONAL_VALUES)
    first, second = plan.entries
    assert (first.offset, first.fingerprint, first.targets) == (40, None, ())
    assert note(first) == Receipt(
        subject=Subject.RECORD,
        subject_id="referrals-3-40",
        outcome=Outcome.UNDECODABLE,
        service="push",
        at=utc(NOW),
        reason=why,
        topic=TOPIC,
        partition=PARTITION,
        offset=40,
        digest=hashlib.sha256(value or b"").hexdigest(),
    )
    assert second.offset == 41
    assert len(second.targets) == 2


@pytest.mark.parametrize(
    ("changes", "outcome", "unrouted"),
    [
        pytest.param({"is_test": True}, Outcome.TEST, 0, id="test referral of an account"),
        pytest.param(
            {"is_test": True, "account_id": "nobody"}, Outcome.TEST, 0, id="test referral of nobody"
        ),
        pytest.param({"is_test": True, "event_type": "ERASED"}, Outcome.TEST, 0, id="test removal"),
        pytest.param({"account_id": "nobody"}, Outcome.UNROUTED, 1, id="unknown account"),
        pytest.param({"account_id": "idle"}, Outcome.UNROUTED, 1, id="account without connections"),
    ],
)
def test_what_becomes_no_delivery_leaves_a_note(
    changes: dict[str, Any], outcome: Outcome, unrouted: int
) -> None:
    plan = planned(published(**changes))
    [entry] = plan.entries
    assert (entry.fingerprint, entry.targets, plan.dead, plan.removals) == (None, (), [], [])
    assert plan.unrouted == unrouted
    receipt = note(entry)
    assert (receipt.outcome, receipt.subject, receipt.subject_id) == (
        outcome,
        Subject.RECORD,
        "referrals-3-40",
    )
    assert (receipt.referral_id, receipt.revision) == (event()["referral_id"], event()["revision"])
    assert receipt.account_id == changes.get("account_id", "acme")
    assert (receipt.topic, receipt.partition, receipt.offset) == (TOPIC, PARTITION, 40)


@pytest.mark.parametrize(
    ("campaign", "names"),
    [
        pytest.param("c-1", ["every", "spring"], id="both"),
        pytest.param("c-2", ["every"], id="only the one for all"),
    ],
)
def test_a_target_for_each_connection_that_wants_it(campaign: str, names: list[str]) -> None:
    [entry] = planned(published(campaign_id=campaign)).entries
    assert [target.connection for target in entry.targets] == names
    assert (entry.referral_id, entry.revision) == (event()["referral_id"], 2)
    assert entry.note.startswith(b"D3\n40\n")


@pytest.mark.parametrize("kind", ["WITHDRAWN", "ERASED"])
@pytest.mark.parametrize("account", ["acme", "nobody"])
def test_a_removal_is_spread_whoever_the_account_is_and_never_delivered(kind: str, account: str) -> None:
    plan = planned(published(event_type=kind, account_id=account, revision=5))
    assert plan.removals == [Removal(event()["referral_id"], kind == "ERASED", 5, "referrals-3-40")]
    [entry] = plan.entries
    assert entry.targets == ()
    assert entry.fingerprint is not None
    assert (plan.dead, plan.unrouted) == ([], 0)


def test_entries_keep_the_order_of_offsets_whatever_the_records_are() -> None:
    records = [
        published(1),
        record(b"garbage", 2),
        published(3, is_test=True),
        published(5, event_type="ERASED"),
        published(9, account_id="nobody"),
    ]
    plan = planned(*records)
    assert [entry.offset for entry in plan.entries] == [1, 2, 3, 5, 9]
    assert [dead.offset for dead, _ in plan.dead] == [2]


def test_nothing_comes_to_nothing() -> None:
    assert planned() == Plan()


def test_a_key_that_is_not_the_referral_id_is_counted_and_delivered() -> None:
    right = published()
    wrong = record(right.value, 41, key=b"other")
    without = Record(TOPIC, PARTITION, 42, None, right.value, TIMESTAMP_MS)
    plan = planned(right, wrong, without)
    assert plan.miskeyed == 2
    assert [len(entry.targets) for entry in plan.entries] == [2, 2, 2]


@pytest.mark.case(34)
def test_a_record_that_another_partitioner_placed_is_counted_and_delivered() -> None:
    given = event()
    home = partition_of(given["referral_id"].encode(), 4)
    value, key = referrals.encode(given), given["referral_id"].encode()
    planner = Planner("push", b"key", True, targets, partitions=4)
    for partition in range(4):
        plan = planner.plan([Record(TOPIC, partition, 7, key, value, TIMESTAMP_MS)], ROUTER, NOW)
        assert plan.miskeyed == (partition != home)
        assert [len(entry.targets) for entry in plan.entries] == [2]


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        pytest.param({}, True, id="the same again"),
        pytest.param({"email": "other@example.com", "event_id": "another"}, True, id="other content"),
        pytest.param({"campaign_id": "c-2"}, True, id="other campaign"),
        pytest.param({"revision": 3}, False, id="other revision"),
        pytest.param({"event_type": "CORRECTED"}, False, id="other kind"),
        pytest.param({"event_type": "WITHDRAWN"}, False, id="a removal"),
        pytest.param({"referral_id": "3f2504e0-4f89-41d3-9a0c-0305e82c3302"}, False, id="other referral"),
    ],
)
def test_the_fingerprint_tells_publications_apart(changes: dict[str, Any], same: bool) -> None:
    first, second = planned(published(40), published(77, **changes)).entries
    assert first.fingerprint is not None
    assert (first.fingerprint == second.fingerprint) is same


def test_the_fingerprint_is_keyed_and_outlives_the_process() -> None:
    [one], [again], [other] = (planned(published(), key=key).entries for key in (b"key", b"key", b"another"))
    assert one.fingerprint == again.fingerprint
    assert one.fingerprint is not None
    assert other.fingerprint is not None
    assert one.fingerprint.value != other.fingerprint.value


@given(timestamp_ms=st.integers(0, 2**42))
def test_the_slot_follows_the_records_own_time(timestamp_ms: int) -> None:
    [here, next_hour] = planned(published(1, timestamp_ms), published(2, timestamp_ms + SLOT_MS)).entries
    assert here.fingerprint is not None
    assert next_hour.fingerprint is not None
    assert here.fingerprint.slot == timestamp_ms // SLOT_MS
    assert next_hour.fingerprint.slot == here.fingerprint.slot + 1
    assert (next_hour.fingerprint.value, next_hour.fingerprint.shard) == (
        here.fingerprint.value,
        here.fingerprint.shard,
    )
    assert -(2**63) <= here.fingerprint.value < 2**63
    assert 0 <= here.fingerprint.shard < DEDUPE_SHARDS


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "routing only"])
def test_what_targets_are_given(whole: bool) -> None:
    seen: list[Referral] = []

    def look(referral: Referral, _record: Record, _wanted: Sequence[AnyConnection]) -> list[LaneTarget]:
        seen.append(referral)
        return []

    Planner("push", b"key", whole, look).plan([published()], ROUTER, NOW)
    assert ("email" in seen[0].fields) is whole


@pytest.mark.parametrize(
    ("schema_id", "dead"),
    [
        pytest.param(7, [], id="known id"),
        pytest.param(8, ["the Schema Registry has no schema 8"], id="unknown id"),
    ],
)
def test_with_a_registry_the_confluent_format_is_read(schema_id: int, dead: list[str]) -> None:
    def by_id(asked: int) -> Any:
        if asked != 7:
            raise Undecodable(f"the Schema Registry has no schema {asked}")
        return referrals.definition()

    value = referrals.encode_confluent(event(), schema_id)
    plan = Planner("push", b"key", True, targets, by_id).plan([record(value), published(41)], ROUTER, NOW)
    assert [why for _, why in plan.dead] == dead
    assert len(plan.entries[1].targets) == 2
    assert bool(plan.entries[0].targets) is not bool(dead)


def test_a_defect_met_by_one_referral_is_its_dead_letter_alone() -> None:
    def some(referral: Referral, given: Record, wanted: Sequence[AnyConnection]) -> list[LaneTarget]:
        if given.offset == 41:
            raise ZeroDivisionError("ada@example.com")
        return targets(referral, given, wanted)

    planner = Planner("push", b"key", True, some)
    plan = planner.plan([published(40), published(41), published(42)], ROUTER, NOW)
    ((dead, reason),) = plan.dead
    assert dead.offset == 41
    assert "ZeroDivisionError at test_plan.py:" in reason
    assert "ada@" not in reason
    assert [len(entry.targets) for entry in plan.entries] == [2, 0, 2]
    assert note(plan.entries[1]).outcome is Outcome.UNDECODABLE
