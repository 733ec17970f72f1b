"""What an answer means by the connection's own rules, then by the defaults. Pure.

Its law: the first rule that matches decides. A connection that says what success looks like is
believed: a 2xx of which no rule says so is not a success. A reason names a rule, never the body.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from consumer.crm.answers import (
    Answer,
    Delivered,
    Duplicate,
    Pause,
    Rejected,
    Retry,
    in_words,
    may_be_applied,
    retry_after,
)
from consumer.crm.answers import classify as classify_plain
from consumer.exchange import Exchanged, Response
from schemas import paths
from schemas.push import HttpConnection, ResponseRule

#: Characters of a receiver's id that are kept: a UUID and a URL fit, a document does not.
MAX_RECORD_ID = 200


def classify(connection: HttpConnection, exchanged: Exchanged, now: float) -> Answer:
    """What a delivery's attempt came to. `now`: Unix seconds."""
    if not isinstance(exchanged, Response):
        return classify_plain(exchanged, now)
    document = _document(connection, exchanged)
    answer = _by_rule(connection.responses, exchanged, document, now)
    if answer is None:
        answer = classify_plain(exchanged, now, connection.idempotency.header)
        if isinstance(answer, Delivered) and any(
            rule.verdict == "delivered" for rule in connection.responses
        ):
            reason = f"{in_words(exchanged.status)}, but no rule of responses says that it is delivered"
            return Retry(reason, True, exchanged.status, retry_after(exchanged.headers, now))
    if isinstance(answer, Delivered | Duplicate) and connection.record_id is not None:
        return replace(answer, record_id=_record_id(paths.find(connection.record_id, document)))
    return answer


def classify_removal(connection: HttpConnection, exchanged: Exchanged, now: float) -> Answer:
    """What a removal's attempt came to: who is not there, or gone, is removed. `now`: Unix seconds."""
    if isinstance(exchanged, Response) and exchanged.status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
        return Delivered(exchanged.status)
    return classify_plain(exchanged, now, connection.idempotency.header)


def _by_rule(rules: Sequence[ResponseRule], response: Response, document: Any, now: float) -> Answer | None:
    text = response.body.decode("utf-8", "replace").casefold() if any(rule.text for rule in rules) else ""
    matching = (
        (at, rule.verdict)
        for at, rule in enumerate(rules, 1)
        if _matches(rule, response.status, text, document)
    )
    number, verdict = next(matching, (0, None))
    status = response.status
    reason = f"{in_words(status)}: {verdict} by rule {number} of responses"
    match verdict:
        case None:
            return None
        case "delivered":
            return Delivered(status)
        case "duplicate":
            return Duplicate(status)
        case "rejected":
            return Rejected(status, reason)
        case "pause":
            return Pause(reason, status)
        case "retry":
            return Retry(reason, may_be_applied(status), status, retry_after(response.headers, now))


def _matches(rule: ResponseRule, status: int, text: str, document: Any) -> bool:
    """Whether all conditions of the rule hold. `text`: the body, casefolded; `document`: its JSON or None."""
    if rule.status is not None and not _in(rule.status, status):
        return False
    if rule.text is not None and rule.text.casefold() not in text:
        return False
    if rule.json_path is None:
        return True
    if document is None:
        return False
    found = paths.find(rule.json_path, document)
    if rule.equal is not None:
        return _equal(found, rule.equal)
    return _stands(found) if rule.contains is None else _holds(found, rule.contains)


def _in(statuses: str, status: int) -> bool:
    if statuses.endswith("xx"):
        return status // 100 == int(statuses[0])
    low, _, high = statuses.partition("-")
    return int(low) <= status <= int(high or low)


def _equal(found: Any, wanted: str | bool | int) -> bool:
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    return isinstance(found, str) == isinstance(wanted, str) and bool(found == wanted)


def _stands(found: Any) -> bool:
    return bool(found) or (found == 0 and not isinstance(found, bool))


def _holds(found: Any, part: str) -> bool:
    if isinstance(found, list):
        return any(isinstance(item, str) and item.casefold() == part.casefold() for item in found)
    return isinstance(found, str) and part.casefold() in found.casefold()


def _document(connection: HttpConnection, response: Response) -> Any:
    """The body's JSON, where a rule or the record's id asks for it and it was read to its end."""
    asked = connection.record_id is not None or any(rule.json_path for rule in connection.responses)
    if not asked or not response.read_fully:
        return None
    try:
        return json.loads(response.body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None


def _record_id(found: Any) -> str | None:
    if isinstance(found, bool) or not isinstance(found, str | int):
        return None
    try:
        text = str(found)
    except ValueError:  # more digits than Python writes
        return None
    fits = 0 < len(text) <= MAX_RECORD_ID and text.isprintable()
    # An email address is nobody's id here: receipts hold no personal data.
    return text if fits and "@" not in text else None
