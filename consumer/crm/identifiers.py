"""Who a person is, as ad platforms match it: normalised as each vendor says, then SHA-256. Pure.

Its law: clear text comes in and hashes go out, vendor by vendor, because their rules differ (a phone's
plus, the dots of a Gmail address): one vendor's hash finds nobody at the other. What normalises to
nothing is blank and stays blank, and what is a SHA-256 already is not hashed again.

Meta: developers.facebook.com/docs/marketing-api/audiences/guides/custom-audiences, "Hashing and
normalization". Google: developers.google.com/data-manager/api/devguides/concepts/formatting.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping

_HASHED = re.compile(r"[0-9a-fA-F]{64}")
_DAY = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_GENDERS = {"m": "m", "male": "m", "f": "f", "female": "f"}
_GMAIL = frozenset({"gmail.com", "googlemail.com"})
#: E.164: a country code and a number, at most 15 digits; shorter than seven reaches nobody from abroad.
_E164_DIGITS = range(7, 16)


def meta(key: str, value: str) -> str:
    """`value` as Meta's `key` wants it; blank where nothing is left of it. Keys: META."""
    return _ready(META[key], value, clear=key in META_CLEAR)


def google(key: str, value: str) -> str:
    """`value` as the member `key` of Google's user identifiers wants it. Keys: GOOGLE."""
    return _ready(GOOGLE[key], value, clear=key in GOOGLE_CLEAR)


def is_meta(row: object) -> bool:
    """Whether it is a row of what `meta` gave, so that nothing else leaves in clear."""
    return (
        isinstance(row, dict)
        and bool(row)
        and all(
            isinstance(value, str) and key in META and (key in META_CLEAR or _HASHED.fullmatch(value))
            for key, value in row.items()
        )
    )


def _ready(normalise: Callable[[str], str], value: str, *, clear: bool) -> str:
    # One spelling of each letter: a name typed on another machine must give the same hash.
    text = unicodedata.normalize("NFC", value).strip()
    if not clear and _HASHED.fullmatch(text):
        return text.lower()
    normal = normalise(text)
    return normal if clear or not normal else hashlib.sha256(normal.encode("utf-8")).hexdigest()


def _email(text: str) -> str:
    return text.lower() if "@" in text else ""


def _name(text: str) -> str:
    """Lower case, no punctuation and no symbols; letters of every script stay."""
    kept = "".join(c for c in text.lower() if c.isspace() or unicodedata.category(c)[0] not in "PSC")
    return " ".join(kept.split())


def _place(text: str) -> str:
    return _name(text).replace(" ", "")


def _letters(text: str) -> str:
    """An ISO 3166 alpha-2 code, lower case."""
    return text.lower() if re.fullmatch("[A-Za-z]{2}", text) else ""


def _meta_phone(text: str) -> str:
    return re.sub("[^0-9]", "", text).lstrip("0")


def _meta_zip(text: str) -> str:
    return "".join(text.lower().partition("-")[0].split())


def _part_of_day(index: int, width: int) -> Callable[[str], str]:
    """Year, month or day: of an ISO date, or the number itself with its leading zeros."""

    def part(text: str) -> str:
        day = _DAY.match(text)
        if day is not None:
            return day.group(index)
        return text.zfill(width) if re.fullmatch(f"[0-9]{{1,{width}}}", text) else ""

    return part


def _google_email(text: str) -> str:
    local, at, domain = "".join(text.lower().split()).rpartition("@")
    if domain in _GMAIL:
        local = local.partition("+")[0].replace(".", "")
    return f"{local}@{domain}" if at and local else ""


def _google_phone(text: str) -> str:
    """Only what says its country: without the plus, a number is somebody else's elsewhere."""
    digits = re.sub("[^0-9]", "", text)
    return f"+{digits}" if text.startswith("+") and len(digits) in _E164_DIGITS else ""


def _as_is(text: str) -> str:
    return text


META: Mapping[str, Callable[[str], str]] = {
    "EMAIL": _email,
    "PHONE": _meta_phone,
    "GEN": lambda text: _GENDERS.get(text.lower(), ""),
    "DOBY": _part_of_day(1, 4),
    "DOBM": _part_of_day(2, 2),
    "DOBD": _part_of_day(3, 2),
    "FN": _name,
    "LN": _name,
    "FI": lambda text: _name(text)[:1],
    "CT": _place,
    "ST": _place,
    "ZIP": _meta_zip,
    "COUNTRY": _letters,
    "MADID": str.lower,
    "EXTERN_ID": _as_is,
}
#: Sent as they are: the advertiser's own id and the id of a device.
META_CLEAR = frozenset({"MADID", "EXTERN_ID"})

GOOGLE: Mapping[str, Callable[[str], str]] = {
    "emailAddress": _google_email,
    "phoneNumber": _google_phone,
    "givenName": _name,
    "familyName": _name,
    "regionCode": lambda text: _letters(text).upper(),
    "postalCode": _as_is,
}
#: The address's region and code stay readable: AddressInfo of the API.
GOOGLE_CLEAR = frozenset({"regionCode", "postalCode"})
