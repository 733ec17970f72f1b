"""A HubSpot account's contacts as its documentation describes them.

Sources: developers.hubspot.com/docs/api-reference ("Upsert a batch of contacts", "Permanently delete a
contact (GDPR-compliant)", "Error handling", "API usage guidelines"); a batch that names an id twice:
github.com/segmentio/action-destinations/pull/3969; the message of a bad value:
github.com/HubSpot/hubspot-api-python/issues/51 and the models of hubspot-api-client.
"""

from __future__ import annotations

import json
import re
from typing import Any

from schemas.push import HubspotConnection
from schemas.referral import Referral
from tests.support.vendors.serving import Received, Reply, VendorServer, person

TOKEN = "pat-eu1-0123"
AUTH = ("Authorization", f"Bearer {TOKEN}")
NAMES_ROWS = True

PROPERTIES = {"email", "firstname", "lastname", "zip", "hs_language", "referral_id", "phone"}
UNIQUE = {"email", "referral_id"}
#: HubSpot's documented limit of a batch.
MAX_INPUTS = 100
AT = "2026-11-23T10:00:00.000Z"


def error(status: int, category: str, message: str, **more: Any) -> Reply:
    return Reply(
        status,
        {"status": "error", "message": message, "correlationId": "aeb5f871", "category": category, **more},
    )


class Server(VendorServer):
    """`people`: contacts by lower-case email. `multi_status` off: one bad row fails its whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.multi_status = True
        self.blocklist: set[str] = set()

    def answer(self, received: Received) -> Reply:
        if received.headers.get("authorization") != AUTH[1]:
            return error(401, "INVALID_AUTHENTICATION", "Authentication credentials not found.")
        if received.method != "POST":
            return self.shape(received.method, error(405, "METHOD_NOT_ALLOWED", "Method not allowed"))
        if received.headers.get("content-type", "").partition(";")[0] != "application/json":
            return self.shape("content type", error(415, "UNSUPPORTED_MEDIA_TYPE", "Unsupported media type"))
        match received.path:
            case "/crm/v3/objects/contacts/batch/upsert":
                return self._upsert(received.json())
            case "/crm/v3/objects/contacts/gdpr-delete":
                return self._purge(received.json())
        return error(404, "OBJECT_NOT_FOUND", "resource not found")

    def _upsert(self, given: Any) -> Reply:
        inputs = given.get("inputs") if isinstance(given, dict) else None
        if not isinstance(inputs, list) or not 0 < len(inputs) <= MAX_INPUTS:
            return self.shape(
                "inputs", error(400, "VALIDATION_ERROR", f"1 to {MAX_INPUTS} inputs are allowed")
            )
        for one in inputs:
            if not (one.get("id") and all(isinstance(value, str) for value in one["properties"].values())):
                return self.shape("input", error(400, "VALIDATION_ERROR", "Invalid input JSON"))
            if one.get("idProperty") not in UNIQUE:
                message = (
                    f"Unable to perform update/upsert by non-unique 0-1 property {one.get('idProperty')}"
                )
                return error(400, "VALIDATION_ERROR", message)
        ids = [one["id"].lower() for one in inputs]
        if len(set(ids)) < len(ids):
            return self.shape(
                "an id twice", error(400, "VALIDATION_ERROR", f"Duplicate IDs found in batch input: {ids}")
            )
        faults = [_fault(one) for one in inputs]
        traces = {one.get("objectWriteTraceId") for one in inputs}
        partial = self.multi_status and None not in traces and len(traces) == len(inputs)
        if any(faults) and not partial:
            return error(400, "VALIDATION_ERROR", next(fault for fault in faults if fault))
        return self._store(inputs, faults)

    def _store(self, inputs: list[dict[str, Any]], faults: list[str | None]) -> Reply:
        """Results come in an order of HubSpot's own."""
        answer: dict[str, Any] = {"status": "COMPLETE", "startedAt": AT, "completedAt": AT, "results": []}
        errors = []
        for one, fault in zip(inputs, faults, strict=True):
            trace = one.get("objectWriteTraceId")
            if fault is not None:
                errors.append(
                    {
                        "status": "error", "category": "VALIDATION_ERROR", "message": fault,
                        "context": {"objectWriteTraceId": [trace]}, "links": {}, "errors": [],
                    }
                )  # fmt: skip
                continue
            answer["results"].insert(0, self._contact(one) | ({"objectWriteTraceId": trace} if trace else {}))
        if errors:
            answer |= {"numErrors": len(errors), "errors": errors}
        return Reply(207 if errors else 200, answer)

    def _contact(self, one: dict[str, Any]) -> dict[str, Any]:
        wanted = (one["idProperty"], one["id"].lower())
        there = [
            key
            for key, known in self.people.items()
            if known["properties"].get(wanted[0], "").lower() == wanted[1]
        ]
        properties = dict(one["properties"]) | {one["idProperty"]: one["id"]}
        properties["email"] = properties.get("email", "").lower()
        key = there[0] if there else properties["email"]
        new = key not in self.people
        known = self.people.setdefault(key, {"id": str(501 + len(self.people)), "properties": {}})
        known["properties"].update(properties)
        return {
            "id": known["id"], "properties": _with_defaults(known), "createdAt": AT, "updatedAt": AT,
            "archived": False, "new": new, "url": f"https://app.hubspot.com/contacts/1234567/record/0-1/{known['id']}",
        }  # fmt: skip

    def _purge(self, given: Any) -> Reply:
        """By email it always succeeds: an address that is not there is blocked."""
        if (
            not isinstance(given, dict)
            or not given.get("objectId")
            or given.get("idProperty", "email") != "email"
        ):
            return self.shape("gdpr-delete", error(400, "VALIDATION_ERROR", "Invalid input JSON"))
        email = given["objectId"].lower()
        if "idProperty" not in given:
            email = next((key for key, known in self.people.items() if known["id"] == given["objectId"]), "")
            if not email:
                return error(404, "OBJECT_NOT_FOUND", "resource not found")
        if self.people.pop(email, None) is None:
            self.blocklist.add(email)
        return Reply(204)


