"""HubSpot contacts: upserts in batches by a unique property, and GDPR deletion one by one.

Its law: every row carries its delivery's id as `objectWriteTraceId`, by which answers name it. Values
that are missing or blank are left out and keep what HubSpot has.

Rules: developers.hubspot.com/docs/api-reference, "Upsert a batch of contacts", "Permanently delete a
contact", "Error handling" (multi-status errors) and "API usage guidelines".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from consumer.crm.answers import Answer, Delivered, Pause, Rejected, Retry, retry_after
from consumer.crm.answers import classify as classify_plain
from consumer.crm.port import Rendered, Sending
from consumer.crm.rows import JSON_HEADERS, decoded, encoded, members, record_id, refused
from consumer.exchange import Exchanged, Request, Response
from consumer.frozen import Frozen
from consumer.secrets import Secrets
from schemas import mapping
from schemas.delivery import Action
from schemas.push import HubspotConnection
from schemas.referral import Referral

#: HubSpot takes 100. Its answer repeats each row and adds about 950 bytes, and must fit in the 64 KiB
#: that are read of an answer: 40 rows of together at most MAX_BYTES do.
MAX_ROWS = 40
MAX_BYTES = 24_000
#: Seconds of quiet where a day's quota is used up: it comes back at midnight of the account's zone.
DAILY_S = 3_600.0
#: Seconds of quiet during a move between data centres, where HubSpot names none.
MIGRATION_S = 3_600.0
_MIGRATION = 477

_CONTACTS = "crm/v3/objects/contacts"
#: What is wrong with the connection's fields, and so with every row. Values stand in messages too, but
#: as JSON in JSON, with their quotes escaped: nobody's name can look like this.
_CONFIGURATION = re.compile(
    r'"error":\s*"(PROPERTY_DOESNT_EXIST|READ_ONLY_VALUE)"|\AUnable to perform update/upsert by non-unique'
)
#: The category of a contact that is not there.
_ABSENT = "OBJECT_NOT_FOUND"
#: Categories of a row's error that pass.
_PASSING = frozenset({"CONFLICT", "RATE_LIMITS", "INTERNAL_ERROR", "TIMEOUT"})


def render(connection: HubspotConnection, referral: Referral) -> Rendered:
    """One of a batch's inputs as JSON, and its id. Pure."""
    values = connection.columns.pairs(referral)
    properties = {name: text for name, value in values if (text := mapping.text(value).strip())}
    unique = properties.get(connection.id_property)
    if unique is None:
        return Rendered(b"")
    row = {"id": unique, "idProperty": connection.id_property, "properties": properties}
    email = properties.get("email")
    removal = encoded({"objectId": email, "idProperty": "email"}) if connection.remove and email else None
    return Rendered(encoded(row), {"id": unique}, removal)


def request(
    connection: HubspotConnection, _secrets: Secrets, sending: Sending, _now: float
) -> Request | Pause | Rejected:
    """POST the rows. Two of one contact must go apart: HubSpot refuses a batch that names an id twice."""
    rows = sending.rows
    if sending.action is Action.REMOVE:
        return _post(connection, "gdpr-delete", rows[0].body)
    if any("id" not in row.values for row in rows):
        return refused(f"no {connection.id_property}: the referral has none, or its campaign may not give it")
    if len({_id(row) for row in rows}) < len(rows):
        return refused("two referrals of one contact")
    inputs = b",".join(
        b'{"objectWriteTraceId":"%b",%b' % (row.delivery_id.encode(), row.body[1:]) for row in rows
    )
    if len(rows) > 1 and len(inputs) > MAX_BYTES:
        return refused("the batch is too large")
    return _post(connection, "batch/upsert", b'{"inputs":[%b]}' % inputs)


def _post(connection: HubspotConnection, path: str, body: bytes) -> Request:
    url = f"{connection.address.rstrip('/')}/{_CONTACTS}/{path}"
    return Request("POST", url, JSON_HEADERS, body, connection.timeout)


def _id(row: Frozen) -> str:
    """HubSpot's unique values ignore case."""
    return row.values["id"].lower()


