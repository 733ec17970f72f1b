"""Mail: one transaction per recipient, and the truth about how it ended. The one owner of smtplib.

The law: until the end of the data is sent a mail is surely not delivered; from then on only the relay's
answer tells, and without one the outcome is `Uncertain`.
"""

from __future__ import annotations

import re
import smtplib
import socket
import ssl
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from batcher.channels import Hold, Retry
from batcher.channels.line import cut_after
from batcher.channels.mime import Attachment, address, build

__all__ = ["Attachment", "Fenced", "Refused", "Relay", "Sent", "Uncertain", "build", "send"]

#: RFC 5321 4.5.3.2.6: a server may take 10 minutes to answer the end of the data, and asking earlier doubles.
FINAL_REPLY = 600.0
#: Seconds for everything before that answer: a large mail on a slow line, never a relay that trickles.
WITHIN = 900.0
#: A block under the step's timeout, so that a slow line is no stuck one.
BLOCK = 64 * 1024
#: Of a relay's answer, what a person needs to read.
MAX_REPLY = 200

_ADDRESS = re.compile(r"[^\s<>]+@[^\s<>]+")


@dataclass(frozen=True, slots=True)
class Relay:
    """Our way out.

    `timeout` and `final_reply` are seconds, `ca` is a PEM file that stands in for the system's authorities,
    `hello` what we call ourselves. Raises ValueError for a login that would go over the line in clear.
    """

    host: str
    port: int
    timeout: float
    starttls: bool = True
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: Path | None = None
    final_reply: float = FINAL_REPLY
    hello: str = field(default_factory=socket.gethostname)

    def __post_init__(self) -> None:
        if self.username is not None and not self.starttls:
            raise ValueError(
                f"a login at {self.where} needs starttls: the password would be readable on the way"
            )

    @property
    def where(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Sent:
    """The relay has it. `reply` without addresses: often the relay's queue id."""

    reply: str


@dataclass(frozen=True, slots=True)
class Uncertain:
    """All of it was sent and no answer came: delivered or not, nobody can know."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The recipient's mail system refuses this recipient for good; nothing was sent."""

    reason: str


@dataclass(frozen=True, slots=True)
class Fenced:
    """`before_data` said no; nothing was sent."""


def send(
    relay: Relay, envelope_from: str, recipient: str, raw: bytes, before_data: Callable[[], bool]
) -> Sent | Refused | Retry | Hold | Uncertain | Fenced:
    """One transaction.

    `before_data` runs when the recipient is accepted and nothing of the mail is sent: there the intent is
    made durable. Where it answers False nothing is sent; what it raises passes through.

    Retry, Hold and Refused mean: surely not delivered. Raises ValueError where an address is none, or `raw`
    has line ends other than CRLF, which some relays would take for the end of the data.
    """
    for mailbox in (envelope_from, recipient):
        address(mailbox)
    if re.search(rb"(?<!\r)\n|\r(?!\n)", raw):
        raise ValueError("a mail with a bare CR or LF could end early at some relay: build it with CRLF")
    try:
        context = ssl.create_default_context(cafile=relay.ca) if relay.starttls else None
    except OSError:
        return Hold(f"the file of authorities for {relay.where} cannot be used: give a readable PEM file")
    smtp = _Smtp(relay)
    with cut_after(WITHIN + relay.final_reply, partial(_cut, smtp)), closing(smtp):
        try:
            refused = _prepare(smtp, relay, context, envelope_from, recipient, len(raw))
        except (OSError, smtplib.SMTPException, UnicodeError) as error:
            refused = explain(error, relay.where)
        if refused is not None:
            return refused
        return _data(smtp, relay, raw) if before_data() else Fenced()


class _Smtp(smtplib.SMTP):
    """Not yet connected, but knowing the name its certificate must carry."""

    def __init__(self, relay: Relay) -> None:
        super().__init__(local_hostname=relay.hello, timeout=relay.timeout)
        self._host = relay.host


def _prepare(
    smtp: smtplib.SMTP, relay: Relay, context: ssl.SSLContext | None, sender: str, recipient: str, size: int
) -> Refused | Retry | Hold | None:
    """None when the relay has accepted the recipient."""
    code, reply = smtp.connect(relay.host, relay.port)
    if code != 220:
        return refusal(code, reply, relay.where)
    smtp.ehlo_or_helo_if_needed()
    if context is not None:
        smtp.starttls(context=context)
        smtp.ehlo_or_helo_if_needed()
    if relay.username is not None:
        smtp.login(relay.username, relay.password or "")
    most = smtp.esmtp_features.get("size", "")
    if most.isdigit() and 0 < int(most) < size:
        return Hold(
            f"the mail has {size} bytes, {relay.where} takes {int(most)}: send fewer rows or use SFTP"
        )
    code, reply = smtp.mail(sender, [f"SIZE={size}"] if smtp.has_extn("size") else [])
    if code != 250:
        return refusal(code, reply, relay.where)
    code, reply = smtp.rcpt(recipient)
    if code in {250, 251}:
        return None
    if for_good(code, reply):
        return Refused(f"{relay.where} refuses a recipient ({code} {_readable(reply)})")
    return refusal(code, reply, relay.where)


def _data(smtp: smtplib.SMTP, relay: Relay, raw: bytes) -> Sent | Retry | Hold | Uncertain:
    content = stuffed(raw)
    try:
        code, reply = smtp.docmd("DATA")
        if code != 354:
            return refusal(code, reply, relay.where)
        for start in range(0, len(content), BLOCK):
            smtp.send(content[start : start + BLOCK])
        assert smtp.sock is not None
        smtp.sock.settimeout(relay.final_reply)
    except (OSError, smtplib.SMTPException) as error:
        return explain(error, relay.where)
    # The line of no return: whatever fails from here on, the relay may have the mail.
    try:
        smtp.send(b".\r\n")
        code, reply = smtp.getreply()
    except (OSError, smtplib.SMTPException):
        return Uncertain(
            f"{relay.where} got the whole mail and did not answer: ask its log for the Message-ID"
        )
    if 400 <= code <= 599:
        return refusal(code, reply, relay.where)
    if not 200 <= code <= 299:
        return Uncertain(
            f"{relay.where} answered the whole mail with nonsense: ask its log for the Message-ID"
        )
    with suppress(OSError, smtplib.SMTPException):
        smtp.putcmd("QUIT")
    return Sent(_readable(reply))


def stuffed(raw: bytes) -> bytes:
    """The mail's lines with a dot before each that begins with one, ending in CRLF (RFC 5321 4.5.2)."""
    whole = raw if raw.endswith(b"\r\n") else raw + b"\r\n"
    return (b"\r\n" + whole).replace(b"\r\n.", b"\r\n..")[2:]


def refusal(code: int, reply: bytes, where: str) -> Retry | Hold:
    """What a refusal means for a mail: it is surely not delivered. Pure."""
    answer = f"{code} {_readable(reply)}".rstrip()
    if code == 552 or (code == 554 and b"5.3.4" in reply):
        return Hold(f"{where} has no room for a mail of this size ({answer}): send fewer rows or use SFTP")
    if code == 535:
        return Hold(f"{where} refuses our login ({answer}): check the relay's user name and password")
    if 500 <= code <= 599:
        return Hold(f"{where} refuses the mail ({answer}): check the recipient's address and our sender")
    return Retry(f"{where} does not take the mail now ({answer})")


def for_good(code: int, reply: bytes) -> bool:
    """Whether this mailbox is refused, and not we or our mail (RFC 5321 4.2.2, RFC 3463 3.3). Pure."""
    if code == 552:
        return b"5.2." in reply
    return code in {521, 550, 551, 553, 556} and b"5.7." not in reply


def explain(error: Exception, where: str) -> Retry | Hold:
    """What an error before the end of the data means: surely not delivered. Pure."""
    match error:
        case ssl.SSLCertVerificationError():
            meaning: Retry | Hold = Hold(
                f"{where} shows a certificate we cannot trust: {error.verify_message}"
            )
        case smtplib.SMTPResponseException():
            reply = error.smtp_error if isinstance(error.smtp_error, bytes) else error.smtp_error.encode()
            meaning = refusal(error.smtp_code, reply, where)
        case smtplib.SMTPServerDisconnected():
            meaning = Retry(f"{where} closed the connection or did not answer in time")
        case smtplib.SMTPNotSupportedError():
            meaning = Hold(f"{where} does not offer what the relay's settings ask for (STARTTLS or a login)")
        case smtplib.SMTPException() | UnicodeError():
            meaning = Hold(f"{where} offers no login we can use with these credentials")
        case socket.gaierror():
            meaning = Retry(f"the name in {where} cannot be resolved")
        case ConnectionRefusedError():
            meaning = Retry(f"{where} refuses connections")
        case TimeoutError():
            meaning = Retry(f"{where} did not answer in time")
        case _:
            meaning = Retry(f"the connection to {where} broke ({type(error).__name__})")
    return meaning


def _readable(reply: bytes) -> str:
    text = _ADDRESS.sub("…", " ".join(reply.decode("ascii", "replace").split()))
    return "".join(c for c in text if c.isprintable())[:MAX_REPLY]


def _cut(smtp: smtplib.SMTP) -> None:
    """The bound on a relay that answers one letter at a time."""
    if smtp.sock is not None:
        smtp.sock.shutdown(socket.SHUT_RDWR)
