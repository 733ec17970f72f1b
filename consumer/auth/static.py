"""Credentials that are values in the request itself: a key in header or query, Basic, Bearer.

Its law: nothing is kept, so a rotated secret is used as soon as `Secrets` sees it.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from typing import assert_never
from urllib.parse import quote

from consumer.auth.secret_lines import header_value, line
from consumer.crm.answers import Pause
from consumer.exchange import Request
from consumer.secrets import Secrets
from schemas.auth import Basic, Bearer, HeaderKey, NoAuth, QueryKey

Static = NoAuth | HeaderKey | QueryKey | Basic | Bearer
Headers = tuple[tuple[str, str], ...]


def with_headers(request: Request, added: Headers) -> Request:
    """`request` with these headers, each in place of those of its name: one of two would win by luck."""
    names = {name.lower() for name, _ in added}
    kept = [header for header in request.headers if header[0].lower() not in names]
    return replace(request, headers=(*kept, *added))


def with_query(request: Request, pair: str) -> Request:
    """`request` with `name=value`, encoded, at the end of its query."""
    separator = "" if request.url.endswith(("?", "&")) else "&" if "?" in request.url else "?"
    return replace(request, url=f"{request.url}{separator}{pair}")


def with_credential(auth: Static, secrets: Secrets, request: Request, monotonic_s: float) -> Request | Pause:
    """`request` with the credential in its place, or why there is none."""
    match auth:
        case NoAuth():
            return request
        case HeaderKey():
            value = header_value(secrets, auth.value, "auth.value", monotonic_s)
            return value if isinstance(value, Pause) else with_headers(request, ((auth.name, value),))
        case QueryKey():
            value = line(secrets, auth.value, "auth.value", monotonic_s)
            if isinstance(value, Pause):
                return value
            return with_query(request, f"{quote(auth.name, safe='')}={quote(value, safe='')}")
        case Basic():
            value = _basic(auth, secrets, monotonic_s)
        case Bearer():
            value = header_value(secrets, auth.token, "auth.token", monotonic_s)
            value = value if isinstance(value, Pause) else f"Bearer {value}"
        case _:
            assert_never(auth)
    return value if isinstance(value, Pause) else with_headers(request, (("Authorization", value),))


def _basic(auth: Basic, secrets: Secrets, monotonic_s: float) -> str | Pause:
    """RFC 7617: the first colon ends the user name, so it has none."""
    username = line(secrets, auth.username, "auth.username", monotonic_s)
    if isinstance(username, Pause):
        return username
    password = line(secrets, auth.password, "auth.password", monotonic_s)
    if isinstance(password, Pause):
        return password
    if ":" in username:
        return Pause("auth.username: a user name with a colon cannot be sent as Basic (RFC 7617)")
    return f"Basic {b64encode(f'{username}:{password}'.encode()).decode('ascii')}"
