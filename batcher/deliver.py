"""What every channel shares when a sealed window leaves, and how one leaves by SFTP.

Each step is durable before the next can do harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime

from batcher.channels import Hold, Retry, sftp
from batcher.channels.mail import Relay
from batcher.channels.upload import Renamed, Session, Uploaded
from batcher.files import artefact
from batcher.files.name import final_name
from batcher.files.packing import Packing
from batcher.files.sink import Out, Written
from batcher.in_force import FileConnection, place
from batcher.pack import members, packing
from batcher.render import Rows
from batcher.windows import Gone, State, Windows, WindowState
from consumer.secrets import Secrets
from schemas.connection import SftpConnection, UploadConnection
from schemas.delivery import Outcome
from schemas.mapping import Value
from schemas.referral import SchemaById

Step = Callable[[str], None]
"""Called with the name of each step just done; tests end the process there."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The window has left, or need not. `outcome`: DELIVERED, or UNCERTAIN for mails nobody knows of."""

    outcome: Outcome
    reason: str = ""


Result = Finished | Retry | Hold


#: For `empty: skip`: no rows came, or none that stay in.
NOTHING_NEW = Finished(Outcome.DELIVERED, "nothing new, no file wanted")


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


def by_sftp(sending: Sending, window: WindowState, connection: SftpConnection) -> tuple[WindowState, Result]:
    secrets = resolved(sending, connection, "password", "private_key", "passphrase")
    if isinstance(secrets, Hold):
        return window, secrets
    target = sftp.Target(
        host=connection.host,
        port=connection.port,
        username=connection.username,
        host_keys=connection.host_keys,
        directory=connection.directory,
        timeout=connection.timeout,
        **secrets,
    )
    return by_upload(sending, window, connection, sftp.connect(target))


def by_upload(
    sending: Sending,
    window: WindowState,
    connection: UploadConnection,
    connected: AbstractContextManager[Session | Retry | Hold],
) -> tuple[WindowState, Result]:
    """Upload under a name of our own, make that durable, rename. Temporary gone means renamed."""
    with connected as session:
        if not isinstance(session, Session):
            return window, session
        if window.state is State.SEALED:
            window, ended = _upload(sending, window, connection, session)
            if ended is not None:
                return window, ended
            sending.step("uploaded durable")
        fields = window.fields
        if fields["place"] != place(connection):
            return window, Hold(
                f"it was uploaded to {fields['place']}, which is no longer configured: put that back"
            )
        part = Uploaded(fields["part"], int(fields["size"]), fields["sha256"])
        renamed = session.deliver(part, fields.get("final") or final_name(window, connection))
        sending.step("renamed")
        if not isinstance(renamed, Renamed):
            return window, renamed
        _sweep(session, window)
        return window, Finished(Outcome.DELIVERED)


def _upload(
    sending: Sending, window: WindowState, connection: UploadConnection, session: Session
) -> tuple[WindowState, Result | None]:
    """From SEALED to UPLOADED, or how it ended instead."""
    packed = packed_with(sending, window, connection)
    if isinstance(packed, Hold):
        return window, packed
    rows = Rows(sending.windows, window, connection, None, sending.by_id)
    files: list[Written] = []
    uploaded = session.upload(
        f".{window.id}.{window.token}.{window.tries}.part",
        lambda out: files.append(write(out, connection, rows, packed)),
    )
    if not isinstance(uploaded, Uploaded):
        return window, uploaded
    sending.step("uploaded")
    facts = told(files[0], rows)
    try:
        if nothing_new(files[0], connection):
            session.remove(uploaded.name)
            return sending.windows.advance(window, facts, durable=False), NOTHING_NEW
        pinned = {
            "state": State.UPLOADED,
            "part": uploaded.name,
            "place": place(connection),
            "final": final_name(window, connection),
            **facts,
        }
        return sending.windows.advance(window, pinned, durable=True), None
    except Gone:
        # Nobody will ever rename it: who took over uploads under a name of its own.
        session.remove(uploaded.name)
        raise


def _sweep(session: Session, window: WindowState) -> None:
    """What dead workers left of this window. Only once it is delivered: before, a part gone means renamed."""
    parts = session.list_parts(f".{window.id}.")
    for part in parts if isinstance(parts, tuple) else ():
        session.remove(part)


def told(written: Written, rows: Rows) -> dict[str, str | int]:
    """What a window remembers of its file."""
    return {
        "size": written.bytes,
        "sha256": written.sha256,
        "plain": written.plain,
        "rows": written.rows,
        "left_out": rows.left_out,
    }


def nothing_new(written: Written, connection: FileConnection) -> bool:
    """Whether the file holds no row and the advertiser wants none then."""
    return not written.rows and connection.file.empty == "skip"


def packed_with(sending: Sending, window: WindowState, connection: FileConnection) -> Packing | Hold:
    """What the window's file is packed with, as things are now."""
    return packing(sending.secrets, window, connection, sending.monotonic(), datetime.now(UTC))


def write(out: Out, connection: FileConnection, rows: Iterable[Sequence[Value]], packed: Packing) -> Written:
    """The window's file. Raises CannotBeWritten, and what `rows` and `out` raise."""
    columns = [rule.name for rule in connection.fields]
    return artefact.write(out, connection.file, columns, rows, packed, guard=connection.guarded)


def resolved(sending: Sending, connection: UploadConnection, *names: str) -> dict[str, str | None] | Hold:
    """The secrets behind these members, None where one is not given."""
    return members(sending.secrets, connection, names, sending.monotonic())
