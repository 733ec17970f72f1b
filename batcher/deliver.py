"""How a sealed window leaves: by SFTP or by mail, each step durable before the next can do harm."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from typing import BinaryIO
from zoneinfo import ZoneInfo

from batcher.channels import Hold, Retry, mail, sftp
from batcher.channels.mail import Fenced, Relay, Sent, Uncertain
from batcher.files import csv_file
from batcher.files.csv_file import Written
from batcher.render import Rows
from batcher.windows import State, Windows, WindowState
from consumer import metrics
from consumer.secrets import Missing, Secrets
from schemas.connection import EmailConnection, SftpConnection
from schemas.delivery import Outcome
from schemas.referral import SchemaById

#: base64 makes it 14 MiB: what most mail systems still take. A larger window belongs on SFTP.
MAX_ATTACHMENT = 10 << 20

Step = Callable[[str], None]
"""Called with the name of each step just done; tests end the process there."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The window has left, or never needs to. `outcome` is DELIVERED, or UNCERTAIN for mails nobody knows of."""

    outcome: Outcome
    reason: str = ""


Result = Finished | Retry | Hold


class TooLarge(Exception):  # noqa: N818 - what the file is
    """The file is over the size its channel takes."""


@dataclass(frozen=True, slots=True)
class Sending:
    """What sending one window needs."""

    windows: Windows
    partitions: int
    secrets: Secrets
    relay: Relay
    mail_from: str
    monotonic: Callable[[], float]
    by_id: SchemaById | None
    step: Step


def file_name(window: WindowState, connection: SftpConnection | EmailConnection) -> str:
    """`<connection>-<local date of the seal>-<number>.csv`: never the same twice for a connection."""
    day = window.sealed_at.astimezone(ZoneInfo(connection.schedule.zone))
    return f"{connection.name}-{day:%Y%m%d}-{window.number:06d}.csv"


def by_sftp(sending: Sending, window: WindowState, connection: SftpConnection) -> tuple[WindowState, Result]:
    """Upload under a name of our own, make that durable, rename. Temporary gone means renamed."""
    target = _target(sending, connection)
    if isinstance(target, Hold):
        return window, target
    with sftp.connect(target) as session:
        if not isinstance(session, sftp.Session):
            return window, session
        if window.state is State.SEALED:
            rows = Rows(sending.windows, window, connection, None, sending.by_id)
            written: list[Written] = []
            uploaded = session.upload(
                f".{window.id}.{window.token}.{window.tries}.part",
                lambda out: written.append(_write(out, connection, rows)),
            )
            if not isinstance(uploaded, sftp.Uploaded):
                return window, uploaded
            sending.step("uploaded")
            window = sending.windows.advance(
                window,
                {
                    "state": State.UPLOADED,
                    "part": uploaded.name,
                    "size": uploaded.size,
                    "sha256": uploaded.sha256,
                    "rows": written[0].rows,
                    "left_out": rows.left_out,
                },
                durable=True,
            )
            sending.step("uploaded durable")
        fields = window.fields
        part = sftp.Uploaded(fields["part"], int(fields["size"]), fields["sha256"])
        renamed = session.deliver(part, file_name(window, connection))
        sending.step("renamed")
        if not isinstance(renamed, sftp.Renamed):
            return window, renamed
        _sweep(session, window)
        return window, Finished(Outcome.DELIVERED)


def _sweep(session: sftp.Session, window: WindowState) -> None:
    """What dead workers left of this window. Only now: before it is delivered, a part that is gone means renamed."""
    parts = session.list_parts(f".{window.id}.")
    for part in parts if isinstance(parts, tuple) else ():
        session.remove(part)


