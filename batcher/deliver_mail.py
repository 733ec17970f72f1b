"""How a sealed window leaves by mail: one transaction per recipient.

The intent is durable before the data, the answer after it. Until a first byte may have left, the file is
made anew at every try; from then on it is the same for everybody, or nobody gets another one.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from datetime import UTC
from zoneinfo import ZoneInfo

from batcher.channels import Hold, Retry, mail
from batcher.channels.mail import Fenced, Sent, Uncertain
from batcher.deliver import NOTHING_NEW, Finished, Result, Sending, file_name, nothing_new, told, write
from batcher.render import Rows
from batcher.windows import State, WindowState
from consumer import metrics
from schemas.connection import EmailConnection
from schemas.delivery import Outcome

#: base64 makes it 14 MiB: what most mail systems still take. A larger window belongs on SFTP.
MAX_ATTACHMENT = 10 << 20


class TooLarge(Exception):  # noqa: N818 - what the file is
    """The file is over the size a mail takes."""


def by_mail(sending: Sending, window: WindowState, connection: EmailConnection) -> tuple[WindowState, Result]:
    """Send to everybody who is not known to have it, or not known to miss it."""
    begun = first_byte_left(window.fields)
    marks = _parsed(window.fields["first_byte"]) if begun else sending.windows.marks_now(sending.partitions)
    rows = Rows(sending.windows, window, connection, marks, sending.by_id)
    file = _Capped()
    try:
        written = write(file, connection, rows)
    except TooLarge as error:
        return window, Hold(str(error))
    if begun and written.sha256 != window.fields["sha256"]:
        return window, Hold(
            "the rows now give another file than the one some recipients have: "
            "export the time range by hand for those who miss it"
        )
    if not begun:
        facts: dict[str, str | int] = {
            "first_byte": ",".join(f"{p}:{n}" for p, n in marks.items()),
            **told(written, rows),
        }
        if nothing_new(written, connection):
            return sending.windows.advance(window, facts, durable=False), NOTHING_NEW
        # Durable with the first recipient's intent: before that nothing leaves.
        window = sending.windows.advance(window, {"state": State.SENDING, **facts}, durable=False)
    return _to_all(sending, window, connection, file.getvalue())


def first_byte_left(fields: Mapping[str, str]) -> bool:
    """Whether some recipient may have got something of this window's file. Pure."""
    return "uncertain" in fields or any(value for name, value in fields.items() if name.startswith("to:"))


def _to_all(
    sending: Sending, window: WindowState, connection: EmailConnection, file: bytes
) -> tuple[WindowState, Result]:
    trouble: Retry | Hold | None = None
    for recipient in connection.recipients:
        window, answer = _to_recipient(sending, window, connection, recipient, file)
        trouble = answer or trouble
    if trouble is not None:
        return window, trouble
    uncertain = sum(window.fields.get(_field(r)) == Outcome.UNCERTAIN for r in connection.recipients)
    if uncertain:
        return window, Finished(
            Outcome.UNCERTAIN,
            f"nobody knows whether {uncertain} of {len(connection.recipients)} mails arrived",
        )
    return window, Finished(Outcome.DELIVERED)


def _to_recipient(
    sending: Sending, window: WindowState, connection: EmailConnection, recipient: str, file: bytes
) -> tuple[WindowState, Retry | Hold | None]:
    field = _field(recipient)
    state = window.fields.get(field, "")
    if state in {Outcome.DELIVERED, Outcome.UNCERTAIN}:
        return window, None
    if state == State.SENDING:
        # A worker died between the intent and the answer.
        return _uncertain(sending, window, connection, field, "the worker sending it died")
    raw = _message(sending, window, connection, recipient, file)
    held = [window]

    def before_data() -> bool:
        held[0] = sending.windows.advance(held[0], {field: State.SENDING}, durable=True)
        sending.step("sending durable")
        return True

    answer = mail.send(sending.relay, sending.mail_from, recipient, raw, before_data)
    window = held[0]
    sending.step("sent")
    match answer:
        case Sent():
            return sending.windows.advance(window, {field: Outcome.DELIVERED}, durable=True), None
        case Uncertain(reason):
            return _uncertain(sending, window, connection, field, reason)
        case Retry() | Hold():
            return sending.windows.advance(window, {field: ""}, durable=False), answer
        case Fenced():
            raise AssertionError("before_data raises where the window is gone")


def _uncertain(
    sending: Sending, window: WindowState, connection: EmailConnection, field: str, reason: str
) -> tuple[WindowState, Retry | None]:
    """At least once or at most once: the advertiser's choice."""
    hold = connection.on_uncertain == "hold"
    count = int(window.fields.get("uncertain", "0")) + 1
    state: dict[str, str | int] = {field: Outcome.UNCERTAIN if hold else "", "uncertain": count}
    window = sending.windows.advance(window, state, durable=True)
    metrics.AMBIGUOUS.labels("email").inc()
    return window, None if hold else Retry(f"a mail may have arrived ({reason}); it is sent again as chosen")


def _message(
    sending: Sending, window: WindowState, connection: EmailConnection, recipient: str, file: bytes
) -> bytes:
    """The same bytes at every try: all that goes in is fixed with the window."""
    domain = sending.mail_from.rpartition("@")[2]
    sealed = window.sealed_at.astimezone(ZoneInfo(connection.schedule.zone))
    text = (
        f"New referrals in the attached file: {window.fields['rows']}, "
        f"up to {sealed:%Y-%m-%d %H:%M} ({connection.schedule.zone})."
    )
    return mail.build(
        message_id=f"<{window.id}.{_field(recipient)[3:]}@{domain}>",
        date=window.sealed_at.astimezone(UTC),
        sender=sending.mail_from,
        recipient=recipient,
        subject=connection.subject,
        text=f"{text}\n",
        html=f"<p>{text}</p>\n",
        attachment_name=file_name(window, connection),
        attachment=file,
    )


def _field(recipient: str) -> str:
    """The recipient's state in the window; a digest, since keys and fields hold no personal data."""
    return "to:" + hashlib.sha256(recipient.lower().encode()).hexdigest()[:16]


def _parsed(first_byte: str) -> dict[int, int]:
    return {int(p): int(n) for p, n in (item.split(":") for item in first_byte.split(","))}


class _Capped(io.BytesIO):
    def write(self, content: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]
        if self.tell() + len(content) > MAX_ATTACHMENT:
            raise TooLarge(
                f"the file is over {MAX_ATTACHMENT >> 20} MiB, too large to mail: deliver by SFTP instead"
            )
        return super().write(content)
