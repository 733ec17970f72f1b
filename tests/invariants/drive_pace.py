"""The pace model's steps on lease.lua. A tick is so long that the time this test takes is nothing beside it."""

from dataclasses import replace

from consumer.limits import Grant, granted, lease
from consumer.store import text
from schemas.push import Limits
from tests.invariants.drive import Bench, same
from tests.invariants.explore import Label
from tests.invariants.model_pace import APART, PER_SECOND, SECOND, State

TICK_MS = 1_000_000
#: A place a whole second away is beyond the block, however long this test has taken.
BLOCK_MS = SECOND * TICK_MS - 10_000
CREDENTIAL = "crm"
LIMITS = Limits(per_second=PER_SECOND)


class PaceDriver:
    def __init__(self, bench: Bench) -> None:
        self._bench, self._key = bench, bench.keys.limits(CREDENTIAL)

    def step(self, label: Label, before: State, after: State) -> None:
        match label:
            case ("tick",):
                self._pass()
            case ("answer" | "answer lost" as how, int(i)):
                asked = before.workers[i].asked
                grant = self._run(i)
                if how == "answer":
                    place = round(grant.first_us / TICK_MS / 1000) - (asked or 0) if grant.requests else None
                    same("place", place, after.workers[i].place)
            case ("ask" | "start", int(_)):
                pass  # the worker's own affair
            case _:
                raise AssertionError(f"the model has a step unknown here: {label}")
        same("line", self._line(), after.line[0])

    def _run(self, i: int) -> Grant:
        """With a block and a distance of the test's own."""
        call = lease(self._bench.keys, CREDENTIAL, str(i), LIMITS, 1, 0, 0.0)
        args = list(call.args)
        args[1], args[6] = BLOCK_MS, APART * TICK_MS * 1000
        return granted(self._bench.call(replace(call, args=args)))

    def _pass(self) -> None:
        """What the script compares with now lies a tick further back."""
        for name in map(text, self._bench.read("HKEYS", self._key)):
            value = text(self._bench.read("HGET", self._key, name))
            if name == "line":
                earlier = str(int(value) - TICK_MS * 1000)
            else:
                held, wanted, since, ends = map(int, value.split())
                earlier = f"{held} {wanted} {since - TICK_MS} {ends - TICK_MS}"
            self._bench.read("HSET", self._key, name, earlier)

    def _line(self) -> int:
        line = self._bench.read("HGET", self._key, "line")
        seconds, us = map(int, self._bench.read("TIME"))
        now = seconds * 1_000_000 + us
        return max(0, round((int(line) - now) / TICK_MS / 1000)) if line else 0
