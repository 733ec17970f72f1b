"""What kinds with an API of their own share: JSON both ways, and a row that cannot be sent. Pure."""

from __future__ import annotations

import json
from typing import Any

from consumer.crm.answers import Rejected
from consumer.exchange import Response

AGENT = ("User-Agent", "referral-delivery")
JSON_HEADERS = (("Content-Type", "application/json"), AGENT)

#: Characters of a receiver's own id of a record; the longest known have 36.
MAX_RECORD_ID = 128


def encoded(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")


def parsed(body: bytes) -> Any:
    """The JSON of a stored row; None where it is none, as one of another kind of connection may be."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def decoded(response: Response) -> dict[str, Any]:
    """The JSON object of an answer read to its end; empty where it is anything else."""
    if not response.read_fully:
        return {}
    try:
        value = json.loads(response.body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def members(value: Any) -> list[dict[str, Any]]:
    """The objects of a JSON list; empty where it is anything else."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def record_id(value: Any) -> str | None:
    """The receiver's id of a record as receipts may keep it: short, printable ASCII, no email address."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_RECORD_ID:
        return None
    return value if value.isascii() and value.isprintable() and "@" not in value else None


def refused(reason: str) -> Rejected:
    """In place of a request: for one row its end; for several, that they must go apart."""
    return Rejected(None, reason)
