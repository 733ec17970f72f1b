"""What an exchange without an answer proves, from pyreqwest's exception. Pure.

Its law: not sent only on proof. The classes of pyreqwest 0.15 are none (a missing answer is its
ConnectTimeoutError, a reset after sending its ConnectError); the chain of causes is: "client error
(Connect)" comes from the connector alone, before any byte of a request is on the wire. Reasons are
our words: the causes repeat the address.
"""

from __future__ import annotations

from collections.abc import Sequence

from consumer.exchange import NotSent, Unknown, Unsendable

#: A text among the causes, and what it means. The first that is found counts.
_NOT_SENT = (
    ("dns error", "the name does not resolve"),
    ("Connection refused", "connection refused"),
    ("deadline has elapsed", "no connection in time"),
    ("operation timed out", "no connection in time"),
    ("not valid for name", "TLS certificate not valid for the name"),
    ("UnknownIssuer", "TLS certificate from an unknown issuer"),
    ("Expired", "TLS certificate expired"),
    ("certificate expired", "TLS certificate expired"),
    ("invalid peer certificate", "TLS certificate not valid"),
    ("InvalidContentType", "the port does not speak TLS"),
    ("Connection reset", "connection reset while connecting"),
)
_UNKNOWN = (
    ("Connection reset", "reset after sending"),
    ("Broken pipe", "reset while sending"),
    ("connection closed before message completed", "closed after sending"),
    ("message head is too large", "the answer's head is too large"),
)
_BY_KIND = {"DecodeError": "the answer is not HTTP", "ClientClosedError": "stopped before the answer"}


def failure(kind: str, causes: Sequence[str], limit_s: float) -> NotSent | Unknown | Unsendable | None:
    """What is known of a request that ended in an exception of class `kind`.

    None: a head came and was lost with its status, as its body failed while it was read ahead.
    """
    if kind == "BuilderError":
        return Unsendable("the address or a header cannot be sent")
    if kind == "PoolTimeoutError" or "client error (Connect)" in causes:
        return NotSent(_first(_NOT_SENT, causes) or "could not connect")
    if "error decoding response body" in causes:
        return None
    if "operation timed out" in causes:
        return Unknown(f"no answer in {limit_s:g} s")
    return Unknown(_first(_UNKNOWN, causes) or _BY_KIND.get(kind) or f"no answer ({kind})")


def _first(meanings: Sequence[tuple[str, str]], causes: Sequence[str]) -> str | None:
    texts = [cause for cause in causes if " for url (" not in cause]
    return next((reason for text, reason in meanings if any(text in cause for cause in texts)), None)
