"""Google's Data Manager API, as far as the members of an audience go.

Sources: developers.google.com/data-manager/api/reference/rest/v1/audienceMembers (ingest, remove),
.../v1/ErrorReason, .../devguides/concepts/formatting and understand-errors (a request with one bad record
fails whole and nothing of it is taken); field names and limits: google.ads.datamanager_v1.types.
"""

from __future__ import annotations

import re
from typing import Any

from consumer.crm import identifiers
from schemas.push import GoogleAudienceConnection
from schemas.referral import Referral
from tests.support.vendors.serving import Received, Reply, VendorServer, person

AUTH = ("Authorization", "Bearer ya29.a0AfH6SM")
NAMES_ROWS = False
ACCOUNT, MANAGER, AUDIENCE = "1234567890", "9876543210", "777000111"
#: An account the credential has no right to.
FORBIDDEN = "1"
REQUEST_ID = "t4Xq2lYpQ0Ku1b"
MAX_MEMBERS, MAX_IDENTIFIERS = 10_000, 10

_HASH = re.compile(r"[0-9a-fA-F]{64}")
_ADDRESS = ("givenName", "familyName", "regionCode", "postalCode")
_SHARED = {"destinations", "audienceMembers", "validateOnly", "encoding", "encryptionInfo"}
_VERBS = {"ingest": _SHARED | {"consent", "termsOfService"}, "remove": _SHARED}
_CODES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}


