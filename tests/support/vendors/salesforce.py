"""A Salesforce organisation's REST API, as far as collections by an external id go.

Sources: REST API Developer Guide, "Upsert Records Using sObject Collections" (200 records, one type, an
attributes map each, results in order), "sObject Rows by External ID" (PATCH, DELETE, 300 for several),
"Status Codes and Error Responses"; salesforce.stackexchange.com/questions/104048 (an external id twice in
one call refuses both).
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any
from urllib.parse import unquote

from schemas.push import SalesforceConnection
from schemas.referral import Referral
from tests.support.vendors.serving import Received, Reply, VendorServer, person

AUTH = ("Authorization", "Bearer 00Dxx!AQEAQ")
NAMES_ROWS = True
MAX_RECORDS = 200
KEY_FIELD = "Person__c"
#: Field: the most characters of it.
FIELDS = {KEY_FIELD: 255, "LastName": 80, "FirstName": 40, "Company": 255, "Email": 80, "Phone": 40}
#: Unique, but not what upserts go by.
UNIQUE = "Phone"
REQUIRED = ("LastName", "Company")

_COLLECTION = re.compile(r"/services/data/v[0-9]{2}\.0/composite/sobjects/(\w+)/(\w+)")
_ROW = re.compile(r"/services/data/v[0-9]{2}\.0/sobjects/(\w+)/(\w+)/([^/]+)")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")


def refusal(status: int, code: str, message: str) -> Reply:
    return Reply(status, [{"message": message, "errorCode": code}])


def record_id(key: str) -> str:
    return f"00Q{sha256(key.encode()).hexdigest()[:15]}"


def failed(code: str, message: str, *fields: str) -> dict[str, Any]:
    return {"success": False, "errors": [{"statusCode": code, "message": message, "fields": list(fields)}]}


class Server(VendorServer):
    """`people`: records by external id, which Salesforce compares without regard to case.

    `locked`: ids whose record another transaction holds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.locked: set[str] = set()

    def answer(self, received: Received) -> Reply:
        if received.headers.get("authorization") != AUTH[1]:
            return refusal(401, "INVALID_SESSION_ID", "Session expired or invalid")
        collection, row = _COLLECTION.fullmatch(received.path), _ROW.fullmatch(received.path)
        place = collection or row
        if place is None or place.group(1) != "Lead":
            return refusal(404, "NOT_FOUND", "The requested resource does not exist")
        if place.group(2) != KEY_FIELD:
            words = f"Provided external ID field does not exist or is not accessible: {place.group(2)}"
            return refusal(404, "NOT_FOUND", words)
        if collection is not None and received.method == "PATCH":
            return self._collection(received)
        if row is not None and received.method in {"PATCH", "DELETE"}:
            return self._row(received, unquote(row.group(3)))
        allowed = "PATCH" if collection is not None else "DELETE,PATCH"
        words = f"HTTP Method '{received.method}' not allowed. Allowed are {allowed}"
        return self.shape(words, refusal(405, "METHOD_NOT_ALLOWED", words))

    def _collection(self, received: Received) -> Reply:
        given = received.json()
        records = given.get("records") if isinstance(given, dict) else None
        if not isinstance(records, list) or not all(isinstance(one, dict) for one in records):
            return self.shape(
                "no records", refusal(400, "JSON_PARSER_ERROR", "Unexpected character at [line:1]")
            )
        if len(records) > MAX_RECORDS:
            words = f"record limit reached. cannot submit more than {MAX_RECORDS} records into this call"
            return self.shape(words, refusal(400, "EXCEEDED_ID_LIMIT", words))
        for one in records:
            if one.get("attributes") != {"type": "Lead"}:
                return self.shape(
                    "attributes", refusal(400, "INVALID_FIELD", "No or another type in attributes")
                )
            unknown = one.keys() - FIELDS.keys() - {"attributes"}
            if unknown:
                words = f"No such column '{min(unknown)}' on sobject of type Lead"
                return refusal(400, "INVALID_FIELD", words)
        keys = [str(one.get(KEY_FIELD, "")).lower() for one in records]
        results = [
            self._upsert(one, twice=keys.count(key) > 1) for one, key in zip(records, keys, strict=True)
        ]
        if given.get("allOrNone") is not False:
            return self.shape("allOrNone is not false", Reply(200, results))
        return Reply(200, results)

    def _upsert(self, record: dict[str, Any], *, twice: bool) -> dict[str, Any]:
        value = record.get(KEY_FIELD)
        if not value:
            return failed("MISSING_ARGUMENT", f"{KEY_FIELD} not specified")
        key = str(value).lower()
        if twice:
            return failed("DUPLICATE_VALUE", f"Duplicate external id specified: {value}", KEY_FIELD)
        if key in self.locked:
            return failed("UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access to this record")
        held = self.people.get(key, {})
        fields = {**held, **{name: record[name] for name in record if name != "attributes"}}
        missing = [name for name in REQUIRED if not fields.get(name)]
        if missing:
            return failed("REQUIRED_FIELD_MISSING", f"Required fields are missing: {missing}", *missing)
        if fields.get("Email") and not _EMAIL.fullmatch(fields["Email"]):
            return failed(
                "INVALID_EMAIL_ADDRESS", f"Email: invalid email address: {fields['Email']}", "Email"
            )
        for name, most in FIELDS.items():
            if len(str(fields.get(name, ""))) > most:
                words = f"{name}: data value too large: {fields[name]} (max length={most})"
                return failed("STRING_TOO_LONG", words, name)
        for other, one in self.people.items():
            if other != key and fields.get(UNIQUE) and one.get(UNIQUE) == fields[UNIQUE]:
                words = (
                    f"duplicate value found: {UNIQUE} duplicates value on record with id: {record_id(other)}"
                )
                return failed("DUPLICATE_VALUE", words, UNIQUE)
        self.people[key] = fields
        return {"id": record_id(key), "success": True, "errors": [], "created": not held}

    def _row(self, received: Received, value: str) -> Reply:
        if received.method == "DELETE":
            if self.people.pop(value.lower(), None) is None:
                return refusal(404, "NOT_FOUND", "The requested resource does not exist")
            return Reply(204)
        given = received.json()
        if not isinstance(given, dict) or KEY_FIELD in given:
            return refusal(400, "INVALID_FIELD", f"The {KEY_FIELD} field should not be specified in the body")
        result = self._upsert({**given, KEY_FIELD: value}, twice=False)
        if result["success"]:
            return Reply(201 if result["created"] else 200, result)
        (error,) = result["errors"]
        return Reply(400, [{"errorCode": error.pop("statusCode"), **error}])


def connection(base_url: str, **changes: Any) -> SalesforceConnection:
    return SalesforceConnection.model_validate(
        {
            "kind": "salesforce",
            "name": "acme-salesforce",
            "instance_url": base_url,
            "external_id": KEY_FIELD,
            "fields": [
                {"name": KEY_FIELD, "from": "email"},
                {"name": "Email", "from": "email"},
                {"name": "FirstName", "from": "first_name"},
                {"name": "LastName", "from": "last_name"},
                {"name": "Phone", "from": "phone_e164"},
                {"name": "Company", "constant": "none"},
            ],
            "remove": True,
            **changes,
        }
    )


def good(number: int, **changes: Any) -> Referral:
    return person(number, **changes)


def bad_row() -> Referral:
    return person(900, email="zoe at example")


def blank_row() -> Referral:
    return person(901, email="  ")


def key(referral: Referral) -> str:
    return str(referral.fields["email"]).lower()
