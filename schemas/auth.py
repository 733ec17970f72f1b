"""How a receiver knows that a request is the marketplace's. Secrets stand here only as references."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas import grammar
from schemas.base import Model
from schemas.grammar import Referring, Secret


class NoAuth(Model):
    kind: Literal["none"] = "none"


class HeaderKey(Model):
    """A key in a header of the receiver's choice."""

    kind: Literal["header"]
    name: grammar.HeaderName
    value: Secret


class QueryKey(Model):
    """A key in the query. Servers log addresses: only for receivers that know nothing else."""

    kind: Literal["query"]
    name: Annotated[
        str, grammar.matching(r"[A-Za-z0-9_.~\[\]-]{1,64}", "a name in a query is letters, digits and ._~-[]")
    ]
    value: Secret


class Basic(Model):
    """RFC 7617; both are encoded as UTF-8."""

    kind: Literal["basic"]
    username: Referring
    password: Secret


class Bearer(Model):
    """RFC 6750."""

    kind: Literal["bearer"]
    token: Secret


class ClientCredentials(Model):
    """OAuth2 client credentials (RFC 6749, 4.4); the token is fetched anew before it expires."""

    kind: Literal["oauth2"]
    token_url: grammar.FixedUrl
    client_id: Referring
    client_secret: Secret
    scope: Referring | None = None
    audience: Referring | None = None
    #: Where the client's own credential stands in the token request: RFC 6749, 2.3.1.
    client_auth: Literal["basic", "body"] = "basic"


class SignedAssertion(Model):
    """OAuth2 with a signed assertion (RFC 7523, 2.1): Google's service accounts, Salesforce's JWT flow."""

    kind: Literal["oauth2_assertion"]
    token_url: grammar.FixedUrl
    issuer: Referring
    #: PEM of the private key (RS256).
    private_key: Secret
    audience: Referring | None = None
    subject: Referring | None = None
    scope: Referring | None = None


Auth = Annotated[
    NoAuth | HeaderKey | QueryKey | Basic | Bearer | ClientCredentials | SignedAssertion,
    Field(discriminator="kind"),
]


class Hmac(Model):
    """An HMAC over the body, or over `<unix seconds>.<body>` where a timestamp header is named."""

    kind: Literal["hmac"]
    secret: Secret
    header: grammar.HeaderName
    #: Put before the value, such as `sha256=`.
    prefix: Annotated[str, Field(max_length=32)] = ""
    algorithm: Literal["sha256", "sha512", "sha1"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    timestamp_header: grammar.HeaderName | None = None


class StandardWebhooks(Model):
    """The headers webhook-id, webhook-timestamp and webhook-signature of the Standard Webhooks spec.

    `secrets`: as the receiver has them, `whsec_…`; two while one replaces the other.
    """

    kind: Literal["standard_webhooks"]
    secrets: Annotated[tuple[Secret, ...], Field(min_length=1, max_length=2)]


Signature = Annotated[Hmac | StandardWebhooks, Field(discriminator="kind")]


def headers_of(
    given: NoAuth
    | HeaderKey
    | QueryKey
    | Basic
    | Bearer
    | ClientCredentials
    | SignedAssertion
    | Hmac
    | StandardWebhooks
    | None,
) -> tuple[str, ...]:
    """The headers it writes itself, so that nobody else may."""
    match given:
        case HeaderKey():
            return (given.name,)
        case Basic() | Bearer() | ClientCredentials() | SignedAssertion():
            return ("Authorization",)
        case Hmac():
            return (given.header, given.timestamp_header) if given.timestamp_header else (given.header,)
        case StandardWebhooks():
            return ("webhook-id", "webhook-timestamp", "webhook-signature")
        case NoAuth() | QueryKey() | None:
            return ()


class ClientCertificate(Model):
    """Mutual TLS: PEM of the certificate with its chain, and of its private key."""

    certificate: Secret
    private_key: Secret
