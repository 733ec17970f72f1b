"""What every channel shares when a sealed window leaves. Each step is durable before the next can do harm."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from batcher.artefacts import Pinned
from batcher.channels import Hold, Retry
from batcher.channels.mail import Relay
from batcher.files import artefact, manifest
from batcher.files.feed import Feed, Limit
from batcher.files.manifest import Sidecar
from batcher.files.packing import Packing
from batcher.files.sink import Out, Written
from batcher.in_force import FileConnection
from batcher.pack import packing
from batcher.render import Rows, Sealed, Source
from batcher.window import WindowState
from batcher.windows import Windows
from consumer.addresses import Policy
from consumer.secrets import Secrets
from schemas.delivery import Outcome
from schemas.file_name import MAX_FILES
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
#: For `empty: note`.
TOLD_NOTHING = "nothing new, and said so"
TOO_MANY = Hold(f"it would be over {MAX_FILES} files: let each take more in file.split")


@dataclass(frozen=True, slots=True)
class Sending:
    """What sending one window needs. `source`: where its rows are; `policy`: which servers may be called."""

    windows: Windows
    partitions: int
    secrets: Secrets
    relay: Relay
    policy: Policy
    mail_from: str
    monotonic: Callable[[], float]
    by_id: SchemaById | None
    step: Step
    source: Callable[[Windows, WindowState], Source] = Sealed


def rows_of(
    sending: Sending,
    window: WindowState,
    connection: FileConnection,
    first_byte: dict[int, int] | None,
    start: int = 0,
) -> Rows:
    """The window's rows from the place `start` on."""
    source = sending.source(sending.windows, window)
    return Rows(source, window, connection, first_byte, sending.by_id, start)


def packed_with(
    sending: Sending, window: WindowState, connection: FileConnection, file: int
) -> Packing | Hold:
    """What the window's file is packed with, as things are now. `file`: which of several, 0 for the one."""
    return packing(sending.secrets, window, connection, sending.monotonic(), datetime.now(UTC), file)


def split_at(connection: FileConnection) -> Limit | None:
    """What one file takes, None where one takes all."""
    split = connection.file.split
    return None if split is None else Limit(split.rows, split.bytes)


def write(out: Out, connection: FileConnection, feed: Feed, packed: Packing, limit: Limit | None) -> Written:
    """The window's next file. Raises CannotBeWritten, and what `feed` and `out` raise."""
    columns = [rule.name for rule in connection.fields]
    return artefact.write(
        out,
        connection.file,
        columns,
        feed,
        packed,
        guard=connection.guarded,
        limit=limit or artefact.WHOLE,
    )


def sidecar(window: WindowState, files: tuple[Pinned, ...]) -> bytes:
    """The document that goes with these files."""
    told = Sidecar(
        window=window.first_id,
        connection=window.connection,
        sealed_at=window.sealed_at,
        files=tuple(file.entry for file in files),
        ranges=manifest.ranges(window.marks),
    )
    return manifest.document(told)


def not_as_before(window: WindowState, index: int, plain: str, *, last: bool) -> Hold | None:
    """Why a window that is sent again must not leave: a file of it is not the one that was sent. `index`: of
    the file among its files; `plain`: the digest of its content.
    """
    if "before" not in window.fields:
        return None
    before = json.loads(window.fields["before"])
    if before[index : index + 1] == [plain] and last == (index + 1 == len(before)):
        return None
    return Hold(
        f"file {index + 1} of {len(before)} would not be the one that was sent, since a referral in it was "
        "erased, a record is gone, or its file was edited while it waited: export the time range by hand"
    )


def nothing_as_before(window: WindowState) -> Hold | None:
    """The same of a window that has no rows any more: what was sent had some."""
    return not_as_before(window, 0, "", last=True)
