"""The ends of deliveries on a real Valkey: settle, follow, sweep and intake's parking, by table and at random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer import held, intake, pending
from consumer.frozen import Frozen, thaw
from consumer.intake import Accepted, Entry, Fingerprint, LaneTarget, Removal, Taken
from consumer.keys import Keys, Role
from consumer.lane import LaneKey, Tier
from consumer.layout import Layout
from consumer.pending import Fact, Reschedule
from consumer.settling import NOBODY
from consumer.store import Call, Reply, Store, StoreUnavailable, text
from consumer.taking_back import FOLLOW, Removed, TakingBack
from consumer.topics import Topics
from consumer.tries import Tries, parse
from schemas.delivery import Action
from tests.support.proxy import proxy
from tests.support.rows import write_layout
from tests.support.valkey import Valkey, start_valkey

KEYS = Keys(Topics().referrals, Role.PUSH)
HEAD, PREFIX = KEYS.head(0), KEYS.prefix(0)
CRM = "crm"
NOW = 1_700_000_000.0
#: So few that a lane parks.
CAP, CAP_BYTES = 6, 2_000


def frozen(referral_id: str, revision: int, size: int = 10) -> Frozen:
    ids = f"d-{referral_id}-{revision}", referral_id, revision, "account", "campaign", 0
    return Frozen(*ids, b"x" * size, removal=b"forget %d" % revision)


def back_of(one: Frozen, connection: str = CRM) -> bytes:
    back = one.taken_back(connection)
    assert back is not None
    return back.freeze()


@dataclass
class Lane:
    """One lane of one partition, and the owner's calls."""

    store: Store
    epoch: int = 0
    next: int = 0

    def __post_init__(self) -> None:
        write_layout(self.store, Topics(), Layout("topic", 1, (0,), b"key"))
        self.take()

    def take(self) -> None:
        taken = intake.taken(self.store.call(intake.take(KEYS, 0, "worker", 0)))
        assert isinstance(taken, Taken)
        self.epoch = taken.epoch

    def offer(self, *deliveries: Frozen, prev: int | None = None, **caps: int) -> Accepted:
        first = self.next if prev is None else prev
        entries = [
            Entry(
                offset,
                Fingerprint(offset, 1, 0),
                b"",
                one.referral_id,
                one.revision,
                (LaneTarget(CRM, one.freeze(), offset),),
            )
            for offset, one in enumerate(deliveries, first)
        ]
        self.next = first + len(entries)
        place = {"epoch": self.epoch, "prev": first, "next_offset": self.next, "set_version": 0}
        answer = intake.accepted(self.store.call(intake.intake(KEYS, 0, entries=entries, **place, **caps)))
        assert isinstance(answer, Accepted)
        return answer

    def settle(
        self, facts: Sequence[Fact] = (), later: Sequence[Reschedule] = (), epoch: int | None = None
    ) -> Reply:
        mine = self.epoch if epoch is None else epoch
        return self.store.call(pending.settle(KEYS, 0, mine, facts, later))

    def mark(self, referral_id: str, revision: int = 0, *, erased: bool = False) -> None:
        removal = Removal(referral_id, erased, revision, f"referrals-0-{revision}")
        self.store.call(intake.mark(KEYS, 0, removal))

    @property
    def marks(self) -> int:
        return int(self.store.hash(HEAD)["marks"])

    def follow(self, follower: TakingBack | None = None) -> Removed | None:
        """As an owner does: a new one unless `follower` is given."""
        if follower is None:
            follower = TakingBack(KEYS)
            follower.owned(self.store, 0)
        return follower.follow(self.store, 0, self.epoch, self.marks)

    def swept(self) -> list[int]:
        """The offsets a whole sweep finds."""
        found, cursor = [], ""
        while cursor != "0":
            reply = self.store.call(pending.sweep(KEYS, 0, CRM, cursor or "0"))
            cursor, some = pending.found_by_sweep(0, CRM, reply)
            found += [one.offset for one in some]
        return sorted(found)

    def command(self, name: str, kind: str, *args: Any) -> Any:
        return self.store.command(name, f"{PREFIX}lane:{CRM}:{kind}", *args)

    def offsets(self, kind: str) -> list[int]:
        return sorted(int(one) for one in self.command("ZRANGE", kind, 0, -1))

    @property
    def bodies(self) -> dict[int, Frozen]:
        return {int(at): thaw(body) for at, body in self.command("HGETALL", "body").items()}

    @property
    def outbox(self) -> list[bytes]:
        found: list[bytes] = self.store.command("LRANGE", f"{PREFIX}outbox", 0, -1)
        return found

    def hash(self, kind: str) -> dict[str, str]:
        return self.store.hash(f"{PREFIX}lane:{CRM}:{kind}")

    def dump(self) -> dict[bytes, bytes]:
        names = [name for name in sorted(self.store.command("KEYS", "*")) if name != HEAD.encode()]
        return dict(zip(names, self.store.commands([("DUMP", name) for name in names]), strict=True))

    def check(self) -> None:
        """What holds after every call."""
        bodies = self.bodies
        places = [offset for kind in ("due", "again", "held", "behind") for offset in self.offsets(kind)]
        assert sorted(places) == sorted(bodies), (
            "each pending delivery stands in one order, and no other does"
        )
        raw = self.command("HVALS", "body")
        assert int(self.command("GET", "bytes") or 0) == sum(map(len, raw))
        put_off = {*self.offsets("again"), *self.offsets("held"), *self.offsets("behind")}
        assert {int(one) for one in self.hash("tries")} == put_off
        late = {(i, int(one)) for i, all_of_it in self.hash("late").items() for one in all_of_it.split()}
        assert late == {(bodies[offset].referral_id, offset) for offset in put_off}
        made_at = {text(one) for one in self.command("ZRANGE", "made-at", 0, -1)}
        assert made_at == set(self.hash("made"))


