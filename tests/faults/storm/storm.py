"""Carries a schedule out: every fault at its second, and what ends it; whoever died is started again.

One thread does all of it, so that a seed's faults come in one order. What went otherwise than promised while
the storm lasted is a line in `troubles`.
"""

from __future__ import annotations

import heapq
import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import redis
from confluent_kafka import KafkaException

from consumer.keys import Role
from consumer.store import StoreRefused, StoreUnavailable
from tests.faults.storm import losses, redis_faults
from tests.faults.storm.house import FILES, FLAKY, MAX_IN_FLIGHT, House
from tests.faults.storm.schedule import PUSH, SERVICES, Fault, Kind, disturbed
from tests.faults.storm.signs import Signs

#: The loop's pace, and how often it asks for windows.
LOOK_S, ASK_S = 0.05, 4.0
#: Upstream waits while intake is so far behind: what Kafka's brokers of a test can hold is not the question.
BEHIND, CAUGHT_UP, BEHIND_LOOK_S = 40_000, 20_000, 2.0
#: A service that cannot start dies again at once: it is not started more often than this.
AGAIN_S = 0.5
#: Told to end before it had begun, a service ends by the signal itself.
ORDERLY = (0, 1, -signal.SIGTERM)
#: Windows end within some tries, unless something is wrong with them.
QUIET_S = 120.0
#: An orderly end of a member that came for a while.
LEAVE_S = 30.0


