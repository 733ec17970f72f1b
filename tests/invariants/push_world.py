"""A group of push workers on one partition, its Redis, its receivers and its time; laws of the single step.

The wall clock is an argument of the push half. What is counted on the machine's own clock passes by moving the
stored times back, in memory as in Redis: nothing does more with them than compare them with now. Each repeat a
receiver may see is written down when its cause happens: `lost` (a worker, or a second of Redis), `unanswered`,
`released` by an operator.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

from consumer import connection_sets, intake, pending
from consumer.addresses import Policy
from consumer.exchange import Request, Unknown
from consumer.layout import Layout
from consumer.manifests import Remembered
from consumer.ownership import Owned, Ownership
from consumer.plan import Planner
from consumer.push import Push
from consumer.service import Health
from consumer.store import Call, Reply, Store, text
from consumer.stream import Record, Witness
from consumer.worker import Worker
from schemas import referral as referrals
from schemas.delivery import Action, delivery_id
from tests.invariants.drive import Altered
from tests.invariants.push_parts import (
    ANSWERS,
    CONNECTIONS,
    FINGERPRINTS,
    KEYED,
    KEYS,
    LOST_S,
    TIMEOUT_S,
    TOPICS,
    Flight,
    Lossy,
    Reader,
    Receiver,
    Stepped,
    Topic,
    Wanted,
    connections,
)
from tests.support.referral_events import event
from tests.support.rows import write_layout

#: What another worker did is known within this.
KNOWN_S = 1.0
#: Kafka's session timeout, and more: who was overtaken is told by then.
SESSION_S = 45.0


@dataclass(eq=False)
class Member:
    """One push process. `lease_until`: what Redis's answers allow, kept beside what it believes itself.
    `obeyed`: removals of records below it were followed in a whole round.
    """

    world: World
    name: str
    lease_until: float = 0.0
    obeyed: int = 0
    overtaken_at: float = 0.0
    _before: int = 0

    def __post_init__(self) -> None:
        self.store = Lossy(self.world.url)
        self.store.altered = self.world.altered
        self.store.granted = self._granted
        self.stream = Reader(self.world.log, lambda witness: self.world.commit(self, witness))
        self.push = Push(KEYS, 100, lambda: False, Policy(), self.name, self.world.clock)
        assert isinstance(self.push.sender, Stepped)
        self.sender: Stepped = self.push.sender
        self.sender.started = lambda flight, request: self.world.started(self, flight, request)
        self.ownership = Ownership(self.store, KEYS, self.push, Remembered(), self.name, lambda: False)
        service = SimpleNamespace(
            health=Health(), stopping=SimpleNamespace(is_set=lambda: False, wait=lambda _s: False)
        )
        self.worker = Worker(
            service,  # type: ignore[arg-type]
            self.store,
            self.world.topic,  # type: ignore[arg-type]
            KEYS,
            TOPICS,
            1,
            Planner("push", FINGERPRINTS, True, self.push.targets),
            self.push,
            self.ownership,
        )

    @property
    def owned(self) -> Owned | None:
        return self.ownership.owned.get(0)

    def assign(self) -> None:
        self._before = self.obeyed = 0
        self.stream.position = self.ownership.assigned({0: self.world.committed})[0]

    def round(self, most: int = 500) -> None:
        """Raises Stop."""
        self.stream.most = most
        self.worker.round(self.stream)  # type: ignore[arg-type]

    def turn(self) -> None:
        self.sender.turn()
        if self.owned is None or 0 in self.push._inherit:
            # Removals are followed once a former owner's lease is over.
            self.forget_obeyed()
        else:
            self.obeyed, self._before = self._before, self.owned.next_offset

    def forget_obeyed(self) -> None:
        self.obeyed = self._before = 0

    def later(self, seconds: float) -> None:
        """What it counts on the machine's clock."""
        self.lease_until -= seconds
        self.worker._commit_at -= seconds
        self.worker._look_at -= seconds
        brakes = self.push._brakes
        brakes._look_at -= seconds
        brakes._valid_until -= seconds
        brakes._just_paused = {name: until - seconds for name, until in brakes._just_paused.items()}
        for owned in self.ownership.owned.values():
            owned.inherit_at -= seconds
            owned.lease_until -= seconds
            owned.confirmed = deque((at - seconds, offset) for at, offset in owned.confirmed)
            if owned.fenced_since is not None:
                owned.fenced_since -= seconds

    def untold(self) -> set[str]:
        """Ids of deliveries it knows something of that Redis does not."""
        settling = self.push._settling
        facts = [fact for facts, _ in settling._unwritten.values() for fact in facts]
        facts += [fact for out in settling._out.values() for fact in out.facts]
        ids = set()
        for fact in facts:
            action = Action.DELIVER if fact.offset >= 0 else Action.REMOVE
            ids.add(delivery_id(fact.connection, fact.referral_id, fact.revision, action))
        return ids | {flight.key for flight in self.sender.flights}

    def loaded(self) -> set[str]:
        """Ids of deliveries in memory."""
        lanes = self.push._lanes._lanes()
        return {one.frozen.delivery_id for lane in lanes for one in lane.loaded.values()}

    def startable(self) -> set[tuple[str, int]]:
        if not self.push._may_start(0):
            return set()
        return {
            (lane.family.connection, offset) for lane in self.push._lanes._lanes() for offset in lane.loaded
        }

    def close(self) -> None:
        self.sender.close()
        self.store.close()

    def _granted(self, call: Call, reply: Reply, sent: float) -> None:
        mine = text(reply[0]) == "OK"
        if call.script in {intake.TAKE, intake.INTAKE, pending.SETTLE} and mine:
            self.lease_until = max(self.lease_until, sent + intake.LEASE_MS / 1000)
        elif call.script == intake.GIVE_BACK and mine:
            self.lease_until = 0.0