@pytest.fixture(scope="module")
def store(valkey_server: Valkey) -> Iterator[Store]:
    made = Store(valkey_server.url)
    yield made
    made.close()


@pytest.fixture
def lane(store: Store) -> Lane:
    return Lane(store)


def fact(offset: int, one: Frozen, *, back: bool = True, now: bool = False) -> Fact:
    """DELIVERED, of a connection that takes back."""
    entry = b"end of %d" % offset
    return Fact(CRM, offset, entry, one.referral_id, one.revision, back_of(one) if back else b"", now)


def again(offset: int, one: Frozen, due: float = NOW, tries: Tries | None = None) -> Reschedule:
    return Reschedule(CRM, offset, due, tries or Tries(1), one.referral_id)


def hold(offset: int, one: Frozen) -> Reschedule:
    return Reschedule(CRM, offset, None, Tries(3, NOW), one.referral_id, b"held %d" % offset)


A0, A1, A2, B0 = frozen("a", 0), frozen("a", 1), frozen("a", 2), frozen("b", 0)


# Putting off and holding.


@pytest.mark.parametrize(
    "tries",
    [
        pytest.param(Tries(1), id="attempts"),
        pytest.param(Tries(2, NOW + 0.25), id="one without an end"),
        pytest.param(Tries(7, NOW, "a group"), id="in a group"),
        pytest.param(Tries(0, 0.0, "g"), id="split before an attempt counted"),
    ],
)
def test_what_attempts_leave_behind_is_kept(lane: Lane, tries: Tries) -> None:
    lane.offer(A0)
    lane.settle(later=[again(0, A0, tries=Tries(1)), again(0, A0, NOW + 5, tries)])
    assert parse(lane.hash("tries")["0"]) == tries
    page = pending.page(lane.store, KEYS, LaneKey(0, CRM, Tier.AGAIN), lane.epoch, 0)
    assert page is not None
    assert [(one.offset, one.due, one.tries, one.tier) for one in page.deliveries] == [
        (0, NOW + 5, tries, Tier.AGAIN)
    ]
    assert lane.offsets("due") == []
    lane.check()


@pytest.mark.parametrize(
    "ends", [pytest.param(order, id=str(order)) for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1))]
)
def test_later_revisions_wait_until_all_before_them_have_ended(lane: Lane, ends: Sequence[int]) -> None:
    each = (A0, A1, A2)
    lane.offer(*each, B0)
    lane.settle(later=[again(n, one, NOW + n) for n, one in enumerate(each)])

    def behind() -> dict[int, float]:
        page = pending.page(lane.store, KEYS, LaneKey(0, CRM, Tier.AGAIN), lane.epoch, 0)
        assert page is not None
        return dict(page.behind)

    left = [0, 1, 2]
    for end in ends:
        assert behind() == {n: NOW + before for before, n in zip(left, left[1:], strict=False)}
        lane.settle([fact(end, each[end])])
        left.remove(end)
        lane.check()
    assert behind() == {}
    assert list(lane.bodies) == [3]


