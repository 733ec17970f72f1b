"""What a rebuilding decides: which set a record was taken under, what has ended, how windows come back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pytest

from batcher.window import State
from console.rebuild import told as telling
from console.rebuild.restored import DAMAGED, UNSURE, newest
from console.rebuild.run import seals
from console.rebuild.told import Told, whole_since
from consumer.ending import too_late
from consumer.frozen import Frozen, thaw
from consumer.history import History, history
from consumer.keys import Role
from consumer.lane import LaneKey
from consumer.manifests import Remembered
from consumer.pending import _delivery
from consumer.stream import Record
from consumer.tries import Tries
from schemas.connection import ConnectionSet
from schemas.delivery import Action, Outcome, delivery_id
from schemas.manifest import SETS_KEPT, Kind, Manifest, Mark
from schemas.push import HttpConnection
from schemas.receipt import Receipt, Subject

AT = datetime(2026, 6, 1, tzinfo=UTC)
PUSH = {
    "name": "crm",
    "kind": "http",
    "url": "https://crm.example/leads",
    "fields": ["referral_id"],
}


def connections(*names: str) -> ConnectionSet:
    each = [{**PUSH, "name": name} for name in names]
    return ConnectionSet.model_validate({"accounts": [{"account": "acme", "connections": each}]})


def told_set(version: int, names: Sequence[str], starts: tuple[int, ...] | None) -> Manifest:
    wanted = connections(*names)
    return Manifest(
        kind=Kind.CONNECTIONS,
        at=AT.replace(day=version),
        set_version=version,
        set_digest=wanted.digest,
        definition=wanted.definition(),
        starts=starts,
    )


def past(*given: Manifest) -> History:
    found = history(given)
    assert found is not None
    return found


FIRST = told_set(1, ["a", "b"], (0, 0, 0, 0))
SECOND = told_set(2, ["a", "c"], (10, 20, 5, 20))


@pytest.mark.parametrize(
    ("role", "partition", "offset", "version"),
    [
        pytest.param(Role.PUSH, 0, 9, 1, id="before the change"),
        pytest.param(Role.PUSH, 0, 10, 2, id="the first after it"),
        pytest.param(Role.PUSH, 1, 19, 1, id="each partition has its own"),
        pytest.param(Role.BATCH, 0, 9, 2, id="and each role"),
    ],
)
def test_the_set_a_record_was_taken_under(role: Role, partition: int, offset: int, version: int) -> None:
    assert past(FIRST, SECOND).at(role, partition, offset).version == version


def test_when_sets_changed_and_connections_came() -> None:
    found = past(FIRST, SECOND)
    assert found.cuts(Role.BATCH, 0) == {0, 5}
    assert found.came(["a", "c"]) == {"a": AT.replace(day=1), "c": AT.replace(day=2)}
    assert [account for account, _ in found.definitions("b")] == ["acme"]
    assert history([]) is None


@pytest.mark.parametrize(
    ("given", "unknown"),
    [
        pytest.param([FIRST, SECOND], False, id="from the first on"),
        pytest.param([SECOND], True, id="the first is forgotten"),
        pytest.param([told_set(2, ["a"], (3, 3, 3, 3))], False, id="forgotten, and nothing of it is left"),
        pytest.param([told_set(2, ["a"], None)], True, id="an older release did not note where"),
        pytest.param([FIRST, told_set(3, ["a"], (10, 20, 5, 20))], True, id="one between was never told"),
    ],
)
def test_whether_some_records_set_is_unknown(given: list[Manifest], unknown: bool) -> None:
    assert past(*given).unknown_before((3, 3)) is unknown


def test_sets_are_kept_beside_the_newest_and_bounded() -> None:
    assert (FIRST.key, FIRST.kept_as) == ("connections", "connections:1")
    assert told_set(1, ["a"], None).kept_as == "connections:1"
    keys = {Manifest(kind=Kind.CONNECTIONS, at=AT, set_version=n).kept_as for n in range(1, 1_000)}
    assert len(keys) == SETS_KEPT
    assert Manifest(kind=Kind.WINDOW, at=AT, connection="a", window=1).kept_as is None


@pytest.fixture
def told() -> Iterator[Told]:
    found = Told()
    yield found
    found.close()


def learn(told: Told, *given: Receipt) -> None:
    told.learn(Record("receipts", 0, n, None, one.encode(), 0) for n, one in enumerate(given))


def delivery(revision: int, outcome: Outcome, attempts: int = 1, action: Action = Action.DELIVER) -> Receipt:
    ids = delivery_id("crm", "r-1", revision, action)
    return Receipt(
        subject=Subject.DELIVERY,
        subject_id=f"{ids}:uncertain" if outcome is Outcome.UNCERTAIN else ids,
        outcome=outcome,
        service="push",
        at=AT,
        connection="crm",
        referral_id="r-1",
        revision=revision,
        attempts=attempts,
        action=action,
    )


@pytest.mark.parametrize(
    ("outcome", "attempts", "made"),
    [
        pytest.param(Outcome.DELIVERED, 1, True, id="delivered"),
        pytest.param(Outcome.DUPLICATE_AT_DESTINATION, 1, True, id="was there"),
        pytest.param(Outcome.REJECTED, 1, False, id="rejected"),
        pytest.param(Outcome.EXHAUSTED, 9, True, id="perhaps made"),
        pytest.param(Outcome.WITHDRAWN, 0, False, id="never tried"),
        pytest.param(Outcome.UNCERTAIN, 3, None, id="still open"),
    ],
)
def test_what_receipts_say_of_a_delivery(
    told: Told, outcome: Outcome, attempts: int, made: bool | None
) -> None:
    learn(told, delivery(2, outcome, attempts))
    assert told.ended("crm", "r-1", 2) is made
    assert told.ended("crm", "r-1", 3) is None


def test_what_receipts_say_of_the_rest(told: Told) -> None:
    record = Receipt(
        subject=Subject.RECORD,
        subject_id="referrals-1-41",
        outcome=Outcome.UNROUTED,
        service="collect",
        at=AT,
        topic="referrals",
        partition=1,
        offset=41,
    )
    removed = delivery(2, Outcome.DELIVERED, action=Action.REMOVE)
    learn(told, delivery(3, Outcome.DELIVERED), record, removed, delivery(5, Outcome.REJECTED))
    told.learn([Record("receipts", 0, 0, None, b"nonsense", 0)])
    assert told.noted("collect", "referrals-1-41")
    # What one service said of a record the other has still to say.
    assert not told.noted("push", "referrals-1-41")
    assert not told.noted("collect", "referrals-1-42")
    assert told.reach == {(Role.BATCH, 1): 42}
    assert told.delivery_ended(removed.subject_id)
    assert told.newer("crm", "r-1", 2)
    assert not told.newer("crm", "r-1", 3)
    assert set(telling.SERVICES.values()) == set(Role)


@pytest.mark.parametrize(
    ("lows", "firsts", "since"),
    [
        pytest.param({0: 0, 1: 0}, {0: 5.0}, 0.0, id="nothing was deleted"),
        pytest.param({0: 7, 1: 0}, {0: 1_500.0, 1: 1.0}, 1_500.0, id="what is left of a partition"),
        pytest.param({0: 7, 1: 9}, {0: 1_500.0}, 9_000.0, id="nothing is left of one"),
    ],
)
def test_since_when_all_receipts_are_there(
    lows: dict[int, int], firsts: dict[int, float], since: float
) -> None:
    assert whole_since(lows, firsts, "1000000", datetime.fromtimestamp(10_000, UTC)) == since


MARKS = (
    Mark(partition=0, start=3, to=7, rows=2, digest="ab", removals=1),
    Mark(partition=1, start=5, to=5, rows=0, digest="", removals=0),
)


def window(number: int, outcome: str | None, slot: str) -> Manifest:
    return Manifest(
        kind=Kind.WINDOW,
        at=AT,
        connection="daily",
        connection_digest="cd",
        window=number,
        slot=slot,
        marks=MARKS,
        outcome=outcome,
        account_id="acme",
        sealed_at=AT,
    )


def test_a_window_that_ended_comes_back_closed() -> None:
    told = {1: window(1, "DELIVERED", "2026-06-01T08:00[UTC]"), 2: window(2, "DELIVERED", "asked:2026")}
    (found,) = newest(Remembered(None, None, {"daily": told}))
    assert (found.number, found.last, found.open) == (2, "2026-06-01T08:00[UTC]", False)
    assert (found.floors, found.seals(0)) == ({0: 7, 1: 5}, {"last": 2, "to": 7})
    fields = found.fields((), "cd", whole=True)
    assert (fields["state"], fields["n"], fields["outcome"]) == (State.CLOSED, 2, "DELIVERED")
    assert seals([found], 0) == {}


def test_a_window_under_way_comes_back_sealed_and_waits() -> None:
    (found,) = newest(Remembered(None, None, {"daily": {4: window(4, None, "full:2026")}}))
    assert (found.open, found.last, found.floors) == (True, "", {0: 3, 1: 5})
    assert found.seals(0) == {"last": 3, "to": 3}
    assert (seals([found], 0), seals([found], 1)) == ({7: [("daily", 4)]}, {5: [("daily", 4)]})
    again = [Mark(partition=0, start=3, to=7, rows=2, digest="ab", removals=9), MARKS[1]]
    assert found.same(again)
    assert not found.same([Mark(partition=0, start=3, to=7, rows=1, digest="ac", removals=0), MARKS[1]])
    fields = found.fields(again, "cd", whole=True)
    assert (fields["state"], fields["held"], fields["unsure"]) == (State.SEALED, 1, UNSURE)
    assert json.loads(str(fields["marks"]))[0]["removals"] == 9
    lacking = found.fields(again, "cd", whole=False)
    assert (lacking["unsure"], lacking["damaged"]) == (DAMAGED, 1)


@pytest.mark.parametrize(
    ("tries", "now", "held"),
    [
        pytest.param(b"", 1_000.0 + 86_000, False, id="its key is remembered"),
        pytest.param(b"", 1_000.0 + 90_000, True, id="its key may be forgotten"),
        pytest.param(b"0 0", 1_000.0 + 90_000, False, id="a person let it go"),
    ],
)
def test_attempts_that_nobody_remembers_count_as_unknown(tries: bytes, now: float, held: bool) -> None:
    once = Frozen("d", "r-1", 0, "acme", "c-1", 0, b"{}", doubt=1_000.0)
    assert thaw(once.freeze()) == once
    found = _delivery(LaneKey(0, "crm"), 7, 5.0, tries, once.freeze())
    assert found.tries == (Tries(0, 0.0) if tries else Tries(0, 1_000.0))
    connection = HttpConnection.model_validate(PUSH)
    assert (too_late(once, connection, found.tries, now) is not None) is held
