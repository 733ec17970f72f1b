"""Carries a schedule out: every fault at its second, and what ends it; whoever died is started again.

One thread does all of it, so that a seed's faults come in one order. What went otherwise than promised while
the storm lasted is a line in `troubles`.
"""

from __future__ import annotations

import heapq
import itertools
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

import redis
from confluent_kafka import KafkaException

from consumer.keys import Role
from consumer.store import StoreRefused, StoreUnavailable
from tests.faults.storm import losses, redis_faults, surroundings
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
        self._asking = True
        self._holding = True
        self.begun = 0.0

    def run(self) -> None:
        """From the first second to the last fault's end; then everything is healed and runs."""
        self.begun = time.monotonic()
        for number, fault in enumerate(self._schedule, start=1):
            self._until(fault.at)
            self.say(f"{fault.at:7.1f} s  {number}/{len(self._schedule)}  {fault}")
            self._do(fault)
        while self._later:
            self._until(self._later[0][0])
        self.heal()

    def heal(self) -> None:
        """Nothing is wrong any more, from here on."""
        self.house.links.heal("*")
        self.house.answers(FLAKY, "ok")
        self._holding = False
        self.house.hold_upstream(waits=False)
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
            if self.house.services[name] is not service:
                continue  # all were started again with it
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
            with suppress(redis.RedisError):
                self.house.windows_at_once()
        self._asking = True

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
            self.house.hold_upstream(waits=True)
        elif behind < CAUGHT_UP:
            self.house.hold_upstream(waits=False)

    def _do(self, fault: Fault) -> None:
        self.done[fault.kind] += 1
        self.disturb(disturbed(fault))
        house = self.house
        match fault.kind:
            case Kind.KILL:
                self._kill(fault.target)
            case Kind.CRASH:
                self._crash(fault)
            case Kind.FREEZE:
                self._freeze(fault.target, fault.seconds)
            case Kind.JOIN:
                house.launch(f"{fault.target}-c")
                self.later(fault.seconds, lambda: self._leave(f"{fault.target}-c"))
            case Kind.BROKER | Kind.LINK | Kind.RECEIVER | Kind.ANSWERS:
                surroundings.do(self, fault)
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

    def _crash(self, fault: Fault) -> None:
        """Killed now, and to die once more where the fault says. Who had ended before is no kill."""
        service = self.house.services[fault.target]
        self._kill(fault.target)
        self._note_end(fault.target, service.wait(LEAVE_S))
        if self.house.services[fault.target] is service:
            self.house.launch(fault.target, fault.detail, fault.number)

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
