"""Salesforce: records upserted by an external id, up to MAX_ROWS a request, an answer for each row.

Its law: Salesforce answers 200 for rows it refused, so a row's outcome is what its own result says.
Only codes leave its errors; its messages repeat what was sent.

REST API Developer Guide: "Upsert Records Using sObject Collections", "Delete Records Using sObject Rows
by External ID", "Status Codes and Error Responses".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from itertools import zip_longest
from typing import Any
from urllib.parse import quote

from consumer.crm.answers import Answer, Delivered, Duplicate, Pause, Rejected, Retry
from consumer.crm.answers import classify as classify_plain
from consumer.crm.port import Rendered, Sending
from consumer.crm.rows import AGENT, JSON_HEADERS, encoded, members, record_id, refused
from consumer.exchange import Exchanged, Request, Response
from consumer.secrets import Secrets
from schemas import mapping
from schemas.delivery import Action
from schemas.push import SalesforceConnection
from schemas.referral import Referral

#: What it takes in one request.
MAX_ROWS = 200
#: The limit counts the requests of 24 hours: it frees some each minute, and asking costs one.
LIMIT_S = 900.0
#: Codes worth showing: none of them can hold a value.
_CODE = re.compile(r"[A-Z][A-Z0-9_]{1,63}")
_JSON = json.JSONDecoder()
_OPENS, _GOES_ON = re.compile(r"\s*\[\s*"), re.compile(r"\s*[,\]]\s*")

#: Not applied, and nothing is wrong with the record.
PASSING = frozenset(
    {
        "ALL_OR_NONE_OPERATION_ROLLED_BACK",
        "ENTITY_IS_LOCKED",
        "PROCESSING_HALTED",
        "QUERY_TIMEOUT",
        "REQUEST_LIMIT_EXCEEDED",
        "REQUEST_RUNNING_TOO_LONG",
        "SERVER_UNAVAILABLE",
        "UNABLE_TO_LOCK_ROW",
    }
)
#: The same for every record: what a person must change.
PAUSING: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "API_CURRENTLY_DISABLED",
            "API_DISABLED_FOR_ORG",
            "INSUFFICIENT_ACCESS",
            "INSUFFICIENT_ACCESS_OR_READONLY",
            "INVALID_SESSION_ID",
        ),
        "check the credential and what it may do",
    ),
    **dict.fromkeys(
        (
            "EXTERNAL_ID_FIELD_NOT_FOUND",
            "INVALID_FIELD",
            "INVALID_FIELD_FOR_INSERT_UPDATE",
            "INVALID_TYPE",
            "NOT_FOUND",
        ),
        "check object, external id and field names",
    ),
    "STORAGE_LIMIT_EXCEEDED": "the organisation has no room left",
}

_GONE = frozenset({"ENTITY_IS_DELETED", "NOT_FOUND"})


def render(connection: SalesforceConnection, referral: Referral) -> Rendered:
    """The record's fields; nothing where the external id is blank. Pure.

    Fields without a value are left out: an upsert must not blank what the organisation knows.
    """
    values = connection.columns.pairs(referral)
    record = {name: value for name, value in values if value is not None}
    key = mapping.text(record.get(connection.external_id)).strip()
    if not key:
        return Rendered(b"")
    removal = encoded({connection.external_id: key}) if connection.remove else None
    return Rendered(encoded(record | {connection.external_id: key}), removal=removal)


def request(
    connection: SalesforceConnection, _secrets: Secrets, sending: Sending, _now: float
) -> Request | Pause | Rejected:
    """One upsert of all rows, or the removal of one."""
    if not all(row.body for row in sending.rows):
        return refused(f"the referral has nothing for {connection.external_id}")
    if sending.action is Action.REMOVE:
        return _removal(connection, sending)
    records = _by_key(connection, sending)
    if None in records:
        return refused(f"rendered when {connection.external_id} was not the external id")
    kind = {"attributes": {"type": connection.object}}
    body = {"allOrNone": False, "records": [kind | record for record in records.values()]}
    path = f"composite/sobjects/{connection.object}/{connection.external_id}"
    return Request("PATCH", _url(connection, path), JSON_HEADERS, encoded(body), connection.timeout)


def classify(
    connection: SalesforceConnection, sending: Sending, exchanged: Exchanged, now: float
) -> Answer | Sequence[Answer]:
    """What the attempt came to, row by row where the request was understood. `now`: Unix seconds."""
    if not isinstance(exchanged, Response):
        return classify_plain(exchanged, now)
    if sending.action is Action.REMOVE:
        return _of_removal(exchanged, now)
    if not 200 <= exchanged.status < 300:
        return _of_request(exchanged, now)
    keys = list(_by_key(connection, sending))
    results = _listed(exchanged)
    if len(results) > len(keys) or (exchanged.read_fully and len(results) < len(keys)):
        return Retry("answered without a result for each record", unknown=True, status=exchanged.status)
    answers = {
        key: _of_row(connection, result, exchanged.status) for key, result in zip_longest(keys, results)
    }
    return [answers[_key(connection, json.loads(row.body))] for row in sending.rows]


def _by_key(connection: SalesforceConnection, sending: Sending) -> dict[str | None, dict[str, Any]]:
    """The records by external id, the last of each: two of one id in a request are both refused."""
    records = [json.loads(row.body) for row in sending.rows]
    return {_key(connection, record): record for record in records}


def _key(connection: SalesforceConnection, record: Mapping[str, str]) -> str | None:
    return record.get(connection.external_id)


def _removal(connection: SalesforceConnection, sending: Sending) -> Request | Rejected:
    if len(sending.rows) > 1:
        return refused("removals go one by one")
    ((name, value),) = json.loads(sending.rows[0].body).items()
    if value in {".", ".."}:
        return refused("its external id is dots, which an address takes for another folder")
    path = f"sobjects/{connection.object}/{name}/{quote(value, safe='')}"
    return Request("DELETE", _url(connection, path), (AGENT,), b"", connection.timeout)


def _url(connection: SalesforceConnection, path: str) -> str:
    return f"{connection.instance_url.rstrip('/')}/services/data/{connection.api_version}/{path}"


def _of_row(connection: SalesforceConnection, result: Any, status: int) -> Answer:
    if not isinstance(result, dict):
        return Retry("answered without a result for this record", unknown=True, status=status)
    if result.get("success") is True:
        return Delivered(status, record_id(result.get("id")))
    error = next(iter(members(result.get("errors"))), {})
    code = _shown(error.get("statusCode"))
    if code == "DUPLICATE_VALUE" and _is_about_the_key(connection, error):
        # Somebody else's request, or a spelling that Salesforce holds for the same: once that is there,
        # the same upsert is an update.
        return Retry(f"{code} for the external id", unknown=False, status=status)
    if code in {"DUPLICATE_VALUE", "DUPLICATES_DETECTED"}:
        return Duplicate(status)
    return _of_code(code, status) or Rejected(status, code or "refused without a code")


def _is_about_the_key(connection: SalesforceConnection, error: Mapping[str, Any]) -> bool:
    told = f"{error.get('fields')} {error.get('message')}".lower()
    return any(word in told for word in (connection.external_id.lower(), "external id", "<unknown>"))


def _of_request(response: Response, now: float) -> Answer:
    """All rows are answered as one: nothing was applied, but for a failure of the server."""
    code = _code(response)
    told = None if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR else _of_code(code, response.status)
    if told is not None:
        return told
    plain = classify_plain(response, now)
    return Rejected(response.status, code) if isinstance(plain, Rejected) and code else plain


def _of_removal(response: Response, now: float) -> Answer:
    status = response.status
    if status == HTTPStatus.NO_CONTENT:
        return Delivered(status)
    if 200 <= status < 300:
        return Retry(f"answered {status}, where a removal is answered 204", unknown=True, status=status)
    if status == HTTPStatus.MULTIPLE_CHOICES:
        return Rejected(status, "several records have this external id")
    # Both are NOT_FOUND: a record that is not there, which is well, and a field that is not.
    if _code(response) in _GONE and b"external id field" not in response.body.lower():
        return Delivered(status)
    return _of_request(response, now)


def _of_code(code: str, status: int) -> Answer | None:
    if code in PAUSING:
        return Pause(f"{code}: {PAUSING[code]}", status)
    if code in PASSING:
        wait = LIMIT_S if code == "REQUEST_LIMIT_EXCEEDED" else None
        return Retry(code, unknown=False, status=status, retry_after=wait)
    return None


def _code(response: Response) -> str:
    """The code of a refused request: `[{"errorCode": …, "message": …}]`; empty where there is none."""
    error = next(iter(members(_listed(response))), {})
    return _shown(error.get("errorCode"))


def _listed(response: Response) -> list[Any]:
    """The members of a JSON list, as far as it was read: 200 long refusals are more than is read of them."""
    text = response.body.decode("utf-8", "replace")
    found: list[Any] = []
    start = _OPENS.match(text)
    while start is not None:
        try:
            value, end = _JSON.raw_decode(text, start.end())
        except (ValueError, RecursionError):
            break
        start = _GOES_ON.match(text, end)
        if start is not None:
            found.append(value)
    return found


def _shown(code: Any) -> str:
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""
