"""A Meta custom audience: people added and taken out by hashed identifiers, many a request.

Its law: the stored row holds hashes alone, and adding somebody twice is adding once. Meta answers with
totals, so a row's outcome is that of its request.

developers.facebook.com/docs/marketing-api/reference/custom-audience/users and
developers.facebook.com/docs/graph-api/guides/error-handling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from consumer.crm import identifiers
from consumer.crm.answers import Answer, Delivered, Pause, Rejected, Retry, retry_after
from consumer.crm.answers import classify as classify_plain
from consumer.crm.port import Rendered, Sending
from consumer.crm.rows import AGENT, decoded, encoded, parsed, record_id, refused
from consumer.exchange import Exchanged, Request, Response
from consumer.secrets import Secrets
from schemas import mapping
from schemas.crms import META_ENOUGH
from schemas.delivery import Action
from schemas.push import MetaAudienceConnection
from schemas.referral import Referral

#: It takes 10,000; a thousand rows of every key are a megabyte, sent well within the timeout.
MAX_ROWS = 1_000
#: Its windows are of an hour and tell no time of their own; a minute early costs one refused request.
THROTTLED_S = 60.0

#: Calls of the app, the user, the page, the account (613, 80003 for custom audiences), the platform.
THROTTLED = frozenset({4, 17, 32, 341, 613, *range(80_000, 80_015)})
PASSING = frozenset({1, 2})
_CREDENTIAL = "check the access token and what it may do"
PAUSING: Mapping[int, str] = {
    **dict.fromkeys((3, 10, 102, 190, *range(200, 300)), _CREDENTIAL),
    368: "Meta blocks the account for its policies",
    **dict.fromkeys((2655, 2663), "accept the custom audience terms for this ad account"),
}
#: Of code 100, whose other subcodes are about the rows.
PAUSING_SUBCODES: Mapping[int, str] = {
    33: "check the audience's id and the token's right to it",
    1_713_230: "the audience is restricted: appeal in Meta's Audience Manager",
}


def render(connection: MetaAudienceConnection, referral: Referral) -> Rendered:
    """The person's identifiers by Meta's keys, hashed; nothing where nobody could be found by them. Pure."""
    values = connection.columns.pairs(referral)
    row = {name: identifiers.meta(name, mapping.text(value)) for name, value in values}
    row = {name: value for name, value in row.items() if value}
    if not any(row.keys() >= set(names) for names in META_ENOUGH):
        return Rendered(b"")
    body = encoded(row)
    return Rendered(body, removal=body if connection.remove else None)


def request(
    connection: MetaAudienceConnection, _secrets: Secrets, sending: Sending, _now: float
) -> Request | Pause | Rejected:
    """All rows under one schema; a row without one of its keys is blank there."""
    if not all(row.body for row in sending.rows):
        return refused("the referral has nothing Meta could know somebody by")
    rows: list[dict[str, str]] = [parsed(row.body) for row in sending.rows]
    if not all(map(identifiers.is_meta, rows)):
        return refused("rendered when the connection was of another kind")
    schema = list(dict.fromkeys(name for row in rows for name in row))
    data = [[row.get(name, "") for name in schema] for row in rows]
    body = urlencode({"payload": encoded({"schema": schema, "data": data})})
    return Request(
        "DELETE" if sending.action is Action.REMOVE else "POST",
        f"{connection.address.rstrip('/')}/{connection.api_version}/{connection.audience_id}/users",
        (("Content-Type", "application/x-www-form-urlencoded"), AGENT),
        body.encode("ascii"),
        connection.timeout,
    )


def classify(
    _connection: MetaAudienceConnection, sending: Sending, exchanged: Exchanged, now: float
) -> Answer | Sequence[Answer]:
    """What the attempt came to; one answer for all rows but where none was taken. `now`: Unix seconds."""
    if not isinstance(exchanged, Response):
        return classify_plain(exchanged, now)
    answer = decoded(exchanged)
    if 200 <= exchanged.status < 300:
        return _of_totals(answer, sending, exchanged.status)
    error = answer.get("error")
    told = _of_error(error, exchanged, now) if isinstance(error, dict) else None
    return told or classify_plain(exchanged, now)


def _of_totals(answer: Mapping[str, Any], sending: Sending, status: int) -> Answer | Sequence[Answer]:
    """`{audience_id, session_id, num_received, num_invalid_entries, invalid_entry_samples}`.

    The samples are some of the invalid entries, not all: which rows they are cannot be told for good.
    """
    received, invalid = _number(answer.get("num_received")), _number(answer.get("num_invalid_entries", 0))
    if received is None or invalid is None or received < len(sending.rows):
        return Retry("answered without the totals of what was taken", unknown=True, status=status)
    if invalid >= len(sending.rows):
        return [Rejected(status, "none of the request's entries is valid")] * len(sending.rows)
    return Delivered(status, record_id(answer.get("session_id")), by_request=True)


def _of_error(error: Mapping[str, Any], response: Response, now: float) -> Answer | None:
    """Most errors are a 400, told apart by their code. None where the status says more than the code."""
    code, subcode, status = _number(error.get("code")), _number(error.get("error_subcode")), response.status
    if code is None:
        return None
    reason = f"answered {status}, error {code}" + (f", subcode {subcode}" if subcode else "")
    if code in THROTTLED:
        wait = max(THROTTLED_S, retry_after(response.headers, now) or 0.0)
        return Retry(reason, unknown=False, status=status, retry_after=wait)
    # Codes below zero are Meta's own failures.
    if code in PASSING or code < 0 or error.get("is_transient") is True:
        return Retry(reason, unknown=True, status=status, retry_after=retry_after(response.headers, now))
    advice = PAUSING.get(code) or PAUSING_SUBCODES.get(subcode or 0)
    if advice is not None:
        return Pause(f"{reason}: {advice}", status)
    return Rejected(status, reason) if status == HTTPStatus.BAD_REQUEST else None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
