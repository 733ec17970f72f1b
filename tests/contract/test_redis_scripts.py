"""What each script answers and leaves behind, case by case, on a real server.

That whole histories keep their laws is for the models (tests/invariants); here stand the tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from batcher.windows import SEAL
from consumer import connection_sets, intake, receipts
from consumer.intake import (
    Accepted,
    Entry,
    Fenced,
    Fingerprint,
    LaneTarget,
    Lost,
    Moved,
    Removal,
    StaleSet,
    Taken,
    WindowTarget,
)
from consumer.keys import Keys, Role
from consumer.layout import Layout
from consumer.pending import settle
from consumer.store import Call, Store
from consumer.topics import Topics
from tests.support.rows import chained, write_layout
from tests.support.valkey import Valkey

KEYS = Keys(Topics().referrals, Role.PUSH)
PREFIX, HEAD = KEYS.prefix(0), KEYS.head(0)
LANE, FILE = "crm", "daily"


class Partition:
    """Partition 0, and what its owner would say next."""

    def __init__(self, store: Store) -> None:
        self.store, self.next = store, 0
        write_layout(store, Topics(), Layout("topic", 1, (0,), b"key"))
        self.epoch = self.take().epoch

    def take(self) -> Taken:
        taken = intake.taken(self.store.call(intake.take(KEYS, 0, "worker", 0)))
        assert isinstance(taken, Taken)
        return taken

    def offer(self, *entries: Entry, **changes: int) -> Accepted | Fenced | Moved | StaleSet | Lost:
        """The batch behind the last one that was accepted."""
        place = {
            "epoch": self.epoch,
            "prev": self.next,
            "next_offset": self.next + len(entries),
            "set_version": 0,
        }
        place |= changes
        answer = intake.accepted(self.store.call(intake.intake(KEYS, 0, entries=entries, **place)))
        if isinstance(answer, Accepted):
            self.next = place["next_offset"]
        return answer

    def settle(self) -> list[bytes | int]:
        reply: list[Any] = self.store.call(settle(KEYS, 0, self.epoch, [], []))
        return reply

    def mark(
        self, referral_id: str, *, erased: bool = False, revision: int = 0, by: str = "event-1"
    ) -> list[bytes]:
        return self.store.call(intake.mark(KEYS, 0, Removal(referral_id, erased, revision, by)))

    def seal(self, window: int) -> list[bytes]:
        return self.store.call(Call(SEAL, HEAD, (PREFIX, FILE, window)))

    def trim(self, base: int, count: int) -> list[bytes]:
        return self.store.call(Call(receipts.TRIM, HEAD, (PREFIX, base, count)))

    def list(self, name: str) -> list[bytes]:
        found: list[bytes] = self.store.command("LRANGE", PREFIX + name, 0, -1)
        return found

    def pending(self) -> dict[str, str]:
        return self.store.hash(f"{PREFIX}lane:{LANE}:body")

    def dump(self) -> dict[bytes, bytes]:
        """Everything Redis holds."""
        names = sorted(self.store.command("KEYS", "*"))
        return dict(zip(names, self.store.commands([("DUMP", name) for name in names]), strict=True))


@pytest.fixture
def partition(valkey: Valkey) -> Iterator[Partition]:
    store = Store(valkey.url)
    yield Partition(store)
    store.close()


def pushed(
    offset: int, value: int | None = None, *, slot: int = 5, referral_id: str = "", revision: int = 0
) -> Entry:
    """A record for a lane; `value` is its fingerprint, its offset by default."""
    once = Fingerprint(offset if value is None else value, slot, 0)
    body = b"body %d" % offset
    return Entry(offset, once, b"note %d" % offset, referral_id, revision, (LaneTarget(LANE, body, offset),))


def filed(offset: int, referral_id: str = "", revision: int = 0) -> Entry:
    """A record for a window."""
    return Entry(
        offset, Fingerprint(offset, 5, 0), b"", referral_id, revision, (WindowTarget(FILE, row(offset)),)
    )


def noted(offset: int, note: bytes) -> Entry:
    return Entry(offset, None, note)


def row(offset: int) -> bytes:
    return intake.row(offset, b"value %d" % offset)


def _two(flat: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)


def test_an_owner_that_was_followed_is_fenced(partition: Partition) -> None:
    taken = partition.take()
    assert taken.epoch > partition.epoch
    assert partition.offer(pushed(0)) == Fenced(taken.epoch)


def test_a_lost_head_is_never_made_anew(partition: Partition) -> None:
    partition.store.command("FLUSHDB")
    assert partition.offer(pushed(0)) == Lost()
    assert intake.taken(partition.store.call(intake.take(KEYS, 0, "worker", 0))) == Lost()
    assert partition.settle() == [b"LOST"]
    assert partition.mark("somebody") == [b"LOST"]
    partition.store.call(Call(connection_sets._RAISE, HEAD, (7,)))
    assert partition.dump() == {}


def test_a_seal_starts_the_figures_anew(partition: Partition) -> None:
    partition.offer(filed(0, "r-0", 9))
    digest = chained([row(0)]).encode()
    assert partition.seal(1) == [b"OK", b"1", b"0", b"1", b"1", digest, b"0"]
    partition.offer(filed(1))
    assert partition.list(f"open:{FILE}") == [row(1)]
    assert partition.store.hash(f"{PREFIX}seals:{FILE}")["digest"] == chained([row(1)])
    assert partition.store.hash(f"{PREFIX}latest:{FILE}") == {}


def test_one_record_for_many_targets(partition: Partition) -> None:
    targets = (
        LaneTarget("a", b"\x00\xff\r\n", 1),
        WindowTarget("b", b""),
        LaneTarget("c", b"c", 2),
        WindowTarget("d", b"d"),
    )
    entries = [
        Entry(0, Fingerprint(1, 5, 0), b"", targets=targets),
        Entry(1, Fingerprint(1, 5, 0), b"", targets=targets),
    ]
    assert partition.offer(*entries) == Accepted("AD", 0)
    assert partition.store.command("SMEMBERS", f"{PREFIX}lanes") == {b"a", b"c"}
    assert partition.store.command("HGET", f"{PREFIX}lane:a:body", 0) == b"\x00\xff\r\n"
    assert [partition.list(f"open:{name}") for name in ("b", "d")] == [[b""], [b"d"]]


# Sets of connections.


@pytest.mark.parametrize(
    ("applied", "replies", "stored"),
    [
        pytest.param([(0, "a")], ["OK 1"], "1 a", id="the first"),
        pytest.param([(0, "a"), (1, "b")], ["OK 1", "OK 2"], "2 b", id="the next"),
        pytest.param([(0, "a"), (0, "b")], ["OK 1", "MOVED 1"], "1 a", id="another came in between"),
        pytest.param([(0, "a"), (0, "a")], ["OK 1", "OK 1"], "1 a", id="the same again"),
        pytest.param([(3, "a")], ["MOVED 0"], None, id="based on one that never was"),
        pytest.param(
            [(0, "a"), (1, "b"), (2, "a")], ["OK 1", "OK 2", "OK 3"], "3 a", id="back to an earlier one"
        ),
    ],
)
def test_sets(
    partition: Partition, applied: list[tuple[int, str]], replies: list[str], stored: str | None
) -> None:
    calls = [Call(connection_sets._APPLY, KEYS.connections, (v, d, f"set {d}")) for v, d in applied]
    assert [b" ".join(partition.store.call(call)).decode() for call in calls] == replies
    found = partition.store.hash(KEYS.connections)
    if stored is None:
        assert found == {}
    else:
        version, digest = stored.split()
        assert (found["version"], found["digest"], found["definition"]) == (version, digest, f"set {digest}")
        known = {digest for (_, digest), reply in zip(applied, replies, strict=True) if reply[:2] == "OK"}
        assert {name for name in found if name.startswith("known:")} == {
            f"known:{digest}" for digest in known
        }


def test_a_partition_only_ever_raises_its_set(partition: Partition) -> None:
    def after(version: int) -> tuple[str, bytes]:
        ok, start = partition.store.call(Call(connection_sets._RAISE, HEAD, (version,)))
        assert ok == b"OK"
        return partition.store.hash(HEAD)["set"], start

    assert [after(version) for version in (9, 10)] == [("9", b"0"), ("10", b"0")]
    partition.offer(noted(0, b"0"), set_version=10)
    # From where on records are taken under it stays, however often and late somebody asks.
    assert [after(version) for version in (10, 9, 2)] == [("10", b"0")] * 3
    assert after(11) == ("11", b"1")
    partition.offer(noted(1, b"1"), set_version=12)
    assert after(12) == ("12", b"1")


# trim


def test_only_one_of_two_relays_trims(partition: Partition) -> None:
    partition.offer(*(noted(offset, b"%d" % offset) for offset in range(5)))
    assert partition.trim(0, 2) == [b"OK", b"2"]
    assert partition.trim(0, 2) == [b"MOVED", b"2"]
    assert partition.list("outbox") == [b"2", b"3", b"4"]
    assert partition.trim(2, 3) == [b"OK", b"5"]
    assert partition.trim(2, 3) == [b"MOVED", b"5"]
    partition.offer(noted(5, b"5"))
    assert partition.trim(5, 0) == [b"OK", b"5"]
    assert partition.list("outbox") == [b"5"]