def test_one_that_is_held_is_told_of_once_and_keeps_later_revisions_waiting(lane: Lane) -> None:
    lane.offer(A0, A1)
    # As a worker tells both at once after Redis was away, and repeats it when the reply was lost.
    for _ in range(3):
        lane.settle(later=[again(0, A0), hold(0, A0)])
        lane.check()
    assert (lane.offsets("held"), lane.offsets("again"), lane.offsets("due")) == ([0], [], [1])
    assert lane.outbox == [b"held 0"]
    page = pending.page(lane.store, KEYS, LaneKey(0, CRM), lane.epoch, 0)
    assert page is not None
    assert page.behind == {1: inf}
    assert parse(lane.hash("tries")["0"]) == Tries(3, NOW)
    lane.settle(later=[Reschedule(CRM, 1, inf, Tries(), A1.referral_id)])
    lane.check()
    assert (lane.offsets("held"), lane.offsets("behind"), lane.offsets("due")) == ([0], [1], [])
    reply = lane.settle([fact(0, A0)])
    lane.check()
    assert text(reply[5]) == CRM, "its owner reads it anew"
    assert (lane.offsets("behind"), lane.offsets("again")) == ([], [1])
    assert lane.hash("late") == {A1.referral_id: "1"}


@pytest.mark.parametrize("told", [1, 2])
@pytest.mark.parametrize("let_go", ["send", "drop"])
def test_one_let_go_meanwhile_keeps_nothing_waiting(lane: Lane, let_go: str, told: int) -> None:
    """The worker saw it held; the operator was quicker, or came between the call and its repeat."""
    lane.offer(A0, A1)
    lane.settle(later=[hold(0, A0)])
    behind = Reschedule(CRM, 1, inf, Tries(), A1.referral_id)
    if told > 1:
        lane.settle(later=[behind])
    (one,) = held.page(lane.store, KEYS, 0, CRM, 0)
    assert (
        held.send(lane.store, KEYS, [one]) if let_go == "send" else held.drop(lane.store, KEYS, [one], NOW)
    ) == 1
    reply = lane.settle(later=[behind])
    lane.check()
    assert text(reply[5]) == CRM, "its owner reads it anew"
    assert lane.offsets("behind") == []
    assert 1 in lane.offsets("again")


@pytest.mark.case(10)
def test_what_an_end_lets_go_is_told_though_the_reply_is_lost(lane: Lane) -> None:
    lane.offer(A0, A1)
    lane.settle(later=[hold(0, A0), Reschedule(CRM, 1, inf, Tries(), A1.referral_id)])
    lane.settle([fact(0, A0)])
    lane.settle([fact(0, A0)])
    assert lane.offsets("again") == [1]
    assert held.released(lane.store, KEYS, [0]) == [(0, CRM)]


@pytest.mark.parametrize("later", [pytest.param(again, id="put off"), pytest.param(hold, id="held")])
def test_what_ended_is_not_revived(lane: Lane, later: Any) -> None:
    lane.offer(A0)
    lane.settle([fact(0, A0)], [later(0, A0)])
    assert lane.bodies == {}
    assert lane.outbox == [b"end of 0"]
    lane.check()


# Taking back.


def delivered(lane: Lane, *offsets: int) -> None:
    lane.settle([fact(offset, (A0, A1, A2)[offset]) for offset in offsets])


@pytest.mark.parametrize(
    ("revision", "erased", "taken_back"),
    [
        pytest.param(0, False, [0], id="withdrawn up to the first"),
        pytest.param(1, False, [0, 1], id="withdrawn up to the second"),
        pytest.param(2, False, [0, 1, 2], id="withdrawn"),
        pytest.param(0, True, [0, 1, 2], id="erased"),
    ],
)
@pytest.mark.parametrize("mark_first", [False, True])
def test_what_was_made_is_taken_back_once(
    lane: Lane, revision: int, erased: bool, taken_back: list[int], mark_first: bool
) -> None:
    lane.offer(A0, A1, A2)
    if mark_first:
        lane.mark("a", revision, erased=erased)
    reply = lane.settle([fact(n, one) for n, one in enumerate((A0, A1, A2))])
    if not mark_first:
        assert (text(reply[5]), lane.bodies) == ("", {})
        lane.mark("a", revision, erased=erased)
        news = lane.follow()
        assert news is not None
        assert set(news.lanes) == {CRM}
    else:
        assert set(text(reply[5]).split()) == {CRM}
    expected = {-n - 1: (A0, A1, A2)[n].taken_back(CRM) for n in taken_back}
    assert lane.bodies == expected
    assert {one.action for one in lane.bodies.values()} == {Action.REMOVE}
    assert bool(lane.hash("made")) == (len(taken_back) < 3)
    lane.check()
    # A sweep leaves alone what takes back, and once it has ended nothing brings it again.
    assert lane.swept() == []
    lane.settle([fact(place, one, back=False) for place, one in expected.items() if one])
    lane.follow()
    lane.settle([fact(n, one) for n, one in enumerate((A0, A1, A2))])
    assert lane.bodies == {}
    lane.check()


