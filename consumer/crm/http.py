"""The generic HTTP connection: one request per referral, as the advertiser's file describes it.

Its law: the body is made once, at intake, and frozen, and so is what address and headers take from the
referral; everything else is made anew for each attempt, so that a rotated secret and a mended address
reach the deliveries that already wait.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from consumer.crm import rules
from consumer.crm.answers import Answer, Pause, Rejected
from consumer.crm.port import Rendered, Sending
from consumer.exchange import Exchanged, Request
from consumer.secrets import Missing, Secrets
from schemas import mapping, template
from schemas.connection import HttpConnection
from schemas.delivery import Action
from schemas.mapping import Value
from schemas.referral import Referral
from schemas.template import Literal, Part, Unfit

CONTENT_TYPES = {"json": "application/json", "form": "application/x-www-form-urlencoded"}
#: Made once: `json.dumps` makes one for each document.
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
USER_AGENT = ("User-Agent", "referral-delivery")


def render(connection: HttpConnection, referral: Referral) -> Rendered:
    """The body, and what the templates take from the referral. Pure."""
    removal = connection.removal
    templates = [connection.url, *connection.headers.values()]
    taken_back: bytes | None = None
    if removal is not None:
        templates.append(removal.url)
        members = mapping.render(removal.fields, referral, partner_data=connection.partner_data)
        taken_back = _body(connection, members) if members else b""
    values = template.values(templates, referral, partner_data=connection.partner_data)
    return Rendered(_body(connection, connection.columns.pairs(referral)), values, taken_back)


def request(
    connection: HttpConnection, secrets: Secrets, sending: Sending, now: float
) -> Request | Pause | Rejected:
    """The request of one attempt. `now`: seconds of a monotonic clock.

    A `Pause` where the connection cannot make one, a `Rejected` where this referral's values do not fit
    its address or headers. The connection's headers win over our defaults.
    """
    (row,) = sending.rows
    url: str = connection.url
    method: str = connection.method
    if sending.action is Action.REMOVE:
        if connection.removal is None:
            return Rejected(None, "not sent: the connection no longer says how a person is removed")
        url, method = connection.removal.url, connection.removal.method
    address = template.url(url, row.values)
    if isinstance(address, Unfit):
        return Rejected(None, f"not sent: {address.reason}")
    headers = _headers(connection, secrets, sending.key, row.values, now)
    if not isinstance(headers, list):
        return headers
    defaults = [("Content-Type", CONTENT_TYPES[connection.body])] if row.body else []
    given = {name.lower() for name, _ in headers}
    headers += [default for default in (*defaults, USER_AGENT) if default[0].lower() not in given]
    return Request(method, address, tuple(headers), row.body, connection.timeout)


def classify(connection: HttpConnection, sending: Sending, exchanged: Exchanged, now: float) -> Answer:
    """What the attempt came to. `now`: Unix seconds."""
    if sending.action is Action.REMOVE:
        return rules.classify_removal(connection, exchanged, now)
    return rules.classify(connection, exchanged, now)


def _headers(
    connection: HttpConnection, secrets: Secrets, key: str, values: Mapping[str, str], now: float
) -> list[tuple[str, str]] | Pause | Rejected:
    idempotency = connection.idempotency
    headers = [(idempotency.header, f'"{key}"' if idempotency.quoted else key)]
    for name, text in connection.headers.items():
        # References are resolved before values come in: a value that looks like one stays what it is.
        parts = _resolved(template.parse(text), secrets, now)
        if isinstance(parts, Missing):
            return Pause(f"header {name}: {parts.reason}")
        said = "".join(part.text for part in parts if isinstance(part, Literal))
        if not (said.isascii() and said.isprintable()):
            return Pause(f"header {name}: its value is not one line of ASCII text")
        value = template.header(parts, values)
        if isinstance(value, Unfit):
            return Rejected(None, f"not sent: header {name}: {value.reason}")
        headers.append((name, value))
    return headers


def _resolved(parts: Iterable[Part], secrets: Secrets, now: float) -> list[Part] | Missing:
    resolved: list[Part] = []
    for part in parts:
        if isinstance(part, Literal):
            text = secrets.resolve(part.text, now)
            if isinstance(text, Missing):
                return text
            part = Literal(text)  # noqa: PLW2901 - the same part, resolved
        resolved.append(part)
    return resolved


def _body(connection: HttpConnection, members: Sequence[tuple[str, Value]]) -> bytes:
    """The members in their order: a JSON object, compact and in UTF-8, or a form."""
    if connection.body == "form":
        return urlencode([(name, mapping.text(value)) for name, value in members]).encode("ascii")
    document = _nested(members) if connection.nested else dict(members)
    return _JSON.encode(document).encode("utf-8")


def _nested(members: Iterable[tuple[str, Value]]) -> dict[str, Any]:
    """Objects by the names' dots; the file's check has seen that no two names clash."""
    document: dict[str, Any] = {}
    for name, value in members:
        *path, last = name.split(".")
        here = document
        for part in path:
            here = here.setdefault(part, {})
        here[last] = value
    return document
