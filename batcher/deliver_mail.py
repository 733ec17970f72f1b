"""How a sealed window leaves by mail: one transaction per recipient.

The intent is durable before the data, the answer after it. Until a first byte may have left, the file is
made anew at every try; from then on it is the same for everybody, or nobody gets another one. A file that
would come out otherwise each time, since it is encrypted, is kept from then on.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from datetime import UTC
from zoneinfo import ZoneInfo

from batcher.channels import Hold, Retry, mail
from batcher.channels.mail import Fenced, Sent, Uncertain
from batcher.deliver import NOTHING_NEW, Finished, Result, Sending, nothing_new, packed_with, told, write
from batcher.files.name import final_name
from batcher.files.sink import Written
from batcher.kept import keep, kept
from batcher.render import Rows
from batcher.windows import State, WindowState
from consumer import metrics
from schemas.connection import CsvFormat, EmailConnection
from schemas.delivery import Outcome

#: base64 makes it 14 MiB: what most mail systems still take. A larger window belongs on SFTP.
MAX_ATTACHMENT = 10 << 20


#: What a file is to a mail program, by its last ending.
_TYPES = {
    ".csv": "text/csv",
    ".jsonl": "application/x-ndjson",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".gz": "application/gzip",
    ".zip": "application/zip",
    ".pgp": "application/octet-stream",
    ".asc": "application/octet-stream",
}


class TooLarge(Exception):  # noqa: N818 - what the file is
    """The file is over the size a mail takes."""


def by_mail(sending: Sending, window: WindowState, connection: EmailConnection) -> tuple[WindowState, Result]:
    """Send to everybody who is not known to have it, or not known to miss it."""
    if first_byte_left(window.fields):
        file = _as_sent(sending, window, connection)
        return (window, file) if isinstance(file, Hold) else _to_all(sending, window, connection, file)
    marks = sending.windows.marks_now(sending.partitions)
    rows = Rows(sending.windows, window, connection, marks, sending.by_id)
    made = _made(sending, window, connection, rows)
    if isinstance(made, Hold):
        return window, made
    file, written = made
    facts: dict[str, str | int] = {
        "first_byte": ",".join(f"{p}:{n}" for p, n in marks.items()),
        **told(written, rows),
    }
    if nothing_new(written, connection):
        return sending.windows.advance(window, facts, durable=False), NOTHING_NEW
    # Durable with the first recipient's intent: before that nothing leaves.
    window = sending.windows.advance(window, {"state": State.SENDING, **facts}, durable=False)
    return _to_all(sending, window, connection, file)


def _made(
    sending: Sending, window: WindowState, connection: EmailConnection, rows: Rows
) -> tuple[bytes, Written] | Hold:
    packed = packed_with(sending, window, connection)
    if isinstance(packed, Hold):
        return packed
    file = _Capped()
    try:
        written = write(file, connection, rows, packed)
    except TooLarge as error:
        return Hold(str(error))
    return file.getvalue(), written


def _as_sent(sending: Sending, window: WindowState, connection: EmailConnection) -> bytes | Hold:
    """The file as some recipient may have it already."""
    if "kept" in window.fields:
        file = kept(sending.windows, window)
        if file is not None and hashlib.sha256(file).hexdigest() == window.fields["sha256"]:
            return file
        return Hold(
            "the file some recipients have is no longer kept: export the time range by hand for those who "
            "miss it"
        )
    marks = _parsed(window.fields["first_byte"])
    rows = Rows(sending.windows, window, connection, marks, sending.by_id)
    made = _made(sending, window, connection, rows)
    if isinstance(made, Hold) or made[1].sha256 == window.fields["sha256"]:
        return made if isinstance(made, Hold) else made[0]
    return Hold(
        "the rows now give another file than the one some recipients have: "
        "export the time range by hand for those who miss it"
    )


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
        if not connection.file.repeatable and not first_byte_left(held[0].fields):
            held[0] = keep(sending.windows, held[0], file)
            sending.step("kept")
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
        attachment_name=final_name(window, connection),
        attachment=file,
        attachment_type=_TYPES[connection.file.endings[-1]],
        charset=connection.file.encoding if isinstance(connection.file, CsvFormat) else "utf-8",
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
                f"the file is over {MAX_ATTACHMENT >> 20} MiB, too large to mail: compress it, "
                "or deliver by SFTP"
            )
        return super().write(content)
