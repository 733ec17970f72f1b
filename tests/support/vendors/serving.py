"""What every vendor's stand-in shares: a real HTTP server in a thread.

A vendor's module `tests/support/vendors/<kind>.py` has
- `Server(VendorServer)`: `answer(received)` enforces the vendor's published rules, `people` is what it holds
  now by its own key; `AUTH`: the header (name, value) it wants;
- `connection(base_url, **changes)`: the connection's model, with `remove` on;
- `good(number, **changes)`, `bad_row()`, `blank_row()`: referrals of different people; one whose values the
  vendor refuses (None where it refuses none), and one without the identifier the vendor's key is made of;
- `key(referral)`: the vendor's key of that person in `people`;
- `NAMES_ROWS`: whether its answers to a batch say which row is bad, `None` for one row a request.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import NAMESPACE_URL, uuid5

from consumer.crm.port import AnyCrm
from schemas.referral import Referral
from tests.support import referral_events
from tests.support.vendors.driving import MAX_BODY, NOW, Driver, frozen, sending, taken_back

__all__ = [
    "MAX_BODY",
    "NOW",
    "Driver",
    "Hangs",
    "Received",
    "Reply",
    "VendorServer",
    "frozen",
    "person",
    "sending",
    "serving",
    "taken_back",
]

#: Seconds a server waits for the rest of a request.
WITHIN = 5.0


@dataclass(frozen=True)
class Received:
    method: str
    path: str
    query: Mapping[str, str]
    #: Lower-case names.
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, or None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass(frozen=True)
class Reply:
    """`body`: bytes as they are, None for no body, anything else as JSON. `cut`: announces more than it sends."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    cut: bool = False

    @property
    def content(self) -> bytes:
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


class Hangs:
    """Says nothing and closes: an answer nobody gets."""


class VendorServer:
    """A context manager. `script`: replies given before the rules are asked, in turn; `always` before those."""

    #: Path before the API's own, such as /3.0.
    PREFIX = ""

    def __init__(self) -> None:
        self.people: dict[str, Any] = {}
        self.requests: list[Received] = []
        #: Requests that broke the published shape: what was wrong, in words.
        self.rejected_shapes: list[str] = []
        self.script: list[Reply | Hangs] = []
        self.always: Reply | Hangs | None = None
        self._lock = threading.Lock()
        self._http = _Listener(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.PREFIX}"

    def answer(self, received: Received) -> Reply:
        """By the vendor's rules; called under a lock, one request at a time."""
        raise NotImplementedError

    def shape(self, what: str, reply: Reply) -> Reply:
        """`reply`, noting that the request broke the published shape."""
        self.rejected_shapes.append(what)
        return reply

    def reply(self, received: Received) -> Reply | Hangs:
        with self._lock:
            self.requests.append(received)
            if self.always is not None:
                return self.always
            return self.script.pop(0) if self.script else self.answer(received)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves in the middle is nothing to tell; a fault of ours is."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _handler(server: VendorServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = WITHIN

        def serve(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            reply = server.reply(
                Received(
                    self.command,
                    parts.path,
                    dict(parse_qsl(parts.query, keep_blank_values=True)),
                    {name.lower(): value for name, value in self.headers.items()},
                    body,
                )
            )
            if isinstance(reply, Hangs):
                self.close_connection = True
                return
            content = reply.content
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if content:
                self.send_header("Content-Type", reply.content_type)
            if reply.status != 204:
                self.send_header("Content-Length", str(len(content) + (100 if reply.cut else 0)))
            if reply.cut:
                self.send_header("Connection", "close")
            self.end_headers()
            try:
                self.wfile.write(content)
            except OSError:  # a client that read what it wanted
                self.close_connection = True

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = serve

        def log_message(self, *_: object) -> None:
            """Nothing: a test's output is its own."""

    return Handler


def person(number: int = 0, **changes: Any) -> Referral:
    """A referral of somebody else for each number."""
    return referral_events.decoded(
        **{
            "referral_id": str(uuid5(NAMESPACE_URL, f"referral {number}")),
            "email": f"Zoe.{number}@Example.com",
            "phone_e164": f"+6140000{number:04}",
            "revision": 0,
            **changes,
        }
    )


@contextmanager
def serving(vendor: Any, crm: AnyCrm, **changes: Any) -> Iterator[tuple[Any, Driver]]:
    """A vendor's server, and a driver of a connection to it."""
    with vendor.Server() as server:
        yield server, Driver(crm, vendor.connection(server.base_url, **changes), vendor.AUTH)
