"""The ownership model's steps on take.lua, intake.lua, settle.lua and give_back.lua.

A tick is so long that the time this test takes is nothing beside it.
"""

from dataclasses import replace
from typing import NamedTuple

from consumer import intake
from consumer.frozen import Frozen
from consumer.intake import LEASE_MS, Accepted, Entry, Fenced, Fingerprint, LaneTarget, Taken
from consumer.lane import LaneKey, Tier
from consumer.pending import Fact, Reschedule, page, settle
from consumer.settling import NOBODY
from consumer.store import Store, text
from consumer.tries import Tries
from tests.invariants import model_ownership as model
from tests.invariants.drive import Bench, same
from tests.invariants.explore import Label
from tests.invariants.ownership_state import LEASE, Delivery, State

TICK_MS = 1_000_000
CONNECTION = "crm"
BODY = Frozen("delivery", "a", 0, "account", "campaign", 0, b"{}").freeze()
THE_RECORD = Entry(0, Fingerprint(1, 1, 0), b"", "a", 0, (LaneTarget(CONNECTION, BODY, 0),))


class Belief(NamedTuple):
    """What a worker knows: the epoch it got, and whether the record was already in Redis by then."""

    epoch: int
    record_is_in: bool


class Sent(NamedTuple):
    kind: str
    belief: Belief


class OwnershipDriver:
    def __init__(self, bench: Bench, store: Store, workers: int = model.WORKERS) -> None:
        self._bench, self._store = bench, store
        self._beliefs = [Belief(0, record_is_in=False)] * workers
        self._calls: list[Sent | None] = [None] * workers
        self._reports: list[Sent | None] = [None] * workers
        self._answers: list[Belief | None] = [None] * workers
        self._orphan: Sent | None = None

    def step(self, label: Label, before: State, after: State) -> None:
        match label:
            case ("tick",):
                for field in ("lease", "barrier"):
                    self._bench.read("HINCRBY", self._bench.keys.head(0), field, -TICK_MS)
            case ("late" | "late lost" as fate,):
                if fate == "late":
                    assert self._orphan is not None
                    self._carry_out("worker", self._orphan)
                self._orphan = None
            case ("send", int(i), "delivered" | "reschedule" | "stray delivered" as kind):
                epoch = NOBODY if kind.startswith("stray") else self._beliefs[i].epoch
                self._reports[i] = Sent(kind.removeprefix("stray "), Belief(epoch, record_is_in=True))
            case ("run", int(i), "delivered" | "reschedule"):
                self._report(i)
            case ("send", int(i), str(kind)):
                self._calls[i] = Sent(kind, self._beliefs[i])
            case ("give up", int(i)):
                self._orphan = self._calls[i] if after.orphan else None
            case ("run", int(i), str(kind)):
                call = after.workers[i].call
                self._run(i, self._calls[i], None if call is None else call.reply)
            case ("reply", int(i), "take" | "renew"):
                self._learn(i)
            case ("do", int(i), str(kind)):
                reply = after.workers[i].wait if kind == "take" else None
                self._run(i, Sent(kind, self._beliefs[i]), reply)
                self._learn(i)
            case ("reply" | "reply lost" | "start" | "stray failed", *_):
                pass  # the worker's own affair
            case _:
                raise AssertionError(f"the model has a step unknown here: {label}")
        self._compare(after)

    def _learn(self, i: int) -> None:
        self._beliefs[i] = self._answers[i] or self._beliefs[i]

    def _run(self, i: int, sent: Sent | None, expected: int | None) -> None:
        assert sent is not None
        reply, self._answers[i] = self._carry_out(f"worker {i}", sent)
        if expected is not None:
            same(f"answer to {sent.kind}", reply, expected)

    def _carry_out(self, owner: str, sent: Sent) -> tuple[int, Belief | None]:
        """The script's answer in the model's words, and what it makes its sender believe."""
        keys, (epoch, record_is_in) = self._bench.keys, sent.belief
        match sent.kind:
            case "take":
                reply = self._bench.call(intake.take(keys, 0, owner, epoch, LEASE * TICK_MS))
                taken = intake.taken(reply)
                assert isinstance(taken, Taken)
                return round(taken.wait_ms / TICK_MS), Belief(taken.epoch, taken.next_offset == 1)
            case "renew" if not record_is_in:
                was_in = self._bench.head()["next"] == "1"
                match intake.accepted(self._offer(epoch)):
                    case Accepted():  # a repeat is the worker's as well, but in the model it loads it
                        return 1 if was_in else 2, Belief(epoch, record_is_in=True)
                    case answer:
                        assert isinstance(answer, Fenced)
                        return 0, None
            case "load":
                tiers = [LaneKey(0, CONNECTION, tier) for tier in Tier]
                found = [page(self._store, keys, key, epoch, 0) for key in tiers]
                if self._bench.head()["epoch"] != str(epoch):
                    return 0, None
                return (2 if any(one is not None and one.deliveries for one in found) else 1), None
            case "give back":
                return int(text(self._bench.call(intake.give_back(keys, 0, epoch))[0]) == "OK"), None
            case kind:
                assert kind == "renew"
                return self._settle(epoch, [], []), None

    def _offer(self, epoch: int) -> list[bytes]:
        return self._bench.call(
            intake.intake(
                self._bench.keys,
                0,
                epoch=epoch,
                prev=0,
                next_offset=1,
                set_version=0,
                entries=[THE_RECORD],
                lease_ms=LEASE * TICK_MS,
            )
        )

    def _report(self, i: int) -> None:
        sent = self._reports[i]
        assert sent is not None
        if sent.kind == "delivered":
            self._settle(sent.belief.epoch, [Fact(CONNECTION, 0, b"receipt", "a", 0)], [])
        else:
            self._settle(sent.belief.epoch, [], [Reschedule(CONNECTION, 0, 0.0, Tries(1), "a")])
        self._reports[i] = None

    def _settle(self, epoch: int, facts: list[Fact], later: list[Reschedule]) -> int:
        call = settle(self._bench.keys, 0, epoch, facts, later)
        prefix, mine, lease, *rest = call.args
        assert lease == LEASE_MS
        longer = replace(call, args=(prefix, mine, LEASE * TICK_MS, *rest))
        return int(text(self._bench.call(longer)[0]) == "OK")

    def _compare(self, after: State) -> None:
        head = self._bench.head()
        seconds, _ = self._bench.read("TIME")
        now = int(seconds) * 1000
        for field, ticks in (("lease", after.lease), ("barrier", after.barrier)):
            same(field, max(0, round((int(head[field]) - now) / TICK_MS)), ticks)
        prefix = self._bench.keys.prefix(0)
        lane = f"{prefix}lane:{CONNECTION}"
        waiting = sum(int(self._bench.read("ZCARD", f"{lane}:{tier}")) for tier in Tier)
        bodies, receipts = (
            self._bench.read("HLEN", f"{lane}:body"),
            self._bench.read("LLEN", f"{prefix}outbox"),
        )
        real = int(head["next"]), int(bodies), waiting, int(receipts)
        pending, done = after.delivery is Delivery.PENDING, after.delivery is Delivery.DONE
        same(
            "next, bodies, dues, receipts",
            real,
            (int(pending or done), int(pending), int(pending), int(done)),
        )
        for worker, belief in zip(after.workers, self._beliefs, strict=True):
            if worker.owner:
                same("holds the stored epoch", head["epoch"] == str(belief.epoch), worker.mine)
