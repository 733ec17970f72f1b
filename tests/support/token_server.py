"""A real OAuth2 token server on loopback, with the API its tokens open.

It checks the grant, the client's credential and the scope as RFC 6749 and 7523 say, and counts. What it
cannot do by itself, a reply given with `says` does: bytes as a body, or a whole answer of `peers`.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote_plus

from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.support.peers import Peer, Reply, answer, peer

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@dataclass
class TokenServer:
    client_id: str = "client"
    client_secret: str = "SECRET-CLIENT"
    client_auth: str = "basic"
    scope: str | None = None
    #: Who may sign assertions: issuer and PEM of the public key.
    issuers: dict[str, bytes] = field(default_factory=dict)
    #: More members of a good answer; None leaves one out.
    members: dict[str, Any] = field(default_factory=lambda: {"expires_in": 3600})
    #: Given in place of what it would say.
    says: Reply | None = None
    peer: Peer = field(default_factory=Peer)
    #: The forms of all token requests, and the claims of all good assertions.
    forms: list[dict[str, str]] = field(default_factory=list)
    claims: list[Mapping[str, Any]] = field(default_factory=list)
    #: Tokens given, and those the API takes no more.
    given: list[str] = field(default_factory=list)
    revoked: set[str] = field(default_factory=set)
    #: The credentials the API was shown.
    shown: list[str] = field(default_factory=list)

    @property
    def asked(self) -> int:
        return len(self.forms)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.peer.port}/token"

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.peer.port}/api"

    def token(self, head: bytes, body: bytes) -> Reply:
        form = {name: values[0] for name, values in parse_qs(body.decode(), strict_parsing=True).items()}
        self.forms.append(form)
        if self.says is not None:
            return self.says
        if fields(head).get("content-type") != "application/x-www-form-urlencoded":
            return refusal(400, "invalid_request")
        error = (
            self._wrong_with_assertion(form) if "assertion" in form else self._wrong_with_client(head, form)
        )
        if error is not None:
            return error
        if form.get("scope") != self.scope:
            return refusal(400, "invalid_scope")
        self.given.append(f"SECRET-TOKEN-{len(self.given) + 1}")
        members = {"access_token": self.given[-1], "token_type": "Bearer", **self.members}
        return json_answer(200, {name: value for name, value in members.items() if value is not None})

    def _wrong_with_client(self, head: bytes, form: dict[str, str]) -> Reply | None:
        if form.get("grant_type") != "client_credentials":
            return refusal(400, "unsupported_grant_type")
        scheme, _, shown = fields(head).get("authorization", "").partition(" ")
        if self.client_auth == "basic":
            pair = (
                base64.b64decode(shown).decode("ascii").partition(":") if scheme == "Basic" else ("", "", "")
            )
            name, secret = unquote_plus(pair[0]), unquote_plus(pair[2])
        else:
            name, secret = form.get("client_id", ""), form.get("client_secret", "")
        one_way = bool(scheme) != ("client_secret" in form)
        right = (name, secret) == (self.client_id, self.client_secret) and one_way
        return None if right else refusal(401, "invalid_client")

    def _wrong_with_assertion(self, form: dict[str, str]) -> Reply | None:
        if form.get("grant_type") != JWT_BEARER:
            return refusal(400, "unsupported_grant_type")
        for issuer, key in self.issuers.items():
            with contextlib.suppress(Exception):
                claims = jwt.decode(form["assertion"], RSAKey.import_key(key), algorithms=["RS256"]).claims
                options: dict[str, Any] = {
                    "iss": {"essential": True, "value": issuer},
                    "aud": {"essential": True, "value": self.url},
                    "exp": {"essential": True},
                }
                jwt.JWTClaimsRegistry(leeway=0, **options).validate(claims)
                self.claims.append(claims)
                return None
        return refusal(400, "invalid_grant")

    def called(self, head: bytes) -> Reply:
        """The API: 200 for a token it knows, 401 for any other."""
        shown = fields(head).get("authorization", "")
        self.shown.append(shown)
        token = shown.removeprefix("Bearer ")
        return answer(200 if token in self.given and token not in self.revoked else 401)


def fields(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}


def json_answer(status: int, members: object, *headers: str) -> Reply:
    return answer(status, "Content-Type: application/json", *headers, body=json.dumps(members).encode())


def refusal(status: int, error: str) -> Reply:
    return json_answer(status, {"error": error, "error_description": "SECRET-TEXT of the server"})


@contextlib.asynccontextmanager
async def token_server(**settings: Any) -> AsyncIterator[TokenServer]:
    state = TokenServer(**settings)

    async def reply(reader: Any, writer: Any) -> bool | None:
        head, body = there.received[-1]
        decided = state.token(head, body) if b" /token" in head.split(b"\r\n")[0] else state.called(head)
        if isinstance(decided, bytes):
            writer.write(decided)
            await writer.drain()
            return None
        return await decided(reader, writer)

    async with peer(reply) as there:
        state.peer = there
        yield state
