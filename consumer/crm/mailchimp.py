"""Mailchimp: one PUT per member of an audience, found by the hash of the email address.

Its law: `status` is never sent, so that nobody who left is ever subscribed again; `status_if_new` says
only what becomes of people the audience does not have. Values that are missing or blank are left out
and keep what Mailchimp has.

Rules: mailchimp.com/developer/marketing/api/list-members and its error glossary; docs.segment.com on
the 404 of simultaneous calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from consumer.crm.answers import Answer, Delivered, Duplicate, Pause, Rejected, Retry, retry_after
from consumer.crm.answers import classify as classify_plain
from consumer.crm.port import Rendered, Sending
from consumer.crm.rows import AGENT, JSON_HEADERS, decoded, encoded, members, record_id, refused
from consumer.exchange import Exchanged, Request, Response
from consumer.secrets import Secrets
from schemas import mapping
from schemas.delivery import Action
from schemas.push import MailchimpConnection
from schemas.referral import Referral

MAX_ROWS = 1
#: Fields of these names, in any case, fill `email_address`; all others are merge fields.
EMAIL = frozenset({"email", "email_address"})
#: Seconds until somebody who signed up for many audiences lately is taken: minutes to days.
MANY_LISTS_S = 3_600.0
_MANY_LISTS = "signed up to a lot of lists"

#: Members the audience had before and does not mail; taking their values does not bring them back.
_LEFT = frozenset({"unsubscribed", "cleaned", "archived"})
#: Titles of a 400 that say: this person, never again.
_FINAL = {
    "Member In Compliance State": "the person left, bounced or is under review; only they can come back",
    "Forgotten Email Not Subscribed": "the person was deleted for good; only they can come back",
}
#: Not there; or bounced, archived or never confirmed, whom Mailchimp neither mails nor archives. What stands
#: between may answer so with other words.
_NOBODY = (
    (HTTPStatus.NOT_FOUND, "Resource Not Found"),
    (HTTPStatus.METHOD_NOT_ALLOWED, "Method Not Allowed"),
)


def render(connection: MailchimpConnection, referral: Referral) -> Rendered:
    """The member as JSON, and its hash. Pure."""
    address, merge_fields = "", {}
    for name, value in connection.columns.pairs(referral):
        text = mapping.text(value).strip()
        if text and name.lower() in EMAIL:
            address = text
        elif text:
            merge_fields[name.upper()] = text
    if not address:
        return Rendered(b"")
    member = {
        "email_address": address,
        "status_if_new": connection.status_if_new,
        "merge_fields": merge_fields,
    }
    hashed = hashlib.md5(address.lower().encode("utf-8"), usedforsecurity=False).hexdigest()
    return Rendered(encoded(member), {"member": hashed}, b"" if connection.remove else None)


def request(
    connection: MailchimpConnection, _secrets: Secrets, sending: Sending, _now: float
) -> Request | Pause | Rejected:
    """PUT the member, or DELETE, which archives them."""
    (row,) = sending.rows
    if "member" not in row.values:
        return refused("no email address: the referral has none, or its campaign may not give it")
    url = f"{connection.address.rstrip('/')}/lists/{connection.list_id}/members/{row.values['member']}"
    if sending.action is Action.REMOVE:
        return Request("DELETE", url, (AGENT,), b"", connection.timeout)
    # Merge fields an audience requires are for its forms: a referral without one is still a subscriber.
    url += "?skip_merge_validation=true"
    return Request("PUT", url, JSON_HEADERS, row.body, connection.timeout)


def classify(connection: MailchimpConnection, sending: Sending, exchanged: Exchanged, now: float) -> Answer:
    """What the attempt came to. `now`: Unix seconds."""
    if not isinstance(exchanged, Response):
        return classify_plain(exchanged, now)
    told, status = decoded(exchanged), exchanged.status
    if 200 <= status < 300:
        return _taken(sending.action, status, told)
    if sending.action is Action.REMOVE and (status, told.get("title")) in _NOBODY:
        return Delivered(status)
    if status == HTTPStatus.BAD_REQUEST:
        return _bad_request(connection, told)
    own = _forbidden_or_absent(status, told, retry_after(exchanged.headers, now))
    return own or classify_plain(exchanged, now)


def _forbidden_or_absent(status: int, told: Mapping[str, Any], wait: float | None) -> Retry | Pause | None:
    """The throttle answers with statuses of other meaning, but without their words."""
    match status, told.get("title"):
        case HTTPStatus.FORBIDDEN, None:
            return Retry("answered 403 without a reason: too many requests", False, status, wait)
        case HTTPStatus.NOT_FOUND, "Resource Not Found":
            return Pause("answered 404: no such audience, check list_id and data_center", status)
        case HTTPStatus.NOT_FOUND, _:
            return Retry("answered 404, as for simultaneous calls for one member", False, status, wait)
    return None


def _taken(action: Action, status: int, told: Mapping[str, Any]) -> Delivered | Duplicate | Retry:
    """`id` is the hash of an email address: receipts keep `contact_id`, which is nobody's address."""
    if action is Action.REMOVE and status == HTTPStatus.NO_CONTENT:
        return Delivered(status)
    if action is Action.DELIVER and isinstance(told.get("id"), str) and isinstance(told.get("status"), str):
        contact = record_id(told.get("contact_id"))
        return Duplicate(status, contact) if told["status"] in _LEFT else Delivered(status, contact)
    return Retry(f"answered {status}, but not as Mailchimp does", True, status)


def _bad_request(connection: MailchimpConnection, told: Mapping[str, Any]) -> Rejected | Retry:
    title, detail = told.get("title"), told.get("detail")
    if isinstance(detail, str) and _MANY_LISTS in detail:
        return Retry("answered 400: the person signed up for many audiences lately", False, 400, MANY_LISTS_S)
    if isinstance(title, str) and title in _FINAL:
        return Rejected(400, f"answered 400: {_FINAL[title]}")
    # Names of ours alone: anything else an answer tells may be personal data.
    ours = {"EMAIL_ADDRESS", *(rule.name.upper() for rule in connection.fields)}
    fields = sorted(ours & {str(error.get("field")).upper() for error in members(told.get("errors"))})
    what = ", ".join(fields) or "the email address or a merge field"
    return Rejected(400, f"answered 400: Mailchimp does not take {what}")