def _fault(one: dict[str, Any]) -> str | None:
    for name, value in one["properties"].items():
        if name not in PROPERTIES:
            return not_valid(name, f'Property "{name}" does not exist', "PROPERTY_DOESNT_EXIST")
        if name == "email" and not re.fullmatch(r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}", value):
            return not_valid(name, f"Email address {value} is invalid", "INVALID_EMAIL")
    return None


def not_valid(name: str, message: str, code: str) -> str:
    told = [
        {"isValid": False, "message": message, "error": code, "name": name, "localizedErrorMessage": message}
    ]
    return f"Property values were not valid: {json.dumps(told, separators=(',', ':'))}"


def _with_defaults(known: dict[str, Any]) -> dict[str, str]:
    """What HubSpot adds to every contact it shows."""
    domain = known["properties"]["email"].partition("@")[2]
    return {
        **known["properties"], "createdate": AT, "lastmodifieddate": AT, "hs_object_id": known["id"],
        "hs_all_contact_vids": known["id"], "hs_email_domain": domain, "hs_is_contact": "true",
        "hs_is_unworked": "true", "hs_lifecyclestage_lead_date": AT, "hs_marketable_status": "false",
        "hs_membership_has_accessed_private_content": "0", "hs_object_source": "INTEGRATION",
        "hs_object_source_id": "1234567", "hs_object_source_label": "INTEGRATION", "hs_pipeline":
        "contacts-lifecycle-pipeline", "hs_registered_member": "0", "lifecyclestage": "lead",
    }  # fmt: skip


def connection(base_url: str, **changes: Any) -> HubspotConnection:
    return HubspotConnection.model_validate(
        {
            "kind": "hubspot",
            "name": "acme-hubspot",
            "base_url": base_url,
            "remove": True,
            "fields": [
                {"name": "email", "from": "email"},
                {"name": "firstname", "from": "first_name"},
                {"name": "lastname", "from": "last_name"},
                {"name": "zip", "from": "postal_code"},
                {"name": "referral_id", "from": "referral_id"},
            ],
            "auth": {"kind": "bearer", "token": "${env:HUBSPOT_TOKEN}"},
            **changes,
        }
    )


good = person


def bad_row() -> Referral:
    return person(99, email="zoe at example.com")


def blank_row() -> Referral:
    return person(98, email=None)


def key(referral: Referral) -> str:
    return str(referral.fields["email"]).lower()
