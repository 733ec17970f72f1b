"""The quiet model's steps on what push workers make of answers and of each other's, over Redis.

The workers' clock is an argument. How long a look is valid is counted on the machine's: that stays in the model.
"""

from consumer.addresses import Policy
from consumer.brakes import Brakes
from consumer.crm.answers import Retry
from consumer.lanes import Lanes
from consumer.sender import Sender
from consumer.settling import Settling
from consumer.store import Store, text
from schemas.connection import HttpConnection
from tests.invariants.drive import Bench, same
from tests.invariants.explore import Label
from tests.invariants.model_quiet import WORKERS, State

TICK_S = 100.0
CRM = HttpConnection.model_validate(
    {"name": "crm", "kind": "http", "url": "https://crm.example.com/", "fields": ["email"]}
)


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Worker:
    def __init__(self, bench: Bench, clock: Clock, name: str) -> None:
        self.lanes = Lanes(lambda _partition: True)
        self.sender = Sender(self.lanes, Settling(bench.keys).outgoing, Policy(), clock)
        self.brakes = Brakes(bench.keys, self.lanes, self.sender, name, clock)
        self.sender.start()
        self.sender.call(self.sender.attempts.connections, {CRM.name: CRM})
        self.brakes.connections({CRM.name: CRM})

    def told(self, wait: float, now: float) -> None:
        answer = Retry("answered 429", unknown=False, status=429, retry_after=wait)

        def in_the_loop() -> int:
            self.sender.attempts._quiet(CRM, answer, now)
            return 0

        self.sender.ask(in_the_loop)

    def not_before(self) -> float:
        return self.sender.ask(lambda: round(self.lanes.gates[CRM.name].not_before))


class QuietDriver:
    def __init__(self, bench: Bench, store: Store) -> None:
        self._bench, self._store, self._clock = bench, store, Clock()
        self._workers = [Worker(bench, self._clock, f"{i}") for i in range(WORKERS)]

    def close(self) -> None:
        for worker in self._workers:
            worker.sender.close()

    def step(self, label: Label, _before: State, after: State) -> None:
        match label:
            case ("tick",):
                self._clock.now += TICK_S
            case ("busy", int(i), int(wait)):
                self._workers[i].told(wait * TICK_S, self._clock.now)
            case ("look", int(i)):
                self._workers[i].brakes._tell(self._store)
                self._workers[i].brakes._look(self._store)
            case ("start", int(_)):
                pass  # that nothing forbids it is compared after every step
            case _:
                raise AssertionError(f"the model has a step unknown here: {label}")
        for worker, model in zip(self._workers, after.workers, strict=True):
            same("what a worker goes by", self._left(worker.not_before()), model.memory)
        until = self._bench.read("ZSCORE", self._bench.keys.quiet, CRM.shared_as)
        same("quiet in Redis", self._left(float(text(until)) / 1000 if until else 0.0), after.redis)

    def _left(self, until: float) -> int:
        return max(0, round((until - self._clock.now) / TICK_S))