def refusal(status: int, reason: str, *violations: tuple[str, str], code: str = "") -> Reply:
    """google.rpc.Status as REST shows it; violations: (field, reason)."""
    details: list[dict[str, Any]] = [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason,
            "domain": "datamanager.googleapis.com",
        }
    ]
    if violations:
        named = [
            {"field": field, "description": "zoe@example.com is wrong", "reason": why}
            for field, why in violations
        ]
        details.append({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": named})
    told = {
        "code": status,
        "message": "There was a problem with the request.",
        "status": code or _CODES[status],
    }
    return Reply(status, {"error": {**told, "details": details}})


class Server(VendorServer):
    """`people`: members by their first identifier, as `key` tells it; what was told of their consent is kept."""

    def answer(self, received: Received) -> Reply:
        if received.headers.get("authorization") != AUTH[1]:
            return refusal(401, "ACCESS_TOKEN_TYPE_UNSUPPORTED")
        verb = received.path.removeprefix("/v1/audienceMembers:")
        if verb not in _VERBS:
            return Reply(404, b"<!DOCTYPE html>404", content_type="text/html")
        given = received.json()
        if received.method != "POST" or not isinstance(given, dict) or given.keys() - _VERBS[verb]:
            return self.shape(f"{received.method} {verb}", refusal(400, "INVALID_ARGUMENT"))
        accounts = _accounts(given.get("destinations"))
        if accounts[:1] == [FORBIDDEN]:
            return refusal(403, "PERMISSION_DENIED")
        if accounts != [ACCOUNT, MANAGER] or given["destinations"][0].get("productDestinationId") != AUDIENCE:
            return refusal(400, "INVALID_ARGUMENT", ("destinations.destinations[0]", "INVALID_DESTINATION"))
        if given.get("encoding") not in {"HEX", 1}:
            return self.shape(
                "encoding", refusal(400, "INVALID_ARGUMENT", ("encoding", "REQUIRED_FIELD_MISSING"))
            )
        if verb == "ingest" and not _accepted(given.get("termsOfService")):
            return refusal(400, "INVALID_ARGUMENT", ("terms_of_service", "TERMS_AND_CONDITIONS_NOT_SIGNED"))
        members = given.get("audienceMembers")
        if not isinstance(members, list) or not 0 < len(members) <= MAX_MEMBERS:
            why = "TOO_MANY_AUDIENCE_MEMBERS" if members else "REQUIRED_FIELD_MISSING"
            return self.shape("members", refusal(400, "INVALID_ARGUMENT", ("audience_members", why)))
        wrong = [
            (f"audience_members.audience_members[{index}].{field}", why)
            for index, member in enumerate(members)
            for field, why in _wrong(member)
        ]
        if wrong:
            return refusal(400, "INVALID_ARGUMENT", *wrong)
        for member in members:
            if verb == "ingest":
                self.people[_known_by(member)] = member
            else:
                self.people.pop(_known_by(member), None)
        return Reply(200, {"requestId": REQUEST_ID})


def _accounts(destinations: Any) -> list[Any]:
    """Ids of the operating and the login account of the one destination; none where it is no destination."""
    if not isinstance(destinations, list) or len(destinations) != 1 or not isinstance(destinations[0], dict):
        return []
    held = [destinations[0].get(name) for name in ("operatingAccount", "loginAccount")]
    accounts = [account for account in held if isinstance(account, dict)]
    # Enums come by name or by number.
    if any(account.get("accountType") not in {"GOOGLE_ADS", 1} for account in accounts):
        return []
    return [account.get("accountId") for account in accounts]


def _accepted(terms: Any) -> bool:
    return isinstance(terms, dict) and terms.get("customerMatchTermsOfServiceStatus") in {"ACCEPTED", 1}


def _wrong(member: Any) -> list[tuple[str, str]]:
    """What is wrong with a member: (field below it, reason)."""
    found = member.get("userData", {}).get("userIdentifiers") if isinstance(member, dict) else None
    if not isinstance(found, list) or not found:
        return [("user_data.user_identifiers", "NO_IDENTIFIERS_PROVIDED")]
    if len(found) > MAX_IDENTIFIERS:
        return [("user_data.user_identifiers", "TOO_MANY_USER_IDENTIFIERS")]
    consent = member.get("consent", {})
    if consent.keys() - {"adUserData", "adPersonalization"}:
        return [("consent", "INVALID_ENUM_VALUE")]
    wrong = []
    for index, one in enumerate(found):
        at = f"user_data.user_identifiers.user_identifiers[{index}]"
        if len(one) != 1:
            wrong.append((at, "INVALID_AUDIENCE_MEMBER"))
        wrong += [
            (f"{at}.{name}", "INVALID_HEX_ENCODING")
            for name, value in one.items()
            if name != "address" and not _HASH.fullmatch(value)
        ]
        if "address" in one:
            wrong += [(f"{at}.address.{name}", why) for name, why in _wrong_address(one["address"])]
    return wrong


def _wrong_address(address: dict[str, str]) -> list[tuple[str, str]]:
    missing = [name for name in _ADDRESS if not address.get(name)]
    if missing:
        return [(name, "REQUIRED_FIELD_MISSING") for name in missing]
    wrong = [
        (name, "INVALID_SHA256_FORMAT")
        for name in ("givenName", "familyName")
        if not _HASH.fullmatch(address[name])
    ]
    if not re.fullmatch("[A-Z]{2}", address["regionCode"]):
        wrong.append(("regionCode", "INVALID_FORMAT"))
    if not re.search("[0-9A-Za-z]", address["postalCode"]):
        wrong.append(("postalCode", "INVALID_POSTAL_CODE"))
    return wrong


def _known_by(member: dict[str, Any]) -> str:
    first = member["userData"]["userIdentifiers"][0]
    return str(first.get("emailAddress") or first.get("phoneNumber") or first["address"]["familyName"])


def connection(base_url: str, **changes: Any) -> GoogleAudienceConnection:
    return GoogleAudienceConnection.model_validate(
        {
            "kind": "google_customer_match",
            "name": "acme-google",
            "account_id": ACCOUNT,
            "login_account_id": MANAGER,
            "audience_id": AUDIENCE,
            "base_url": base_url,
            "fields": [
                {"name": "emailAddress", "from": "email"},
                {"name": "phoneNumber", "from": "phone_e164"},
                {"name": "givenName", "from": "first_name"},
                {"name": "familyName", "from": "last_name"},
                {"name": "regionCode", "from": "country"},
                {"name": "postalCode", "from": "postal_code"},
            ],
            "remove": True,
            **changes,
        }
    )


def good(number: int, **changes: Any) -> Referral:
    return person(number, **changes)


def bad_row() -> Referral:
    return person(900, postal_code="-")


def blank_row() -> Referral:
    return person(901, email=None, phone_e164="0400 000 001", first_name=" ")


def key(referral: Referral) -> str:
    return identifiers.google("emailAddress", str(referral.fields["email"]))
