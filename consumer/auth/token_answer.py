"""What a token request brought back. Pure.

Its law: the answer is a stranger's. Nothing of it goes on but a token that fits into a header, a
lifetime within bounds and an error code of the standards' own list; its texts are never repeated.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from consumer.crm.answers import Pause, Retry, retry_after
from consumer.exchange import Exchanged, NotSent, Response, Unknown, Unsendable

#: Characters of a token: with it a request's head stays below what servers take (16 kB or more).
MAX_TOKEN = 8_192
#: Seconds a token is taken to live where nothing says it (Salesforce), and at most: a withdrawn
#: permission is seen by then.
UNSAID_S = 600.0
MAX_LIFETIME_S = 43_200.0
#: Seconds of quiet a token server may ask for: all its connections wait meanwhile.
MAX_QUIET_S = 300.0

#: What a person must look at, by error code of RFC 6749, 5.2 and 4.1.2.1, and RFC 8707.
_PAUSING = {
    "invalid_request": "check token_url, scope and audience",
    "invalid_client": "check the client's id and secret, and client_auth",
    "invalid_grant": "check issuer, subject, audience and key, and this machine's clock",
    "unauthorized_client": "the client may not use this grant",
    "unsupported_grant_type": "the client may not use this grant",
    "invalid_scope": "check scope",
    "invalid_target": "check audience",
    "access_denied": "the client may not have this token",
}
#: RFC 6749, 4.1.2.1 and RFC 8628, 3.5.
_PASSING = frozenset({"server_error", "temporarily_unavailable", "slow_down"})
_PASSING_STATUS = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Token:
    """`authorization`: the header's value."""

    authorization: str = field(repr=False)
    #: Seconds, from when it was asked for.
    lifetime_s: float


def read(exchanged: Exchanged, host: str, now_s: float) -> Token | Pause | Retry:
    """The token, or why there is none. `now_s`: Unix seconds, for `Retry-After` as a date.

    Nothing was sent to the receiver, so no attempt of a delivery is unknown for it.
    """
    who = f"the token server {host}"
    match exchanged:
        case NotSent(reason) | Unknown(reason):
            return Retry(f"{who}: {reason}", unknown=False)
        case Unsendable(reason):
            return Pause(f"{who}: {reason}: check token_url")
        case Response(status=status) if 200 <= status < 300:
            return _granted(exchanged, who)
        case Response():
            return _refused(exchanged, who, now_s)


def _granted(response: Response, who: str) -> Token | Pause | Retry:
    if not response.read_fully:
        return Retry(f"{who}: its answer was too long or broke off", unknown=False)
    members = _members(response.body)
    token = members.get("access_token")
    if not isinstance(token, str):
        return _without_token(members, f"{who} answered {response.status} without an access token")
    kind = members.get("token_type", "bearer")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        return Pause(f"{who} gave a token that is not of the type Bearer")
    if not _is_sendable(token):
        return Pause(f"{who} gave a token that does not fit into a header")
    return Token(f"Bearer {token}", _lifetime(members.get("expires_in")))


def _is_sendable(token: str) -> bool:
    """More than RFC 6750's b64token: Salesforce's have an exclamation mark."""
    return 0 < len(token) <= MAX_TOKEN and token.isascii() and token.isprintable() and " " not in token


def _refused(response: Response, who: str, now_s: float) -> Pause | Retry:
    status = response.status
    members = _members(response.body)
    if status >= 500 or status in _PASSING_STATUS or _code(members) in _PASSING:
        asked = retry_after(response.headers, now_s)
        quiet = None if asked is None else min(asked, MAX_QUIET_S)
        return Retry(f"{who} answered {status}", unknown=False, retry_after=quiet)
    if 300 <= status < 400:
        return Pause(f"{who} answered {status}: redirects are not followed, correct token_url")
    return _without_token(members, f"{who} answered {status}")


def _without_token(members: dict[str, Any], said: str) -> Pause:
    code = _code(members)
    advice = _PAUSING.get(code)
    return Pause(
        f"{said}: check token_url and the credential" if advice is None else f"{said} {code}: {advice}"
    )


def _code(members: dict[str, Any]) -> str:
    code = members.get("error")
    return code if isinstance(code, str) else ""


def _members(body: bytes) -> dict[str, Any]:
    """Those of a JSON object; none for anything else, nested a thousand deep or not UTF-8 included."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _lifetime(expires_in: object) -> float:
    """Seconds; also from digits in a string, which some servers send. What is no number is unsaid."""
    if isinstance(expires_in, str) and expires_in.isascii() and expires_in.isdecimal():
        expires_in = float(expires_in[:19])
    if isinstance(expires_in, bool) or not isinstance(expires_in, int | float) or math.isnan(expires_in):
        return UNSAID_S
    return float(min(max(expires_in, 0), MAX_LIFETIME_S))
