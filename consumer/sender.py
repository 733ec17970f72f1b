"""Requests: an event loop of its own that starts what the lanes let start.

No task per record: a sender takes the next deliveries when its last are answered, and ends when there
are none. All state here and in the lanes belongs to the loop's thread; `call` brings work over to it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from consumer.addresses import Policy
from consumer.attempts import Attempts
from consumer.http_client import HttpClient
from consumer.lane import Delivery
from consumer.lanes import Lanes
from consumer.log import where
from consumer.settling import Outgoing

#: A thread that does not end by then is abandoned; the process ends anyway.
JOIN_S = 5.0
#: The longest sleep of the loop: clocks are set.
LOOK_S = 1.0


class Sender:
    """`lanes` and everything else here is touched only inside the loop."""

    def __init__(
        self,
        lanes: Lanes,
        outgoing: Callable[[int], Outgoing],
        policy: Policy,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._lanes, self._policy, self._clock = lanes, policy, clock
        self.attempts = Attempts(lanes, outgoing, clock)
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
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

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(JOIN_S)

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        http = HttpClient(self._policy)
        self.attempts.open(http.send)
        self._loop.run_forever()
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(http.aclose())
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._loop.close()

    def _called(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        function(*args)
        self._pump()

    def _pump(self) -> None:
        """Start senders while there is work for them, and wake up for the next."""
        while deliveries := self._lanes.start(self._clock()):
            task = self._loop.create_task(self._send(deliveries))
            self._tasks.add(task)
            task.add_done_callback(self._sent)
        self.attempts.tell_put_off()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._lanes.next_due()
        if due is not None:
            self._timer = self._loop.call_later(min(LOOK_S, max(0.0, due - self._clock())), self._pump)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._broken(self._loop, {"exception": error})

    def _broken(self, _loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        error = context.get("exception")
        self.failure = f"requests: {type(error).__name__} at {where(error)}: a defect, please report it"

    async def _send(self, first: Sequence[Delivery]) -> None:
        deliveries = first
        while deliveries:
            await self.attempts.attempt(deliveries)
            deliveries = self._lanes.start(self._clock())
            # Before the answer of one that starts: Redis must not be told of it first.
            self.attempts.tell_put_off()
        self._pump()