def by_mail(sending: Sending, window: WindowState, connection: EmailConnection) -> tuple[WindowState, Result]:
    """One transaction per recipient; the intent is durable before the data, the answer after it."""
    first_byte = sending.windows.marks_now(sending.partitions)
    if window.state is State.SENDING:
        first_byte = {int(p): int(n) for p, n in (item.split(":") for item in window.fields["first_byte"].split(","))}
    rows = Rows(sending.windows, window, connection, first_byte, sending.by_id)
    file = _Capped()
    try:
        written = _write(file, connection, rows)
    except TooLarge as error:
        return window, Hold(str(error))
    if window.state is State.SEALED:
        window = sending.windows.advance(
            window,
            {
                "state": State.SENDING,
                "first_byte": ",".join(f"{p}:{n}" for p, n in first_byte.items()),
                "size": written.bytes,
                "sha256": written.sha256,
                "rows": written.rows,
                "left_out": rows.left_out,
            },
            durable=True,
        )
    trouble: Retry | Hold | None = None
    for recipient in connection.recipients:
        window, answer = _to_recipient(sending, window, connection, recipient, file.getvalue())
        trouble = answer or trouble
    if trouble is not None:
        return window, trouble
    uncertain = sum(window.fields.get(_field(r)) == Outcome.UNCERTAIN for r in connection.recipients)
    if uncertain:
        return window, Finished(
            Outcome.UNCERTAIN, f"nobody knows whether {uncertain} of {len(connection.recipients)} mails arrived"
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
        # A worker died between the data and the answer.
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
    metrics.AMBIGUOUS.labels("email").inc()
    count = int(window.fields.get("uncertain", "0")) + 1
    if connection.on_uncertain == "hold":
        state: dict[str, str | int] = {field: Outcome.UNCERTAIN, "uncertain": count}
        return sending.windows.advance(window, state, durable=True), None
    window = sending.windows.advance(window, {field: "", "uncertain": count}, durable=True)
    return window, Retry(f"a mail may have arrived ({reason}); it is sent again as chosen")


def _message(
    sending: Sending, window: WindowState, connection: EmailConnection, recipient: str, file: bytes
) -> bytes:
    domain = sending.mail_from.rpartition("@")[2]
    slot = window.sealed_at.astimezone(ZoneInfo(connection.schedule.zone))
    rows = window.fields["rows"]
    told = f"{rows} new referrals are attached, sealed on {slot:%Y-%m-%d at %H:%M} ({connection.schedule.zone})."
    return mail.build(
        message_id=f"<{window.id}.{_field(recipient)[3:]}@{domain}>",
        date=window.sealed_at.astimezone(UTC),
        sender=sending.mail_from,
        recipient=recipient,
        subject=connection.subject,
        text=f"{told}\n",
        html=f"<p>{told}</p>\n",
        attachment_name=file_name(window, connection),
        attachment=file,
    )


def _write(out: BinaryIO, connection: SftpConnection | EmailConnection, rows: Rows) -> Written:
    guard = connection.file.formula_guard
    return csv_file.write(
        out,
        connection.file,
        [rule.name for rule in connection.fields],
        rows,
        guard=connection.kind == "email" if guard is None else guard,
    )


def _target(sending: Sending, connection: SftpConnection) -> sftp.Target | Hold:
    resolved: dict[str, str | None] = {}
    for name in ("password", "private_key", "passphrase"):
        reference = getattr(connection, name)
        value = None if reference is None else sending.secrets.resolve(reference, sending.monotonic())
        if isinstance(value, Missing):
            return Hold(f"{name}: {value.reason}")
        resolved[name] = value
    return sftp.Target(
        host=connection.host,
        port=connection.port,
        username=connection.username,
        host_keys=connection.host_keys,
        directory=connection.directory,
        timeout=connection.timeout,
        **resolved,
    )


def _field(recipient: str) -> str:
    """The recipient's state in the window; a digest, since keys and fields hold no personal data."""
    return "to:" + hashlib.sha256(recipient.lower().encode()).hexdigest()[:16]


class _Capped(io.BytesIO):
    def write(self, content: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]
        if self.tell() + len(content) > MAX_ATTACHMENT:
            raise TooLarge(
                f"the file is over {MAX_ATTACHMENT >> 20} MiB, too large to mail: deliver this connection by SFTP"
            )
        return super().write(content)
