"""Requests: an event loop of its own that starts what the lanes let start.

No task per record: a sender takes the next delivery when its last is answered, and ends when there is
none. All state here and in the lanes belongs to the loop's thread; `call` brings work over to it.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, assert_never

from consumer import log, metrics
from consumer.crm import BY_KIND
from consumer.crm.answers import Answer, Pause, Retry
from consumer.crm.port import Sending
from consumer.ending import Ended, Later, Stand, conclude, ended, label
from consumer.frozen import Frozen, thaw
from consumer.http_client import HttpClient
from consumer.lane import Delivery
from consumer.lanes import Lanes
from consumer.log import where
from consumer.pending import Fact, Reschedule
from consumer.secrets import Secrets
from schemas.delivery import Outcome
from schemas.push import PushBase

#: A thread that does not end by then is abandoned; the process ends anyway.
JOIN_S = 5.0


class Outgoing:
    """What the loop has to tell Redis about one partition; appended there, taken by the worker."""

    def __init__(self) -> None:
        self.facts: deque[Fact] = deque()
        self.later: deque[Reschedule] = deque()


class Sender:
    """`lanes` and everything else here is touched only inside the loop."""

    def __init__(self, lanes: Lanes, outgoing: Callable[[int], Outgoing]) -> None:
        self._lanes, self._outgoing = lanes, outgoing
        self._secrets = Secrets()
        self._connections: Mapping[str, PushBase] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        #: Connections an answer paused, with the reason; the worker makes it durable.
        self.pauses: deque[tuple[str, str]] = deque()
        #: What broke in here, for the worker to stop by: a defect must not lose a delivery unseen.
        self.failure: str | None = None
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._broken)
        self._thread = threading.Thread(target=self._run_loop, name="requests", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def call(self, function: Callable[..., Any], *args: Any) -> None:
        """Run `function` in the loop, then start whatever may start."""
        self._loop.call_soon_threadsafe(self._called, function, args)

    def ask(self, function: Callable[[], int]) -> int:
        """Run `function` in the loop and wait for its result."""

        async def asked() -> int:
            return function()

        return asyncio.run_coroutine_threadsafe(asked(), self._loop).result(timeout=JOIN_S)

    def connections(self, connections: Mapping[str, PushBase]) -> None:
        """In the loop: these are in force."""
        self._connections = connections
        self._lanes.configure({name: connection.max_in_flight for name, connection in connections.items()})

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(JOIN_S)

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._http = HttpClient()
        self._loop.run_forever()
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(self._http.aclose())
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._loop.close()

    def _called(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        function(*args)
        self._pump()

    def _pump(self) -> None:
        """Start senders while there is work for them, and wake up for the next."""
        while (delivery := self._lanes.start(time.time())) is not None:
            task = self._loop.create_task(self._send(delivery))
            self._tasks.add(task)
            task.add_done_callback(self._sent)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._lanes.next_due()
        if due is not None:
            self._timer = self._loop.call_later(max(0.0, due - time.time()), self._pump)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._broken(self._loop, {"exception": error})

    def _broken(self, _loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        error = context.get("exception")
        self.failure = f"requests: {type(error).__name__} at {where(error)}: a defect, please report it"

    async def _send(self, first: Delivery) -> None:
        delivery: Delivery | None = first
        while delivery is not None:
            await self._attempt(delivery)
            delivery = self._lanes.start(time.time())
        self._pump()

    async def _attempt(self, delivery: Delivery) -> None:
        connection = self._connections.get(delivery.connection)
        if connection is None:
            # Its file is gone since it was started: it stays pending for the day it comes back.
            self._lanes.back(delivery)
            return
        frozen = thaw(delivery.raw)
        try:
            answer = await self._answer(connection, frozen)
        except Exception as error:  # noqa: BLE001 - a defect met by one delivery must not stop the others
            log.trouble("delivery.failed", delivery_id=frozen.delivery_id, at=where(error))
            answer = Retry(f"a defect here: {type(error).__name__}", unknown=True)
        self._conclude(delivery, frozen, connection, answer)

    async def _answer(self, connection: PushBase, frozen: Frozen) -> Answer:
        crm = BY_KIND[connection.kind]
        sending = Sending(frozen.delivery_id, frozen.action, (frozen,))
        request = crm.request(connection, self._secrets, sending, time.monotonic())
        if isinstance(request, Pause):
            return request
        answer = crm.classify(connection, sending, await self._http.send(request), time.time())
        return answer[0] if isinstance(answer, Sequence) else answer

    def _conclude(self, delivery: Delivery, frozen: Frozen, connection: PushBase, answer: Answer) -> None:
        now = time.time()
        attempts = delivery.attempts + 1
        decision = conclude(frozen, connection, answer, attempts, now, random.random())  # noqa: S311 - jitter
        what = label(answer)
        metrics.ATTEMPTS.labels(what).inc()
        log.event(
            "delivery.attempted",
            delivery_id=frozen.delivery_id,
            referral_id=frozen.referral_id,
            connection=connection.name,
            account=frozen.account_id,
            partition=delivery.partition,
            offset=delivery.offset,
            attempt=attempts,
            answer=what,
            status=getattr(answer, "status", None),
            reason=getattr(answer, "reason", None),
        )
        match decision:
            case Later() | Stand() if delivery.removed:
                self._lanes.ended(delivery)
                self.withdraw(delivery, frozen, now)
            case Ended(outcome, entry):
                self._lanes.ended(delivery)
                self._fact(delivery, frozen, outcome, entry, now)
                if outcome is Outcome.DELIVERED:
                    metrics.LATENCY.observe(max(0.0, now - frozen.produced_at_us / 1e6))
            case Later(due, quiet_until):
                delivery.attempts = attempts
                self._lanes.hold(delivery.connection, quiet_until)
                if self._lanes.again(delivery, due):
                    item = Reschedule(delivery.connection, delivery.offset, int(due * 1000), attempts)
                    self._outgoing(delivery.partition).later.append(item)
                if what == "unknown":
                    metrics.AMBIGUOUS.labels("crm").inc()
            case Stand(reason):
                self._lanes.stand(delivery.connection)
                self._lanes.back(delivery)
                self.pauses.append((delivery.connection, reason))
            case _:
                assert_never(decision)

    def withdraw(self, delivery: Delivery, frozen: Frozen, now: float) -> None:
        """In the loop: a removal ended it; Redis is told next."""
        end = ended(frozen, delivery.connection, Outcome.WITHDRAWN, delivery.attempts, now)
        self._fact(delivery, frozen, end.outcome, end.entry, now)

    def _fact(self, delivery: Delivery, frozen: Frozen, outcome: Outcome, entry: bytes, now: float) -> None:
        self._outgoing(delivery.partition).facts.append(Fact(delivery.connection, delivery.offset, entry))
        metrics.ENDED.labels(outcome).inc()
        metrics.AGE.observe(max(0.0, now - frozen.produced_at_us / 1e6))
        if outcome in {Outcome.REJECTED, Outcome.EXHAUSTED}:
            metrics.DEAD_LETTERS.labels(outcome.lower()).inc()
