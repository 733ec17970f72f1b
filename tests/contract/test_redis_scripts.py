"""What each script answers and leaves behind, case by case, on a real server.

That whole histories keep their laws is for the models (tests/invariants); here stand the tables.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from batcher.windows import SEAL
from consumer import connection_sets, intake, receipts
from consumer.intake import (
    MARKS_KEPT_MS,
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
from consumer.pending import SETTLE
from consumer.store import Argument, Call, Store, StoreRefused
from consumer.topics import Topics
from tests.support.rows import chained, write_layout
from tests.support.valkey import Valkey, start_valkey

KEYS = Keys(Topics().referrals, Role.PUSH)
PREFIX, HEAD = KEYS.prefix(0), KEYS.head(0)
LANE, FILE = "crm", "daily"
#: Above what Lua's unpack takes at once.
MANY = 8_500


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

    def settle(
        self,
        *facts: tuple[str, int, bytes],
        later: Sequence[tuple[str, int, int, int]] = (),
        epoch: int | None = None,
    ) -> list[bytes | int]:
        args: list[Argument] = [PREFIX, self.epoch if epoch is None else epoch, intake.LEASE_MS, len(facts)]
        args += [item for fact in facts for item in fact]
        args += [len(later), *(item for one in later for item in one)]
        reply: list[Any] = self.store.call(Call(SETTLE, HEAD, args))
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


# intake


@pytest.mark.parametrize(
    ("batches", "verdicts"),
    [
        pytest.param([[pushed(0), pushed(1)]], ["AA"], id="two records"),
        pytest.param([[]], [""], id="an empty batch"),
        pytest.param([[pushed(0, 7), pushed(1, 7)]], ["AD"], id="twice in a batch"),
        pytest.param([[pushed(0, 7)], [pushed(1, 7)]], ["A", "D"], id="again in the next batch"),
        pytest.param([[pushed(0, 7)], [pushed(1, 7, slot=6)]], ["A", "D"], id="again in the next slot"),
        pytest.param(
            [[pushed(0, 7)], [pushed(1, 7, slot=6)], [pushed(2, 7, slot=7)]],
            ["A", "D", "D"],
            id="a duplicate is remembered too",
        ),
        pytest.param([[pushed(0, 7)], [pushed(1, 7, slot=7)]], ["A", "A"], id="again two slots later"),
        pytest.param(
            [[pushed(0, -(1 << 63)), pushed(1, (1 << 63) - 1), pushed(2, -(1 << 63) + 1)]],
            ["AAA"],
            id="fingerprints keep all of their 64 bits",
        ),
        pytest.param(
            [[noted(0, b"note"), pushed(1), noted(2, b"")]], ["NAN"], id="records without fingerprint"
        ),
        pytest.param([[noted(0, b"same"), noted(1, b"same")]], ["NN"], id="are never duplicates"),
    ],
)
def test_verdicts(partition: Partition, batches: list[list[Entry]], verdicts: list[str]) -> None:
    assert [partition.offer(*batch) for batch in batches] == [Accepted(letters, 0) for letters in verdicts]
    entries = [entry for batch in batches for entry in batch]
    told = list(zip(entries, "".join(verdicts), strict=True))
    kept = [entry.offset for entry, letter in told if letter == "A"]
    assert partition.pending() == {str(offset): f"body {offset}" for offset in kept}
    due = partition.store.command("ZRANGE", f"{PREFIX}lane:{LANE}:due", 0, -1, "WITHSCORES")
    assert [(int(offset), float(score)) for offset, score in _pairs(due)] == [(o, float(o)) for o in kept]
    assert partition.list("outbox") == [entry.note for entry, letter in told if letter != "A" and entry.note]
    assert partition.store.hash(HEAD)["next"] == str(len(entries))


def _pairs(reply: Sequence[Any]) -> list[tuple[Any, Any]]:
    """RESP3 answers with pairs, RESP2 flat."""
    return [tuple(item) for item in reply] if reply and isinstance(reply[0], list) else list(_two(reply))


def _two(flat: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)


def test_fingerprints_are_forgotten_after_their_horizon(partition: Partition) -> None:
    partition.offer(pushed(0, 7))
    left = partition.store.command("TTL", f"{PREFIX}seen:5:0")
    assert intake.DEDUPE_HORIZON_S < left <= 2 * intake.DEDUPE_HORIZON_S
    partition.store.command("EXPIRE", f"{PREFIX}seen:5:0", 100)
    partition.offer(pushed(1, 8))
    assert partition.store.command("TTL", f"{PREFIX}seen:5:0") <= 100, "each record would keep the set alive"


def test_a_repeat_is_answered_word_for_word(partition: Partition) -> None:
    batch = [pushed(0, 7), pushed(1, 7), noted(2, b"note"), filed(3)]
    first = partition.offer(*batch)
    partition.mark("somebody")
    partition.store.command("HSET", HEAD, "lease", 1)
    before = partition.dump()
    assert partition.offer(*batch, prev=0, next_offset=4) == Accepted("ADNA", 1)
    assert first == Accepted("ADNA", 0)
    after = partition.dump()
    assert {name for name in after if after[name] != before[name]} == {HEAD.encode()}
    assert int(partition.store.hash(HEAD)["lease"]) > 1, "the caller counts a lease from this call too"


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        pytest.param({"epoch": 1}, "fenced", id="an older owner"),
        pytest.param({"epoch": 1 << 60}, "fenced", id="an owner Redis does not know"),
        pytest.param({"epoch": 1, "prev": 0, "next_offset": 1}, "fenced", id="an older owner's repeat"),
        pytest.param({"prev": 0}, Moved(1), id="behind"),
        pytest.param({"prev": 2, "next_offset": 3}, Moved(1), id="ahead"),
        pytest.param({"prev": 0, "next_offset": 9}, Moved(1), id="a repeat of another length"),
        pytest.param({"set_version": 3}, StaleSet(4), id="an older set"),
        pytest.param({"set_version": 4}, Accepted("A", 0), id="the set in force"),
        pytest.param({"set_version": 5}, Accepted("A", 0), id="a newer set"),
    ],
)
def test_who_may_write_and_where(partition: Partition, changes: dict[str, int], answer: object) -> None:
    partition.offer(pushed(0))
    partition.store.command("HSET", HEAD, "set", 4)
    before = partition.dump()
    epoch = partition.epoch
    found = partition.offer(pushed(1), **{"set_version": 4, **changes})
    assert found == (Fenced(epoch) if answer == "fenced" else answer)
    if isinstance(found, Accepted):
        assert partition.store.hash(HEAD)["set"] == str(changes["set_version"])
    else:
        assert partition.dump() == before


def test_an_owner_that_was_followed_is_fenced(partition: Partition) -> None:
    taken = partition.take()
    assert taken.epoch > partition.epoch
    assert partition.offer(pushed(0)) == Fenced(taken.epoch)


def test_a_lost_head_is_never_made_anew(partition: Partition) -> None:
    partition.store.command("FLUSHDB")
    assert partition.offer(pushed(0)) == Lost()
    assert intake.taken(partition.store.call(intake.take(KEYS, 0, "worker", 0))) == Lost()
    assert partition.settle((LANE, 0, b"R")) == [b"LOST"]
    assert partition.mark("somebody") == [b"LOST"]
    partition.store.call(Call(connection_sets._RAISE, HEAD, (7,)))
    assert partition.dump() == {}


@pytest.mark.parametrize(
    ("removed", "revision", "verdict"),
    [
        pytest.param({"revision": 3}, 2, "R", id="withdrawn: an older revision"),
        pytest.param({"revision": 3}, 3, "R", id="withdrawn: that revision"),
        pytest.param({"revision": 3}, 4, "A", id="withdrawn: a newer revision"),
        pytest.param({"erased": True, "revision": 3}, 4, "R", id="erased: any revision"),
        pytest.param({"referral_id": "other", "erased": True}, 0, "A", id="another referral"),
    ],
)
def test_records_of_the_removed(
    partition: Partition, removed: dict[str, Any], revision: int, verdict: str
) -> None:
    partition.mark(**{"referral_id": "r-1", **removed})
    assert partition.offer(pushed(0, referral_id="r-1", revision=revision)) == Accepted(verdict, 1)
    # Its lane is told, and ends it with a receipt.
    assert partition.pending() == {"0": "body 0"}
    assert partition.list("outbox") == []


def test_rows_their_digest_and_the_latest_revisions(partition: Partition) -> None:
    before = time.time()
    partition.offer(filed(0, "r-1", 2), filed(1, "r-2"), noted(2, b"x"))
    first = partition.store.hash(f"{PREFIX}seals:{FILE}")
    partition.offer(filed(3, "r-1", 5), filed(4, "r-1", 3), filed(5, "r-3", 1))
    rows = [row(offset) for offset in (0, 1, 3, 4, 5)]
    assert partition.list(f"open:{FILE}") == rows
    figures = partition.store.hash(f"{PREFIX}seals:{FILE}")
    assert abs(int(figures.pop("opened")) / 1000 - before) < 5
    assert figures == {
        "digest": chained(rows), "rows": "5", "bytes": str(sum(map(len, rows))), "from": "0",
    }  # fmt: skip
    assert first["digest"] == chained(rows[:2])
    # A referral's first revision needs no entry: nothing is older.
    assert partition.store.hash(f"{PREFIX}latest:{FILE}") == {"r-1": "5", "r-3": "1"}


def test_rows_below_the_floor_of_a_sealed_window_never_enter_another(partition: Partition) -> None:
    partition.store.command("HSET", f"{PREFIX}seals:{FILE}", "to", 2)
    partition.offer(filed(0, "r-0", 9), filed(1, "r-1", 9))
    assert partition.list(f"open:{FILE}") == []
    assert partition.store.hash(f"{PREFIX}seals:{FILE}") == {"to": "2"}
    assert partition.store.hash(f"{PREFIX}latest:{FILE}") == {}
    partition.offer(filed(2), filed(3))
    assert partition.list(f"open:{FILE}") == [row(2), row(3)]
    assert partition.store.hash(f"{PREFIX}seals:{FILE}")["from"] == "2"


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


def test_more_rows_and_notes_than_lua_unpacks_at_once(partition: Partition) -> None:
    rows = [filed(offset) for offset in range(MANY)]
    assert partition.offer(*rows) == Accepted("A" * MANY, 0)
    expected = [row(offset) for offset in range(MANY)]
    assert partition.list(f"open:{FILE}") == expected
    assert partition.store.hash(f"{PREFIX}seals:{FILE}")["digest"] == chained(expected)
    notes = [noted(MANY + n, b"%d" % n) for n in range(MANY)]
    assert partition.offer(*notes) == Accepted("N" * MANY, 0)
    assert partition.list("outbox") == [b"%d" % n for n in range(MANY)]


def test_the_script_cache_may_be_emptied_at_any_time(partition: Partition) -> None:
    partition.offer(pushed(0))
    partition.store.command("SCRIPT", "FLUSH")
    assert partition.offer(pushed(1)) == Accepted("A", 0)
    partition.store.command("SCRIPT", "FLUSH")
    assert partition.settle((LANE, 0, b"done"))[0] == b"OK"
    assert partition.list("outbox") == [b"done"]
    # A round trip of several scripts, some of which the server still has.
    partition.store.command("SCRIPT", "FLUSH")
    partition.mark("other")
    calls = [
        intake.mark(KEYS, 0, Removal("r-1", erased=False, revision=0, coordinates="x")),
        Call(receipts.TRIM, HEAD, (PREFIX, 0, 1)),
        intake.mark(KEYS, 0, Removal("r-2", erased=False, revision=0, coordinates="x")),
    ]
    partition.store.calls(calls)
    assert partition.list("outbox") == []
    assert partition.store.hash(HEAD)["outbox"] == "1"
    assert partition.store.hash(HEAD)["marks"] == "3"


def test_a_full_redis_takes_nothing_in_and_still_drains(tmp_path: Path) -> None:
    server = start_valkey(tmp_path, extra=("--maxmemory", "100mb"))
    store = Store(server.url)
    try:
        partition = Partition(store)
        partition.offer(pushed(0), filed(1), pushed(2))
        store.command("CONFIG", "SET", "maxmemory", 1)
        before = partition.dump()
        with pytest.raises(StoreRefused, match="refused the write"):
            partition.offer(pushed(3))
        assert partition.dump() == before
        assert partition.take().next_offset == 3
        assert partition.settle((LANE, 0, b"done"), later=[(LANE, 2, 9, 1)])[0] == b"FENCED"
        assert list(partition.pending()) == ["2"]
        assert partition.mark("r-1") == [b"OK", b"1"]
        assert partition.seal(1)[:5] == [b"OK", b"1", b"1", b"3", b"1"]
        assert partition.trim(0, 1) == [b"OK", b"1"]
        store.barrier()
        store.command("CONFIG", "SET", "maxmemory", 0)
        partition.epoch = partition.take().epoch
        assert partition.offer(pushed(3)) == Accepted("A", 1)
    finally:
        store.close()
        server.stop()


# settle


@pytest.mark.parametrize("stranger", [pytest.param(False, id="owner"), pytest.param(True, id="stranger")])
def test_a_fact_is_written_once_whoever_says_it(partition: Partition, stranger: bool) -> None:
    partition.offer(pushed(0), pushed(1))
    partition.settle(later=[(LANE, 0, 99, 3)])
    epoch = 1 if stranger else partition.epoch
    lease = partition.store.hash(HEAD)["lease"]
    status = b"FENCED" if stranger else b"OK"
    told = (LANE, 0, b"entry")
    assert partition.settle(told, told, epoch=epoch)[0] == status
    assert partition.settle(told, ("other", 1, b"of another lane"), (LANE, 7, b"unknown"), epoch=epoch) == [
        status, str(partition.epoch).encode(), b"0", b"0", 1,
    ]  # fmt: skip
    assert partition.pending() == {"1": "body 1"}
    assert partition.list("outbox") == [b"entry"]
    assert partition.store.command("ZRANGE", f"{PREFIX}lane:{LANE}:due", 0, -1) == [b"1"]
    assert partition.store.command("EXISTS", f"{PREFIX}lane:{LANE}:attempts") == 0
    if stranger:
        assert partition.store.hash(HEAD)["lease"] == lease


@pytest.mark.parametrize(
    ("epoch", "offset", "due", "attempts"),
    [
        pytest.param(None, 0, 99, "2", id="the owner's"),
        pytest.param(1, 0, 0, None, id="a stranger's"),
        pytest.param(None, 7, 0, None, id="of a delivery that has ended"),
    ],
)
def test_reschedules_are_the_owners(
    partition: Partition, epoch: int | None, offset: int, due: int, attempts: str | None
) -> None:
    partition.offer(pushed(0))
    partition.settle(later=[(LANE, offset, 99, 2)], epoch=epoch)
    lane = f"{PREFIX}lane:{LANE}"
    assert partition.store.hash(f"{lane}:attempts").get("0") == attempts
    assert _pairs(partition.store.command("ZRANGE", f"{lane}:due", 0, -1, "WITHSCORES")) == [(b"0", due)]


# mark


def removal_marks(partition: Partition) -> dict[str, str]:
    """Without the time each was made."""
    found = partition.store.hash(f"{PREFIX}removed")
    return {
        name: " ".join(word for at, word in enumerate(value.split()) if at != 4)
        for name, value in found.items()
    }


@pytest.mark.parametrize(
    ("events", "stored", "sequences"),
    [
        pytest.param([("W", 1)], "W 1 1 0 event-0", [1], id="withdrawn"),
        pytest.param([("E", 1)], "E 1 0 1 event-0", [1], id="erased"),
        pytest.param([("W", 1), ("W", 1)], "W 1 1 0 event-0", [1, 1], id="the same again"),
        pytest.param([("W", 4), ("W", 1)], "W 4 1 0 event-0", [1, 1], id="an older one later"),
        pytest.param([("W", 1), ("W", 4)], "W 4 1 0 event-1", [1, 2], id="withdrawn further"),
        pytest.param([("W", 4), ("E", 1)], "E 4 1 2 event-1", [1, 2], id="withdrawn, then erased"),
        pytest.param([("E", 1), ("W", 4)], "E 1 0 1 event-0", [1, 1], id="erased stays erased"),
        pytest.param([("E", 1), ("E", 4)], "E 1 0 1 event-0", [1, 1], id="erased again"),
        pytest.param(
            [("W", 1), ("E", 1), ("E", 1), ("W", 9)], "E 1 1 2 event-1", [1, 2, 2, 2], id="all of it"
        ),
    ],
)
def test_marks(
    partition: Partition, events: list[tuple[str, int]], stored: str, sequences: list[int]
) -> None:
    replies = [
        partition.mark("r-1", erased=kind == "E", revision=revision, by=f"event-{number}")
        for number, (kind, revision) in enumerate(events)
    ]
    assert replies == [[b"OK", str(sequence).encode()] for sequence in sequences]
    assert removal_marks(partition) == {"r-1": stored}
    assert partition.store.hash(HEAD)["marks"] == str(sequences[-1])


def test_old_marks_are_forgotten_a_few_at_a_time(partition: Partition) -> None:
    for number in range(14):
        partition.mark(f"r-{number}")
    now = time.time() * 1000
    for number in range(12):
        old = int(now - MARKS_KEPT_MS - 60_000)
        partition.store.command("HSET", f"{PREFIX}removed", f"r-{number}", f"W 0 {number + 1} 0 {old} x")
    partition.mark("r-14")
    assert set(removal_marks(partition)) == {f"r-{number}" for number in range(10, 15)}
    partition.mark("r-15")
    assert set(removal_marks(partition)) == {f"r-{number}" for number in range(12, 16)}
    order = partition.store.command("ZRANGE", f"{PREFIX}removals", 0, -1)
    assert order == [b"r-%d" % number for number in range(12, 16)]


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
    def after(version: int) -> str:
        assert partition.store.call(Call(connection_sets._RAISE, HEAD, (version,))) == [b"OK"]
        return partition.store.hash(HEAD)["set"]

    assert [after(version) for version in (9, 10, 10, 9, 2)] == ["9", "10", "10", "10", "10"]


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
