"""Adds to a request what proves that it is ours: credential, signature, client certificate.

Its law: the body is never touched, and nothing of a secret is kept but tokens, in memory. Only a
delivery that must wait for a token suspends; every other goes through without giving up the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from urllib.parse import urlsplit

from consumer.auth import token_answer, token_request
from consumer.auth.secret_lines import whole
from consumer.auth.signatures import signed
from consumer.auth.static import with_credential, with_headers
from consumer.auth.token_answer import Token
from consumer.auth.tokens import TokenAuth, Tokens
from consumer.crm.answers import Pause, Retry
from consumer.exchange import ClientIdentity, Exchanged, Request
from consumer.secrets import Secrets
from schemas.auth import ClientCertificate, ClientCredentials, NoAuth, SignedAssertion
from schemas.push import HttpConnection, PushBase

_FETCHED = (ClientCredentials, SignedAssertion)


class Authenticator:
    """One for a worker, used from its request loop. Its repr shows nothing of what it holds."""

    def __init__(self, secrets: Secrets, send: Callable[[Request], Awaitable[Exchanged]]) -> None:
        """`send`: the worker's HTTP client, which checks addresses, bounds answers and never raises."""
        self._secrets, self._send = secrets, send
        self._tokens = Tokens(self._fetch)

    async def authenticate(
        self, connection: PushBase, request: Request, key: str, now_s: float, monotonic_s: float
    ) -> Request | Pause | Retry:
        """One attempt's request, ready to be sent, or why it cannot be; nothing was sent to the receiver.

        `key`: the idempotency key, which Standard Webhooks signs. `now_s`: Unix seconds.
        """
        auth = connection.auth
        proven: Request | Pause = request
        if isinstance(auth, _FETCHED):
            authorization = await self._tokens.authorization(auth, now_s, monotonic_s)
            if not isinstance(authorization, str):
                return authorization
            proven = with_headers(request, (("Authorization", authorization),))
        elif not isinstance(auth, NoAuth):
            proven = with_credential(auth, self._secrets, request, monotonic_s)
        if isinstance(proven, Request) and isinstance(connection, HttpConnection):
            proven = self._signed(connection, proven, key, now_s, monotonic_s)
        if isinstance(proven, Request) and connection.client_certificate is not None:
            proven = self._identified(connection.client_certificate, proven, monotonic_s)
        return proven

    def refused(self, connection: PushBase, request: Request, monotonic_s: float) -> bool:
        """The receiver answered 401 to `request`: whether it is worth another attempt with a fresh token.

        It is once in a while for each credential, so that a token server whose tokens are not taken
        is not asked for ever; a token that came after `request` was made is kept.
        """
        if not isinstance(connection.auth, _FETCHED):
            return False
        used = dict(request.headers).get("Authorization", "")
        return self._tokens.refused(connection.auth, used, monotonic_s)

    def _signed(
        self, connection: HttpConnection, request: Request, key: str, now_s: float, monotonic_s: float
    ) -> Request | Pause:
        if connection.signature is None:
            return request
        proof = signed(connection.signature, self._secrets, key, request.body, now_s, monotonic_s)
        return proof if isinstance(proof, Pause) else with_headers(request, proof)

    def _identified(self, own: ClientCertificate, request: Request, monotonic_s: float) -> Request | Pause:
        certificate = whole(self._secrets, own.certificate, "client_certificate.certificate", monotonic_s)
        if isinstance(certificate, Pause):
            return certificate
        private_key = whole(self._secrets, own.private_key, "client_certificate.private_key", monotonic_s)
        if isinstance(private_key, Pause):
            return private_key
        if "-----BEGIN CERTIFICATE-----" not in certificate:
            return Pause("client_certificate.certificate: its value is not the PEM of a certificate")
        if "PRIVATE KEY-----" not in private_key or "ENCRYPTED" in private_key:
            return Pause(
                "client_certificate.private_key: its value is not the PEM of a key without passphrase"
            )
        identity = ClientIdentity(certificate.encode(), private_key.encode())
        return replace(request, client_certificate=identity)

    async def _fetch(self, auth: TokenAuth, now_s: float, monotonic_s: float) -> Token | Pause | Retry:
        if isinstance(auth, ClientCredentials):
            request = token_request.client_credentials(auth, self._secrets, monotonic_s)
        else:
            parts = token_request.assertion_parts(auth, self._secrets, monotonic_s)
            if isinstance(parts, Pause):
                return parts
            request = await asyncio.to_thread(token_request.signed_assertion, auth, *parts, now_s)
        if isinstance(request, Pause):
            return request
        host = urlsplit(auth.token_url).hostname or ""
        return token_answer.read(await self._send(request), host, now_s)
