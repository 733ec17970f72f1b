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
#: The server's words on our certificate. With TLS 1.3 they come when the request is on its way already;
#: they prove nothing came of it, for a server judges the certificate before it reads what follows.
_CERTIFICATE = (
    ("fatal alert: CertificateRequired", "the server asks for a client certificate"),
    *(
        (f"fatal alert: {alert}", "the server refuses our client certificate")
        for alert in (
            "BadCertificate",
            "UnsupportedCertificate",
            "CertificateRevoked",
            "CertificateExpired",
            "CertificateUnknown",
            "UnknownCA",
            "DecryptError",
        )
    ),
)
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
    ("fatal alert: HandshakeFailure", "the server refuses our TLS version, ciphers or client certificate"),
    ("InvalidContentType", "the port does not speak TLS"),
    ("Connection reset", "connection reset while connecting"),
)
_UNKNOWN = (
    ("Connection reset", "reset after sending"),
    ("Broken pipe", "reset while sending"),
    ("connection closed before message completed", "closed after sending"),
    ("message head is too large", "the answer's head is too large"),
)
#: All of a server's connections were in use until the wait for one ended; says nothing about the server.
NO_FREE_CONNECTION = NotSent("no free connection in time")
_BY_KIND = {"DecodeError": "the answer is not HTTP", "ClientClosedError": "stopped before the answer"}


def failure(kind: str, causes: Sequence[str], limit_s: float) -> NotSent | Unknown | Unsendable | None:
    """What is known of a request that ended in an exception of class `kind`.

    None: a head came and was lost with its status, as its body failed while it was read ahead.
    """
    if kind == "BuilderError":
        return Unsendable("the address or a header cannot be sent")
    if kind == "PoolTimeoutError":
        return NO_FREE_CONNECTION
    refused = _first(_CERTIFICATE, causes)
    if refused or "client error (Connect)" in causes:
        return NotSent(refused or _first(_NOT_SENT, causes) or "could not connect")
    if "error decoding response body" in causes:
        return None
    if "operation timed out" in causes:
        return Unknown(f"no answer in {limit_s:g} s")
    return Unknown(_first(_UNKNOWN, causes) or _BY_KIND.get(kind) or f"no answer ({kind})")


def _first(meanings: Sequence[tuple[str, str]], causes: Sequence[str]) -> str | None:
    texts = [cause for cause in causes if " for url (" not in cause]
    return next((reason for text, reason in meanings if any(text in cause for cause in texts)), None)
