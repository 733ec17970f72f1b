"""What each kind of text in an advertiser's file may be. Every check returns the text or raises ValueError.

Its sentences are shown to people and never repeat what was written: it may be a secret.
"""

from __future__ import annotations

import ipaddress
import re
from difflib import get_close_matches
from typing import Annotated
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, Field

from schemas import cron

#: A connection's name reaches Redis keys, file names and metrics labels.
NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
ACCOUNT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
#: Where a secret stands; the services look it up when they use it.
REFERENCE = re.compile(r"\$\{(env|file):([^}]+)\}")
_WHOLE_REFERENCE = re.compile(r"\$\{(?:env:[A-Za-z_][A-Za-z0-9_]*|file:/[^}\x00-\x1f]+)\}")

#: RFC 5322 dot-atoms, what every mail server takes; quoted local parts and address literals are left out.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_MAILBOX = re.compile(
    rf"{_ATOM}(?:\.{_ATOM})*@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z0-9-]{{2,63}}"
)
_HOST = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_-]{1,63}\.?")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")

#: These say where a request ends and who it is for: the HTTP client writes them.
_FRAMING = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def _name(value: str) -> str:
    if not NAME.match(value):
        raise ValueError("use 1 to 63 lower-case letters, digits and inner hyphens")
    return value


def _account(value: str) -> str:
    if not ACCOUNT.match(value):
        raise ValueError(
            "use 1 to 64 letters, digits, dots, underscores and hyphens, a letter or digit first"
        )
    return value


def _url(value: str) -> str:
    if len(value) > 2048 or "\\" in value or any(ord(c) <= 32 or ord(c) == 127 for c in value):
        raise ValueError(
            "an address has no blanks, backslashes or control characters and at most 2,048 characters"
        )
    try:
        parts = urlsplit(value)
    except ValueError as error:
        raise ValueError("give a whole https:// address") from error
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        raise ValueError("give a whole https:// address")
    if "@" in parts.netloc:
        raise ValueError("put credentials in a header as a ${env:…} reference, not in the address")
    if "#" in value:
        raise ValueError("an address to call has no fragment (#…)")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("the port must be a number from 1 to 65535")
    return value


def _fixed(value: str) -> str:
    if set("{}") & set(_url(value)):
        raise ValueError("nothing stands in for a part of this address: write it out, without braces")
    return value


def _base(value: str) -> str:
    if "?" in _fixed(value):
        raise ValueError("paths are put behind this address: leave its query (?…) out")
    return value


def is_mailbox(value: str) -> bool:
    """Whether it is a plain address."""
    local = value.partition("@")[0]
    return bool(_MAILBOX.fullmatch(value)) and len(value) <= 254 and len(local) <= 64


def _mailbox(value: str) -> str:
    if not is_mailbox(value):
        raise ValueError(
            "give a plain email address such as leads@example.com (ASCII, with a full domain; one of another "
            "script in its xn-- form)"
        )
    return value


def _one_line(value: str) -> str:
    if not value.isprintable():
        raise ValueError("one line of printable text only")
    return value


def _filled(value: str) -> str:
    if not _one_line(value).strip():
        raise ValueError("must not be empty")
    return value


def _referring(value: str) -> str:
    if "${" in _WHOLE_REFERENCE.sub("", _filled(value)):
        raise ValueError("a reference is written ${env:NAME} or ${file:/run/secrets/x}")
    return value


def _header_name(value: str) -> str:
    if not _HEADER.fullmatch(value):
        raise ValueError("a header's name is 1 to 64 letters, digits and hyphens")
    if value.lower() in _FRAMING:
        raise ValueError("this header is written by the HTTP client: leave it out")
    return value


def _header_value(value: str) -> str:
    if not value.isascii() or not value.isprintable() or value != value.strip():
        raise ValueError("a header's value is one line of ASCII text without outer blanks")
    if "${" in _WHOLE_REFERENCE.sub("", value):
        raise ValueError("a reference is written ${env:NAME} or ${file:/run/secrets/x}")
    return value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except Exception as error:  # whatever a path-like or damaged name makes zoneinfo raise
        raise ValueError(_other_zone(value)) from error
    # Files beside the zones: of this machine, of no place, or counting leap seconds.
    if value in {"localtime", "posixrules", "Factory"} or value.startswith(("posix/", "right/")):
        raise ValueError(_other_zone(value))
    return value


