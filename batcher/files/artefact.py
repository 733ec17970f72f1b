"""One file: rows to its format, that into an archive, that into an envelope, each as it is written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import assert_never

from batcher.files import csv_file, json_lines, xlsx
from batcher.files.compress import compressing
from batcher.files.encrypt import encrypting
from batcher.files.feed import Bounded, Feed, Full, Limit
from batcher.files.packing import Packing
from batcher.files.sink import Out, Sink, Written
from schemas.files import AnyFile, CsvFormat, JsonLinesFormat, XlsxFormat

#: A file takes every row there is.
WHOLE = Limit()


def write(
    out: Out,
    file: AnyFile,
    columns: Sequence[str],
    feed: Feed,
    packing: Packing,
    *,
    guard: bool,
    limit: Limit = WHOLE,
) -> Written:
    """Write the next file, whole; memory holds one row. What does not fit stays in `feed`. Raises
    CannotBeWritten, and what `feed` and `out` raise.
    """
    whole = Sink(out)
    with ExitStack() as stack:
        inner: Out = whole
        if packing.envelope is not None:
            inner = stack.enter_context(encrypting(inner, packing.envelope))
        plain = Sink(stack.enter_context(compressing(inner, file.compression, packing)))
        content(plain, file, columns, feed, packing.at, guard=guard, limit=limit)
    return Written(feed.count, whole.size, whole.digest.hexdigest(), plain.digest.hexdigest())


def content(
    out: Out,
    file: AnyFile,
    columns: Sequence[str],
    feed: Feed,
    at: datetime,
    *,
    guard: bool,
    limit: Limit = WHOLE,
) -> None:
    """The rows in the file's format alone. `guard`: against formulas, in CSV. `at`: the date a format keeps
    of its making. `limit`: of bytes for the formats that are written row by row.
    """
    rows = feed.file(limit.rows)
    within = out if limit.bytes is None else Bounded(out, limit.bytes, feed)
    try:
        match file:
            case CsvFormat():
                csv_file.write(within, file, columns, rows, guard=guard)
            case JsonLinesFormat():
                json_lines.write(within, columns, rows)
            case XlsxFormat():
                xlsx.write(out, columns, rows, at, header=file.header)
            case _:
                assert_never(file)
    except Full:
        feed.back()
