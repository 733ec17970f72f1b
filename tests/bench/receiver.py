"""The receiver of latency points, and of all where there is no nginx: remembers when each key came first, and can
be slow, hang or refuse.

`python -m tests.bench.receiver PORT`. A path is /ACCOUNT-crm. `GET /_seen` gives what came since the last
time, `GET /_taken` how many came at all, `POST /_modes` sets what accounts do: "ok", "hang", "429", "503", or a latency such as "100ms".
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from deploy.embedded.processes import Child, Command, free_port, port_open, start

ROOT = Path(__file__).parents[2]
ANSWER_S = 30.0
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_BUSY = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n"
_DOWN = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
_HEAD = re.compile(
    rb"(GET|POST) /(\S*) HTTP/1\.1\r\n(?=(?:.*\r\n)*?content-length: *(\d+)\r\n)?"
    rb'(?=(?:.*\r\n)*?idempotency-key: *"?([^"\r]*))?',
    re.IGNORECASE,
)


class Known:
    """What all connections share."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}
        self.taken = 0
        self.modes: dict[str, str] = {}
        self.default = "ok"


class Lines(asyncio.Protocol):
    """One connection: a request at a time."""

    def __init__(self, known: Known) -> None:
        self._known, self._held = known, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (end := self._held.find(b"\r\n\r\n") + 4) >= 4:
            found = _HEAD.match(self._held[:end])
            assert found, "no request we know"
            size = int(found[3] or 0)
            if len(self._held) < end + size:
                return
            body, self._held = self._held[end : end + size], self._held[end + size :]
            self._answer(found[2].decode(), (found[4] or b"").decode(), body)

    def _answer(self, path: str, key: str, body: bytes) -> None:
        known = self._known
        if path == "_seen":
            told = json.dumps(known.seen).encode()
            known.seen = {}
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(told), told))
            return
        if path == "_taken":
            told = b"%d" % known.taken
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(told), told))
            return
        if path == "_modes":
            known.modes = json.loads(body)
            known.default = known.modes.pop("*", "ok")
            self._transport.write(_OK)
            return
        known.taken += 1
        known.seen.setdefault(key, time.time())
        match known.modes.get(path.removesuffix("-crm"), known.default):
            case "ok":
                self._transport.write(_OK)
            case "429":
                self._transport.write(_BUSY)
            case "503":
                self._transport.write(_DOWN)
            case "hang":
                pass
            case latency:
                seconds = int(latency.removesuffix("ms")) / 1000
                asyncio.get_running_loop().call_later(seconds, self._transport.write, _OK)


class Receiver:
    """One in a process of its own."""

    name = "a small one of ours"

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        argv = (sys.executable, "-m", "tests.bench.receiver", str(self.port))
        self._child: Child = start(
            Command("receiver", argv, folder / "receiver.log", port_open(self.port), folder=ROOT)
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def modes(self, modes: Mapping[str, str]) -> None:
        """By account; "*" for all others."""
        self._ask("_modes", json.dumps(modes).encode())

    def seen(self) -> dict[str, float]:
        """When each key came first, in seconds since the epoch, of those that came since the last call."""
        found: dict[str, float] = json.loads(self._ask("_seen", None))
        return found

    def taken(self) -> int:
        """Requests that came since it began."""
        return int(self._ask("_taken", None))

    def stop(self) -> None:
        self._child.stop()

    def _ask(self, path: str, body: bytes | None) -> bytes:
        with urllib.request.urlopen(f"{self.url}/{path}", body, timeout=ANSWER_S) as answer:
            return bytes(answer.read())


async def serve(port: int) -> None:
    known = Known()
    server = await asyncio.get_running_loop().create_server(
        lambda: Lines(known), "127.0.0.1", port, backlog=4_096
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