def _other_zone(value: str) -> str:
    """What to write instead of a zone that is unknown: the names have regions, and some were renamed."""
    # `Etc/GMT+2` lies west of Greenwich: the other way than whoever writes GMT+2 means.
    known = sorted(zone for zone in available_timezones() if not re.search("GMT[+-]", zone))
    place = value.rpartition("/")[2].replace(" ", "_").lower()
    same = [zone for zone in known if zone.rpartition("/")[2].lower() == place and "/" in zone]
    near = next(iter(same or get_close_matches(value, known, n=1, cutoff=0.8)), None)
    return f"give an IANA time zone{f': did you mean {near}?' if near else ' such as Australia/Sydney'}"


def _host(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError as error:
        if not _HOST.fullmatch(value) or len(value) > 253:
            raise ValueError(
                "give a host name or an IP address alone, without sftp://, port or folder"
            ) from error
    return value


def _directory(value: str) -> str:
    if not value.isprintable() or not value.strip() or len(value) > 512 or ".." in value.split("/"):
        raise ValueError("give a plain folder path without '..'; '.' is the folder after login")
    return value.rstrip("/") or "/"


def _host_key(value: str) -> str:
    if not re.fullmatch(r"SHA256:[A-Za-z0-9+/]{43}", value):
        raise ValueError("give the fingerprint as `ssh-keygen -lf` prints it: SHA256:…")
    return value


def _secret(value: str) -> str:
    if not _WHOLE_REFERENCE.fullmatch(value):
        raise ValueError("a secret is a reference: ${env:NAME} or ${file:/run/secrets/x}")
    return value


def matching(pattern: str, says: str) -> AfterValidator:
    """A check that the whole text has one form; `says` tells people which."""
    form = re.compile(pattern)

    def check(value: str) -> str:
        if not form.fullmatch(value):
            raise ValueError(says)
        return value

    return AfterValidator(check)


Name = Annotated[str, AfterValidator(_name)]
AccountId = Annotated[str, AfterValidator(_account)]
Line = Annotated[str, Field(max_length=512), AfterValidator(_one_line)]
Filled = Annotated[str, Field(max_length=512), AfterValidator(_filled)]
#: Text that may hold references.
Referring = Annotated[str, Field(max_length=512), AfterValidator(_referring)]
Secret = Annotated[str, AfterValidator(_secret)]
Mailbox = Annotated[str, AfterValidator(_mailbox)]
#: An address in which fields of the referral may stand.
Url = Annotated[str, AfterValidator(_url)]
#: An address as it is written, and one that paths are put behind.
FixedUrl = Annotated[str, AfterValidator(_fixed)]
BaseUrl = Annotated[str, AfterValidator(_base)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
HeaderValue = Annotated[str, Field(max_length=2048), AfterValidator(_header_value)]
Host = Annotated[str, AfterValidator(_host)]
Directory = Annotated[str, AfterValidator(_directory)]
HostKey = Annotated[str, AfterValidator(_host_key)]
#: As `openssl x509 -fingerprint -sha256` prints it, with or without its colons.
Fingerprint = Annotated[
    str,
    matching(
        r"[0-9A-Fa-f]{64}|(?:[0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2}",
        "give the certificate's SHA-256 fingerprint as `openssl x509 -fingerprint -sha256` prints it",
    ),
]
Cron = Annotated[str, AfterValidator(cron.check)]
TimeOfDay = Annotated[
    str,
    matching(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]", 'write a time of day from "00:00" to "23:59", in quotes'),
]
Zone = Annotated[str, AfterValidator(_zone)]

#: YAML's `yes`, '20' and 20.0 are not numbers here: strict, so that a slip is an error and not a 1.
Whole = Annotated[int, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Seconds = Annotated[float, Field(strict=True, gt=0, le=120)]
