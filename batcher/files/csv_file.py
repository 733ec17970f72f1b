"""Rows to the bytes of a CSV file. The one owner of the csv module.

RFC 4180 with every cell quoted, CRLF after every row, UTF-8; the same rows always give the same
bytes. One row is one line, whatever the cells hold: a reader that splits at line ends before it
looks at quotes, as many do, still finds every row.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from schemas.connection import CsvFormat
from schemas.mapping import Value, text

_BOM = b"\xef\xbb\xbf"
#: Every line end some reader knows, CRLF as one: \v, \f, the separators 1C to 1E, NEL, U+2028, U+2029.
_LINE_END = re.compile("\r\n|[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
#: NUL and the other control characters but TAB, and halves of surrogate pairs: no reader agrees on them.
_UNWRITABLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
#: What spreadsheets take for a formula (OWASP ASVS 1.2.10), also behind blanks and marks that some
#: of them drop, and in the full-width forms that some of them read alike.
_FORMULA = re.compile(r"[\t\r\n]|[\s\ufeff\u200b-\u200f\x00-\x1f]*[=+\-@\uff1d\uff0b\uff0d\uff20]")


@dataclass(frozen=True, slots=True)
class Written:
    """Rows without the header, size in bytes and SHA-256 in hex of all of them."""

    rows: int
    bytes: int
    sha256: str


def write(
    out: BinaryIO,
    format: CsvFormat,  # noqa: A002 - the connection's word for it
    columns: Sequence[str],
    rows: Iterable[Sequence[Value]],
    *,
    guard: bool,
) -> Written:
    """Write a file of `rows`, one at a time: memory holds one row.

    None is an empty cell, booleans are true and false, numbers plain digits. A line end inside a
    cell becomes one blank; NUL, other control characters and lone surrogates become U+FFFD. With
    `guard`, a text that a spreadsheet would run as a formula gets a leading apostrophe, in the
    header too. Raises ValueError when a row has not as many cells as there are columns.
    """
    sink = _Sink(out)
    writer = csv.writer(sink, delimiter=format.delimiter, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    if format.bom:
        sink.put(_BOM)
    if format.header:
        writer.writerow([_cell(column, guard=guard) for column in columns])
    count = 0
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"row {count + 1} has {len(row)} cells for {len(columns)} columns")
        writer.writerow([_cell(value, guard=guard) for value in row])
        count += 1
    return Written(count, sink.size, sink.digest.hexdigest())


def _cell(value: Value, *, guard: bool) -> str:
    if not isinstance(value, str):
        return text(value)
    guarded = guard and _FORMULA.match(value) is not None
    if not value.isprintable():
        value = _UNWRITABLE.sub("\ufffd", _LINE_END.sub(" ", value))
    return f"'{value}" if guarded else value


class _Sink:
    """What csv.writer writes to: counts, digests and passes on."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, line: str) -> None:
        self.put(line.encode("utf-8"))

    def put(self, encoded: bytes) -> None:
        self._out.write(encoded)
        self.digest.update(encoded)
        self.size += len(encoded)
