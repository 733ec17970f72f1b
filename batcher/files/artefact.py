"""One file: rows to its format, that into an archive, that into an envelope, each as it is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import assert_never

from batcher.files import csv_file, json_lines, xlsx
from batcher.files.compress import compressing
from batcher.files.encrypt import encrypting
from batcher.files.packing import Packing
from batcher.files.sink import Out, Sink, Written
from schemas.files import AnyFile, CsvFormat, JsonLinesFormat, XlsxFormat
from schemas.mapping import Value


def write(
    out: Out,
    file: AnyFile,
    columns: Sequence[str],
    rows: Iterable[Sequence[Value]],
    packing: Packing,
    *,
    guard: bool,
) -> Written:
    """Write the whole file; memory holds one row. Raises CannotBeWritten, and what `rows` and `out` raise."""
    whole = Sink(out)
    with ExitStack() as stack:
        inner: Out = whole
        if packing.envelope is not None:
            inner = stack.enter_context(encrypting(inner, packing.envelope))
        plain = Sink(stack.enter_context(compressing(inner, file.compression, packing)))
        count = content(plain, file, columns, rows, packing.at, guard=guard)
    return Written(count, whole.size, whole.digest.hexdigest(), plain.digest.hexdigest())


def content(
    out: Out,
    file: AnyFile,
    columns: Sequence[str],
    rows: Iterable[Sequence[Value]],
    at: datetime,
    *,
    guard: bool,
) -> int:
    """The rows in the file's format alone; answers how many. `guard`: against formulas, in CSV. `at`: the
    date a format keeps of its making.
    """
    match file:
        case CsvFormat():
            return csv_file.write(out, file, columns, rows, guard=guard)
        case JsonLinesFormat():
            return json_lines.write(out, columns, rows)
        case XlsxFormat():
            return xlsx.write(out, columns, rows, at, header=file.header)
        case _:
            assert_never(file)
