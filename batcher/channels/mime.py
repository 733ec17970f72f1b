"""The mail itself, built from a window's file. The one owner of email.

The law: the same arguments give the same bytes, and no argument can add a header or end a part. Pure.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as CRLF_POLICY


@dataclass(frozen=True, slots=True)
class Attachment:
    """`kind`: its media type; `charset` of a text."""

    name: str
    content: bytes
    kind: str = "text/csv"
    charset: str = "utf-8"


def build(
    *,
    message_id: str,
    date: datetime,
    sender: str,
    recipient: str,
    subject: str,
    text: str,
    html: str,
    attachments: Sequence[Attachment],
) -> bytes:
    """The mail as it goes over the line: CRLF, ASCII, no line near the 998 characters SMTP allows.

    `message_id` as `<…@…>`, `date` aware. The same arguments give the same bytes. Raises
    ValueError where a value holds a line break or another control character, or an address is none.
    """
    named = [("message_id", message_id), ("subject", subject), *(("file name", a.name) for a in attachments)]
    for name, value in named:
        if not value.isprintable():
            raise ValueError(f"the mail's {name} must be one line of printable text")
    if not re.fullmatch(r"<[^\s<>@]{1,200}@[^\s<>@]{1,50}>", message_id) or date.tzinfo is None:
        raise ValueError("a mail needs a message id such as <window.recipient@domain> and an aware date")
    mail = EmailMessage(policy=CRLF_POLICY)
    mail["From"] = address(sender)
    mail["To"] = address(recipient)
    mail["Subject"] = subject
    mail["Date"] = date
    mail["Message-ID"] = message_id
    mail["Auto-Submitted"] = "auto-generated"
    # Quoted-printable and base64 hold no "=_", which begins every boundary: none can end a part early.
    mail.set_content(text, cte="quoted-printable")
    mail.add_alternative(html, subtype="html", cte="quoted-printable")
    for attached in attachments:
        kind, _, subtype = attached.kind.partition("/")
        params = {"charset": attached.charset} if kind == "text" else {}
        mail.add_attachment(
            attached.content, maintype=kind, subtype=subtype, filename=attached.name, params=params
        )
    for number, part in enumerate(part for part in mail.walk() if part.is_multipart()):
        part.set_boundary(f"=_{hashlib.sha256(f'{number}{message_id}'.encode()).hexdigest()[:40]}")
    return mail.as_bytes()


def address(value: str) -> Address:
    """One plain ASCII address. Raises ValueError."""
    try:
        parsed = Address(addr_spec=value)
    except (HeaderParseError, ValueError, IndexError):
        parsed = None
    if parsed is None or not value.isascii() or not value.isprintable():
        raise ValueError("a mail's sender and recipient must each be one plain ASCII address")
    return parsed
