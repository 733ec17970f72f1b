"""Push in any order of events: real workers and scripts on a real Redis, receivers in this process.

Law, once all is quiet: every delivery has exactly one end, or is open and says why; a receiver that honours
keys has one effect of each, one that ignores them no repeat without a cause: lost with a worker or with a second
of Redis, or never answered; what receipts say is what receivers saw; and intake has come to the end.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from consumer import attempts, held, push, receipts
from consumer.brakes import Brakes
from consumer.crm import BY_KIND
from consumer.crm.answers import Delivered
from consumer.exchange import Exchanged, Response
from consumer.loading import Loading
from consumer.ownership import Ownership
from consumer.push import Push
from consumer.service import Stop
from consumer.store import Store, StoreUnavailable
from consumer.stream import Witness
from schemas import receipt as codec
from schemas.delivery import Action, Outcome
from schemas.receipt import Receipt, Subject
from tests.invariants.drive import Altered
from tests.invariants.push_parts import (
    ANSWERS,
    CONNECTIONS,
    KEY_TTL_S,
    KEYED,
    KEYS,
    TOPICS,
    Lossy,
    Stepped,
    Wanted,
)
from tests.invariants.push_world import World
from tests.support.valkey import Valkey, start_valkey

#: Workers beside the owner.
OTHERS = 2
#: Rounds until all is quiet; far more than retries can ask for.
ENOUGH = 80
ENDS = {Outcome.DELIVERED, Outcome.REJECTED, Outcome.EXHAUSTED, Outcome.WITHDRAWN}
numbers = st.integers(0, 3)


class Pushing(RuleBasedStateMachine):
    store: Store
    altered: dict[tuple[str, str], Altered] = {}

    @initialize()
    def begin(self) -> None:
        self.world = World(self.store, self.altered)
        self.revisions: dict[int, int] = {}

    @rule(each=st.lists(numbers, min_size=1, max_size=3), correct=st.booleans())
    def publish(self, each: list[int], *, correct: bool) -> None:
        """Something new, or the next revision of what is there, or it once more as it was."""
        for number in each:
            if number not in self.revisions or correct:
                self.revisions[number] = self.revisions.get(number, -1) + 1
            self.world.publish(number, self.revisions[number])

    @precondition(lambda self: self.revisions)
    @rule(data=st.data(), kind=st.sampled_from(("WITHDRAWN", "ERASED")))
    def remove(self, data: st.DataObject, kind: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.revisions)))
        self.world.publish(number, self.revisions[number], kind)

    @precondition(lambda self: self.world.owner)
    @rule(
        most=st.sampled_from((1, 2, 500)), turn=st.sampled_from((True, True, False)), lose=st.integers(0, 4)
    )
    def round(self, most: int, lose: int, *, turn: bool) -> None:
        """`turn`: the loop of requests keeps up; `lose` 1: an answer of Redis is lost."""
        owner = self.world.owner
        assert owner is not None
        owner.store.lose = lose == 1
        owner.round(most)
        if turn:
            owner.turn()

    @precondition(lambda self: self.world.others)
    @rule(which=st.integers(0, 1), turn=st.booleans())
    def others_go_on(self, which: int, *, turn: bool) -> None:
        member = self.world.others[which % len(self.world.others)]
        member.round()
        if turn:
            member.turn()

    @precondition(lambda self: self.world.flights())
    @rule(which=st.integers(0, 3), how=st.lists(st.sampled_from(sorted(ANSWERS)), min_size=1, max_size=4))
    def answer(self, which: int, how: list[str]) -> None:
        for one in how:
            if flights := self.world.flights():
                self.world.answer(*flights[which % len(flights)], one)

    @rule(
        seconds=st.sampled_from((0.5, 1.0, 3.0, 8.0, KEY_TTL_S + 5.0)),
        applied=st.booleans(),
        stalled=st.sampled_from((False, False, True)),
    )
    def wait(self, seconds: float, *, applied: bool, stalled: bool) -> None:
        """`applied`: what was not answered in time took effect; `stalled`: nobody gets to do anything."""
        self.world.wait(seconds, applied=applied)
        for member in [] if stalled else self.world.members():
            member.round()
            member.turn()

    @rule(
        change=st.sampled_from(("crash", "crash and join", "hand over", "overtaken", "told")),
        applied=st.booleans(),
    )
    def rebalance(self, change: str, *, applied: bool) -> None:
        world = self.world
        if world.owner is None:
            world.join()
        elif change.startswith("crash"):
            world.crash(applied=applied)
            if change != "crash":
                world.join()
        elif change == "told":
            for other in world.others:
                other.ownership.lost([0])
        elif len(world.others) < OTHERS:
            world.hand_over() if change == "hand over" else world.overtaken()

    @rule(which=st.integers(0, 20))
    def redis_loses_its_last_second(self, which: int) -> None:
        copies = self.world.copies
        self.world.fall_back(copies[which % len(copies)])

    @precondition(lambda self: self.world.committed.durable > self.world.first.next)
    @rule(applied=st.booleans())
    def redis_is_an_older_copy(self, *, applied: bool) -> None:
        """Everybody stops, and nothing is sent; then the newest is restored."""
        world = self.world
        newest = world.copy()
        world.wait(1.0, applied=applied)
        world.restore(world.first)
        if world.owner is not None:
            with pytest.raises(Stop, match="Redis went back"):
                world.owner.round()
            world.crash(applied=applied)
        with pytest.raises(Stop, match="Redis went back"):
            world.join()
        world.crash(applied=applied)
        world.restore(newest)

    @rule(connection=st.sampled_from(CONNECTIONS), says=st.sampled_from(("pause", "resume", "send", "drop")))
    def person(self, connection: str, says: str) -> None:
        some = held.page(self.store, KEYS, 0, connection, 0)
        if says == "pause":
            self.store.command("HSET", KEYS.paused, connection, "said so")
            self.world.paused.setdefault(connection, self.world.mono())
        elif says == "resume":
            self.store.command("HDEL", KEYS.paused, connection)
            self.world.paused.pop(connection, None)
        elif some and says == "send":
            self.world.released.update(one.frozen.delivery_id for one in some)
            held.send(self.store, KEYS, some)
        elif some:
            held.drop(self.store, KEYS, some, self.world.now)

    @rule(trimmed=st.booleans())
    def relay(self, *, trimmed: bool) -> None:
        """Without `trimmed`, the worker dies before Redis is told that Kafka has them."""
        with closing(Lossy(self.store.url)) as store:
            store.cut = not trimmed
            with suppress(StoreUnavailable):
                receipts.relay(store, self.world.topic, KEYS, TOPICS, 0, self.world.now)  # type: ignore[arg-type]

    @invariant()
    def nobody_shares(self) -> None:
        if not hasattr(self, "world"):
            return
        startable = Counter(one for member in self.world.members() for one in member.startable())
        both = [one for one, number in startable.items() if number > 1]
        assert not both or self.world.mono() < self.world.shared_until, "two may start the same delivery"
        self.world.keep()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self._quiet()
            self._check()
        finally:
            self.world.close()

    def _quiet(self) -> None:
        world = self.world
        for connection in CONNECTIONS:
            self.person(connection, "resume")
        for other in world.others:
            other.ownership.lost([0])
        if world.owner is None:
            world.join()
        for _ in range(ENOUGH):
            for member in world.members():
                member.round()
                member.turn()
            for member, flight in world.flights():
                world.answer(member, flight, "taken")
            while receipts.relay(self.store, world.topic, KEYS, TOPICS, 0, world.now):  # type: ignore[arg-type]
                pass
            if world.next == len(world.log) and not world.flights() and not self._unexplained():
                # What was taken back by the last answers is told by the next round.
                for member in world.members():
                    member.round()
                    member.turn()
                if not self._unexplained() and not world.flights():
                    break
            world.wait(5.0, applied=False)
        receipts.relay(self.store, world.topic, KEYS, TOPICS, 0, world.now)  # type: ignore[arg-type]

    def _unexplained(self) -> list[tuple[str, int]]:
        """Pending deliveries that wait neither for a person nor for one that does."""
        found = []
        for connection in CONNECTIONS:
            open_ones = self.world.standing(connection, "held") | self.world.standing(connection, "behind")
            found += [(connection, offset) for offset in self.world.pending(connection) - open_ones]
        return found

    def _check(self) -> None:
        world = self.world
        assert world.next == len(world.log), "intake did not come to the end"
        assert not self._unexplained(), "pending, and nothing says why"
        told: dict[str, Receipt] = {}
        for value in world.topic.receipts:
            receipt = codec.decode(value)
            if receipt.subject is Subject.DELIVERY:
                told.setdefault(receipt.subject_id, receipt)  # readers keep the first of a key
        for key, one in world.wanted.items():
            self._of_one(key, one, told)
        assert {key.removesuffix(":uncertain") for key in told} <= world.wanted.keys()

    def _of_one(self, key: str, one: Wanted, told: dict[str, Receipt]) -> None:
        world, receiver = self.world, self.world.receivers[one.connection]
        place = world.offsets[one.referral_id, one.revision]
        place = place if one.action is Action.DELIVER else -place - 1
        waits = place in world.pending(one.connection)
        effects, seen = receiver.effects[key], receiver.answers.get(key, [])
        causes = world.lost[key] + world.released[key]
        if one.connection == KEYED:
            assert receiver.forgot[key] <= causes, "a second effect under one key"
        assert effects <= 1 + causes + world.unanswered[key] or one.connection == KEYED, (
            "a repeat without a cause"
        )
        if one.action is Action.DELIVER:
            assert key in told or waits, "neither ended nor open"
            if place in world.standing(one.connection, "held"):
                assert f"{key}:uncertain" in told, "held, and no receipt says so"
        elif one.connection == KEYED and world.covered(one):
            delivered = told.get(self._made(one))
            if delivered and delivered.outcome is Outcome.DELIVERED:
                assert key in told or waits, "delivered, removed, and never taken back"
        if (receipt := told.get(key)) is None:
            assert waits or one.action is Action.REMOVE
            return
        assert receipt.outcome in ENDS
        body = receiver.bodies.get(key, b"").partition(b"\n")[2]
        assert not seen or receipt.digest == hashlib.sha256(body).hexdigest(), "the receipt's digest"
        if receipt.outcome is Outcome.DELIVERED:
            assert effects, "the receiver never had it"
        elif receipt.outcome is Outcome.REJECTED:
            assert "refused" in seen, "the receiver never refused it"
        elif receipt.outcome is Outcome.WITHDRAWN:
            assert world.covered(one), "nobody withdrew it"
        elif not world.released[key]:
            assert seen, "given up without an attempt"

    def _made(self, one: Wanted) -> str:
        wanted = Wanted(one.connection, one.referral_id, one.revision, Action.DELIVER)
        return next(key for key, other in self.world.wanted.items() if other == wanted)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """What its disk has is told by copies of its keys: it needs none."""
    running = start_valkey(tmp_path_factory.mktemp("valkey"), extra=("--appendonly", "no"))
    yield running
    running.stop()


@pytest.fixture
def store(server: Valkey, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(push, "Sender", Stepped)
    # What is under way at a revoke stays so: no real second is waited for.
    monkeypatch.setattr(push, "REVOKE_DRAIN_S", 0.0)
    with closing(Store(server.url, append_only=False)) as opened:
        yield opened


def run(store: Store, examples: int, steps: int, *, find: bool = False, altered: Any = None) -> None:
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        **({"phases": [Phase.generate], "derandomize": True, "database": None} if find else {}),
    )
    machine = type("OfThisStore", (Pushing,), {"store": store, "altered": altered or {}})
    run_state_machine_as_test(machine, settings=chosen)


def test_push_in_any_order(store: Store) -> None:
    run(store, 40, 30)


@pytest.mark.long
def test_push_in_any_order_for_longer(store: Store) -> None:
    run(store, 400, 60)


def fresh_key(_rows: object) -> str:
    return str(uuid4())


def without_lease(self: Push, partition: int) -> bool:
    return partition in self._owned and partition not in self._halted


def where_kafka_was(self: Ownership, witnesses: dict[int, Witness]) -> dict[int, int]:
    return {p: max(self.take(p, witness).next_offset, witness.offset) for p, witness in witnesses.items()}


def never_mind(*_: object, **__: object) -> None:
    """In the place of what is forgotten."""


def glad(connection: Any, sending: Any, exchanged: Exchanged, now: float) -> Any:
    """Every answer is a good one."""
    return (
        Delivered(200)
        if isinstance(exchanged, Response)
        else HTTP.classify(connection, sending, exchanged, now)
    )


HTTP = BY_KIND["http"]


def test_a_fault_is_found_by_search(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "key", fresh_key)
    with pytest.raises(AssertionError, match="a key that is no delivery's"):
        run(store, 100, 40, find=True)


def plant(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, other: Any) -> None:
    if isinstance(place, dict):
        monkeypatch.setitem(place, name, other)
    else:
        monkeypatch.setattr(place, name, other)


Told = Callable[[Pushing], None]


def under_way(machine: Pushing) -> None:
    """One referral, on its way to both receivers."""
    machine.publish(each=[0], correct=False)
    for _ in range(2):
        going_on(machine)
    assert len(machine.world.flights()) == len(CONNECTIONS)


def going_on(machine: Pushing) -> None:
    machine.round(most=500, lose=0, turn=True)
    machine.nobody_shares()


def a_key_is_forgotten(machine: Pushing) -> None:
    under_way(machine)
    machine.answer(which=0, how=["reset after applying"] * 2)
    going_on(machine)
    machine.wait(seconds=KEY_TTL_S + 5.0, applied=False, stalled=True)


def redis_forgets_an_end(machine: Pushing) -> None:
    under_way(machine)
    machine.answer(which=0, how=["taken"] * 2)
    going_on(machine)
    machine.redis_loses_its_last_second(which=-2)


def a_removal_meets_a_retry(machine: Pushing) -> None:
    under_way(machine)
    machine.answer(which=0, how=["busy"] * 2)
    machine.world.publish(0, 0, "WITHDRAWN")
    for _ in range(3):
        going_on(machine)
    machine.wait(seconds=8.0, applied=False, stalled=False)
    machine.wait(seconds=1.0, applied=False, stalled=False)


def redis_forgets_what_kafka_knows(machine: Pushing) -> None:
    machine.publish(each=[0, 1], correct=False)
    going_on(machine)
    machine.redis_loses_its_last_second(which=0)
    machine.rebalance(change="crash and join", applied=False)
    machine.publish(each=[2], correct=False)


def a_worker_stands_still(machine: Pushing) -> None:
    machine.publish(each=[0], correct=False)
    machine.round(most=500, lose=0, turn=False)
    machine.wait(seconds=8.0, applied=False, stalled=True)
    assert machine.world.owner is not None
    machine.world.owner.turn()


def a_pause_meets_a_late_look(machine: Pushing) -> None:
    """What is new comes to the loop before the look that forbids it."""
    machine.publish(each=[0], correct=False)
    machine.person(connection=KEYED, says="pause")
    machine.wait(seconds=1.0, applied=False, stalled=False)


def a_receiver_is_busy(machine: Pushing) -> None:
    under_way(machine)
    machine.answer(which=0, how=["busy"] * 2)


@pytest.mark.parametrize(
    ("story", "place", "name", "other", "law"),
    [
        pytest.param(
            a_key_is_forgotten,
            attempts,
            "too_late",
            never_mind,
            "a second effect under one key",
            id="uncertain",
        ),
        pytest.param(
            redis_forgets_an_end,
            Lossy,
            "connection",
            1,
            "nothing says why",
            id="a new connection is not noticed",
        ),
        pytest.param(
            a_removal_meets_a_retry,
            Loading,
            "take_out",
            never_mind,
            "what was removed was sent",
            id="removals are forgotten",
        ),
        pytest.param(
            redis_forgets_what_kafka_knows,
            Ownership,
            "assigned",
            where_kafka_was,
            "neither ended nor open",
            id="Kafka's offset is believed",
        ),
        pytest.param(
            a_worker_stands_still,
            Push,
            "_may_start",
            without_lease,
            "without a lease",
            id="no lease is needed",
        ),
        pytest.param(
            a_pause_meets_a_late_look,
            Brakes,
            "fresh",
            lambda _self: True,
            "a request started while paused",
            id="looks are not waited for",
        ),
        pytest.param(
            a_receiver_is_busy,
            BY_KIND,
            "http",
            replace(HTTP, classify=glad),
            "the receiver never had it",
            id="any answer is a good one",
        ),
    ],
)
def test_a_story_ends_well_unless_a_fault_is_planted(
    store: Store, monkeypatch: pytest.MonkeyPatch, story: Told, place: Any, name: str, other: Any, law: str
) -> None:
    told(store, story)
    plant(monkeypatch, place, name, other)
    with pytest.raises(AssertionError, match=law):
        told(store, story)


def told(store: Store, story: Told) -> None:
    machine = type("OfThisStore", (Pushing,), {"store": store})()
    machine.begin()
    machine.nobody_shares()
    try:
        story(machine)
    except BaseException:
        machine.world.close()
        raise
    machine.teardown()
