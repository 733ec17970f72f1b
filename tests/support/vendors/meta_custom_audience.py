"""A Meta custom audience behind the Graph API.

Sources: developers.facebook.com/docs/marketing-api/reference/custom-audience/users (POST and DELETE of a
payload, 10,000 entries, totals), .../audiences/guides/custom-audiences (multi-key schema, hashing),
developers.facebook.com/docs/graph-api/guides/error-handling; how requests look: facebook_business.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qsl

from consumer.crm import identifiers
from schemas.push import MetaAudienceConnection
from schemas.referral import Referral
from tests.support.vendors.serving import Received, Reply, VendorServer, person

TOKEN = "EAABsbCS1iHg"
AUTH = ("Authorization", f"Bearer {TOKEN}")
#: Answers hold totals alone: there is no row that they refuse and name.
NAMES_ROWS = False
AUDIENCE = "23842000000000001"
SESSION = "8674309867430986"
MAX_ENTRIES = 10_000
HASHED_KEYS = {
    "EMAIL",
    "PHONE",
    "GEN",
    "DOBY",
    "DOBM",
    "DOBD",
    "FN",
    "LN",
    "FI",
    "CT",
    "ST",
    "ZIP",
    "COUNTRY",
}

_PATH = re.compile(r"/v[0-9]{2}\.0/([0-9]+)/users")
_HASH = re.compile(r"[0-9a-f]{64}")
#: Ids of devices are UUIDs in lower case.
_SHAPES = dict.fromkeys(HASHED_KEYS, _HASH) | {
    "MADID": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    "EXTERN_ID": re.compile(r".+"),
}


def error(status: int, code: int, subcode: int | None = None, **more: Any) -> Reply:
    kind = "OAuthException" if code == 190 else "GraphMethodException"
    told = {"message": f"(#{code}) Oops zoe@example.com", "type": kind, "code": code, **more}
    return Reply(
        status,
        {"error": {**told, **({"error_subcode": subcode} if subcode else {}), "fbtrace_id": "EJplcsCHuLu"}},
    )


class Server(VendorServer):
    """`people`: entries by their first identifier, as `key` tells it."""

    def answer(self, received: Received) -> Reply:
        form = dict(parse_qsl(received.body.decode("utf-8", "replace"), keep_blank_values=True))
        given = {**received.query, **form}
        bearer = received.headers.get("authorization", "").removeprefix("Bearer ")
        if TOKEN not in {bearer, given.get("access_token")}:
            return error(401, 190, 463)
        place = _PATH.fullmatch(received.path)
        if place is None or place.group(1) != AUDIENCE:
            return error(400, 100, 33)
        if received.method not in {"POST", "DELETE"}:
            return self.shape(received.method, error(400, 100))
        entries = self._entries(given.get("payload", ""))
        if isinstance(entries, Reply):
            return entries
        invalid = 0
        for entry in entries:
            name = _known_by(entry)
            if name is None or not all(_valid(key, value) for key, value in entry.items()):
                invalid += 1
            elif received.method == "POST":
                self.people[name] = entry
            else:
                self.people.pop(name, None)
        totals = {"num_received": len(entries), "num_invalid_entries": invalid, "invalid_entry_samples": {}}
        return Reply(200, {"audience_id": AUDIENCE, "session_id": SESSION, **totals})

    def _entries(self, payload: str) -> list[dict[str, str]] | Reply:
        try:
            given = json.loads(payload)
        except ValueError:
            given = None
        schema = given.get("schema") if isinstance(given, dict) else None
        data = given.get("data") if isinstance(given, dict) else None
        if not (isinstance(schema, list) and schema and isinstance(data, list) and data):
            return self.shape("payload", error(400, 100))
        if set(schema) - _SHAPES.keys() or len(set(schema)) < len(schema):
            return self.shape("schema", error(400, 100))
        if len(data) > MAX_ENTRIES or any(
            not isinstance(row, list) or len(row) != len(schema) for row in data
        ):
            return self.shape("data", error(400, 100))
        return [dict(zip(schema, row, strict=True)) for row in data]


def _known_by(entry: dict[str, str]) -> str | None:
    return next(
        (entry[key] for key in ("EMAIL", "PHONE", "MADID", "LN", "EXTERN_ID") if entry.get(key)), None
    )


def _valid(key: str, value: Any) -> bool:
    return isinstance(value, str) and (not value or _SHAPES[key].fullmatch(value) is not None)


def connection(base_url: str, **changes: Any) -> MetaAudienceConnection:
    return MetaAudienceConnection.model_validate(
        {
            "kind": "meta_custom_audience",
            "name": "acme-meta",
            "audience_id": AUDIENCE,
            "base_url": base_url,
            "fields": [
                {"name": "EMAIL", "from": "email"},
                {"name": "PHONE", "from": "phone_e164"},
                {"name": "FN", "from": "first_name"},
                {"name": "LN", "from": "last_name"},
                {"name": "GEN", "from": "gender"},
                {"name": "DOBY", "from": "birth_date"},
                {"name": "ZIP", "from": "postal_code"},
                {"name": "COUNTRY", "from": "country"},
                {"name": "EXTERN_ID", "from": "referral_id"},
            ],
            "remove": True,
            **changes,
        }
    )


def good(number: int, **changes: Any) -> Referral:
    return person(number, **changes)


def bad_row() -> None:
    return None


def blank_row() -> Referral:
    return person(901, email=None, phone_e164="", first_name=" ")


def key(referral: Referral) -> str:
    return identifiers.meta("EMAIL", str(referral.fields["email"]))
