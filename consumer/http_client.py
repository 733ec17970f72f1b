"""The HTTP client of the hot path.

Its law: `send` returns what happened and never raises for the network's sake, and an attempt is
called not sent only on proof, which `http_failures` finds in pyreqwest's chain of causes. What may be
called is decided in `addresses`; nothing goes to an address that was not judged there.

An attempt whose task is cancelled still runs to its own timeout inside pyreqwest: a cancelled
`send` is an unknown attempt.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache

from pyreqwest.exceptions import PyreqwestError
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response as Answer

from consumer.addresses import Policy, Refused, Target, check, origin
from consumer.clients import Clients, Peer, Route, parse
from consumer.exchange import Exchanged, NotSent, Request, Response, Unknown, Unsendable
from consumer.http_failures import NO_FREE_CONNECTION, failure
from consumer.names import Names, Resolver, system

#: Origins remembered with what may be called there; more than any worker serves at once.
MAX_ORIGINS = 4_096
#: Bytes of a body that are read; no rule looks further, and a server must not fill our memory. The
#: bytes of a head are bounded by hyper, which refuses one over 100 fields or about 400 kB.
MAX_BODY = 65_536
#: Seconds for TCP and TLS: three SYNs (0, 1 and 3 s) and a slow handshake.
CONNECT_S = 5.0

_READ_HEADERS = ("content-length", "content-type", "date", "retry-after")


class HttpClient:
    """Sends requests over kept connections, each server on its own client. Use from one event loop."""

    def __init__(
        self,
        policy: Policy,
        extra_roots: bytes = b"",
        resolver: Resolver = system,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`extra_roots`: PEM certificates to trust beside the public ones. `clock`: monotonic seconds."""
        self._names = Names(policy, resolver, clock)
        self._target = lru_cache(MAX_ORIGINS)(lambda called: _target(called, policy))
        self._clients = Clients(extra_roots)
        self._closed = False

    @property
    def kept(self) -> int:
        """How many servers have a client just now."""
        return len(self._clients)

    async def send(self, request: Request) -> Exchanged:
        """Send once; no redirect, proxy, cookie, decompression or second try.

        Ends within the request's timeout and, for a server that is not known yet, `names.LOOKUP_S`.
        """
        peer = await self._peer(request)
        if not isinstance(peer, Peer):
            return peer
        if self._closed:
            return NotSent("the client is closed")
        try:
            prepared = _prepare(peer, request)
        except ValueError:  # its text repeats the header's value
            return Unsendable("the address or a header cannot be sent")
        answered = await _exchange(prepared, request.timeout)
        if answered is None:
            peer.read_ahead = 0
            return Unknown("the answer ended after its head")
        if isinstance(answered, NotSent) and answered is not NO_FREE_CONNECTION:
            self._names.failed(peer.route.target, peer.route.address)
        return answered

    async def aclose(self) -> None:
        """Close every connection. What is in flight comes back as Unknown."""
        self._closed = True
        await self._names.aclose()
        await self._clients.aclose()

    async def _peer(self, request: Request) -> Peer | NotSent | Unsendable:
        """Whom to ask; for a server that is known, without waiting."""
        called = origin(request.url)
        target = called if isinstance(called, Refused) else self._target(called)
        if isinstance(target, Refused):
            return Unsendable(target.reason)
        address = self._names.known(target) or await self._names.find(target)
        if isinstance(address, NotSent):
            return address
        # Half the timeout at most for connecting: the total one, which proves nothing, never ends first.
        route = Route(target, address, request.client_certificate, min(CONNECT_S, request.timeout / 2))
        return self._clients.get(route) or await self._clients.make(route)


def _target(called: str, policy: Policy) -> Target | Refused:
    parts = parse(called)
    return parts if isinstance(parts, Refused) else check(parts, policy)


def _prepare(peer: Peer, request: Request) -> StreamRequest:
    return (
        peer.client.request(request.method, request.url)
        .headers(request.headers)
        .body_bytes(request.body)
        .timeout(timedelta(seconds=request.timeout))
        .streamed_read_buffer_limit(peer.read_ahead)
        .build_streamed()
    )


async def _exchange(prepared: StreamRequest, limit_s: float) -> Exchanged | None:
    """None: a head came and was lost, as its body failed while reading ahead."""
    head: tuple[int, dict[str, str]] | None = None
    body, whole = b"", False
    try:
        async with prepared as answer:
            head = answer.status, _headers(answer)
            body, whole = await _body(answer, head[1].get("content-length", ""))
    except PyreqwestError as error:
        if head is None:
            return _failure(error, limit_s)
    return Response(*head, body, whole)


def _headers(answer: Answer) -> dict[str, str]:
    headers = {}
    for name in _READ_HEADERS:
        try:
            value = answer.get_header(name)
        except ValueError:  # bytes that are no text: as good as absent
            continue
        if value is not None:
            headers[name] = value
    return headers


async def _body(answer: Answer, announced: str) -> tuple[bytes, bool]:
    """Up to MAX_BODY bytes, and whether that is all. What is announced as done is not asked for again."""
    length = int(announced) if len(announced) < 20 and announced.isdecimal() and announced.isascii() else -1
    body = b""
    try:
        while len(body) != length:
            chunk = await answer.body_reader.read_chunk()
            if chunk is None:
                return body, True
            body += bytes(chunk)
            if len(body) > MAX_BODY:
                return body[:MAX_BODY], False
    except PyreqwestError:
        return body, False
    return body, True


def _failure(error: PyreqwestError, limit_s: float) -> NotSent | Unknown | Unsendable | None:
    details = getattr(error, "details", None) or {}
    causes = [cause["message"] for cause in details.get("causes") or ()]
    return failure(type(error).__name__, causes, limit_s)