def test_one_withdrawn_in_flight_that_may_have_been_made_is_taken_back_at_once(lane: Lane) -> None:
    lane.offer(A0)
    reply = lane.settle([fact(0, A0, now=True)])
    assert text(reply[5]) == CRM
    assert list(lane.bodies) == [-1]
    lane.check()


def test_an_owner_that_missed_the_reply_is_told_again_what_it_took_back(lane: Lane) -> None:
    lane.offer(A0, A1)
    delivered(lane, 0)
    follower = TakingBack(KEYS)
    follower.owned(lane.store, 0)
    lane.mark("a", 5)
    missed = lane.follow()
    assert missed is not None
    repeated = lane.follow(follower)
    assert repeated is not None
    assert (list(repeated.lanes), list(lane.bodies)) == ([CRM], [-1, 1])
    assert lane.follow(follower) is None
    # The same for a delivery that ended after the mark.
    assert text(lane.settle([fact(1, A1)])[5]) == CRM
    assert text(lane.settle([fact(1, A1)])[5]) == CRM
    lane.check()
    lane.settle([fact(-2, A1, back=False)])
    assert text(lane.settle([fact(1, A1)])[5]) == ""


def test_a_former_owner_takes_nothing_back_and_the_owner_learns_of_what_it_made(lane: Lane) -> None:
    lane.offer(A0)
    former = lane.epoch
    lane.take()
    owner = TakingBack(KEYS)
    owner.owned(lane.store, 0)
    lane.mark("a")
    assert lane.follow(owner) is not None
    call = Call(FOLLOW, HEAD, (PREFIX, former, 0, 1, 1, CRM, "a"))
    assert lane.store.call(call) == [b"FENCED", str(lane.epoch).encode()]
    # A request of before the take-over is answered now.
    lane.settle([fact(0, A0, now=True)], epoch=NOBODY)
    assert lane.bodies == {}
    news = lane.follow(owner)
    assert news is not None
    assert (list(news.lanes), list(lane.bodies)) == ([CRM], [-1])
    lane.check()


def test_what_was_made_is_forgotten_in_time(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    lane.offer(A0, B0)
    lane.settle([fact(0, A0)])
    monkeypatch.setattr(pending, "MADE_KEPT_MS", -1)
    lane.settle([fact(1, B0)])
    assert lane.hash("made") == {}
    lane.check()


def test_a_sweep_finds_what_was_removed(lane: Lane) -> None:
    many = [frozen(f"r{n}", n % 3) for n in range(1_200)]
    lane.offer(*many)
    lane.settle(later=[again(7, many[7]), hold(8, many[8])])
    for n in (7, 8, 1_000):
        lane.mark(f"r{n}", n % 3)
    lane.mark("r5", 1)
    lane.mark("r6", 0, erased=True)
    assert lane.swept() == [6, 7, 8, 1_000]


@pytest.mark.parametrize("referral_id", ['a"b', "a\\b", "a\nb", "ü 1", "", 'x","y",1'])
def test_a_sweep_reads_any_referral_id(lane: Lane, referral_id: str) -> None:
    lane.offer(frozen(referral_id, 0), frozen(f"{referral_id}!", 0), frozen(referral_id, 1))
    lane.mark(referral_id, 0)
    assert lane.swept() == [0]


def test_what_a_sweep_found_is_told_though_redis_goes_away_in_the_middle(valkey: Valkey) -> None:
    with proxy(valkey.port) as line:

        class Breaks(Store):
            """The connection ends before the second slice."""

            slices = 0

            def call(self, call: Call) -> Reply:
                self.slices += call.script == pending.SWEEP
                if self.slices == 2:
                    line.cut()
                    line.cut_after = 1
                return super().call(call)

        store = Breaks(f"redis://127.0.0.1:{line.port}/0")
        lane = Lane(store)
        lane.offer(*(frozen(f"r{n}", 0) for n in range(2_000)))
        for n in range(2_000):
            lane.mark(f"r{n}")
        follower = TakingBack(KEYS)
        follower.owned(store, 0)
        while lane.follow(follower) is not None:
            pass
        found: list[int] = []

        def swept() -> None:
            while some := follower.sweep(store):
                found.extend(one.offset for one in some)

        # On a slow machine a piece of the sweep ends with its first slice, and tells of that one.
        with pytest.raises(StoreUnavailable):
            swept()
        line.cut_after = None
        swept()
        assert sorted(found) == list(range(2_000))
        store.close()


@pytest.mark.case(16)
def test_a_full_redis_still_finds_and_follows_removals(tmp_path: Path) -> None:
    server = start_valkey(tmp_path)
    store = Store(server.url)
    try:
        lane = Lane(store)
        lane.offer(A0, A1)
        delivered(lane, 0)
        with server.client() as client:
            client.set("ballast", "x" * 2_000_000)
            client.config_set("maxmemory", "1mb")
        lane.mark("a", 1)
        news = lane.follow()
        assert news is not None
        assert list(news.lanes) == [CRM]
        assert lane.swept() == [1]
    finally:
        store.close()
        server.stop()


# Parking.


def test_a_lane_over_its_cap_parks_and_says_so_word_for_word(lane: Lane) -> None:
    each = [frozen(f"r{n}", 0) for n in range(4)]
    first = lane.offer(*each, lane_deliveries=2)
    assert first == Accepted("AAAA", 0, {CRM: 2})
    before = lane.dump()
    assert lane.offer(*each, prev=0, lane_deliveries=2) == first
    assert lane.dump() == before
    assert sorted(lane.bodies) == [0, 1]
    # What comes later joins it, room or not: order is kept.
    lane.settle([fact(0, each[0]), fact(1, each[1])])
    assert lane.offer(A0, lane_deliveries=2) == Accepted("A", 0, {CRM: 4})
    assert [int(one) for one in lane.command("LRANGE", "parked", 0, -1)] == [2, 3, 4]
    assert lane.bodies == {}
    lane.check()


def test_a_lane_parks_by_bytes_and_holds_at_least_one(lane: Lane) -> None:
    big = frozen("a", 0, 5_000)
    assert lane.offer(big, A1, lane_bytes=1_000) == Accepted("AA", 0, {CRM: 1})
    assert sorted(lane.bodies) == [0]
    lane.check()


# Any sequence.

_SOME = st.sets(st.integers(-8, 12), max_size=4).map(sorted)
_STEPS = st.one_of(
    st.tuples(
        st.just("intake"), st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 600)), max_size=4)
    ),
    st.tuples(st.just("settle"), _SOME, _SOME, _SOME, st.booleans()),
    st.tuples(st.just("former"), _SOME),
    st.tuples(st.just("mark"), st.sampled_from("abc"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("follow")),
    st.tuples(st.just("sweep")),
)


