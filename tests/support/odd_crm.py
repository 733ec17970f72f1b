"""A CRM in this process whose every answer is written by the test, byte for byte, and which notes every request."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.peers import read_request

#: An event loop that takes longer to start or end hangs.
WITHIN_S = 20.0


@dataclass(frozen=True)
class Asked:
    """A request, whole, and when it came."""

    path: str
    key: str
    body: bytes
    at: float


#: Given the request and how many came to its path before it. True keeps the connection.
Answering = Callable[[Asked, int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]


class OddCrm:
    """`answers` by path."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.port = 0
        self.requests: list[Asked] = []
        self.answers: dict[str, Answering] = {}
        self._clock = clock
        self._ready, self._over = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def of(self, path: str) -> list[Asked]:
        return [one for one in list(self.requests) if one.path == path]

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(WITHIN_S), "the server did not start"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(WITHIN_S)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        calls: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

        def called(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            calls[asyncio.create_task(self._call(reader, writer))] = writer

        server = await asyncio.start_server(called, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        for task, writer in calls.items():
            task.cancel()
            writer.transport.abort()
        gone = (writer.wait_closed() for writer in calls.values())
        await asyncio.gather(*calls, *gone, return_exceptions=True)

    async def _call(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            keep = True
            while keep:
                head, body = await read_request(reader)
                lines = head.decode("latin-1").split("\r\n")
                fields = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
                path, key = lines[0].split(" ")[1], fields.get("idempotency-key", "").strip('"')
                before = len(self.of(path))
                asked = Asked(path, key, body, self._clock())
                self.requests.append(asked)
                keep = await self.answers[path](asked, before, reader, writer)
        writer.close()


@contextmanager
def odd_crm(clock: Callable[[], float]) -> Iterator[OddCrm]:
    server = OddCrm(clock)
    server.start()
    try:
        yield server
    finally:
        server.stop()
