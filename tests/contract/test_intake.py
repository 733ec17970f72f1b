"""The scripts of intake on a real Valkey, by table: take, intake, mark, settle, give_back, trim."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from consumer import intake, layout, pending
from consumer.intake import (
    DEDUPE_HORIZON_S,
    LEASE_MS,
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
from consumer.lane import LaneKey, Tier
from consumer.layout import Layout
from consumer.pending import Fact, Mark, Page, Reschedule
from consumer.store import Call, Script, Store, StoreRefused, StoreUnavailable
from consumer.topics import Topics
from consumer.tries import NONE, Tries
from tests.support.proxy import proxy
from tests.support.valkey import Valkey, start_valkey

SEAL = Script("batcher", "seal")
SLOT = 500_000
SEEN = Fingerprint(1, SLOT, 0)


@dataclass
class Bench:
    """One partition and its owner."""

    store: Store
    client: redis.Redis
    role: Role = Role.PUSH
    epoch: int = 0
    next_offset: int = 0
    keys: Keys = field(init=False)

    def __post_init__(self) -> None:
        self.keys = Keys("referrals", self.role)
        layout.write(self.store, Topics(), Layout("id", 2, (0, 0), b"k" * 32))
        self.take()

    def take(self, owner: str = "me", min_epoch: int = 0) -> Taken:
        taken = intake.taken(self.store.call(intake.take(self.keys, 0, owner, min_epoch)))
        assert isinstance(taken, Taken)
        self.epoch, self.next_offset = taken.epoch, taken.next_offset
        return taken

    def offer(self, *entries: Entry, **changes: Any) -> Accepted | Fenced | Moved | StaleSet | Lost:
        """The next batch, unless `changes` say otherwise; goes on behind it where it was taken."""
        last = entries[-1].offset if entries else self.next_offset
        given = {"epoch": self.epoch, "prev": self.next_offset, "next_offset": last + 1, "set_version": 0}
        call = intake.intake(self.keys, 0, entries=entries, **{**given, **changes})
        answer = intake.accepted(self.store.call(call))
        if isinstance(answer, Accepted):
            self.next_offset = call.args[3]
        return answer

    def mark(
        self, referral_id: str, revision: int, *, erased: bool = False, kept_ms: int | None = None
    ) -> str:
        removal = Removal(referral_id, erased, revision, f"referrals-0-{revision}")
        call = intake.mark(self.keys, 0, removal)
        if kept_ms is not None:
            call = Call(call.script, call.key, (*call.args[:-1], kept_ms))
        return self.store.call(call)[1].decode()

    def settle(
        self, facts: Sequence[Fact] = (), later: Sequence[Reschedule] = (), epoch: int | None = None
    ) -> list:
        mine = self.epoch if epoch is None else epoch
        return self.store.call(pending.settle(self.keys, 0, mine, facts, later))

    def key(self, name: str) -> str:
        return self.keys.prefix(0) + name

    @property
    def head(self) -> dict[bytes, bytes]:
        return self.client.hgetall(self.keys.head(0))

    @property
    def outbox(self) -> list[bytes]:
        return self.client.lrange(self.key("outbox"), 0, -1)

    def pending(self, connection: str = "crm") -> dict[int, tuple[bytes, float]]:
        lane = self.key(f"lane:{connection}")
        bodies = self.client.hgetall(f"{lane}:body")
        due = dict(self.client.zrange(f"{lane}:due", 0, -1, withscores=True))
        again = dict(self.client.zrange(f"{lane}:again", 0, -1, withscores=True))
        assert not due.keys() & again.keys()
        due |= again
        assert bodies.keys() == due.keys()
        return {int(offset): (body, int(due[offset])) for offset, body in bodies.items()}

    def rows(self, connection: str = "csv") -> list[bytes]:
        return self.client.lrange(self.key(f"open:{connection}"), 0, -1)


@pytest.fixture
def store(valkey: Valkey) -> Iterator[Store]:
    made = Store(valkey.url)
    yield made
    made.close()


@pytest.fixture
def bench(valkey: Valkey, store: Store) -> Iterator[Bench]:
    with valkey.client() as client:
        yield Bench(store, client)


@pytest.fixture
def batch(valkey: Valkey, store: Store) -> Iterator[Bench]:
    with valkey.client() as client:
        yield Bench(store, client, Role.BATCH)


def entry(offset: int, seen: int | None = None, slot: int = SLOT, **changes: Any) -> Entry:
    """A referral for one lane, its fingerprint its own."""
    given: dict[str, Any] = {
        "note": b"D%d" % offset,
        "referral_id": f"r{offset}",
        "revision": 0,
        "targets": (LaneTarget("crm", b"body %d" % offset, 1_000 + offset),),
    }
    value = offset + 100 if seen is None else seen
    return Entry(offset, Fingerprint(value, slot, 0), **{**given, **changes})


def fact(offset: int) -> Fact:
    return Fact("crm", offset, b"receipt", f"r{offset}", 0)


def again(offset: int, due: float, attempts: int = 1) -> Reschedule:
    return Reschedule("crm", offset, due, Tries(attempts), f"r{offset}")


def noted(offset: int) -> Entry:
    return Entry(offset, None, b"R%d" % offset)


def window(offset: int, row: bytes = b"row", **changes: Any) -> Entry:
    return entry(offset, **{"targets": (WindowTarget("csv", row),), **changes})


# Accepting.


def test_deliveries_and_offset_enter_together(bench: Bench) -> None:
    answer = bench.offer(
        entry(0), noted(1), entry(2, targets=(LaneTarget("crm", b"c", 7), LaneTarget("b", b"d", 8)))
    )
    assert answer == Accepted("ANA", 0)
    assert bench.pending() == {0: (b"body 0", 1_000), 2: (b"c", 7)}
    assert bench.pending("b") == {2: (b"d", 8)}
    assert bench.outbox == [b"R1"]
    assert pending.lanes_of(bench.store, bench.keys, 0) in (["crm", "b"], ["b", "crm"])
    head = bench.head
    assert (head[b"next"], head[b"prev"], head[b"verdicts"]) == (b"3", b"0", b"ANA")


def test_a_record_may_be_taken_without_any_trace_but_the_offset(bench: Bench) -> None:
    assert bench.offer(Entry(0, None, b"")) == Accepted("N", 0)
    assert bench.outbox == []


def test_offsets_may_have_gaps(bench: Bench) -> None:
    assert bench.offer(entry(3), entry(9)) == Accepted("AA", 0)
    assert bench.head[b"next"] == b"10"


# Upstream's second publication.


@pytest.mark.case(33)
@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        pytest.param(SLOT, SLOT, "D", id="same slot"),
        pytest.param(SLOT, SLOT + 1, "D", id="the slot after"),
        pytest.param(SLOT, SLOT + 2, "A", id="two slots later it is new"),
        pytest.param(0, 1, "D", id="from 1970"),
    ],
)
def test_a_duplicate_in_the_next_batch(bench: Bench, first: int, second: int, verdict: str) -> None:
    assert bench.offer(entry(0, seen=5, slot=first)) == Accepted("A", 0)
    assert bench.offer(entry(1, seen=5, slot=second)) == Accepted(verdict, 0)
    assert (1 in bench.pending()) == (verdict == "A")
    assert bench.outbox == ([b"D1"] if verdict == "D" else [])


@pytest.mark.case(33)
def test_a_duplicate_within_the_batch(bench: Bench) -> None:
    assert bench.offer(entry(0, seen=5), entry(1, seen=5), entry(2, seen=-5)) == Accepted("ADA", 0)
    assert bench.pending().keys() == {0, 2}
    assert bench.outbox == [b"D1"]


def test_fingerprints_do_not_stay_for_ever(bench: Bench) -> None:
    """Not even in a slot whose first record was a duplicate of the slot before."""
    bench.offer(entry(0, seen=5))
    bench.offer(entry(1, seen=5, slot=SLOT + 1), entry(2, seen=6, slot=SLOT + 1))
    keys = bench.client.keys(bench.key("seen:*"))
    assert len(keys) == 2
    assert all(0 < bench.client.ttl(key) <= 2 * DEDUPE_HORIZON_S for key in keys)


def test_a_duplicate_of_a_removed_referral_is_a_duplicate(bench: Bench) -> None:
    bench.mark("r0", 0)
    assert bench.offer(entry(0, seen=5, referral_id="r0")) == Accepted("R", 1)
    assert bench.offer(entry(1, seen=5, referral_id="r0")) == Accepted("D", 1)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"referral_id": "r2"}, id="another referral"),
        pytest.param({"revision": 1}, id="another revision"),
        pytest.param({"kind": "CORRECTED"}, id="another kind"),
        pytest.param({"key": b"k" * 32}, id="another key"),
    ],
)
def test_what_makes_records_the_same_publication(other: dict[str, Any]) -> None:
    given = {"key": b"", "referral_id": "r1", "revision": 0, "kind": "CREATED", "timestamp_ms": 7_200_000}
    one = intake.fingerprint(**given)
    assert one == intake.fingerprint(**given | {"timestamp_ms": 7_200_001})
    assert one.value != intake.fingerprint(**given | other).value
    assert -(2**63) <= one.value < 2**63
    assert one.slot == 7_200_000 // (DEDUPE_HORIZON_S * 1000)


# The compare-and-set.


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param((entry(0), entry(1, seen=100), noted(2)), id="deliveries"),
        pytest.param((window(0), window(1, b"b", revision=3)), id="rows"),
    ],
)
def test_a_repeat_is_answered_word_for_word_and_changes_nothing(
    bench: Bench, entries: tuple[Entry, ...]
) -> None:
    def state() -> dict[bytes, Any]:
        kept = {key: bench.client.dump(key) for key in bench.client.keys("*")}
        kept[bench.keys.head(0).encode()] = {k: v for k, v in bench.head.items() if k != b"lease"}
        return kept

    first = bench.offer(*entries)
    before = state()
    assert bench.offer(*entries, prev=0) == first
    assert state() == before


def test_a_repeat_does_not_ask_for_the_newest_set(bench: Bench) -> None:
    first = bench.offer(entry(0), set_version=1)
    bench.client.hset(bench.keys.head(0), "set", 5)
    assert bench.offer(entry(0), prev=0, set_version=1) == first


def test_only_the_last_batch_can_be_repeated(bench: Bench) -> None:
    bench.offer(entry(0))
    bench.offer(entry(1))
    assert bench.offer(entry(0), prev=0) == Moved(2)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"epoch": -7}, Fenced, id="of a former owner"),
        pytest.param({"epoch": -7, "prev": 9}, Fenced, id="a former owner is told that first"),
        pytest.param({"prev": 0}, Moved, id="behind"),
        pytest.param({"prev": 2}, Moved, id="ahead: Redis went back"),
        pytest.param({"prev": 2, "set_version": 0}, Moved, id="ahead, with an old set"),
        pytest.param({"set_version": 1}, StaleSet, id="routed with an older set"),
    ],
)
def test_refused_as_a_whole(bench: Bench, changes: dict[str, int], expected: type) -> None:
    bench.offer(noted(0), set_version=2)
    before = {key: bench.client.dump(key) for key in bench.client.keys("*")}
    answer = bench.offer(entry(5), **{"set_version": 2, **changes})
    assert isinstance(answer, expected)
    assert answer in (Fenced(bench.epoch), Moved(1), StaleSet(2))
    assert {key: bench.client.dump(key) for key in bench.client.keys("*")} == before


def test_a_partition_without_head_is_lost(bench: Bench) -> None:
    bench.client.delete(bench.keys.head(0))
    assert bench.offer(entry(0)) == Lost()
    assert intake.taken(bench.store.call(intake.take(bench.keys, 0, "me", 0))) == Lost()
    assert bench.settle()[0] == b"LOST"
    assert bench.store.call(intake.mark(bench.keys, 0, Removal("r", False, 0, "c")))[0] == b"LOST"
    assert not bench.client.keys(bench.key("*"))


def test_a_newer_set_raises_the_one_in_force(bench: Bench) -> None:
    assert bench.offer(noted(0), set_version=3) == Accepted("N", 0)
    assert bench.head[b"set"] == b"3"


# Removals.


@pytest.mark.parametrize(
    ("revision", "erased", "offered", "verdict"),
    [
        pytest.param(2, False, 2, "R", id="withdrawn up to this revision"),
        pytest.param(2, False, 1, "R", id="withdrawn beyond it"),
        pytest.param(2, False, 3, "A", id="a newer revision stands"),
        pytest.param(2, True, 3, "R", id="erased is for good"),
    ],
)
def test_removed_before_it_came(
    bench: Bench, revision: int, erased: bool, offered: int, verdict: str
) -> None:
    bench.mark("gone", revision, erased=erased)
    assert bench.offer(entry(0, referral_id="gone", revision=offered), entry(1)) == Accepted(verdict + "A", 1)
    assert bench.pending().keys() == {0, 1}  # its end is the owner's to write


def test_a_removed_row_stays_in_the_window_and_is_left_out_when_rendered(batch: Bench) -> None:
    batch.mark("gone", 0)
    assert batch.offer(window(0, referral_id="gone")) == Accepted("R", 1)
    assert batch.rows() == [b"row"]


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        pytest.param(["W1"], ("W", 1, 1, 0), id="first"),
        pytest.param(["W1", "W1"], ("W", 1, 1, 0), id="the same event again"),
        pytest.param(["W2", "W1"], ("W", 2, 1, 0), id="an older one"),
        pytest.param(["W1", "W2"], ("W", 2, 1, 0), id="a newer one"),
        pytest.param(["W3", "E1"], ("E", 3, 1, 2), id="erased later, of an older revision"),
        pytest.param(["E1", "W3"], ("E", 1, 0, 1), id="erased is never weakened"),
        pytest.param(["E1", "E3"], ("E", 1, 0, 1), id="erased is erased"),
    ],
)
def test_marks(bench: Bench, marks: list[str], expected: tuple[str, int, int, int]) -> None:
    """The kind and revision that hold, and since which mark of the partition each kind does."""
    before = bench.mark("other", 0)
    for mark in marks:
        last = bench.mark("r", int(mark[1:]), erased=mark[0] == "E")
    kind, *numbers, ms, where = bench.client.hget(bench.key("removed"), "r").decode().split(" ")
    revision, withdrawn, erased = map(int, numbers)
    shift = int(before)
    assert (kind, revision, max(0, withdrawn - shift), max(0, erased - shift)) == expected
    assert int(ms) > 1_000_000_000_000
    assert where.startswith("referrals-0-")
    assert bench.head[b"marks"] == last.encode()
    changes = bench.client.zrangebyscore(bench.key("removals"), shift + 1, "+inf")
    assert changes == [b"r"]


def test_marks_are_forgotten_after_their_time_oldest_first(bench: Bench) -> None:
    for n in range(30):
        bench.mark(f"r{n}", 0)
    assert bench.client.hlen(bench.key("removed")) == 30
    bench.mark("last", 0, kept_ms=-60_000)
    kept = {key.decode() for key in bench.client.hkeys(bench.key("removed"))}
    assert kept == {f"r{n}" for n in range(10, 30)} | {"last"}
    assert {key.decode() for key in bench.client.zrange(bench.key("removals"), 0, -1)} == kept


def test_marks_are_read_in_order_and_by_referral(bench: Bench) -> None:
    for n in range(3):
        bench.mark(f"r{n}", n)
    bench.mark("r0", 0, erased=True)
    found, last = pending.removals_since(bench.store, bench.keys, 0, 1)
    assert (found, last) == ({"r0": Mark(True, 0), "r1": Mark(False, 1), "r2": Mark(False, 2)}, 4)
    assert pending.removals_since(bench.store, bench.keys, 0, 4) == ({}, 4)
    assert pending.marks(bench.store, bench.keys, 0, ["r2", "r9"]) == {"r2": Mark(False, 2)}
    assert pending.marks(bench.store, bench.keys, 0, []) == {}


# Windows.


def test_rows_carry_a_chain_of_digests(batch: Bench) -> None:
    batch.offer(window(4, b"a"), window(5, b"bb"), noted(6))
    batch.offer(window(7, b"\x00\xff"))
    chain = ""
    for row in (b"a", b"bb", b"\x00\xff"):
        chain = hashlib.sha1(chain.encode() + row).hexdigest()
    figures = batch.client.hgetall(batch.key("seals:csv"))
    assert batch.rows() == [b"a", b"bb", b"\x00\xff"]
    assert figures[b"digest"].decode() == chain
    assert (figures[b"rows"], figures[b"bytes"], figures[b"from"]) == (b"3", b"5", b"4")
    assert int(figures[b"opened"]) > 1_000_000_000_000


def test_windows_are_apart(batch: Bench) -> None:
    batch.offer(
        entry(0, targets=(WindowTarget("csv", b"1"), WindowTarget("b", b"2"), LaneTarget("crm", b"3", 4)))
    )
    assert (batch.rows(), batch.rows("b"), batch.pending()) == ([b"1"], [b"2"], {0: (b"3", 4)})


@pytest.mark.parametrize(
    ("revisions", "latest"),
    [
        pytest.param([0], None, id="the first revision needs no note"),
        pytest.param([0, 2, 1], 2, id="the highest counts, not the last"),
        pytest.param([3], 3, id="a correction alone"),
    ],
)
def test_the_latest_revision(batch: Bench, revisions: list[int], latest: int | None) -> None:
    batch.offer(*(window(n, referral_id="r", revision=revision) for n, revision in enumerate(revisions)))
    found = batch.client.hget(batch.key("latest:csv"), "r")
    assert found == (None if latest is None else str(latest).encode())


def test_a_row_below_a_sealed_floor_never_enters_again(batch: Bench) -> None:
    batch.offer(window(0, b"a"), window(1, b"b"))
    sealed = batch.store.call(Call(SEAL, batch.keys.head(0), (batch.keys.prefix(0), "csv", 1)))
    assert sealed[1:5] == [b"1", b"0", b"2", b"2"]
    # Redis's offset went back, the seal did not; fingerprints went with the offset.
    batch.client.hset(batch.keys.head(0), mapping={"next": 0, "prev": -1})
    batch.client.delete(*batch.client.keys(batch.key("seen:*")))
    batch.next_offset = 0
    other = (WindowTarget("csv", b"a"), WindowTarget("other", b"a"))
    assert batch.offer(entry(0, targets=other), window(1, b"b"), window(2, b"c")) == Accepted("AAA", 0)
    assert (batch.rows(), batch.rows("other")) == ([b"c"], [b"a"])
    assert batch.client.hget(batch.key("seals:csv"), "rows") == b"1"


def test_more_rows_and_notes_than_lua_unpacks(batch: Bench) -> None:
    entries = [window(n, b"%d" % n) for n in range(9_000)]
    assert batch.offer(*entries) == Accepted("A" * 9_000, 0)
    assert batch.rows() == [b"%d" % n for n in range(9_000)]
    assert batch.offer(*(noted(n) for n in range(9_000, 18_000))) == Accepted("N" * 9_000, 0)
    assert batch.outbox == [b"R%d" % n for n in range(9_000, 18_000)]


def test_a_row_begins_with_its_offset() -> None:
    assert intake.row(258, b"value") == b"\0\0\0\0\0\0\x01\x02value"


# Owners.


def test_epochs_only_grow(bench: Bench) -> None:
    first = bench.epoch
    second = bench.take().epoch
    third = bench.take(min_epoch=second + 10**9).epoch
    assert first < second < second + 10**9 < third


def test_a_new_owner_waits_for_the_lease_of_the_one_before(bench: Bench) -> None:
    taken = bench.take("other")
    assert LEASE_MS - 1_000 < taken.wait_ms <= LEASE_MS + 2_000


def test_a_lease_given_back_need_not_be_waited_for(bench: Bench) -> None:
    assert bench.store.call(intake.give_back(bench.keys, 0, bench.epoch)) == [b"OK"]
    assert bench.take("other").wait_ms == 0


def test_giving_back_does_not_cut_short_the_lease_of_the_owner_before(bench: Bench) -> None:
    bench.take("second")
    bench.store.call(intake.give_back(bench.keys, 0, bench.epoch))
    assert bench.take("third").wait_ms > LEASE_MS - 1_000


def test_a_former_owner_gives_nothing_back(bench: Bench) -> None:
    former = bench.epoch
    bench.take("other")
    assert bench.store.call(intake.give_back(bench.keys, 0, former)) == [b"FENCED"]
    assert int(bench.head[b"lease"]) > 0


@pytest.mark.parametrize("role", [Role.PUSH, Role.BATCH])
def test_a_new_owner_learns_where_things_stand(valkey: Valkey, store: Store, role: Role) -> None:
    with valkey.client() as client:
        bench = Bench(store, client, role)
        bench.offer(entry(41), set_version=6)
        bench.mark("r", 0)
        taken = bench.take()
    assert (taken.next_offset, taken.marks, taken.set_version) == (42, 1, 6)


# Settling: more of it in test_settle.


def test_facts_are_not_fenced_and_intents_are(bench: Bench) -> None:
    bench.offer(entry(0), entry(1))
    former = bench.epoch
    bench.take("other")
    lease = bench.head[b"lease"]
    reply = bench.settle([fact(0)], [again(1, 9_000)], epoch=former)
    assert reply[0] == b"FENCED"
    assert int(reply[1]) == bench.epoch
    assert bench.outbox == [b"receipt"]
    assert bench.pending() == {1: (b"body 1", 1_001)}
    assert bench.head[b"lease"] == lease


def test_settling_renews_the_lease_and_tells_what_changed(bench: Bench) -> None:
    bench.offer(noted(0), set_version=4)
    bench.mark("r", 0)
    bench.client.hset(bench.keys.head(0), "lease", 1)
    status, epoch, marks, version, outbox, taken_back = bench.settle()
    assert (status, int(epoch), marks, version, outbox) == (b"OK", bench.epoch, b"1", b"4", 1)
    assert taken_back == b""
    assert int(bench.head[b"lease"]) > 1_000_000_000_000


def test_a_page_is_the_next_of_its_tier_by_due_time_for_the_owner_alone(bench: Bench) -> None:
    targets = [
        (LaneTarget("crm", b'["id","r%d",3,"a","c",0]\nbody' % n, due),)
        for n, due in enumerate((3_000, 1_000, 2_000))
    ]
    bench.offer(*(entry(n, targets=target) for n, target in enumerate(targets)))
    bench.settle(later=[again(2, 0.5, 4)])

    def page(tier: Tier, epoch: int = 0) -> Page | None:
        key = LaneKey(0, "crm", tier)
        return pending.page(bench.store, bench.keys, key, bench.epoch + epoch, 0)

    due, put_off = page(Tier.DUE), page(Tier.AGAIN)
    assert due is not None
    assert put_off is not None
    assert due.whole
    assert [(d.offset, round(d.due, 2), d.tries) for d in due.deliveries] == [(1, 1.0, NONE), (0, 3.0, NONE)]
    assert [(d.offset, d.due, d.tries, d.tier) for d in put_off.deliveries] == [
        (2, 0.5, Tries(4), Tier.AGAIN)
    ]
    assert [(d.referral_id, d.revision) for d in due.deliveries] == [("r1", 3), ("r0", 3)]
    assert page(Tier.DUE, -1) is None
    empty = pending.page(bench.store, bench.keys, LaneKey(0, "empty"), bench.epoch, 0)
    assert empty == Page((), {}, whole=True)


# Trouble.


def fill(bench: Bench) -> None:
    for offset in range(1_000):
        bench.offer(entry(offset, targets=(LaneTarget("crm", b"x" * 50_000, 1),)))


@pytest.mark.case(16)
def test_a_full_redis_refuses_rows_and_lets_what_frees_memory_pass(tmp_path: Path) -> None:
    server = start_valkey(tmp_path, extra=("--maxmemory", "4mb"))
    store = Store(server.url)
    try:
        with server.client() as client:
            bench = Bench(store, client)
            with pytest.raises(StoreRefused):
                fill(bench)
            offset = bench.next_offset
            assert offset > 10
            assert bench.pending().keys() == set(range(offset))
            assert bench.head[b"next"] == str(offset).encode()
            assert bench.mark("r", 0) == "1"
            assert (
                bench.store.call(Call(SEAL, bench.keys.head(0), (bench.keys.prefix(0), "csv", 1)))[0] == b"OK"
            )
            assert bench.settle([fact(n) for n in range(offset)])[0] == b"OK"
            assert bench.take().next_offset == offset
            assert bench.offer(entry(offset)) == Accepted("A", 1)
    finally:
        store.close()
        server.stop()


@pytest.mark.case(15)
def test_scripts_flushed_in_mid_run(bench: Bench) -> None:
    bench.offer(entry(0))
    bench.client.script_flush()
    assert bench.offer(entry(1)) == Accepted("A", 0)
    assert bench.pending().keys() == {0, 1}


@pytest.mark.case(10, 11)
def test_a_batch_whose_reply_was_lost_is_taken_once(valkey: Valkey, bench: Bench, monkeypatch) -> None:
    monkeypatch.setattr("consumer.store.SOCKET_TIMEOUT_S", 0.3)
    with proxy(valkey.port) as between:
        bench.store = Store(f"redis://127.0.0.1:{between.port}/0")
        bench.offer(window(0, b"a"))
        between.deaf = True
        with pytest.raises(StoreUnavailable):
            bench.offer(window(1, b"b"))
        assert bench.rows() == [b"a", b"b"]
        between.deaf = False
        assert bench.offer(window(1, b"b")) == Accepted("A", 0)
        assert bench.rows() == [b"a", b"b"]
        bench.store.close()


@pytest.mark.parametrize("cut", [1, 40, 200])
@pytest.mark.case(12)
def test_a_torn_append_only_file_loses_a_batch_as_a_whole(tmp_path: Path, cut: int) -> None:
    server = start_valkey(tmp_path, "always")
    store = Store(server.url)
    try:
        with server.client() as client:
            bench = Bench(store, client, Role.BATCH)
            bench.offer(window(0, b"a"))
            bench.offer(window(1, b"b"), window(2, b"c"))
        server.kill()
        (aof,) = (tmp_path / "data").glob("appendonlydir/*.incr.aof")
        aof.write_bytes(aof.read_bytes()[:-cut])
        server.restart()
        with server.client() as client:
            rows = client.lrange(bench.key("open:csv"), 0, -1)
            assert (client.hget(bench.keys.head(0), "next"), rows) == (b"1", [b"a"])
    finally:
        store.close()
        server.stop()
