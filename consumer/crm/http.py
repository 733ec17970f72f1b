"""The generic HTTP connection: one JSON request per referral, as the advertiser's file describes it.

Its law: the body is made once, at intake, and frozen; everything else is made anew for each attempt,
so that a rotated secret reaches the deliveries that already wait.
"""

from __future__ import annotations

import json

from consumer.crm.answers import Answer, Pause
from consumer.crm.answers import classify as classify_plain
from consumer.crm.port import Rendered, Sending
from consumer.exchange import Exchanged, Request
from consumer.secrets import Missing, Secrets
from schemas import mapping
from schemas.connection import HttpConnection
from schemas.referral import Referral

DEFAULTS = (("Content-Type", "application/json"), ("User-Agent", "referral-delivery"))


def render(connection: HttpConnection, referral: Referral) -> Rendered:
    """The referral as a JSON object: the connection's fields in their order, compact, UTF-8. Pure."""
    members = dict(mapping.render(connection.fields, referral, partner_data=connection.partner_data))
    body = json.dumps(members, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Rendered(body.encode("utf-8"))


def request(connection: HttpConnection, secrets: Secrets, sending: Sending, now: float) -> Request | Pause:
    """The request of one attempt, or why the connection cannot make one.

    `now`: seconds of a monotonic clock. The connection's headers
    win over our defaults.
    """
    key = connection.idempotency
    headers = [(key.header, f'"{sending.key}"' if key.quoted else sending.key)]
    for name, template in connection.headers.items():
        value = secrets.resolve(template, now)
        if isinstance(value, Missing):
            return Pause(f"header {name}: {value.reason}")
        if not (value.isascii() and value.isprintable()):
            return Pause(f"header {name}: its value is not one line of ASCII text")
        headers.append((name, value))
    given = {name.lower() for name, _ in headers}
    headers += [default for default in DEFAULTS if default[0].lower() not in given]
    return Request(
        connection.method, connection.url, tuple(headers), sending.rows[0].body, connection.timeout
    )


def classify(connection: HttpConnection, _sending: Sending, exchanged: Exchanged, now: float) -> Answer:
    """What the attempt came to; a 2xx needs no body. `now`: Unix seconds."""
    return classify_plain(exchanged, now, connection.idempotency.header)
