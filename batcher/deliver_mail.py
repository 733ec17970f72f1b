"""How a sealed window leaves by mail: one transaction per recipient and file.

The intent is durable before the data, the answer after it. Until a first byte may have left, the files are
made anew at every try; from then on they are the same for everybody. A recipient whose mail system refuses
it for good misses the window, which is said aloud, and keeps nobody else waiting.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC
from zoneinfo import ZoneInfo

from batcher import artefacts, mail_files
from batcher.artefacts import Pinned
from batcher.channels import Hold, Retry, mail
from batcher.channels.mail import Attachment, Fenced, Refused, Sent, Uncertain
from batcher.deliver import TOLD_NOTHING, Finished, Result, Sending, sidecar
from batcher.files.name import sidecar_name
from batcher.kept import forget, kept
from batcher.window import State, WindowState
from consumer import log, metrics
from schemas.connection import CsvFormat, EmailConnection
from schemas.delivery import Outcome

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


def by_mail(sending: Sending, window: WindowState, connection: EmailConnection) -> tuple[WindowState, Result]:
    """Send to everybody who is not known to have it, or not known to miss it."""
    if not first_byte_left(window.fields):
        window, ended = mail_files.make(sending, window, connection)
        if ended is not None:
            return window, ended
    mailing = _Mailing(sending, window, connection)
    window, result = mailing.send(), mailing.result()
    if not isinstance(result, Finished) and not first_byte_left(window.fields):
        # Still a person may mend what its files are, or its way.
        forget(sending.windows, window)
        window = sending.windows.advance(window, {"state": State.SEALED, "files": 0}, durable=False)
    return window, result


def first_byte_left(fields: Mapping[str, str]) -> bool:
    """Whether some recipient may have got something of this window. Pure."""
    states = (value for name, value in fields.items() if name.startswith("to:"))
    return "uncertain" in fields or any(state not in {"", Outcome.REJECTED} for state in states)


def _refused(field: str, state: str) -> bool:
    return field.startswith("to:") and state == Outcome.REJECTED


class _Mailing:
    """One try of all mails of one window, file by file; memory holds one file. `window`: as it stands now."""

    def __init__(self, sending: Sending, window: WindowState, connection: EmailConnection) -> None:
        self._sending, self.window, self._connection = sending, window, connection
        self._files = artefacts.pinned(window.fields)
        #: Where there is no file, one mail says so.
        self._count = max(1, len(self._files))
        self._trouble: Retry | Hold | None = None

    def send(self) -> WindowState:
        """Every mail that is neither answered nor uncertain."""
        for number in range(1, self._count + 1):
            attachments: list[Attachment] | None = None
            for recipient in self._connection.recipients:
                field = _field(recipient, number)
                if not self._awaited(recipient, field):
                    continue
                if attachments is None:
                    found = self._attachments(number)
                    if isinstance(found, Hold):
                        self._trouble = found
                        return self.window
                    attachments = found
                self._to(recipient, number, field, attachments)
        if self._trouble is None and self._refused() == len(self._connection.recipients):
            self._trouble = Hold("every recipient is refused by its mail system: check the addresses")
            # What somebody has, or may have, stays as it is.
            cleared = {name: "" for name, told in self.window.fields.items() if _refused(name, told)}
            self.window = self._sending.windows.advance(self.window, cleared, durable=False)
        return self.window

    def result(self) -> Result:
        if self._trouble is not None:
            return self._trouble
        of = len(self._connection.recipients)
        uncertain = sum(Outcome.UNCERTAIN in self._states(r) for r in self._connection.recipients)
        told = (
            f"nobody knows whether the mails to {uncertain} of {of} recipients arrived" if uncertain else "",
            f"{self._refused()} of {of} recipients are refused by their mail system and miss it"
            if self._refused()
            else "",
            "" if self._files else TOLD_NOTHING,
        )
        outcome = Outcome.UNCERTAIN if uncertain else Outcome.DELIVERED
        return Finished(outcome, "; ".join(filter(None, told)))

    def _awaited(self, recipient: str, field: str) -> bool:
        state = self.window.fields.get(field, "")
        if state == State.SENDING:
            # A worker died between the intent and the answer.
            self._uncertain(field, "the worker sending it died")
        done = state in {State.SENDING, Outcome.DELIVERED, Outcome.UNCERTAIN}
        return not done and Outcome.REJECTED not in self._states(recipient)

    def _to(self, recipient: str, number: int, field: str, attachments: list[Attachment]) -> None:
        raw = _message(self._sending, self.window, self._connection, recipient, number, attachments)

        def before_data() -> bool:
            self._advance({field: State.SENDING}, durable=True)
            self._sending.step("sending durable")
            return True

        answer = mail.send(self._sending.relay, self._sending.mail_from, recipient, raw, before_data)
        self._sending.step("sent")
        match answer:
            case Sent():
                self._advance({field: Outcome.DELIVERED}, durable=True)
            case Uncertain(reason):
                self._uncertain(field, reason)
            case Refused(reason):
                metrics.FLUSHED.labels("email", "refused").inc()
                log.trouble("mail.refused", window=self.window.id, reason=reason)
                self._advance({field: Outcome.REJECTED}, durable=True)
            case Retry() | Hold():
                self._advance({field: ""}, durable=False)
                self._met(answer)
            case Fenced():
                raise AssertionError("before_data raises where the window is gone")

    def _uncertain(self, field: str, reason: str) -> None:
        """At least once or at most once: the advertiser's choice."""
        hold = self._connection.on_uncertain == "hold"
        count = int(self.window.fields.get("uncertain", "0")) + 1
        self._advance({field: Outcome.UNCERTAIN if hold else "", "uncertain": count}, durable=True)
        metrics.AMBIGUOUS.labels("email").inc()
        if not hold:
            self._met(Retry(f"a mail may have arrived ({reason}); it is sent again as chosen"))

    def _met(self, trouble: Retry | Hold) -> None:
        """What waits for a person is told before what passes by itself."""
        if not isinstance(self._trouble, Hold):
            self._trouble = trouble

    def _attachments(self, number: int) -> list[Attachment] | Hold:
        """What the mail carries: the file as it is kept, and with the last one the document, where wanted."""
        found = []
        if self._files:
            pinned = self._files[number - 1]
            content = kept(self._sending.windows, self.window, number)
            if content is None or hashlib.sha256(content).hexdigest() != pinned.sha256:
                return Hold(
                    f"{pinned.name} is no longer kept as some recipients may have it: export the time range "
                    "by hand for those who miss it"
                )
            found.append(_attachment(pinned, content, self._connection))
        if self._connection.file.sidecar and number == self._count:
            name = sidecar_name(self.window, self._connection)
            found.append(Attachment(name, sidecar(self.window, self._files), "application/json"))
        return found

    def _refused(self) -> int:
        return sum(Outcome.REJECTED in self._states(r) for r in self._connection.recipients)

    def _states(self, recipient: str) -> set[str]:
        return {self.window.fields.get(_field(recipient, n), "") for n in range(1, self._count + 1)}

    def _advance(self, fields: artefacts.Fields, *, durable: bool) -> None:
        self.window = self._sending.windows.advance(self.window, fields, durable=durable)


