"""What an attempt came to, and how a plain HTTP answer is classed. Pure.

Its law: what depends on the referral ends the delivery, what depends on the connection pauses the
connection, everything else is tried again with the same key and body. In doubt: again, with the
attempt counted as unknown. A reason holds a status and our words, never the server's text, which
may repeat personal data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from consumer.exchange import Exchanged, NotSent, Response, Unknown, Unsendable

#: A receiver may ask for a day of quiet; for more, somebody should pause the connection.
MAX_RETRY_AFTER_S = 86_400.0

#: Answers that say the request was not applied: too early, too many, not available.
NOT_APPLIED = frozenset({425, 429, 503})
_CREDENTIAL = "check the credential and what it may do"
_CONFIGURATION = "check address, method and headers"
#: The same for every referral: what a person must change, by status.
PAUSING = {
    **dict.fromkeys((401, 402, 403, 407), _CREDENTIAL),
    **dict.fromkeys((404, 405, 406, 421, 426, 431), _CONFIGURATION),
    **dict.fromkeys(range(300, 400), "redirects are not followed, correct the address"),
}
#: Tried again with the same key; all but NOT_APPLIED may have been applied.
PASSING = frozenset({408, 409, 423, 425, 429})

#: 409 means "exists already" where it says so and nothing speaks of a request still running.
_EXISTS = re.compile(rb"already[ _-]?exist|duplicate", re.IGNORECASE)
_RUNNING = re.compile(
    rb"idempot|progress|outstanding|process|pending|flight|concurrent|lock|retry|again", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Delivered:
    """`record_id`: the receiver's own. `by_request`: it answered for the whole request, not for this row."""

    status: int
    record_id: str | None = None
    by_request: bool = False


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The receiver had it already: a success, counted apart."""

    status: int
    record_id: str | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """This referral as it is rendered will never be taken. Without a status: it was never sent."""

    status: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    reason: str
    #: True: the attempt may have been applied. False: it was not, for certain.
    unknown: bool
    status: int | None = None
    #: Seconds the receiver asked to be left alone, in [0, MAX_RETRY_AFTER_S].
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing of this connection can succeed until a person changes something."""

    reason: str
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Disable:
    """The receiver says it is gone for good."""

    reason: str
    status: int


@dataclass(frozen=True, slots=True)
class KeyConflict:
    """The receiver objects to the key itself: a defect on one side. Never retried with a fresh key."""

    reason: str
    status: int


Answer = Delivered | Duplicate | Rejected | Retry | Pause | Disable | KeyConflict


def classify(exchanged: Exchanged, now: float, key_header: str = "Idempotency-Key") -> Answer:
    """Class what an attempt brought back. `now`: Unix seconds, read as the answer came."""
    match exchanged:
        case NotSent(reason):
            return Retry(reason, unknown=False)
        case Unknown(reason):
            return Retry(reason, unknown=True)
        case Unsendable(reason):
            return Pause(reason)
        case Response():
            return _of_response(exchanged, now, key_header)


def _of_response(response: Response, now: float, key_header: str) -> Answer:
    status = response.status
    reason = in_words(status)
    if 200 <= status < 300:
        return Delivered(status)
    if status in PAUSING:
        return Pause(f"{reason}: {PAUSING[status]}", status)
    if status == HTTPStatus.GONE:
        return Disable("disabled by the receiver (410 Gone)", status)
    told = _told_by_body(response, key_header)
    if told is not None:
        return told
    if 400 <= status < 500 and status not in PASSING:
        return Rejected(status, reason)
    return Retry(reason, may_be_applied(status), status, retry_after(response.headers, now))


def _told_by_body(response: Response, key_header: str) -> Duplicate | KeyConflict | None:
    """The few statuses that mean different things by what their body says."""
    status, body = response.status, response.body
    if status in {400, 422} and _is_about_the_key(body, key_header):
        return KeyConflict(f"{in_words(status)}: the receiver objects to the idempotency key", status)
    if status == HTTPStatus.CONFLICT and _EXISTS.search(body) and not _RUNNING.search(body):
        return Duplicate(status)
    return None


def may_be_applied(status: int) -> bool:
    """Whether a request so answered may have taken effect, where it is to be made again."""
    refused = 400 <= status < 500 and status not in PASSING
    return not refused and status not in NOT_APPLIED


def in_words(status: int) -> str:
    """The status and its standard phrase, never the server's own."""
    try:
        return f"answered {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"answered {status}"


def _is_about_the_key(body: bytes, key_header: str) -> bool:
    """Whether the body, be it problem+json, JSON or text, mentions idempotency or the key's header.

    The rule for 422 (the IETF draft: key reused with another payload) and 400 (key missing; Stripe and
    Square answer a reused key so). Every other 400 or 422 is about the referral.
    """
    words = "[-_ ]?".join(re.escape(word) for word in re.split("[-_]", key_header))
    return re.search(rf"idempot|{words}".encode("ascii"), body, re.IGNORECASE) is not None


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds the `Retry-After` header asks for, clamped to [0, MAX_RETRY_AFTER_S].

    None where it is absent or neither whole seconds nor an HTTP date (RFC 9110, 10.2.3). A date is
    measured from the answer's own `Date`, where it has one, so that clocks need not agree.
    """
    value = headers.get("retry-after", "").strip()
    if re.fullmatch("[0-9]+", value):
        digits = value.lstrip("0") or "0"
        return min(float(digits[:9]), MAX_RETRY_AFTER_S)
    until = _http_date(value)
    if until is None:
        return None
    since = _http_date(headers.get("date", ""))
    return min(max(until - (now if since is None else since), 0.0), MAX_RETRY_AFTER_S)


def _http_date(value: str) -> float | None:
    """Unix seconds of any of the three HTTP date forms; they are all in UTC, asctime without saying so."""
    if len(value) > 64 or not value.isascii():
        return None
    try:
        parsed: datetime = parsedate_to_datetime(value.strip())
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
