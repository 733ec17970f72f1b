"""Rows to the bytes of a CSV file. The one owner of the csv module.

RFC 4180; by default every cell quoted, CRLF after every row, UTF-8; the same rows always give the same
bytes. One row is one line, whatever the cells hold: a reader that splits at line ends before it
looks at quotes, as many do, still finds every row.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence

from batcher.files.cells import clean, guarded
from batcher.files.sink import CannotBeWritten, Out
from schemas.files import CsvFormat
from schemas.mapping import Value, text

_LINE_END = {"crlf": "\r\n", "lf": "\n"}
#: Python's names: its own utf-16 would write a mark before every row.
_CODEC = {"utf-8": "utf-8", "utf-16": "utf-16-le", "latin-1": "latin-1", "windows-1252": "cp1252"}
_MARK = "\ufeff"


def write(
    out: Out,
    format: CsvFormat,  # noqa: A002 - the connection's word for it
    columns: Sequence[str],
    rows: Iterable[Sequence[Value]],
    *,
    guard: bool,
) -> int:
    """Write a file of `rows`, one at a time: memory holds one row. Answers how many there were.

    None is the connection's text for what is missing, booleans are true and false, numbers plain digits. A
    line end inside a cell becomes one blank; NUL, other control characters and lone surrogates become U+FFFD,
    or ? where the encoding has none. With `guard`, a text that a spreadsheet would run as a formula gets a
    leading apostrophe, in the header too. Raises CannotBeWritten for a character the encoding does not
    have, and ValueError when a row has not as many cells as there are columns.
    """
    codec = _CODEC[format.encoding]
    cell = _cell(format, guard=guard)
    writer = csv.writer(
        _Encoder(out, codec),
        delimiter=format.delimiter,
        quoting=csv.QUOTE_ALL if format.quoting == "all" else csv.QUOTE_MINIMAL,
        lineterminator=_LINE_END[format.line_end],
    )
    if format.bom or format.encoding == "utf-16":
        out.write(_MARK.encode(codec))
    count = 0
    line: list[str] = []
    try:
        if format.header:
            line = [cell(column) for column in columns]
            writer.writerow(line)
        for count, row in enumerate(rows, 1):
            if len(row) != len(columns):
                raise ValueError(f"row {count} has {len(row)} cells for {len(columns)} columns")
            line = [cell(value) for value in row]
            writer.writerow(line)
    except UnicodeEncodeError as error:
        where = next(name for name, value in zip(columns, line, strict=True) if not _fits(value, codec))
        raise CannotBeWritten(
            f"{f'row {count}' if count else 'the header'}, {where}: {format.encoding} does not have all its "
            "characters: choose encoding: utf-8"
        ) from error
    return count


def _cell(format: CsvFormat, *, guard: bool) -> Callable[[Value], str]:  # noqa: A002 - as above
    instead = "\ufffd" if format.encoding.startswith("utf") else "?"
    disarmed = guarded if guard else clean
    missing = format.missing

    def cell(value: Value) -> str:
        if value is None:
            return missing
        return disarmed(value, instead) if isinstance(value, str) else text(value)

    return cell


def _fits(value: str, codec: str) -> bool:
    try:
        value.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


class _Encoder:
    """What csv.writer writes to, line by line."""

    def __init__(self, out: Out, codec: str) -> None:
        self._out, self._codec = out, codec

    def write(self, line: str) -> None:
        self._out.write(line.encode(self._codec))
