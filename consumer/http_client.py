"""The HTTP client of the hot path. The one owner of pyreqwest.

Its law: `send` returns what happened and never raises for the network's sake, and an attempt is
called not sent only on proof, which `http_failures` finds in pyreqwest's chain of causes.

An attempt whose task is cancelled still runs to its own timeout inside pyreqwest: a cancelled
`send` is an unknown attempt. TLS trusts the roots that come with pyreqwest and `extra_roots`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from datetime import timedelta
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import PyreqwestError
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response as Answer

from consumer.exchange import Exchanged, NotSent, Request, Response, Unknown, Unsendable
from consumer.http_failures import failure

#: Clients kept, the least used dropped first: each costs 4.9 ms to make and 0.12 MB to keep.
MAX_CLIENTS = 256
#: Addresses remembered with their parsed form; more connections than any worker serves at once.
MAX_ROUTES = 4_096
#: Bytes of a body that are read; no rule looks further, and a server must not fill our memory. The
#: bytes of a head are bounded by hyper, which refuses one over 100 fields or about 400 kB.
MAX_BODY = 65_536
#: Seconds for DNS, TCP and TLS: three SYNs (0, 1 and 3 s) and a slow handshake.
CONNECT_S = 5.0
#: Requests in flight to one server: bounds descriptors. As many as one connection may be allowed.
MAX_IN_FLIGHT = 1_000
#: Seconds to wait for one of those: a longer queue belongs into the lane, where it is durable.
FREE_CONNECTION_S = 5.0
#: Idle connections are closed below the shortest keep-alive in common use (5 s: Node, Apache, uvicorn),
#: so that a request seldom meets one that the server is just closing.
IDLE_S = 4.0
MAX_IDLE = 256
#: Seconds after closing in which pyreqwest's thread drops its last Python objects: an interpreter that
#: finalises meanwhile aborts.
QUIET_S = 0.1

#: Bytes pyreqwest reads of a body before it shows the head. One byte saves a change of threads for each
#: answer (40 us against 55), but an answer that ends right after its head is then lost with its status.
READ_AHEAD = 1

_READ_HEADERS = ("content-length", "content-type", "date", "retry-after")


class _Route(NamedTuple):
    """What one client serves. The checked address and the client certificate belong here too."""

    scheme: str
    host: str
    port: int | None
    connect_s: float


class _Peer:
    """A client, and how far ahead it may read its server's answers."""

    __slots__ = ("client", "read_ahead")

    def __init__(self, client: Client) -> None:
        self.client = client
        self.read_ahead = READ_AHEAD


class HttpClient:
    """Sends requests over kept connections, each server on its own client. Use from one event loop."""

    def __init__(self, extra_roots: bytes = b"") -> None:
        """`extra_roots`: PEM certificates to trust beside the public ones."""
        self._extra_roots = extra_roots
        self._peers: OrderedDict[_Route, _Peer] = OrderedDict()
        self._making = asyncio.Lock()
        self._closed = False

    async def send(self, request: Request) -> Exchanged:
        """Send once; no redirect, proxy, cookie, decompression or second try."""
        try:
            route = _route(request.url, request.timeout)
        except ValueError:
            return Unsendable("the address cannot be called")
        peer = self._peers.get(route)
        if peer is None:
            peer = await self._make(route)
        else:
            self._peers.move_to_end(route)
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
        return answered

    async def aclose(self) -> None:
        """Close every connection. What is in flight comes back as Unknown."""
        self._closed = True
        while self._peers:
            _, peer = self._peers.popitem()
            await peer.client.close()
        await asyncio.sleep(QUIET_S)

    async def _make(self, route: _Route) -> _Peer:
        """The route's client, made in a thread, once however many ask.

        One that is dropped for it serves its requests in flight to their end.
        """
        async with self._making:
            peer = self._peers.get(route)
            if peer is None:
                peer = _Peer(await asyncio.to_thread(_client, route, self._extra_roots))
                if not self._closed:
                    self._peers[route] = peer
                    if len(self._peers) > MAX_CLIENTS:
                        self._peers.popitem(last=False)
            return peer


@lru_cache(maxsize=MAX_ROUTES)
def _route(url: str, timeout: float) -> _Route:
    """Half the timeout at most for connecting: the total one, which proves nothing, never ends first."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(url)
    return _Route(parts.scheme, parts.hostname, parts.port, min(CONNECT_S, timeout / 2))


def _client(route: _Route, extra_roots: bytes) -> Client:
    builder = (
        ClientBuilder()
        .no_proxy()
        .follow_redirects(False)
        .referer(False)
        .default_cookie_store(False)
        .gzip(False)
        .brotli(False)
        .zstd(False)
        .deflate(False)
        .http1_only()
        .connect_timeout(timedelta(seconds=route.connect_s))
        .max_connections(MAX_IN_FLIGHT)
        .pool_timeout(timedelta(seconds=FREE_CONNECTION_S))
        .pool_idle_timeout(timedelta(seconds=IDLE_S))
        .pool_max_idle_per_host(MAX_IDLE)
    )
    if extra_roots:
        builder = builder.add_root_certificate_pem(extra_roots)
    return builder.build()


def _prepare(peer: _Peer, request: Request) -> StreamRequest:
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
    response: Response | None = None
    try:
        async with prepared as answer:
            headers = _headers(answer)
            response = Response(answer.status, headers, b"", read_fully=False)
            body, whole = await _body(answer, headers.get("content-length", ""))
            response = Response(answer.status, headers, body, whole)
    except PyreqwestError as error:
        return response or _failure(error, limit_s)
    return response


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
