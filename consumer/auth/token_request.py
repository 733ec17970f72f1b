"""Requests for OAuth2 tokens. The one owner of Authlib and joserfc.

Authlib encodes the client's credential and makes the assertion; its sessions are not used. They send
over httpx to whatever address the name has, follow its settings for proxies and redirects, read an
answer of any size and put the server's text into their errors. A token request leaves through the
worker's own HTTP client instead, with the same checks of the address as a delivery.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import quote_plus, urlencode

from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc7523 import JWTBearerGrant
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from consumer.auth.secret_lines import line, whole
from consumer.crm.answers import Pause
from consumer.exchange import Request
from consumer.secrets import Secrets
from schemas.auth import ClientCredentials, SignedAssertion

#: Seconds for one token request, its connecting included: deliveries wait for it.
TIMEOUT_S = 10.0
#: Seconds an assertion is valid. Salesforce takes at most 3 minutes, Google an hour.
ASSERTION_S = 120
#: RFC 7518, 3.3: the least an RS256 key may have.
MIN_KEY_BITS = 2_048

_HEADERS = {
    "Content-Type": "application/x-www-form-urlencoded",
    "Accept": "application/json",
    "User-Agent": "referral-delivery",
}
_AUTH_METHODS = {"basic": "client_secret_basic", "body": "client_secret_post"}


def client_credentials(auth: ClientCredentials, secrets: Secrets, monotonic_s: float) -> Request | Pause:
    """The request of RFC 6749, 4.4.2, with `audience` where it is given."""
    client_id = line(secrets, auth.client_id, "auth.client_id", monotonic_s)
    if isinstance(client_id, Pause):
        return client_id
    secret = line(secrets, auth.client_secret, "auth.client_secret", monotonic_s)
    if isinstance(secret, Pause):
        return secret
    if auth.client_auth == "basic":
        # RFC 6749, 2.3.1 wants both form-encoded first, which Authlib leaves to its caller.
        client_id, secret = quote_plus(client_id), quote_plus(secret)
    named = _lines(auth, ("scope", "audience"), secrets, monotonic_s)
    if isinstance(named, Pause):
        return named
    client = ClientAuth(client_id, secret, _AUTH_METHODS[auth.client_auth])
    form = _form(grant_type="client_credentials", **named)
    return _request(*client.prepare("POST", auth.token_url, dict(_HEADERS), form))


def assertion_parts(
    auth: SignedAssertion, secrets: Secrets, monotonic_s: float
) -> tuple[str, dict[str, str | None]] | Pause:
    """The private key's PEM, and the claims an assertion makes beside its times (RFC 7523, 3)."""
    pem = whole(secrets, auth.private_key, "auth.private_key", monotonic_s)
    if isinstance(pem, Pause):
        return pem
    named = _lines(auth, ("issuer", "subject", "audience", "scope"), secrets, monotonic_s)
    return named if isinstance(named, Pause) else (pem, named)


def signed_assertion(
    auth: SignedAssertion, pem: str, claims: Mapping[str, str | None], now_s: float
) -> Request | Pause:
    """The request of RFC 7523, 2.1. Reading a key takes 30 ms and more: call it off the loop.

    Google reads `scope` from the assertion, others from the form: it is in both.
    """
    scope = claims["scope"]
    try:
        key = RSAKey.import_key(pem)
        if key.private_key is None:
            return Pause("auth.private_key: it is a public key")
        if key.private_key.key_size < MIN_KEY_BITS:
            return Pause(f"auth.private_key: an RS256 key has at least {MIN_KEY_BITS} bits (RFC 7518)")
        assertion = JWTBearerGrant.sign(
            key,
            issuer=claims["issuer"],
            subject=claims["subject"],
            audience=claims["audience"] or auth.token_url,
            issued_at=int(now_s),
            expires_at=int(now_s) + ASSERTION_S,
            claims={"scope": scope} if scope else None,
            header={"alg": "RS256"},
        )
    except (JoseError, ValueError, TypeError):  # their text may repeat parts of the key
        return Pause("auth.private_key: its value is not the PEM of an RSA private key without a passphrase")
    grant = "urn:ietf:params:oauth:grant-type:jwt-bearer"
    form = _form(grant_type=grant, assertion=assertion, scope=scope)
    return _request(auth.token_url, _HEADERS, form)


def _lines(
    auth: ClientCredentials | SignedAssertion, names: Iterable[str], secrets: Secrets, monotonic_s: float
) -> dict[str, str | None] | Pause:
    """The members of these names, with their references replaced."""
    found: dict[str, str | None] = {}
    for name in names:
        given = getattr(auth, name)
        value = given and line(secrets, given, f"auth.{name}", monotonic_s)
        if isinstance(value, Pause):
            return value
        found[name] = value
    return found


def _form(**members: str | None) -> str:
    return urlencode({name: value for name, value in members.items() if value is not None})


def _request(url: str, headers: dict[str, str], form: str) -> Request:
    return Request("POST", url, tuple(headers.items()), form.encode("ascii"), TIMEOUT_S)