def classify(
    connection: HubspotConnection, sending: Sending, exchanged: Exchanged, now: float
) -> Answer | Sequence[Answer]:
    """What the attempt came to, by row where HubSpot says so. `now`: Unix seconds."""
    if not isinstance(exchanged, Response):
        return classify_plain(exchanged, now)
    status, told = exchanged.status, decoded(exchanged)
    if 200 <= status < 300:
        removes = sending.action is Action.REMOVE
        return _removed(status) if removes else _by_row(connection, sending, status, told)
    if status == HTTPStatus.BAD_REQUEST:
        return _refusal(connection, status, [told, *members(told.get("errors"))])
    if sending.action is Action.REMOVE and status == HTTPStatus.NOT_FOUND and told.get("category") == _ABSENT:
        return Delivered(status)
    return _passing(status, told, retry_after(exchanged.headers, now)) or classify_plain(exchanged, now)


def _passing(status: int, told: Mapping[str, Any], wait: float | None) -> Retry | None:
    """Answers whose meaning is HubSpot's own. `wait`: seconds it asks for."""
    if status == HTTPStatus.TOO_MANY_REQUESTS and told.get("policyName") == "DAILY":
        return Retry("answered 429: the day's quota is used up", False, status, max(wait or 0.0, DAILY_S))
    if status == HTTPStatus.CONFLICT:
        return Retry("answered 409: another change of the contact is under way", True, status, wait)
    if status == _MIGRATION:
        wait = MIGRATION_S if wait is None else wait
        return Retry("answered 477: HubSpot is moving the account", False, status, wait)
    return None


def _removed(status: int) -> Answer:
    if status == HTTPStatus.NO_CONTENT:
        return Delivered(status)
    return Retry(f"answered {status}, but not as HubSpot does", True, status)


def _by_row(
    connection: HubspotConnection, sending: Sending, status: int, told: dict[str, Any]
) -> Answer | Sequence[Answer]:
    """Rows are told apart by trace id, or by their unique property where HubSpot leaves the trace out."""
    results, errors = members(told.get("results")), members(told.get("errors"))
    if not results and not errors:
        return Retry(f"answered {status}, but not as HubSpot does", True, status)
    taken: dict[str, str | None] = {}
    for result in results:
        properties = result.get("properties")
        unique = properties.get(connection.id_property) if isinstance(properties, dict) else None
        taken |= dict.fromkeys(_names(result.get("objectWriteTraceId"), unique), record_id(result.get("id")))
    whole = _refusal(connection, status, errors)
    if isinstance(whole, Pause):
        return whole
    known = {name for row in sending.rows for name in (row.delivery_id, _id(row))}
    failed: dict[str, dict[str, Any]] = {}
    for error in errors:
        context = error.get("context")
        names = _names(*context.values()) if isinstance(context, dict) else set()
        if not names & known and len(sending.rows) > 1:
            return whole
        failed |= dict.fromkeys(names & known or known, error)
    return [_of_row(connection, row, status, taken, failed) for row in sending.rows]


def _names(*values: Any) -> set[str]:
    """Texts, alone or in lists, as they are compared."""
    listed = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return {one.lower() for one in listed if isinstance(one, str)}


def _of_row(
    connection: HubspotConnection,
    row: Frozen,
    status: int,
    taken: Mapping[str, str | None],
    failed: Mapping[str, dict[str, Any]],
) -> Answer:
    for name in (row.delivery_id, _id(row)):
        if name in failed:
            error = failed[name]
            if error.get("category") in _PASSING:
                return Retry(f"answered {status}: HubSpot could not take this contact now", False, status)
            return _refusal(connection, status, [error])
        if name in taken:
            return Delivered(status, taken[name])
    return Retry(f"answered {status} without naming this contact", True, status)


def _refusal(
    connection: HubspotConnection, status: int, errors: Sequence[dict[str, Any]]
) -> Pause | Rejected:
    """What errors say of the fields; of their text only our names are told, the rest may be personal data."""
    texts = [one for error in errors if isinstance(one := error.get("message"), str)]
    named = [rule.name for rule in connection.fields if any(f'"{rule.name}"' in text for text in texts)]
    if any(_CONFIGURATION.search(text) for text in texts):
        fields = ", ".join(named) or "see fields"
        return Pause(f"answered {status}: HubSpot has no such property to write: {fields}", status)
    return Rejected(status, f"answered {status}: HubSpot does not take {', '.join(named) or 'a value'}")
