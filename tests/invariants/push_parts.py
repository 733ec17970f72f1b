"""What push workers stand on when they are moved one step at a time: no thread, no socket, no broker.

Receivers are objects that write down what reached them, Kafka is a list, and the loop of requests takes a turn
when it is told to. Everything else a worker has is the real thing.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from consumer.addresses import Policy
from consumer.attempts import Attempts
from consumer.exchange import Exchanged, NotSent, Request, Response, Unknown
from consumer.kafka_out import Out
from consumer.keys import Keys, Role
from consumer.lane import Delivery
from consumer.lanes import Lanes
from consumer.sender import Sender
from consumer.settling import Outgoing
from consumer.store import Call, Reply, Store, StoreRefused, StoreUnavailable
from consumer.stream import Record, Witness
from consumer.topics import Topics
from schemas.connection import ConnectionSet
from schemas.delivery import Action
from tests.invariants.drive import Altered

TOPICS = Topics()
KEYS = Keys(TOPICS.referrals, Role.PUSH)
FINGERPRINTS = b"k" * 32
#: Remembers keys, for KEY_TTL_S; and takes people back.
KEYED = "keyed"
#: Takes every request for a new one.
PLAIN = "plain"
CONNECTIONS = (KEYED, PLAIN)
TIMEOUT_S = 5.0
KEY_TTL_S = 60
RETRY_S = (1, 2, 5, 40, 100)
#: What may be lost with Redis under `appendfsync everysec`.
LOST_S = 2.0
#: What each answer of a receiver is: whether the request takes effect, and what we see of it.
ANSWERS: Mapping[str, tuple[bool, Exchanged]] = {
    "taken": (True, Response(201)),
    "busy": (False, Response(503, {"retry-after": "3"})),
    "refused": (False, Response(422)),
    "unreached": (False, NotSent("connection refused")),
    "silent": (False, Unknown("no answer")),
    "reset after applying": (True, Unknown("reset")),
}


def connections() -> ConnectionSet:
    base = {
        "kind": "http",
        "fields": ["referral_id", "email"],
        "timeout": TIMEOUT_S,
        "retry_seconds": RETRY_S,
    }
    each: list[dict[str, Any]] = [
        {**base, "name": name, "url": f"https://{name}.example/leads", "key_ttl": KEY_TTL_S}
        for name in CONNECTIONS
    ]
    each[0]["removal"] = {"url": "https://keyed.example/leads/{referral_id}"}
    return ConnectionSet.model_validate({"accounts": [{"account": "acme", "connections": each}]})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a delivery id stands for."""

    connection: str
    referral_id: str
    revision: int
    action: Action


@dataclass
class Receiver:
    """One connection's. `effects` by delivery id, `order`: first effects, as they came."""

    honours_keys: bool
    seen: dict[str, float] = field(default_factory=dict)
    effects: Counter[str] = field(default_factory=Counter)
    #: Effects although the key was seen: the receiver had forgotten it.
    forgot: Counter[str] = field(default_factory=Counter)
    order: list[str] = field(default_factory=list)
    bodies: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, list[str]] = field(default_factory=dict)

    def apply(self, key: str, now: float) -> None:
        before = self.seen.get(key)
        if self.honours_keys and before is not None and now - before < KEY_TTL_S:
            return
        self.forgot[key] += before is not None
        self.seen[key] = now
        if key not in self.effects:
            self.order.append(key)
        self.effects[key] += 1


@dataclass(eq=False)
class Wire:
    """A request under way: what awaits it is handed to whoever steps the attempt."""

    request: Request

    def __await__(self) -> Generator[Wire, Exchanged, Exchanged]:
        return (yield self)


@dataclass(eq=False)
class Flight:
    attempt: Coroutine[Any, Exchanged, None]
    deliveries: Sequence[Delivery]
    key: str
    connection: str
    began: float