class Storm:
    """`bound`: how many pushes may have been repeated; `kills`: SIGKILLs by whom they met."""

    def __init__(self, house: House, schedule: Sequence[Fault], say: Callable[[str], None]) -> None:
        self.house, self._schedule, self.say = house, schedule, say
        self.kills: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.troubles: list[str] = []
        self.bound = 0
        self.signs = Signs()
        self._later: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._frozen: set[str] = set()
        self._ended: dict[str, float] = {}
        self._asked = self._looked = 0.0
        self._waiting_upstream = False
        self._asking = True
        self._holding = True
        self.begun = 0.0

    def run(self) -> None:
        """From the first second to the last fault's end; then everything is healed and runs."""
        self.begun = time.monotonic()
        for number, fault in enumerate(self._schedule, start=1):
            self._until(fault.at)
            self.say(f"{fault.at:7.1f} s  {number}/{len(self._schedule)}  {shown(fault)}")
            self._do(fault)
        while self._later:
            self._until(self._later[0][0])
        self.heal()

    def heal(self) -> None:
        """Nothing is wrong any more, from here on."""
        self.house.links.heal("*")
        self.house.answers(FLAKY, "ok")
        self._holding = False
        self._upstream(waits=False)
        for name in list(self._frozen):
            self.thaw(name)
        self.supervise()

    def disarm(self) -> None:
        """Nobody will die at a point any more."""
        for name in sorted(self.house.armed):
            self.house.services[name].send(signal.SIGTERM)
        while self.house.armed:
            self.go_on(LOOK_S)

    def stop(self) -> None:
        """All services end, in an orderly way."""
        losses.stop_all(self)

    def quietly(self, done: Callable[[], bool]) -> bool:
        """Whether it is so; not, where that cannot be asked now."""
        with suppress(redis.RedisError, StoreUnavailable, StoreRefused, KafkaException):
            return done()
        return False

    def supervise(self) -> None:
        """Start again who has ended."""
        for name, service in list(self.house.services.items()):
            code = service.exit_code
            if code is None or time.monotonic() < self._ended.get(name, 0.0) + AGAIN_S:
                continue
            self._ended[name] = time.monotonic()
            self._note_end(name, code)
            if name in SERVICES:
                self.house.launch(name)
            else:
                del self.house.services[name]

    def _note_end(self, name: str, code: int) -> None:
        self.signs.forget(name)
        if code == -signal.SIGKILL:
            self.note_kill(name)
            return
        output = self.house.services[name].output()
        last = next((line for line in reversed(output.splitlines()) if line.strip()), "")
        self.done[f"{name.partition('-')[0]} ended by itself"] += 1
        if "Traceback" in output or "a defect" in output:
            self.troubles.append(f"{name} ended in a defect: {last}")
        elif "referrals rebuild" in last:
            losses.unasked(self, name, last)
        elif code not in ORDERLY:
            self.troubles.append(f"{name} ended with code {code}: {last}")

    def note_kill(self, name: str) -> None:
        self.kills[name.rpartition("-")[0] or name] += 1
        if name.startswith(PUSH):
            self.disturb(1)

    def disturb(self, workers: int) -> None:
        """So many workers' requests in flight may come again."""
        self.bound += workers * MAX_IN_FLIGHT

    def _until(self, at: float) -> None:
        """Until so many seconds after the beginning; what is due before is done."""
        while True:
            now = time.monotonic() - self.begun
            while self._later and self._later[0][0] <= now:
                heapq.heappop(self._later)[2]()
            self.supervise()
            self._beside()
            if now >= at:
                return
            time.sleep(LOOK_S)

    def later(self, seconds: float, do: Callable[[], object]) -> None:
        at = time.monotonic() - self.begun + seconds
        heapq.heappush(self._later, (at, next(self._order), do))

    def go_on(self, seconds: float) -> None:
        """So much longer, before what comes next."""
        self._until(time.monotonic() - self.begun + seconds)

    def quiet_windows(self) -> None:
        """No window is under way, and none is asked for."""
        self._asking = False
        self.house.links.heal("*")
        deadline = time.monotonic() + QUIET_S
        while not self.quietly(lambda: self.house.running.flushed(FILES)):
            if time.monotonic() > deadline:
                self.troubles.append("windows did not end")
                break
            self.go_on(1.0)
            self._at_once()
        self._asking = True

    def _at_once(self) -> None:
        """A window that failed is tried again now, not in minutes."""
        keys = self.house.running.keys(Role.BATCH)
        with suppress(redis.RedisError), self.house.client() as client:
            for name in FILES:
                if client.hget(keys.window(name), "retry_at"):
                    client.hset(keys.window(name), "retry_at", 0)

    def _beside(self) -> None:
        """What operators and their monitoring do all the time."""
        now = time.monotonic()
        if self._asking and now - self._asked > ASK_S:
            self._asked = now
            with suppress(redis.RedisError, StoreUnavailable, StoreRefused):
                self.house.running.flush(FILES)
        if now - self._looked > BEHIND_LOOK_S:
            self._looked = now
            self.signs.look(
                {name: one for name, one in self.house.services.items() if name not in self._frozen}
            )
            if self._holding:
                with suppress(KafkaException):
                    self._hold_upstream()

    def _hold_upstream(self) -> None:
        """Upstream never waits for us in life; here it does, so that a storm ends."""
        taken = min(self.house.running.next_offsets(role) for role in Role)
        if taken < 0:
            return
        behind = self.house.records() - taken
        if behind > BEHIND:
            self._upstream(waits=True)
        elif behind < CAUGHT_UP:
            self._upstream(waits=False)

    def _upstream(self, *, waits: bool) -> None:
        if waits != self._waiting_upstream and self.house.publisher is not None:
            os.kill(self.house.publisher.pid, signal.SIGSTOP if waits else signal.SIGCONT)
            self._waiting_upstream = waits

    def _do(self, fault: Fault) -> None:
        self.done[fault.kind] += 1
        self.disturb(disturbed(fault))
        house = self.house
        match fault.kind:
            case Kind.KILL:
                self._kill(fault.target)
            case Kind.CRASH:
                self._kill(fault.target)
                house.services[fault.target].wait(LEAVE_S)
                self._note_end(fault.target, -signal.SIGKILL)
                house.launch(fault.target, fault.detail, fault.number)
            case Kind.FREEZE:
                self._freeze(fault.target, fault.seconds)
            case Kind.JOIN:
                house.launch(f"{fault.target}-c")
                self.later(fault.seconds, lambda: self._leave(f"{fault.target}-c"))
            case Kind.BROKER:
                house.kafka.kill(fault.number)
                self.kills["kafka"] += 1
                self.later(fault.seconds, lambda: house.kafka.launch(fault.number))
            case Kind.LINK:
                self._link(fault)
            case Kind.RECEIVER:
                self._receiver(fault)
            case Kind.ANSWERS:
                house.answers(FLAKY, fault.detail)
                self.later(fault.seconds, lambda: house.answers(FLAKY, "ok"))
            case Kind.EMPTIED:
                losses.emptied(self)
            case Kind.OLDER:
                losses.older(self)
            case _:
                redis_faults.do(self, fault)

    def _leave(self, name: str) -> None:
        """Who came for a while goes, unless it has ended by then."""
        if name in self.house.services:
            self.house.services[name].send(signal.SIGTERM)

    def _kill(self, name: str) -> None:
        self.house.services[name].send(signal.SIGKILL)
        self._frozen.discard(name)

    def _freeze(self, name: str, seconds: float) -> None:
        self.house.services[name].send(signal.SIGSTOP)
        self._frozen.add(name)
        self.later(seconds, lambda: self.thaw(name))

    def thaw(self, name: str) -> None:
        if name in self._frozen:
            self._frozen.remove(name)
            self.house.services[name].send(signal.SIGCONT)

    def _link(self, fault: Fault) -> None:
        numbers: dict[str, dict[str, Any]] = {
            "drop_reply": {"n": fault.number},
            "cut_after": {"n": fault.number},
            "throttle": {"rate": fault.number},
            "delay": {"delay": 0.2},
        }
        given = dict(numbers.get(fault.detail, {}))
        if fault.seconds:
            given["seconds"] = fault.seconds
        self.house.links.order(fault.target, fault.detail, **given)

    def _receiver(self, fault: Fault) -> None:
        receiver = getattr(self.house.running, fault.target)
        if fault.detail == "freeze":
            receiver.freeze()
            self.later(fault.seconds, receiver.thaw)
        else:
            receiver.kill()
            self.kills[fault.target] += 1
            receiver.restart()


def shown(fault: Fault) -> str:
    """One line for a person."""
    more = [fault.detail, str(fault.number or ""), f"{fault.seconds:.1f} s" if fault.seconds else ""]
    return " ".join([fault.kind, fault.target, *(word for word in more if word)])
