"""The files of a window's mails: made whole, each no larger than a mail takes, before one leaves."""

from __future__ import annotations

import io

from batcher import artefacts, kept
from batcher.artefacts import Fields, Pinned
from batcher.channels import Hold
from batcher.deliver import (
    NOTHING_NEW,
    Finished,
    Sending,
    not_as_before,
    nothing_as_before,
    packed_with,
    rows_of,
    split_at,
    write,
)
from batcher.files.feed import Feed, Limit
from batcher.files.name import final_name
from batcher.files.sink import Written
from batcher.render import Rows
from batcher.window import State, WindowState
from schemas.connection import EmailConnection, XlsxFormat

#: base64 makes it 14 MiB: what most mail systems still take.
MAX_ATTACHMENT = 10 << 20
#: Of one window to one recipient: more of them belong on a server. Redis keeps all until the window ends.
MAX_MAILS = 10
#: Where a file turned out too large, the next one is tried with so much of its rows, as often as this: the
#: size of an archive is known once it is made.
NARROWED, MAX_TRIES = 0.8, 40


class TooLarge(Exception):  # noqa: N818 - what the file is
    """The file is over the size a mail takes."""


def make(
    sending: Sending, window: WindowState, connection: EmailConnection
) -> tuple[WindowState, Finished | Hold | None]:
    """Make the files and keep them: SENDING, durable with the next barrier. Or how the window ended."""
    # Of an earlier making nothing has left: nobody needs it, and soon nothing would tell of it.
    kept.forget(sending.windows, window)
    marks = sending.windows.marks_now(sending.partitions)
    making = _Making(sending, window, connection, marks)
    try:
        held = making.all()
        if held is None:
            if not making.files and connection.file.empty == "skip":
                return sending.windows.advance(window, making.facts, durable=False), NOTHING_NEW
            window = kept.tell(sending.windows, window, {**making.facts, "state": State.SENDING})
    except Exception:
        making.discard()
        raise
    if held is not None:
        making.discard()
        return window, held
    sending.step("kept")
    return window, None


class _Making:
    """One making of all files; memory holds one of them."""

    def __init__(
        self, sending: Sending, window: WindowState, connection: EmailConnection, marks: dict[int, int]
    ) -> None:
        self._sending, self._window, self._connection, self._marks = sending, window, connection, marks
        self._limit = split_at(connection)
        self._tries = 0
        self.files: list[Pinned] = []
        self.left_out = 0

    def all(self) -> Hold | None:
        rows, feed = self._from(0)
        if feed.following is None and self._connection.file.empty != "header":
            self.left_out = rows.left_out
            return nothing_as_before(self._window)
        more = True
        while more:
            start = feed.following or 0
            made = self._next(feed)
            if isinstance(made, Limit):
                self._limit = made
                rows, feed = self._from(start)
                continue
            if made is not None:
                return made
            more = feed.following is not None
            self.left_out = rows.left_out
        return None

    @property
    def facts(self) -> Fields:
        """What the window is told of the files."""
        told: Fields = {
            "rows": sum(file.rows for file in self.files),
            "left_out": self.left_out,
            "files": 0,
            "first_byte": artefacts.counted(self._marks),
        }
        for number, file in enumerate(self.files, 1):
            told |= artefacts.pin(number, file)
        return told

    def discard(self) -> None:
        """None of them will be sent: a window that is tried again and again would fill Redis with them."""
        kept.discard(self._sending.windows, self._window, len(self.files))

    def _from(self, start: int) -> tuple[Rows, Feed]:
        rows = rows_of(self._sending, self._window, self._connection, self._marks, start)
        return rows, Feed(rows)

    def _next(self, feed: Feed) -> Limit | Hold | None:
        """Make the next file. A Limit where it must be smaller: then it begins again."""
        number = len(self.files) + 1
        if number > MAX_MAILS:
            return Hold(
                f"it would be over {MAX_MAILS} mails of {MAX_ATTACHMENT >> 20} MiB: compress it, "
                "or deliver by SFTP"
            )
        file = number if self._limit else 0
        packed = packed_with(self._sending, self._window, self._connection, file)
        if isinstance(packed, Hold):
            return packed
        content = _Capped()
        try:
            written = write(content, self._connection, feed, packed, self._limit)
        except TooLarge:
            return self._narrower(feed.count)
        return self._kept(content.getvalue(), written, file, feed.following)

    def _kept(self, content: bytes, written: Written, file: int, following: int | None) -> Hold | None:
        changed = not_as_before(self._window, len(self.files), written.plain, last=following is None)
        if changed is not None:
            return changed
        name = final_name(self._window, self._connection, file)
        pinned = Pinned(name, "", written.rows, written.bytes, written.sha256, written.plain, following)
        self.files.append(pinned)
        kept.keep(self._sending.windows, self._window, len(self.files), content)
        return None

    def _narrower(self, rows: int) -> Limit | Hold:
        self._tries += 1
        if rows <= 1 or self._tries > MAX_TRIES:
            return Hold(
                f"a row alone is over {MAX_ATTACHMENT >> 20} MiB, too large to mail: compress it, "
                "or deliver by SFTP"
            )
        limit = self._limit or Limit()
        form = self._connection.file
        as_it_is = form.compression == "none" and form.openpgp is None and not isinstance(form, XlsxFormat)
        if as_it_is and limit.bytes is None:
            return Limit(limit.rows, MAX_ATTACHMENT)
        return Limit(max(1, int(rows * NARROWED)), limit.bytes)


class _Capped(io.BytesIO):
    def write(self, content: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]
        if self.tell() + len(content) > MAX_ATTACHMENT:
            raise TooLarge
        return super().write(content)