def _attachment(pinned: Pinned, content: bytes, connection: EmailConnection) -> Attachment:
    charset = connection.file.encoding if isinstance(connection.file, CsvFormat) else "utf-8"
    return Attachment(pinned.name, content, _TYPES[connection.file.endings[-1]], charset)


def _message(
    sending: Sending,
    window: WindowState,
    connection: EmailConnection,
    recipient: str,
    number: int,
    attachments: list[Attachment],
) -> bytes:
    """The same bytes at every try: all that goes in is fixed with the window."""
    domain = sending.mail_from.rpartition("@")[2]
    files = artefacts.pinned(window.fields)
    of = f" ({number}/{len(files)})" if len(files) > 1 else ""
    text = _text(window, connection, number, files)
    return mail.build(
        message_id=f"<{window.id}.{_field(recipient, number)[3:]}@{domain}>",
        date=window.sealed_at.astimezone(UTC),
        sender=sending.mail_from,
        recipient=recipient,
        subject=f"{connection.subject}{of}",
        text=f"{text}\n",
        html=f"<p>{text}</p>\n",
        attachments=attachments,
    )


def _text(window: WindowState, connection: EmailConnection, number: int, files: tuple[Pinned, ...]) -> str:
    """What a person reads; plain words, which need no escape in HTML."""
    sealed = window.sealed_at.astimezone(ZoneInfo(connection.schedule.zone))
    upto = f"up to {sealed:%Y-%m-%d %H:%M} ({connection.schedule.zone})"
    if not files:
        return f"No new referrals {upto}."
    if len(files) == 1:
        return f"New referrals in the attached file: {files[0].rows}, {upto}."
    return (
        f"New referrals: {window.fields['rows']}, {upto}, in {len(files)} files, each in a mail of its own. "
        f"This is file {number}: {files[number - 1].rows}."
    )


def _field(recipient: str, number: int) -> str:
    """The state of one mail in the window; a digest, since keys and fields hold no personal data."""
    digest = hashlib.sha256(recipient.lower().encode()).hexdigest()[:16]
    return f"to:{digest}" if number == 1 else f"to:{digest}.{number}"
