"""The share model's steps on lease.lua, and on the meters that use what it grants.

A tick is so long that the time this test takes is nothing beside it; a meter's clock is an argument.
"""

from dataclasses import replace

from consumer.limits import BLOCK_S, Meter, granted, lease
from consumer.store import text
from schemas.push import Limits
from tests.invariants.drive import Bench, same
from tests.invariants.explore import Label
from tests.invariants.model_share import BLOCK, TIMEOUT, WORKERS, Call, Entry, State

TICK_MS = 1_000_000
#: The script has who waits ask again in 50 ms, which is no tick: four ticks, for which it waits, are more than that.
MORE_MS = 20
CREDENTIAL = "crm"


class ShareDriver:
    def __init__(self, bench: Bench, connections: int = 1) -> None:
        self._bench, self._limits = bench, Limits(connections=connections)
        self._meters = [Meter(CREDENTIAL, self._limits, 0.0) for _ in range(WORKERS)]
        self._clock = BLOCK_S
        self._asked_at = [0.0] * WORKERS
        self._replies = [granted([b"0"] * 5)] * WORKERS

    def step(self, label: Label, before: State, after: State) -> None:
        match label:
            case ("tick",):
                self._clock += BLOCK_S / BLOCK
                self._pass(TICK_MS + MORE_MS)
            case ("ask", int(i), int(wanted)):
                self._ask(i, after.workers[i].call, wanted)
            case ("run", int(i)):
                call = before.workers[i].call
                assert call is not None
                self._run(i, call)
                answer = after.workers[i].call
                same("share granted", self._replies[i].at_once, answer and answer.share)
            case ("reply", int(i)):
                self._meters[i].grant(self._replies[i], self._asked_at[i])
            case ("reply lost", int(i)):
                self._meters[i].refused()
            case ("start", int(i)):
                self._meters[i].take()
            case ("end", int(i), int(_)):
                self._meters[i].in_flight -= 1
            case ("die", int(i)):
                pass  # its requests are the receiver's affair
            case _:
                raise AssertionError(f"the model has a step unknown here: {label}")
        self._compare(after)

    def _ask(self, i: int, call: Call | None, wanted: int) -> None:
        assert call is not None
        self._meters[i].ask(self._clock)
        self._asked_at[i] = self._clock
        same("requests under way", self._meters[i].under_way, call.under_way)
        same("requests wanted", wanted, call.wanted)

    def _run(self, i: int, call: Call) -> None:
        """With a block and a timeout of the test's own, and never in the millisecond of the call before."""
        self._pass(1)
        asked = lease(self._bench.keys, CREDENTIAL, str(i), self._limits, call.wanted, call.under_way, 0.0)
        args = list(asked.args)
        args[1], args[4] = BLOCK * TICK_MS, TIMEOUT * TICK_MS
        self._replies[i] = granted(self._bench.call(replace(asked, args=args)))

    def _pass(self, ms: int) -> None:
        """What the script compares with now lies that much further back."""
        key = self._bench.keys.limits(CREDENTIAL)
        for name in self._bench.read("HKEYS", key):
            value = self._bench.read("HGET", key, name)
            held, wanted, since, ends = map(int, value.split())
            self._bench.read("HSET", key, name, f"{held} {wanted} {since - ms} {ends - ms}")

    def _compare(self, after: State) -> None:
        seconds, _ = self._bench.read("TIME")
        now = int(seconds) * 1000
        for i, entry in enumerate(after.entries):
            found = self._bench.read("HGET", self._bench.keys.limits(CREDENTIAL), f"w:{i}")
            real: Entry | None = None
            if found is not None:
                held, _, since, ends = map(int, text(found).split())
                age = round((now - since) / TICK_MS)
                left = round((ends - now) / TICK_MS)
                # What is over stands there until somebody asks.
                real = Entry(held, age, left) if left > 0 else None
            same(
                f"what worker {i} holds", real and (real.held, real.ends), entry and (entry.held, entry.ends)
            )
        for worker, meter in zip(after.workers, self._meters, strict=True):
            if worker.alive:
                ready = meter.ready_at(self._clock)
                startable = ready is not None and ready <= self._clock
                same("whether a request may start", startable, worker.startable())
