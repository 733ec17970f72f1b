"""A link: one listening port, its target, and the fault that stands between them.

Law: an order holds from the moment `take` returns, for what is open and for what comes. The port stays
the link's own, also while it refuses.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter

from tests.faults.storm.link_pair import CHUNK, Pair
from tests.faults.storm.link_rules import Fault, Order, Verdict, Way, judge

#: The services open their pools at once after a fault.
BACKLOG = 1_024
#: A target on this machine answers at once or never.
CONNECT_SECONDS = 5.0
#: Two file descriptors each; a client that dials without end must show.
CONNECTIONS = 4_096


class Link:
    """One listening port, its target and the fault that stands on it. Lives on the running event loop."""

    def __init__(self, name: str, target: tuple[str, int], port: int = 0) -> None:
        """Raises OSError when `port` is taken."""
        self.name, self.target = name, target
        self.loop = asyncio.get_running_loop()
        self.order: Order | None = None
        self.slice: memoryview = CHUNK
        self.counts: Counter[str] = Counter()
        self.pairs: set[Pair] = set()
        self.free_at = dict.fromkeys(Way, 0.0)
        self._left = 0
        self._timer: asyncio.TimerHandle | None = None
        self._connecting: set[asyncio.Task[None]] = set()
        self._bind(port)
        self._listen()

    def take(self, order: Order) -> None:
        """Put `order` in the place of what stood."""
        self.heal()
        match order.fault:
            case Fault.RESET:
                for pair in tuple(self.pairs):
                    pair.reset()
                return
            case Fault.CUT:
                self.loop.remove_reader(self._listener)
                self._listener.close()
                self._bind(self.port)  # kept, and nobody listens: the kernel refuses
                for pair in tuple(self.pairs):
                    pair.cut()
            case Fault.DROP_REPLY:
                self._left = int(order.number)
            case _:
                pass
        self.order = order
        self.slice = CHUNK[: order.slice]
        for pair in self.pairs:
            pair.feel(order)
        if order.seconds is not None:
            self._timer = self.loop.call_later(order.seconds, self.heal)

    def heal(self) -> None:
        """From now on everything passes. Connections that lost something are reset."""
        if self._timer is not None:
            self._timer.cancel()
        ended, self.order, self._timer, self.slice = self.order, None, None, CHUNK
        self.free_at = dict.fromkeys(Way, 0.0)
        if ended is None:
            return
        if ended.fault is Fault.CUT:
            self._listen()
        for pair in tuple(self.pairs):
            pair.mend()

    def told(self) -> dict[str, int]:
        names = ("connections", *Way, "lost", "resets", "refused")
        return {name: self.counts[name] for name in names} | {"open": len(self.pairs)}

    def verdict(self, order: Order, way: Way, size: int, said: int) -> Verdict:
        now = self.loop.time()
        verdict = judge(order, way, size, said=said, free_at=self.free_at[way], now=now)
        if verdict.free_at:
            self.free_at[way] = verdict.free_at
        self.counts["lost"] += size - verdict.passes
        if order.fault is Fault.DROP_REPLY and verdict.reset:
            self._left -= 1
            if not self._left:
                self.heal()
        return verdict

    def _bind(self, port: int) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.setblocking(False)
        self._listener.bind(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]

    def _listen(self) -> None:
        self._listener.listen(BACKLOG)
        self.loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # it went before we came
            return
        self.counts["connections"] += 1
        if len(self.pairs) >= CONNECTIONS:
            self.counts["refused"] += 1
            client.close()
            return
        task = self.loop.create_task(self._connect(client))
        self._connecting.add(task)  # the loop keeps only weak references
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, client: socket.socket) -> None:
        pair = Pair(self)
        self.pairs.add(pair)
        await self.loop.connect_accepted_socket(lambda: pair.client, client)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self.loop.create_connection(lambda: pair.server, *self.target)
        except OSError:
            pair.reset()  # its client has a connection already: it cannot be told "refused"
        else:
            if not pair.over:
                pair.wired()
