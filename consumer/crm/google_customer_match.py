"""A Google customer-match audience, through the Data Manager API: people added and taken out by hashes.

Its law: the stored row holds hashes, and of an address its region and postal code; adding somebody twice
is adding once. Google takes a request whole or not at all and answers with its id alone, so a row's
outcome is that of its request. Consent is stated where the connection's fields state it, by
`adUserData` and `adPersonalization`; whom they do not say CONSENT_GRANTED for is not sent.

developers.google.com/data-manager/api/reference/rest/v1/audienceMembers and
developers.google.com/data-manager/api/devguides/concepts/understand-errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from consumer.crm import identifiers
from consumer.crm.answers import Answer, Delivered, Pause, Rejected, Retry
from consumer.crm.answers import classify as classify_plain
from consumer.crm.port import Rendered, Sending
from consumer.crm.rows import JSON_HEADERS, decoded, encoded, members, parsed, record_id, refused
from consumer.exchange import Exchanged, Request, Response
from consumer.secrets import Secrets
from schemas import mapping
from schemas.crms import GOOGLE_ENOUGH
from schemas.delivery import Action
from schemas.push import GoogleAudienceConnection
from schemas.referral import Referral

#: It takes 10,000; a thousand members are half a megabyte, sent well within the timeout.
MAX_ROWS = 1_000
#: Reasons shown of a refused request: as many as a person reads.
MAX_REASONS = 5

ADDRESS = GOOGLE_ENOUGH[-1]
#: Consent under the Digital Markets Act: Consent of the API.
CONSENT = ("adUserData", "adPersonalization")
GRANTED = "CONSENT_GRANTED"
#: Of what `render` makes.
_MEMBER = frozenset({"userData", "consent"})
#: Names worth showing: none of them can hold a value.
_REASON = re.compile(r"[A-Z][A-Z0-9_]{1,63}")
#: How the API spells the members' path in `fieldViolations`.
_OF_A_MEMBER = re.compile(r"audience_?members?\b", re.IGNORECASE)


def render(connection: GoogleAudienceConnection, referral: Referral) -> Rendered:
    """An audience member; nothing where nobody could be found by it or consent is not granted. Pure."""
    values = connection.columns.pairs(referral)
    given = {name: mapping.text(value) for name, value in values}
    consent = {name: given.pop(name).strip() for name in CONSENT if name in given}
    known = {name: identifiers.google(name, value) for name, value in given.items()}
    found: list[dict[str, Any]] = [
        {name: known[name]} for name in ("emailAddress", "phoneNumber") if known.get(name)
    ]
    # The API matches an address by all four at once and refuses less.
    if all(known.get(name) for name in ADDRESS):
        found.append({"address": {name: known[name] for name in ADDRESS}})
    if not found or any(value != GRANTED for value in consent.values()):
        return Rendered(b"")
    member: dict[str, Any] = {"userData": {"userIdentifiers": found}}
    removal = encoded(member) if connection.remove else None
    return Rendered(encoded(member | {"consent": consent} if consent else member), removal=removal)


def request(
    connection: GoogleAudienceConnection, _secrets: Secrets, sending: Sending, _now: float
) -> Request | Pause | Rejected:
    """All rows for one destination."""
    if not all(row.body for row in sending.rows):
        return refused("the referral has nothing Google could know somebody by, or no consent")
    people = [parsed(row.body) for row in sending.rows]
    if not all(isinstance(one, dict) and "userData" in one and one.keys() <= _MEMBER for one in people):
        return refused("rendered when the connection was of another kind")
    destination: dict[str, Any] = {
        "operatingAccount": {"accountType": "GOOGLE_ADS", "accountId": connection.account_id},
        "productDestinationId": connection.audience_id,
    }
    if connection.login_account_id is not None:
        destination["loginAccount"] = {
            "accountType": "GOOGLE_ADS",
            "accountId": connection.login_account_id,
        }
    body: dict[str, Any] = {
        "destinations": [destination],
        "audienceMembers": people,
        "encoding": "HEX",
    }
    if sending.action is Action.DELIVER:
        body["termsOfService"] = {"customerMatchTermsOfServiceStatus": "ACCEPTED"}
    verb = "remove" if sending.action is Action.REMOVE else "ingest"
    return Request(
        "POST",
        f"{connection.address.rstrip('/')}/v1/audienceMembers:{verb}",
        JSON_HEADERS,
        encoded(body),
        connection.timeout,
    )


def classify(
    _connection: GoogleAudienceConnection, _sending: Sending, exchanged: Exchanged, now: float
) -> Answer:
    """What the attempt came to, one answer for all rows. `now`: Unix seconds."""
    if not isinstance(exchanged, Response):
        return classify_plain(exchanged, now)
    answer, status = decoded(exchanged), exchanged.status
    if 200 <= status < 300:
        request_id = record_id(answer.get("requestId"))
        if request_id is None:
            return Retry("answered without the request's id", unknown=True, status=status)
        return Delivered(status, request_id, by_request=True)
    error = answer.get("error")
    if status == HTTPStatus.BAD_REQUEST and isinstance(error, dict):
        return _of_refused(error, status)
    return classify_plain(exchanged, now)


def _of_refused(error: Mapping[str, Any], status: int) -> Answer:
    """google.rpc.Status: nothing of the request was taken.

    Where it objects to members, `Rejected` has the core find them by halves: members beside a bad one then
    spend no attempt. Everything else is the same for every member.
    """
    details = members(error.get("details"))
    violations = [one for detail in details for one in members(detail.get("fieldViolations"))]
    told = [error.get("status"), *(detail.get("reason") for detail in details)]
    told += [violation.get("reason") for violation in violations]
    shown = dict.fromkeys(reason for reason in told if isinstance(reason, str) and _REASON.fullmatch(reason))
    reason = f"answered {status} {', '.join(list(shown)[:MAX_REASONS])}".rstrip()
    if any(_OF_A_MEMBER.search(str(violation.get("field"))) for violation in violations):
        return Rejected(status, reason)
    return Pause(f"{reason}: check account, audience and the terms accepted there", status)
