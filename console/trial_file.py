"""`referrals connections test` of a file connection: all but delivering. Nothing an advertiser reads is left.

A server gets a file of one referral under a name of our own, renamed and removed again; a mail goes as far as
the relay's word that it takes each recipient, and is not sent.
"""

from __future__ import annotations

import io
import secrets as tokens
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO

from batcher.channels import Hold, Retry, mail
from batcher.channels.mail import Fenced
from batcher.channels.upload import Renamed, Session, Uploaded
from batcher.connect import connected, relay
from batcher.deliver import write
from batcher.files.feed import Feed
from batcher.files.name import final_name
from batcher.files.packing import Packing
from batcher.files.sink import CannotBeWritten
from batcher.pack import packing
from batcher.window import State, WindowState
from consumer.secrets import Secrets
from consumer.service import Settings, Stop
from schemas.connection import EmailConnection, FileConnection, UploadConnection
from schemas.referral import Referral

#: Before the names of files that are there for seconds only.
PROBE = ".referrals-test-"
#: The media type of a file nobody will open.
BYTES = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class TriedFile:
    """`done`: what went well, in order; `trouble`: what did not, and what to do."""

    done: tuple[str, ...]
    trouble: str | None


def trial(settings: Settings, connection: FileConnection, referral: Referral) -> TriedFile:
    """Try it with a file of this referral. Raises Stop."""
    done: list[str] = []
    for step in _steps(settings, connection, referral):
        if isinstance(step, Retry | Hold):
            return TriedFile(tuple(done), step.reason)
        done.append(step)
    return TriedFile(tuple(done), None)


def _steps(
    settings: Settings, connection: FileConnection, referral: Referral
) -> Iterator[str | Retry | Hold]:
    now, secrets = datetime.now(UTC), Secrets()
    fields = {"sealed_at": str(int(now.timestamp() * 1000)), "account": referral.account_id}
    window = WindowState(connection.name, 1, State.SEALED, "", 0, now, "", 0, 0.0, fields)
    packed = packing(secrets, window, connection, time.monotonic(), now)
    if isinstance(packed, Hold):
        yield packed
        return
    content = io.BytesIO()
    try:
        _write(content, connection, referral, packed)
    except CannotBeWritten as error:
        yield Hold(str(error))
        return
    yield f"a file of one referral would be called {final_name(window, connection)}"
    if isinstance(connection, EmailConnection):
        yield from _mail(settings, connection, window, content.getvalue())
    else:
        with connected(connection, secrets, settings.policy, time.monotonic()) as session:
            yield from _upload(session, connection, content.getvalue())


def _write(out: BinaryIO, connection: FileConnection, referral: Referral, packed: Packing) -> None:
    pairs = connection.columns.pairs(referral)
    write(out, connection, Feed.of([[value for _, value in pairs]]), packed, None)


def _upload(
    session: Session | Retry | Hold, connection: UploadConnection, content: bytes
) -> Iterator[str | Retry | Hold]:
    if not isinstance(session, Session):
        yield session
        return
    yield f"logged in at {connection.host}:{connection.port} as {connection.username}"
    token = tokens.token_hex(4)
    uploaded = session.upload(f"{PROBE}{token}.part", lambda out: out.write(content))
    if not isinstance(uploaded, Uploaded):
        yield uploaded
        return
    yield f"wrote {uploaded.size} bytes into {connection.directory}"
    if connection.completion == "rename":
        renamed = session.deliver(uploaded, f"{PROBE}{token}.renamed")
        if not isinstance(renamed, Renamed):
            session.remove(uploaded.name)
            yield renamed
            return
        yield "renamed it"
        uploaded = Uploaded(f"{PROBE}{token}.renamed", uploaded.size, uploaded.sha256)
    yield session.remove(uploaded.name) or "removed it"


def _mail(
    settings: Settings, connection: EmailConnection, window: WindowState, content: bytes
) -> Iterator[str | Retry | Hold]:
    if not settings.mail_from:
        raise Stop("REFERRALS_MAIL_FROM is not set: mails need a sender")
    way, domain = relay(settings), settings.mail_from.rpartition("@")[2]
    for number, recipient in enumerate(connection.recipients, 1):
        raw = mail.build(
            message_id=f"<{window.id}.test@{domain}>",
            date=window.sealed_at,
            sender=settings.mail_from,
            recipient=recipient,
            subject=connection.subject,
            text="A test.\n",
            html="<p>A test.</p>\n",
            attachments=[
                mail.Attachment(final_name(window, connection), content, "application/octet-stream")
            ],
        )
        answer = mail.send(way, settings.mail_from, recipient, raw, lambda: False)
        if isinstance(answer, Fenced):
            yield f"{way.where} takes mails for recipient {number}; none was sent"
        else:
            yield Hold(f"recipient {number}: {getattr(answer, 'reason', answer)}")
            return
