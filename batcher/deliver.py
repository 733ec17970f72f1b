"""What every channel shares when a sealed window leaves, and how one leaves by SFTP.

Each step is durable before the next can do harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO
from zoneinfo import ZoneInfo

from batcher.channels import Hold, Retry, sftp
from batcher.channels.mail import Relay
from batcher.files import csv_file
from batcher.files.csv_file import Written
from batcher.in_force import FileConnection, place
from batcher.render import Rows
from batcher.windows import Gone, State, Windows, WindowState
from consumer.secrets import Missing, Secrets
from schemas.connection import SftpConnection
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


def file_name(window: WindowState, connection: FileConnection) -> str:
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
            window, ended = _upload(sending, window, connection, session)
            if ended is not None:
                return window, ended
            sending.step("uploaded durable")
        fields = window.fields
        if fields["place"] != place(connection):
            return window, Hold(
                f"it was uploaded to {fields['place']}, which is no longer configured: put that back"
            )
        part = sftp.Uploaded(fields["part"], int(fields["size"]), fields["sha256"])
        renamed = session.deliver(part, file_name(window, connection))
        sending.step("renamed")
        if not isinstance(renamed, sftp.Renamed):
            return window, renamed
        _sweep(session, window)
        return window, Finished(Outcome.DELIVERED)


def _upload(
    sending: Sending, window: WindowState, connection: SftpConnection, session: sftp.Session
) -> tuple[WindowState, Result | None]:
    """From SEALED to UPLOADED, or how it ended instead."""
    rows = Rows(sending.windows, window, connection, None, sending.by_id)
    files: list[Written] = []
    uploaded = session.upload(
        f".{window.id}.{window.token}.{window.tries}.part",
        lambda out: files.append(write(out, connection, rows)),
    )
    if not isinstance(uploaded, sftp.Uploaded):
        return window, uploaded
    sending.step("uploaded")
    facts = told(files[0], rows)
    try:
        if nothing_new(files[0], connection):
            session.remove(uploaded.name)
            return sending.windows.advance(window, facts, durable=False), NOTHING_NEW
        pinned = {"state": State.UPLOADED, "part": uploaded.name, "place": place(connection), **facts}
        return sending.windows.advance(window, pinned, durable=True), None
    except Gone:
        # Nobody will ever rename it: who took over uploads under a name of its own.
        session.remove(uploaded.name)
        raise


def _sweep(session: sftp.Session, window: WindowState) -> None:
    """What dead workers left of this window. Only once it is delivered: before, a part gone means renamed."""
    parts = session.list_parts(f".{window.id}.")
    for part in parts if isinstance(parts, tuple) else ():
        session.remove(part)


def told(written: Written, rows: Rows) -> dict[str, str | int]:
    """What a window remembers of its file."""
    return {
        "size": written.bytes,
        "sha256": written.sha256,
        "rows": written.rows,
        "left_out": rows.left_out,
    }


def nothing_new(written: Written, connection: FileConnection) -> bool:
    """Whether the file holds no row and the advertiser wants none then."""
    return not written.rows and connection.file.empty == "skip"


def write(out: BinaryIO, connection: FileConnection, rows: Iterable[Sequence[Value]]) -> Written:
    """The window's file. Raises what `rows` raises."""
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
