"""One HTTP exchange, as values: what is asked, and everything that can come back. Pure.

Its law: whether a request may have been applied is said here, once. `NotSent` and `Unsendable` are
proofs that it was not; `Unknown` is everything that is no proof.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """What we show a server that asks who calls (mutual TLS), as PEM; its repr shows neither."""

    #: With the chain, ours first.
    certificate: bytes = field(repr=False)
    #: Not encrypted.
    private_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Address, headers and body hold secrets and personal data, so its repr shows none."""

    method: str
    url: str = field(repr=False)
    #: Names and values, one line of printable ASCII each.
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    #: Seconds, from connecting to the last byte of the answer.
    timeout: float
    client_certificate: ClientIdentity | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """An answer whose head arrived. `headers`: lower-case names, only those the caller's rules read."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: What was read of it, undecoded. May repeat personal data: for rules, never for logs.
    body: bytes = field(default=b"", repr=False)
    #: False when the body was longer than the cap, was cut short or never came.
    read_fully: bool = True


@dataclass(frozen=True, slots=True)
class NotSent:
    """No byte of the request reached the server: no name, no connection, no TLS, no free connection."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The request may have been applied: it was sent, in part or in whole, and no answer came."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unsendable:
    """The request cannot be put on the wire as it is configured; no later attempt will differ."""

    reason: str


Exchanged = Response | NotSent | Unknown | Unsendable
