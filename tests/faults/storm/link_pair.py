"""The two connections of one client of a link, wired to each other.

Law: what cannot be passed on yet is left unread, so that the sender feels it as on a slow network, and
little is held here. What becomes of a chunk is decided in link_rules; here it is done.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from tests.faults.storm.link_rules import Fault, Order, Way

if TYPE_CHECKING:
    from tests.faults.storm.link import Link

#: Read at once: a whole batch of records, and little beside what the kernel holds.
CHUNK_BYTES = 65_536
#: Past this a direction is not read until the other end has taken what is there.
UNSENT_BYTES = 262_144
#: A delayed direction is not read while it holds so much.
LATE_BYTES = 1_048_576

#: Everything is read into this and copied out before anything else is read: there is one thread.
CHUNK = memoryview(bytearray(CHUNK_BYTES))
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Pair:
    """The client's connection to us and ours to the server."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.client, self.server = End(self, Way.UP), End(self, Way.DOWN)
        self.client.other, self.server.other = self.server, self.client
        self.ends = (self.client, self.server)
        self.holed = False
        self.over = False

    def wired(self) -> None:
        if self.link.order is not None:
            self.feel(self.link.order)
        for end in self.ends:
            end.release("unwired")

    def feel(self, order: Order) -> None:
        for end in self.ends:
            end.said = 0
            if order.fault is Fault.STALL:
                end.hold("stall")

    def mend(self) -> None:
        if self.holed:
            self.reset()
            return
        for end in self.ends:
            end.mend()

    def finish(self) -> None:
        """Both have said all: what was read is still sent."""
        self._end()
        for end in self.ends:
            if end.transport is not None:
                end.transport.close()

    def cut(self) -> None:
        """In good order where all was read. Nobody is waited for: who only writes would never learn."""
        self._end()
        for end in self.ends:
            if end.transport is not None:
                end.transport.abort()

    def reset(self) -> None:
        self._end()
        self.link.counts["resets"] += 1
        for end in self.ends:
            end.reset()

    def _end(self) -> None:
        self.over = True
        self.link.pairs.discard(self)


class End(asyncio.BufferedProtocol):
    """One end of a pair: what is read here is written to the other."""

    other: End

    def __init__(self, pair: Pair, way: Way) -> None:
        self.pair, self.link, self.way = pair, pair.link, way
        self.transport: asyncio.Transport | None = None
        #: Bytes read here since the last order.
        self.said = 0
        #: Why it is not read now.
        self._holds = {"unwired"}
        self._ended = False
        #: It knows that the other end has said all.
        self._told = False
        #: What passes later, each with its time; empty bytes: the end of the stream.
        self._late: deque[tuple[float, bytes]] = deque()
        self._late_bytes = 0
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=UNSENT_BYTES)
        self.transport.pause_reading()
        if self.pair.over:  # it ended while this connection was being made
            self.reset()

    def get_buffer(self, _hint: int) -> memoryview:
        return self.link.slice

    def buffer_updated(self, size: int) -> None:
        self.link.counts[self.way] += size
        data = bytes(CHUNK[:size])
        if self.link.order is None and not self._late:
            self.other.write(data)
        else:
            self._judged(data)

    def eof_received(self) -> bool:
        self._ended = True
        if self.link.order is not None and self.link.order.loses(self.way):
            self.pair.holed = True
        elif self._late:
            self._late.append((self._late[-1][0], b""))
        else:
            self.other.write(b"")
        return True

    def connection_lost(self, _exc: Exception | None) -> None:
        self.transport = None
        for timer in self._timers.values():
            timer.cancel()
        if self.pair.over:
            return
        if self.link.order is not None and self.link.order.loses(self.way):
            self.pair.holed = True
        else:
            self.pair.reset()

    def pause_writing(self) -> None:
        self.other.hold("full")

    def resume_writing(self) -> None:
        self.other.release("full")

    def write(self, data: bytes) -> None:
        """Empty: the other end will say nothing more."""
        if self.transport is None:
            self.pair.holed = True  # it went while the other end must not know
        elif data:
            self.transport.write(data)
        else:
            self._told = True
            self.transport.write_eof()
            if self.other._told:
                self.pair.finish()

    def hold(self, reason: str) -> None:
        self._holds.add(reason)
        if self.transport is not None:
            self.transport.pause_reading()

    def release(self, reason: str) -> None:
        self._holds.discard(reason)
        if not self._holds and not self._ended and self.transport is not None:
            self.transport.resume_reading()

    def mend(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._pass_late(float("inf"))
        self.release("stall")
        self.release("throttled")

    def reset(self) -> None:
        if self.transport is not None:
            sock: socket.socket = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.transport.abort()

    def _judged(self, data: bytes) -> None:
        order, late, reset = self.link.order, 0.0, False
        if order is not None:
            verdict = self.link.verdict(order, self.way, len(data), self.said)
            self.said += len(data)
            late, reset = verdict.late, verdict.reset
            self.pair.holed = self.pair.holed or verdict.passes < len(data)
            data = data[: verdict.passes]
            if verdict.free_at:
                self.hold("throttled")
                self._at("throttled", verdict.free_at, lambda: self.release("throttled"))
        if data and (late or self._late):
            self._later(data, late)
        elif data:
            self.other.write(data)
        if reset:
            self.pair.reset()

    def _later(self, data: bytes, late: float) -> None:
        due = self.link.loop.time() + late
        if self._late:
            due = max(due, self._late[-1][0])
        self._late.append((due, data))
        self._late_bytes += len(data)
        if self._late_bytes > LATE_BYTES:
            self.hold("late")
        if len(self._late) == 1:
            self._at("late", due, self._pass_due)

    def _pass_due(self) -> None:
        self._pass_late(self.link.loop.time())
        if self._late:
            self._at("late", self._late[0][0], self._pass_due)

    def _pass_late(self, until: float) -> None:
        while self._late and self._late[0][0] <= until and not self.pair.over:
            _, data = self._late.popleft()
            self._late_bytes -= len(data)
            self.other.write(data)
        if self._late_bytes <= LATE_BYTES:
            self.release("late")

    def _at(self, what: str, when: float, act: Callable[[], None]) -> None:
        self._timers[what] = self.link.loop.call_at(when, act)
