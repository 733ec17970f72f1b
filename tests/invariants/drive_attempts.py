"""The attempts model's steps on take.lua and settle.lua, with what the push worker makes of each answer.

The worker's clock is an argument, so a tick costs nothing; Redis has no part in how old an unknown attempt is.
"""

from dataclasses import dataclass, field

from consumer import intake
from consumer.crm.answers import Answer, Delivered, Retry
from consumer.ending import Ended, Hold, Later, conclude, too_late
from consumer.frozen import Frozen
from consumer.intake import Entry, Fingerprint, LaneTarget, Taken
from consumer.keys import Keys
from consumer.lane import Delivery, LaneKey, Tier
from consumer.pending import Fact, Reschedule, page
from consumer.settling import Settling
from consumer.store import Store
from consumer.tries import Tries, parse
from schemas.connection import HttpConnection
from tests.invariants.drive import Bench, same
from tests.invariants.explore import Label
from tests.invariants.model_attempts import KEY_TTL, TIMEOUT, WORKERS, Standing, State

TICK_S = 20
BEGAN = 1_800_000_000.0
CRM = "crm"
FROZEN = Frozen("delivery", "a", 0, "account", "campaign", 0, b"{}")
ANSWERS: dict[str, Answer] = {
    "delivered": Delivered(201),
    "busy": Retry("answered 503", unknown=False, status=503),
    "unknown": Retry("no answer", unknown=True),
}


def connection(*, hold: bool) -> HttpConnection:
    given = {"name": CRM, "kind": "http", "url": "https://crm.example.com/", "fields": ["email"]}
    times = {"key_ttl": KEY_TTL * TICK_S, "timeout": TIMEOUT * TICK_S, "retry_seconds": [1] * 50}
    return HttpConnection.model_validate({**given, **times, "on_uncertain": "hold" if hold else "retry"})


@dataclass
class Worker:
    """`delivery`: as memory has it, in flight or not."""

    settling: Settling
    epoch: int = 0
    delivery: Delivery | None = None


@dataclass
class AttemptsDriver:
    bench: Bench
    store: Store
    hold: bool = True
    now: float = BEGAN
    workers: list[Worker] = field(init=False)

    def __post_init__(self) -> None:
        self.connection = connection(hold=self.hold)
        self.workers = [self._new() for _ in range(WORKERS)]
        entry = Entry(0, Fingerprint(1, 1, 0), b"", "a", 0, (LaneTarget(CRM, FROZEN.freeze(), 0),))
        call = intake.intake(
            self._keys, 0, epoch=self._take("first"), prev=0, next_offset=1, set_version=0, entries=[entry]
        )
        self.bench.call(call)

    @property
    def _keys(self) -> Keys:
        return self.bench.keys

    def step(self, label: Label, _before: State, after: State) -> None:
        match label:
            case ("tick",):
                self.now += TICK_S
            case ("take", int(i)):
                self.workers[i].epoch = self._take(f"worker {i}")
            case ("die", int(i)):
                self.workers[i] = self._new()
            case ("load", int(i)):
                self.workers[i].delivery = self._load(self.workers[i].epoch)
            case ("start", int(i)):
                self._start(self.workers[i], after.workers[i].flight is not None)
            case ("answer", int(i), str(answer)):
                self._answered(self.workers[i], ANSWERS[answer])
            case ("settle" | "settle, reply lost" as how, int(i)):
                self._settle(self.workers[i], answered=how == "settle")
            case ("arrive", int(_)):
                pass  # the receiver's own affair
            case _:
                raise AssertionError(f"the model has a step unknown here: {label}")
        self._compare(after)

    def _new(self) -> Worker:
        return Worker(Settling(self._keys))

    def _take(self, name: str) -> int:
        taken = intake.taken(self.bench.call(intake.take(self._keys, 0, name, 0)))
        assert isinstance(taken, Taken)
        return taken.epoch

    def _load(self, epoch: int) -> Delivery:
        pages = [page(self.store, self._keys, LaneKey(0, CRM, tier), epoch, 0) for tier in Tier]
        found = [delivery for one in pages if one is not None for delivery in one.deliveries]
        same("deliveries to load", len(found), 1)
        return found[0]

    def _start(self, worker: Worker, expected: bool) -> None:
        assert worker.delivery is not None
        hold = too_late(FROZEN, self.connection, worker.delivery.tries, self.now)
        same("whether it starts", hold is None, expected)
        if hold is not None:
            self._put_off(worker, None, hold.tries, hold.entry)

    def _answered(self, worker: Worker, answer: Answer) -> None:
        assert worker.delivery is not None
        match conclude(FROZEN, self.connection, answer, worker.delivery.tries, self.now, 0.0):
            case Ended(_, entry):
                fact = Fact.of(FROZEN, CRM, 0, entry, made=True)
                worker.settling.outgoing(0).facts.append(fact)
            case Later(due, _, tries):
                self._put_off(worker, due, tries)
            case Hold(tries, entry):
                self._put_off(worker, None, tries, entry)
            case decision:
                raise AssertionError(f"nothing here asks for {decision}")

    def _put_off(self, worker: Worker, due: float | None, tries: Tries, entry: bytes = b"") -> None:
        assert worker.delivery is not None
        worker.delivery.tries = tries
        worker.settling.outgoing(0).later.append(Reschedule(CRM, 0, due, tries, "a", entry))

    def _settle(self, worker: Worker, *, answered: bool) -> None:
        call = worker.settling.call(0, worker.epoch, renew=False)
        assert call is not None
        self.bench.call(call)
        if answered:
            worker.settling.written(0)

    def _compare(self, after: State) -> None:
        lane = f"{self._keys.prefix(0)}lane:{CRM}"
        bodies, held = self.bench.read("HLEN", f"{lane}:body"), self.bench.read("ZCARD", f"{lane}:held")
        waiting = sum(self.bench.read("ZCARD", f"{lane}:{tier}") for tier in Tier)
        expected = {Standing.PENDING: (1, 0, 1), Standing.HELD: (1, 1, 0), Standing.DONE: (0, 0, 0)}
        same("bodies, held, waiting", (bodies, held, waiting), expected[after.standing])
        since = parse((self.bench.read("HGET", f"{lane}:tries", "0") or b"").decode()).unknown_since
        age = min(KEY_TTL, round((self.now - since) / TICK_S)) if since else None
        same("ticks since the first unknown attempt", age, after.since)
