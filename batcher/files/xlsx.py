"""Rows to the one sheet of an XLSX file. The one owner of xlsxwriter.

Every text is a cell of text, formatted as one: no formula runs, no address becomes a link, and postal
codes, phone numbers and long ids keep every digit. The same rows at the same seal give the same bytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from datetime import datetime

import xlsxwriter
from xlsxwriter.exceptions import XlsxWriterException
from xlsxwriter.format import Format
from xlsxwriter.worksheet import Worksheet

from batcher.files.cells import clean
from batcher.files.sink import CannotBeWritten, Out, Quiet
from schemas.formats import MAX_DIGITS, MAX_WHOLE
from schemas.mapping import Value, text

#: Excel's own bounds.
MAX_ROWS = 1_048_576
MAX_CELL = 32_767
SHEET = "Referrals"


def write(
    out: Out, columns: Sequence[str], rows: Iterable[Sequence[Value]], at: datetime, *, header: bool
) -> int:
    """Write `rows`, one at a time, through a folder of temporary files. Answers how many there were.

    `at`: the file's date of making. None is an empty cell; a line end inside a cell becomes one blank;
    control characters and lone surrogates become U+FFFD. Raises CannotBeWritten over Excel's bounds and
    where there is no room for temporary files, and ValueError when a row has not as many cells as there are
    columns.
    """
    quiet = Quiet(out)
    try:
        with tempfile.TemporaryDirectory(prefix="referrals-xlsx-") as folder:
            book = xlsxwriter.Workbook(quiet, {"constant_memory": True, "tmpdir": folder})
            try:
                count = _fill(book, columns, rows, at, header=header)
            except BaseException as error:
                quiet.give_up(error)
                raise
            finally:
                book.close()
    except (OSError, XlsxWriterException) as error:
        where = tempfile.gettempdir()
        raise CannotBeWritten(
            f"the sheet could not be put together in {where}: give it room, or choose format: csv"
        ) from error
    quiet.check()
    return count


def _fill(
    book: xlsxwriter.Workbook,
    columns: Sequence[str],
    rows: Iterable[Sequence[Value]],
    at: datetime,
    *,
    header: bool,
) -> int:
    book.use_zip64()
    book.set_properties({"created": at.replace(tzinfo=None, microsecond=0)})
    as_text = book.add_format({"num_format": "@"})
    sheet = book.add_worksheet(SHEET)
    if header:
        bold = book.add_format({"num_format": "@", "bold": True})
        sheet.freeze_panes(1, 0)
        for at_column, name in enumerate(columns):
            sheet.write_string(0, at_column, clean(name), bold)
    count = 0
    for count, row in enumerate(rows, 1):
        if len(row) != len(columns):
            raise ValueError(f"row {count} has {len(row)} cells for {len(columns)} columns")
        line = count - 1 + header
        if line >= MAX_ROWS:
            raise CannotBeWritten(
                f"an XLSX sheet has {MAX_ROWS:,} lines, and there are more rows: choose format: csv, or a "
                "schedule with shorter windows"
            )
        for at_column, value in enumerate(row):
            if not _put(sheet, line, at_column, value, as_text):
                raise CannotBeWritten(
                    f"row {count}, {columns[at_column]}: an XLSX cell has {MAX_CELL:,} characters, and here "
                    "are more: choose format: csv"
                )
    return count


def _put(sheet: Worksheet, line: int, column: int, value: Value, as_text: Format) -> bool:
    """Whether it fits."""
    done: int
    if value is None:
        done = 0
    elif isinstance(value, bool):
        done = sheet.write_boolean(line, column, value)
    elif isinstance(value, str):
        done = sheet.write_string(line, column, clean(value), as_text)
    elif isinstance(value, float) or (abs(value) <= MAX_WHOLE and len(str(abs(value))) <= MAX_DIGITS):
        done = sheet.write_number(line, column, value)
    else:
        done = sheet.write_string(line, column, text(value), as_text)
    return done == 0
