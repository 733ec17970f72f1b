"""How a sealed window leaves for a server: every file uploaded under a name of our own, then all renamed.

A file that is pinned is never uploaded again, wherever a worker dies. The list of files is whole and durable
before the first gets its final name, and the document that lists them gets its own last. Temporary gone
means renamed. Where the server has no rename, each file is written under its name, and an empty file beside
it says that it is whole: at least once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import BinaryIO

from batcher import artefacts
from batcher.artefacts import Fields, Pinned
from batcher.channels import Hold, Retry
from batcher.channels.upload import Renamed, Session, Uploaded
from batcher.connect import connected
from batcher.deliver import (
    NOTHING_NEW,
    TOLD_NOTHING,
    TOO_MANY,
    Finished,
    Result,
    Sending,
    not_as_before,
    nothing_as_before,
    packed_with,
    rows_of,
    sidecar,
    split_at,
    write,
)
from batcher.files.feed import Feed
from batcher.files.name import final_name, sidecar_name
from batcher.files.sink import Written
from batcher.in_force import place
from batcher.render import Rows
from batcher.window import State, WindowState
from batcher.windows import Gone
from schemas.connection import UploadConnection, connection_digest
from schemas.delivery import Outcome
from schemas.file_name import MAX_FILES

#: One try of so many begins by removing what those before it left, so that a line that is always cut does not
#: fill the receiver's disk; a folder that cannot be listed costs no more than that try.
SWEEP_EVERY = 8


def by_upload(
    sending: Sending, window: WindowState, connection: UploadConnection
) -> tuple[WindowState, Result]:
    """From SEALED or UPLOADED to its end, over one connection."""
    with connected(connection, sending.secrets, sending.policy, sending.monotonic()) as session:
        if not isinstance(session, Session):
            return window, session
        transfer = _Transfer(sending, window, connection, session)
        ended = transfer.upload()
        return transfer.window, ended or transfer.deliver()


class _Transfer:
    """One try of one window. `window`: as it stands now."""

    def __init__(
        self, sending: Sending, window: WindowState, connection: UploadConnection, session: Session
    ) -> None:
        self._sending, self.window, self._connection = sending, window, connection
        self._session, self._limit = session, split_at(connection)
        #: A file that was pinned for another connection than this is not the beginning of what we make.
        self._made_for = connection_digest(connection)
        begun = window.fields.get("made_for") == self._made_for
        self._files = artefacts.pinned(window.fields) if begun else ()
        self._marks = artefacts.first_byte(window.fields) if begun else None

    def upload(self) -> Result | None:
        """On to UPLOADED, or how it ended instead."""
        if self.window.state is State.UPLOADED and self._awaits_a_rename_that_never_comes():
            count = len(artefacts.pinned(self.window.fields))
            # A list that is whole is the beginning of nothing, whatever the connection becomes.
            anew: Fields = {"state": State.SEALED, "made_for": "", **artefacts.none_delivered(count)}
            self.window = self._sending.windows.advance(self.window, anew, durable=True)
        if self.window.state is State.UPLOADED:
            return None
        if self.window.tries % SWEEP_EVERY == SWEEP_EVERY - 1:
            self._sweep()
        if self._marks is None:
            self._marks = self._sending.windows.marks_now(self._sending.partitions)
        start = self._files[-1].following if self._files else 0
        if start is not None:
            ended = self._upload_from(start)
            if ended is not None:
                return ended
        return self._sidecar() if self.window.state is State.SEALED else None

    def deliver(self) -> Result:
        """From UPLOADED on: each file gets its name, in order."""
        put = self.window.fields["place"]
        if put != place(self._connection):
            return Hold(f"it was uploaded to {put}, which is no longer configured: put that back")
        for number, file in enumerate(artefacts.pinned(self.window.fields), 1):
            if artefacts.is_delivered(self.window.fields, number):
                continue
            named = self._name(file)
            self._sending.step("renamed")
            if not isinstance(named, Renamed):
                return named
            fields = artefacts.delivered(number)
            self.window = self._sending.windows.advance(self.window, fields, durable=False)
        self._sweep()
        nothing = not artefacts.contents(self.window.fields)
        return Finished(Outcome.DELIVERED, TOLD_NOTHING if nothing else "")

    def _upload_from(self, start: int) -> Result | None:
        rows = rows_of(self._sending, self.window, self._connection, self._marks, start)
        feed = Feed(rows)
        if feed.following is None and self._connection.file.empty != "header":
            changed = nothing_as_before(self.window)
            if changed is not None:
                return changed
            # What was pinned for another connection never leaves.
            facts: Fields = {"rows": 0, "left_out": rows.left_out, "files": 0, "first_byte": ""}
            self.window = self._sending.windows.advance(self.window, facts, durable=True)
            if self._connection.file.empty != "skip":
                return None
            self._sweep()
            return NOTHING_NEW
        more = True
        while more:
            number = len(self._files) + 1
            if number > MAX_FILES:
                return TOO_MANY
            trouble = self._upload_one(feed, rows, number if self._limit else 0)
            if trouble is not None:
                return trouble
            more = feed.following is not None
        return None

    def _upload_one(self, feed: Feed, rows: Rows, file: int) -> Retry | Hold | None:
        packed = packed_with(self._sending, self.window, self._connection, file)
        if isinstance(packed, Hold):
            return packed
        files: list[tuple[Written, int | None]] = []

        def fill(out: BinaryIO) -> None:
            written = write(out, self._connection, feed, packed, self._limit)
            # Looked for here, so that what is wrong with the next row takes this file back, too.
            files.append((written, feed.following))

        uploaded = self._put(final_name(self.window, self._connection, file), fill)
        if not isinstance(uploaded, Uploaded):
            return uploaded
        self._sending.step("uploaded")
        ((written, following),) = files
        pinned = Pinned(
            name=final_name(self.window, self._connection, file),
            part=uploaded.name,
            rows=written.rows,
            bytes=uploaded.size,
            sha256=uploaded.sha256,
            plain=written.plain,
            following=following,
        )
        last = pinned.following is None
        changed = not_as_before(self.window, len(self._files), written.plain, last=last)
        if changed is not None:
            self._drop(uploaded.name, pinned.name)
            return changed
        self._pin(pinned, {"left_out": rows.left_out}, last=last)
        return None

    def _sidecar(self) -> Retry | Hold | None:
        """The document, once all it lists is there."""
        document = sidecar(self.window, self._files)
        name = sidecar_name(self.window, self._connection)
        uploaded = self._put(name, lambda out: out.write(document))
        if not isinstance(uploaded, Uploaded):
            return uploaded
        self._sending.step("uploaded")
        digest = hashlib.sha256(document).hexdigest()
        pinned = Pinned(name, uploaded.name, 0, uploaded.size, uploaded.sha256, digest, sidecar=True)
        self._pin(pinned, {}, last=True)
        return None

    def _pin(self, file: Pinned, facts: Fields, *, last: bool) -> None:
        """Durable: it is there, and never uploaded again. With the `last` the list is whole."""
        number = len(self._files) + 1
        self._files = (*self._files, file)
        fields: Fields = {
            **facts,
            **artefacts.pin(number, file),
            "rows": sum(one.rows for one in self._files),
            "made_for": self._made_for,
            "first_byte": artefacts.counted(self._marks or {}),
        }
        if last and (file.sidecar or not self._connection.file.sidecar):
            fields |= {"state": State.UPLOADED, "place": place(self._connection)}
        try:
            self.window = self._sending.windows.advance(self.window, fields, durable=True)
        except Gone:
            # Nobody will ever rename it: who took over uploads under a name of its own.
            self._drop(file.part, file.name)
            raise
        self._sending.step("uploaded durable")

    def _put(self, name: str, fill: Callable[[BinaryIO], object]) -> Uploaded | Retry | Hold:
        """The file `name`, under one that nobody looks at where the server has a rename."""
        if self._connection.completion == "done_file":
            return self._session.place(name, fill)
        window, number = self.window, len(self._files) + 1
        return self._session.upload(f".{window.id}.{window.token}.{window.tries}.{number}.part", fill)

    def _drop(self, part: str, name: str) -> None:
        """Remove what was uploaded; a file under its own name may be somebody else's by now."""
        if part != name:
            self._session.remove(part)

    def _name(self, file: Pinned) -> Renamed | Retry | Hold:
        """Whoever waits for the file may take it."""
        if file.part == file.name:
            return self._session.done(Uploaded(file.part, file.bytes, file.sha256))
        return self._session.deliver(Uploaded(file.part, file.bytes, file.sha256), file.name)

    def _awaits_a_rename_that_never_comes(self) -> bool:
        """It was uploaded here to be renamed, and then its advertiser learned that the server cannot."""
        files, here = artefacts.pinned(self.window.fields), place(self._connection)
        renamed = any(file.part != file.name for file in files)
        return self._connection.completion == "done_file" and renamed and self.window.fields["place"] == here

    def _sweep(self) -> None:
        """What dead workers and cut tries left of this window. Nothing that is pinned: a part gone means
        renamed. Nor what comes of whoever took the window over from us, whose token is higher.
        """
        keep = {file.part for file in artefacts.pinned(self.window.fields)}
        parts = self._session.list_parts(f".{self.window.sent_as}")
        for part in parts if isinstance(parts, tuple) else ():
            if part not in keep and _token(part) <= self.window.token:
                self._session.remove(part)


def _token(part: str) -> int:
    """Of the turn that a temporary file comes from."""
    found = part.rsplit(".", 4)[1:2]
    return int(found[0]) if found and found[0].isdecimal() else 0