class Copy(NamedTuple):
    """Redis as it stood: `at`, and how much time had been skipped by then."""

    at: float
    skipped: float
    keys: list[tuple[bytes, int, bytes]]
    next: int


class Removed(NamedTuple):
    offset: int
    erased: bool
    revision: int


class World:
    def __init__(self, store: Store, altered: Mapping[tuple[str, str], Altered]) -> None:
        self.store, self.url, self.altered = store, store.url, altered
        self.log: list[Record] = []
        self.topic, self.committed = Topic(), Witness(0, 0)
        self.receivers = {name: Receiver(honours_keys=name == KEYED) for name in CONNECTIONS}
        #: Ahead of Redis's own clock, whose times must lie behind.
        self.now, self.skipped = time.time() + 60.0, 0.0
        self.wanted: dict[str, Wanted] = {}
        self.offsets: dict[tuple[str, int], int] = {}
        self.removed: dict[str, list[Removed]] = {}
        self.lost, self.unanswered, self.released = Counter[str](), Counter[str](), Counter[str]()
        self.paused: dict[str, float] = {}
        self.quiet: dict[tuple[str, str], float] = {}
        self.shared_until = 0.0
        write_layout(store, TOPICS, Layout("topic", 1, (0,), FINGERPRINTS))
        connection_sets.apply(store, self.topic, TOPICS, connections(), 1)  # type: ignore[arg-type]
        self.names = 0
        self.owner: Member | None = None
        self.others: list[Member] = []
        self.first = self.copy()
        self.copies = [self.first]
        self.join()

    # Time.

    def clock(self) -> float:
        return self.now

    def mono(self) -> float:
        return time.monotonic() + self.skipped

    def members(self) -> list[Member]:
        return [*([self.owner] if self.owner else []), *self.others]

    def flights(self) -> list[tuple[Member, Flight]]:
        return [(member, flight) for member in self.members() for flight in member.sender.flights]

    def wait(self, seconds: float, *, applied: bool) -> None:
        """`applied`: a request took effect whose answer is not waited for any longer."""
        until = self.now + seconds
        while True:
            late = [(flight.began + TIMEOUT_S, m, flight) for m, flight in self.flights()]
            first = min((at for at, _, _ in late), default=until)
            if first >= until:
                break
            self._pass(max(0.0, first - self.now))
            for at, member, flight in late:
                if at <= first:
                    self.answer(member, flight, "reset after applying" if applied else "silent")
        self._pass(until - self.now)
        for member in self.others:
            if self.mono() - member.overtaken_at > SESSION_S:
                member.ownership.lost([0])

    def _pass(self, seconds: float) -> None:
        self.now += seconds
        self.skipped += seconds
        for member in self.members():
            member.later(seconds)
        self._move_leases(seconds)

    def _move_leases(self, seconds: float) -> None:
        found = self.store.command("HMGET", KEYS.head(0), "lease", "barrier")
        for name, value in zip(("lease", "barrier"), found, strict=True):
            if value and int(value):
                self.store.command("HSET", KEYS.head(0), name, max(1, int(value) - round(seconds * 1000)))

    # The group.

    def join(self) -> None:
        """Somebody new becomes the owner."""
        self.names += 1
        self.owner = Member(self, f"worker {self.names}")
        self.owner.assign()

    def crash(self, *, applied: bool) -> None:
        """`applied`: what it had in flight took effect."""
        member, self.owner = self.owner, None
        assert member is not None
        self.lost.update(member.untold())
        for flight in member.sender.flights:
            if applied:
                self._apply(flight.key)
        member.close()

    def overtaken(self) -> None:
        """Kafka gives its partition to another, and the owner is not told."""
        assert self.owner is not None
        self.lost.update(self.owner.untold())
        self.owner.overtaken_at = self.mono()
        self.others.append(self.owner)
        self.join()

    def hand_over(self) -> None:
        """A revoke in order, then another has it: one who had it before, or somebody new."""
        member, self.owner = self.owner, None
        assert member is not None
        self.lost.update(flight.key for flight in member.sender.flights)
        member.ownership.revoked([0])
        idle = next((one for one in self.others if one.owned is None), None)
        self.others.append(member)
        if idle is None:
            self.join()
        else:
            self.others.remove(idle)
            self.owner = idle
            idle.assign()

    def commit(self, member: Member, witness: Witness) -> None:
        """The group takes no commit of a former member."""
        if member is self.owner:
            self.committed = witness

    # What is published.

    def publish(self, number: int, revision: int, kind: str = "CREATED") -> None:
        referral_id = f"r-{number}"
        made = event(
            referral_id=referral_id,
            revision=revision,
            event_type=kind,
            email=f"{number}.{revision}@example.com",
        )
        offset = len(self.log)
        if kind in {"WITHDRAWN", "ERASED"}:
            one = Removed(offset, kind == "ERASED", revision)
            self.removed.setdefault(referral_id, []).append(one)
        else:
            self.offsets.setdefault((referral_id, revision), offset)
            for name in CONNECTIONS:
                for action in Action:
                    key = delivery_id(name, referral_id, revision, action)
                    self.wanted[key] = Wanted(name, referral_id, revision, action)
        at_ms = round(self.now * 1000)
        value = referrals.encode(made)
        self.log.append(Record(TOPICS.referrals, 0, offset, referral_id.encode(), value, at_ms))

    def covered(self, one: Wanted) -> Removed | None:
        """The first removal of it."""
        found = self.removed.get(one.referral_id, [])
        return next((each for each in found if each.erased or one.revision <= each.revision), None)

    # What receivers see.

    def started(self, member: Member, flight: Flight, request: Request) -> None:
        assert time.monotonic() <= member.lease_until, "a request started without a lease"
        assert flight.key in self.wanted, "a key that is no delivery's"
        one = self.wanted[flight.key]
        assert one.connection == flight.connection
        sent = f"{request.method} {request.url}\n".encode() + request.body
        before = self.receivers[one.connection].bodies.setdefault(flight.key, sent)
        assert before == sent, "other bytes under the same key"
        paused = self.paused.get(one.connection)
        assert paused is None or self.mono() < paused + KNOWN_S, "a request started while paused"
        quiet = self.quiet.get((member.name, one.connection), 0.0)
        assert self.now >= quiet, "a request started in the quiet its receiver asked for"
        if member is not self.owner:
            self.lost[flight.key] += 1
        elif one.action is Action.DELIVER and (removal := self.covered(one)) is not None:
            assert removal.offset >= member.obeyed, "what was removed was sent"

    def answer(self, member: Member, flight: Flight, how: str) -> None:
        applied, exchanged = ANSWERS[how]
        self.receivers[flight.connection].answers.setdefault(flight.key, []).append(how)
        if applied:
            self._apply(flight.key)
            self.unanswered[flight.key] += isinstance(exchanged, Unknown)
        if how == "busy":
            self.quiet[member.name, flight.connection] = self.now + 3.0
        member.sender.answer(flight, exchanged)

    def _apply(self, key: str) -> None:
        one = self.wanted[key]
        receiver = self.receivers[one.connection]
        if one.action is Action.DELIVER and not receiver.effects[key] and not self.lost[key]:
            for other in receiver.order:
                later = self.wanted[other]
                overtook = later.referral_id == one.referral_id and later.revision > one.revision
                assert not overtook or later.action is Action.REMOVE, "a later revision came first"
        receiver.apply(key, self.now)

    # Redis.

    def keep(self) -> None:
        self.copies = [copy for copy in self.copies if self.mono() - copy.at < LOST_S]
        self.copies.append(self.copy())

    def copy(self) -> Copy:
        names = self.store.command("KEYS", "*")
        found = self.store.commands([(told, name) for name in names for told in ("PTTL", "DUMP")])
        left = [max(0, int(ms)) for ms in found[::2]]
        return Copy(self.mono(), self.skipped, list(zip(names, left, found[1::2], strict=True)), self.next)

    def restore(self, copy: Copy) -> None:
        """Redis starts with this; everybody's connection breaks."""
        self.store.commands([("FLUSHDB",), *(("RESTORE", *kept) for kept in copy.keys)])
        self._move_leases(self.skipped - copy.skipped)
        found = {text(name) for name in self.store.command("HKEYS", KEYS.paused)}
        self.paused = {name: self.paused.get(name, self.mono()) for name in found}
        # What it starts with is on its disk.
        self.copies = [copy]
        for member in self.members():
            member.store.close()
            member.forget_obeyed()

    def fall_back(self, copy: Copy) -> None:
        """Redis lost what came after; what then is to be done again may be repeated."""
        memory = {key for member in self.members() for key in (*member.untold(), *member.loaded())}
        epoch = self.store.command("HGET", KEYS.head(0), "epoch")
        self.restore(copy)
        if self.store.command("HGET", KEYS.head(0), "epoch") != epoch:
            # It forgot that somebody took the partition: until that lease ends, two may start what was taken
            # in with it.
            self.shared_until = self.mono() + intake.LEASE_MS / 1000
        for key, one in self.wanted.items():
            known = key in memory or key in self.receivers[one.connection].answers
            offset = self.offsets[one.referral_id, one.revision]
            again = (
                one.action is Action.REMOVE or offset >= copy.next or offset in self.pending(one.connection)
            )
            self.lost[key] += known and again

    @property
    def next(self) -> int:
        return int(self.store.command("HGET", KEYS.head(0), "next"))

    def pending(self, connection: str) -> set[int]:
        lane = f"{KEYS.prefix(0)}lane:{connection}"
        return {int(offset) for offset in self.store.command("HKEYS", f"{lane}:body")}

    def standing(self, connection: str, order: str) -> set[int]:
        lane = f"{KEYS.prefix(0)}lane:{connection}"
        return {int(offset) for offset in self.store.command("ZRANGE", f"{lane}:{order}", 0, -1)}

    def close(self) -> None:
        for member in self.members():
            member.close()
