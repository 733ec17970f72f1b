"""pyreqwest's clients, one for each server, checked address and client certificate.

Its law: a client calls no address but its own. It is pinned to the host exactly as pyreqwest's parser
reads it, since a pin does not hold for any other spelling; TLS checks the certificate for that name.
TLS trusts the roots that come with pyreqwest and `extra_roots`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from datetime import timedelta
from typing import NamedTuple

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import BuilderError
from pyreqwest.http import Url

from consumer.addresses import Parts, Refused, Target
from consumer.exchange import ClientIdentity, Unsendable

#: Clients kept, the least used dropped first: each costs 4.9 ms to make and 0.12 MB to keep.
MAX_CLIENTS = 1_024
#: Requests in flight to one server: bounds descriptors. As many as one connection may be allowed.
MAX_IN_FLIGHT = 1_000
#: Seconds to wait for one of those: a longer queue belongs into the lane, where it is durable.
FREE_CONNECTION_S = 5.0
#: Idle connections are closed below the shortest keep-alive in common use (5 s: Node, Apache, uvicorn),
#: so that a request seldom meets one that the server is just closing.
IDLE_S = 4.0
MAX_IDLE = 256
#: Bytes pyreqwest reads of a body before it shows the head. One byte saves a change of threads for each
#: answer (40 us against 55), but an answer that ends right after its head is then lost with its status.
READ_AHEAD = 1
#: Seconds after closing in which pyreqwest's thread drops its last Python objects: an interpreter that
#: finalises meanwhile aborts.
QUIET_S = 0.1

#: What pyreqwest finds wrong with an address; other texts of it might repeat the address.
_UNREADABLE = frozenset(
    {
        "empty host",
        "invalid port number",
        "invalid IPv4 address",
        "invalid IPv6 address",
        "invalid international domain name",
        "invalid domain character",
    }
)


class Route(NamedTuple):
    """What one client serves."""

    target: Target
    address: str
    identity: ClientIdentity | None
    connect_s: float


class Peer:
    """A client, and how far ahead it may read its server's answers."""

    __slots__ = ("client", "read_ahead", "route")

    def __init__(self, route: Route, client: Client) -> None:
        self.route, self.client = route, client
        self.read_ahead = READ_AHEAD


class Clients:
    """Use from one event loop. `len` is how many are kept."""

    def __init__(self, extra_roots: bytes) -> None:
        self._extra_roots = extra_roots
        self._peers: OrderedDict[Route, Peer] = OrderedDict()
        self._making = asyncio.Lock()
        self._closed = False

    def __len__(self) -> int:
        return len(self._peers)

    def get(self, route: Route) -> Peer | None:
        peer = self._peers.get(route)
        if peer is not None:
            self._peers.move_to_end(route)
        return peer

    async def make(self, route: Route) -> Peer | Unsendable:
        """The route's client, made in a thread, once however many ask.

        Those dropped for it, as the least used or with another address of the same server, serve their
        requests in flight to their end.
        """
        async with self._making:
            peer = self._peers.get(route)
            if peer is not None:
                return peer
            client = await asyncio.to_thread(_client, route, self._extra_roots)
            if isinstance(client, Unsendable):
                return client
            peer = Peer(route, client)
            if not self._closed:
                for old in [kept for kept in self._peers if _replaced(kept, route)]:
                    del self._peers[old]
                self._peers[route] = peer
                if len(self._peers) > MAX_CLIENTS:
                    self._peers.popitem(last=False)
            return peer

    async def aclose(self) -> None:
        """Close every connection."""
        self._closed = True
        while self._peers:
            _, peer = self._peers.popitem()
            await peer.client.close()
        await asyncio.sleep(QUIET_S)


def parse(origin: str) -> Parts | Refused:
    """An origin as it will be called."""
    try:
        url = Url(origin)
    except ValueError as error:
        known = str(error) in _UNREADABLE
        return Refused(f"the URL cannot be read: {error if known else 'host or port'}")
    return Parts(url.scheme, url.host_str or "", url.port)


def _replaced(kept: Route, by: Route) -> bool:
    return kept.target == by.target and kept.address != by.address


def _client(route: Route, extra_roots: bytes) -> Client | Unsendable:
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
    if route.target.literal is None:
        # Port 0: the URL's own.
        builder = builder.resolve(route.target.host, route.address, 0)
    if extra_roots:
        builder = builder.add_root_certificate_pem(extra_roots)
    if route.identity is None:
        return builder.build()
    pem = route.identity.private_key + b"\n" + route.identity.certificate
    try:
        return builder.identity_pem(pem).build()
    except BuilderError:
        return Unsendable("client certificate: the private key is not the certificate's")
    except ValueError:
        return Unsendable("client certificate: give certificate and unencrypted private key as PEM")