class Stepped(Sender):
    """The loop of requests, one turn at a time."""

    def __init__(  # what the real one has besides is a thread and a socket
        self,
        lanes: Lanes,
        outgoing: Callable[[int], Outgoing],
        _policy: Policy,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._lanes, self._clock = lanes, clock
        self.attempts = Attempts(lanes, outgoing, clock)
        self.attempts.open(self._put_on_the_wire)
        self.failure: str | None = None
        self.flights: list[Flight] = []
        self.queue: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self.started: Callable[[Flight, Request], None] = lambda _flight, _request: None

    @staticmethod
    async def _put_on_the_wire(request: Request) -> Exchanged:
        return await Wire(request)

    def call(self, function: Callable[..., Any], *args: Any) -> None:
        self.queue.append((function, args))

    def ask(self, function: Callable[[], int]) -> int:
        self.turn()
        return function()

    def turn(self) -> None:
        """All that was brought over, then what is due."""
        while self.queue:
            function, args = self.queue.popleft()
            function(*args)
            self._pump()
        self._pump()

    def _pump(self) -> None:
        while deliveries := self._lanes.start(self._clock()):
            self._step(self.attempts.attempt(deliveries), deliveries, None)
        self.attempts.tell_put_off()

    def answer(self, flight: Flight, exchanged: Exchanged) -> None:
        self.flights.remove(flight)
        self._step(flight.attempt, flight.deliveries, exchanged)
        self._pump()

    def _step(
        self, attempt: Coroutine[Any, Any, None], deliveries: Sequence[Delivery], sent: Exchanged | None
    ) -> None:
        try:
            wire: Wire = attempt.send(sent)
        except StopIteration:
            return
        headers = {name.lower(): value for name, value in wire.request.headers}
        key = headers["idempotency-key"].strip('"')
        flight = Flight(attempt, deliveries, key, deliveries[0].connection, self._clock())
        self.flights.append(flight)
        self.started(flight, wire.request)

    def close(self) -> None:
        for flight in self.flights:
            flight.attempt.close()


class Lossy(Store):
    """`lose`: how many of the next round trips of scripts are carried out without an answer; `cut`: none is
    carried out.
    """

    lose, cut = 0, False
    altered: Mapping[tuple[str, str], Altered] = {}
    granted: Callable[[Call, Reply, float], None] = staticmethod(lambda _call, _reply, _sent: None)

    def each(
        self, calls: Sequence[Call], meanwhile: Callable[[], None] = lambda: None
    ) -> list[Reply | StoreRefused]:
        if self.cut:
            raise StoreUnavailable("Redis did not answer: planted")
        sent = time.monotonic()
        changed = [Call(self._script(call), call.key, call.args) for call in calls]
        replies = super().each(changed, meanwhile)
        if self.lose:
            self.lose -= 1
            raise StoreUnavailable("Redis did not answer: planted")
        for call, reply in zip(calls, replies, strict=True):
            if not isinstance(reply, StoreRefused):
                self.granted(call, reply, sent)
        return replies

    def _script(self, call: Call) -> Any:
        return self.altered.get((call.script.package, call.script.name), call.script)


class Reader:
    """The topic's one partition as one member of the group reads it."""

    def __init__(self, log: Sequence[Record], commit: Callable[[Witness], None]) -> None:
        self._log, self._commit = log, commit
        self.position: int | None = None
        self.most = 0

    def poll(self, _timeout: float, most: int) -> list[Record]:
        if self.position is None:
            return []
        found = self._log[self.position : self.position + min(most, self.most)]
        self.position += len(found)
        return found

    def seek(self, _partition: int, offset: int) -> None:
        self.position = offset

    def commit(self, witnesses: Mapping[int, Witness]) -> None:
        if 0 in witnesses:
            self._commit(witnesses[0])

    def high_watermark(self, _partition: int) -> int:
        return len(self._log)


class Topic:
    """What is produced: receipts in their order; the rest is somebody else's test."""

    def __init__(self) -> None:
        self.receipts: list[bytes] = []

    def send(self, records: Sequence[Out]) -> None:
        self.receipts += [out.value or b"" for out in records if out.topic == TOPICS.receipts]
