"""A Mailchimp audience as its documentation describes it.

Sources: mailchimp.com/developer/marketing/api/list-members (add or update, archive), its error glossary
and fundamentals (authentication, throttling); answers quoted in github.com/mailchimp/APIv3-examples/issues/49
and github.com/ibericode/mailchimp-for-wordpress/issues/798; who cannot be archived:
github.com/amro/gibbon/issues/320; the archived stay so: github.com/tbar0970/jethro-pmm/issues/708.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from schemas.push import MailchimpConnection
from schemas.referral import Referral
from tests.support.vendors.serving import Received, Reply, VendorServer, person

LIST = "a1b2c3d4e5"
KEY = "0123456789abcdef0123456789abcdef-us21"
AUTH = ("Authorization", "Basic " + base64.b64encode(f"anystring:{KEY}".encode()).decode())
NAMES_ROWS = None

MERGE_TAGS = {"FNAME", "LNAME", "AGE", "ZIP"}
REQUIRED = {"COMPANY"}
STATUSES = {"subscribed", "unsubscribed", "cleaned", "pending", "transactional"}
_MEMBER = re.compile(r"/3\.0/lists/([^/]+)/members/([^/]+)")


def subscriber_hash(email: str) -> str:
    return hashlib.md5(email.lower().encode(), usedforsecurity=False).hexdigest()


def problem(status: int, title: str, detail: str, **more: Any) -> Reply:
    body = {
        "type": "https://mailchimp.com/developer/marketing/docs/errors/",
        "title": title,
        "status": status,
    }
    return Reply(
        status,
        {**body, "detail": detail, "instance": "85c2fcb7", **more},
        content_type="application/problem+json",
    )


NOT_FOUND = problem(404, "Resource Not Found", "The requested resource could not be found.")


class Server(VendorServer):
    """`members`: everyone ever seen, by hash. `people`: those not archived."""

    PREFIX = "/3.0"

    def __init__(self) -> None:
        super().__init__()
        self.members: dict[str, dict[str, Any]] = {}

    def add(self, email: str, status: str) -> str:
        hashed = subscriber_hash(email)
        self.members[hashed] = {
            "id": hashed,
            "email_address": email,
            "contact_id": uuid5(NAMESPACE_URL, hashed).hex,
            "status": status,
            "merge_fields": {},
            "list_id": LIST,
        }
        self._see()
        return hashed

    def answer(self, received: Received) -> Reply:
        if not _may(received.headers.get("authorization", "")):
            return problem(401, "API Key Invalid", "Your API key may be invalid.")
        place = _MEMBER.fullmatch(received.path)
        if place is None or place.group(1) != LIST:
            return NOT_FOUND
        match received.method:
            case "PUT":
                return self._put(place.group(2), received)
            case "DELETE":
                return self._archive(place.group(2))
            case "GET" if place.group(2) in self.members:
                return Reply(200, self.members[place.group(2)])
            case "GET":
                return NOT_FOUND
        return self.shape(received.method, problem(405, "Method Not Allowed", "Not compatible."))

    def _put(self, hashed: str, received: Received) -> Reply:
        given = received.json()
        if not isinstance(given, dict):
            return self.shape(
                "no JSON",
                problem(400, "JSON Parse Error", "We encountered an unspecified JSON parsing error."),
            )
        email = given.get("email_address")
        if not isinstance(email, str) or hashed != subscriber_hash(email):
            return self.shape(
                "hash of another address", _invalid("email_address", "This value should not be blank.")
            )
        if given.get("status_if_new") not in STATUSES or given.get("status", "pending") not in STATUSES:
            return self.shape(
                "status", _invalid("status_if_new", "The value you selected is not a valid choice.")
            )
        merge_fields = given.get("merge_fields", {})
        if not all(re.fullmatch("[A-Z][A-Z0-9_]{0,9}", tag) for tag in merge_fields):
            return self.shape("merge tag", _invalid("merge_fields", "Not a merge tag."))
        if REQUIRED - set(merge_fields) and received.query.get("skip_merge_validation") != "true":
            return _invalid("COMPANY", "Please enter a value")
        if not re.fullmatch(r"[^@\s]+@[^@\s]+\.[a-z]{2,}", email.lower()) or email.lower().endswith(
            "@fake.test"
        ):
            return problem(
                400, "Invalid Resource", f"{email} looks fake or invalid, please enter a real email address."
            )
        if not str(merge_fields.get("AGE", "1")).isdigit():
            return _invalid("AGE", f"Please enter a number, not {merge_fields['AGE']}")
        return self._upsert(hashed, given)

    def _upsert(self, hashed: str, given: dict[str, Any]) -> Reply:
        """`status` changes whoever is there, which Mailchimp refuses for those who left by themselves."""
        known = self.members.get(hashed)
        if known is None:
            self.add(given["email_address"], given.get("status") or given["status_if_new"])
        elif (
            "status" in given
            and known["status"] in {"unsubscribed", "cleaned"}
            and given["status"] == "subscribed"
        ):
            return problem(
                400, "Member In Compliance State",
                f"{known['email_address']} is in a compliance state due to unsubscribe, bounce, or compliance review"
                " and cannot be subscribed.",
            )  # fmt: skip
        elif "status" in given:
            known["status"] = given["status"]
        member = self.members[hashed]
        member["merge_fields"].update(
            {tag: value for tag, value in given.get("merge_fields", {}).items() if tag in MERGE_TAGS}
        )
        self._see()
        return Reply(200, member)

    def _archive(self, hashed: str) -> Reply:
        member = self.members.get(hashed)
        if member is None:
            return NOT_FOUND
        if member["status"] in {"archived", "pending", "cleaned"}:
            why = "Can not archive a contact that is bounced, pending or archived"
            return problem(405, "Method Not Allowed", f"This list member cannot be removed. {why}")
        member["status"] = "archived"
        self._see()
        return Reply(204)

    def _see(self) -> None:
        self.people = {hashed: one for hashed, one in self.members.items() if one["status"] != "archived"}


def _may(authorization: str) -> bool:
    """The key as a password, whoever the user is, or as a token."""
    scheme, _, value = authorization.partition(" ")
    if scheme == "Basic":
        value = base64.b64decode(value).decode().partition(":")[2]
    return scheme in {"Basic", "Bearer"} and value == KEY


def _invalid(field: str, message: str) -> Reply:
    detail = (
        "The resource submitted could not be validated. For field-specific details, see the 'errors' array."
    )
    return problem(400, "Invalid Resource", detail, errors=[{"field": field, "message": message}])


def connection(base_url: str, **changes: Any) -> MailchimpConnection:
    return MailchimpConnection.model_validate(
        {
            "kind": "mailchimp",
            "name": "acme-mailchimp",
            "data_center": "us21",
            "list_id": LIST,
            "base_url": base_url,
            "remove": True,
            "status_if_new": "subscribed",
            "fields": [
                {"name": "email", "from": "email"},
                {"name": "FNAME", "from": "first_name"},
                {"name": "LNAME", "from": "last_name"},
                {"name": "ZIP", "from": "postal_code"},
                {"name": "CITY", "from": "city"},
            ],
            "auth": {"kind": "basic", "username": "anystring", "password": "${env:MAILCHIMP_KEY}"},
            **changes,
        }
    )


good = person


def bad_row() -> Referral:
    return person(99, email="zoe@fake.test")


def blank_row() -> Referral:
    return person(98, email="  ")


def key(referral: Referral) -> str:
    return subscriber_hash(str(referral.fields["email"]))