@given(st.lists(_STEPS, max_size=14), st.booleans())
@settings(max_examples=60, deadline=None)
def test_whatever_happens_each_delivery_stands_once_and_all_bytes_count(
    store: Store, steps: Sequence[Any], twice: bool
) -> None:
    lane = Lane(store)
    sent: dict[int, Frozen] = {}
    revisions = dict.fromkeys("abc", 0)

    def known(offsets: Sequence[int]) -> Iterator[tuple[int, Frozen]]:
        for offset in offsets:
            one = sent.get(max(offset, -offset - 1))
            if one is not None:
                yield offset, one

    for step in steps:
        for _ in range(1 + twice):
            match step:
                case ("intake", each) if each:
                    some = []
                    for referral_id, size in each:
                        some.append(frozen(referral_id, revisions[referral_id], size))
                        revisions[referral_id] += 1
                    sent |= dict(enumerate(some, lane.next))
                    lane.offer(*some, lane_deliveries=CAP, lane_bytes=CAP_BYTES)
                case ("settle", ended, put_off, held, now):
                    facts = [fact(n, one, back=n >= 0, now=now) for n, one in known(ended)]
                    later = [again(n, one) for n, one in known(put_off)] + [
                        hold(n, one) for n, one in known(held)
                    ]
                    lane.settle(facts, later)
                case ("former", ended):
                    lane.settle(
                        [fact(n, one, back=n >= 0, now=True) for n, one in known(ended)], epoch=NOBODY
                    )
                case ("mark", referral_id, revision, erased):
                    lane.mark(referral_id, revision, erased=erased)
                case ("follow",):
                    lane.follow()
                case ("sweep",):
                    lane.settle([fact(n, one, back=False) for n, one in known(lane.swept())])
            lane.check()
    lane.follow()
    lane.check()
    # What was made of a removed referral is on its way back: nothing of it stays behind.
    marked = pending.marks(store, KEYS, 0, list("abc"))
    for referral_id, made in lane.hash("made").items():
        mark = marked.get(referral_id)
        revisions_made = [
            int(line.split()[1]) for line in made.splitlines() if line[:1].isdigit() and line.count(" ") == 2
        ]
        assert mark is None or not any(map(mark.removes, revisions_made))
