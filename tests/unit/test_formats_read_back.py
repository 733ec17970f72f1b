"""JSON Lines and XLSX, and what others' software reads from all three formats."""

from __future__ import annotations

import csv
import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import openpyxl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batcher.files import json_lines, xlsx
from batcher.files.artefact import write
from batcher.files.cells import clean
from batcher.files.feed import Feed
from batcher.files.packing import Packing
from batcher.files.sink import CannotBeWritten
from schemas.files import CsvFormat, JsonLinesFormat, XlsxFormat
from schemas.mapping import Value

AT = datetime(2026, 6, 1, 8, 0, tzinfo=UTC)
PACKED = Packing("x.csv", AT)

TEXT = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ["", "007", "+61400111222", "SW1A 1AA", "=1+1", "12345678901234567890", "1.0", " x ", "a\nb", "a\r\nb", "a\tb", "NULL", '"',
     "'", ",", ";", "2026-06-01", "https://x.example", "\ud800", "\x00", "\x1b", "\u2028", "\ufeff", "\u202eabc", "👩‍🚀", "\ufffe", "TRUE"]
)  # fmt: skip
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(-1e6, 1e6).map(lambda x: round(x, 3))
    | TEXT
)
ROWS = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(VALUES, min_size=width, max_size=width), min_size=1, max_size=5)
)


def named(rows: list[list[Value]]) -> list[str]:
    return [f"c{n}" for n in range(len(rows[0]))]


@given(rows=ROWS)
@example(rows=[["\x85\u2028\u2029"]])
def test_every_json_line_is_an_object_with_the_same_values(rows: list[list[Value]]) -> None:
    out = io.BytesIO()
    columns = named(rows)
    assert json_lines.write(out, columns, rows) == len(rows)
    lines = out.getvalue().decode().splitlines()
    back = [json.loads(line) for line in lines]
    assert [list(one) for one in back] == [columns] * len(rows)
    mended = [[v.replace("\ud800", "\ufffd") if isinstance(v, str) else v for v in row] for row in rows]
    assert [list(one.values()) for one in back] == mended


def sheet(rows: list[list[Value]], columns: list[str], *, header: bool = True) -> list[tuple[object, ...]]:
    out = io.BytesIO()
    assert xlsx.write(out, columns, rows, AT, header=header) == len(rows)
    book = openpyxl.load_workbook(io.BytesIO(out.getvalue()))
    [only] = book.worksheets
    assert only.title == "Referrals"
    assert all(cell.data_type in {"s", "inlineStr", "n", "b"} for row in only.rows for cell in row), (
        "a formula"
    )
    assert all(cell.number_format == "@" for row in only.rows for cell in row if isinstance(cell.value, str))
    return list(only.iter_rows(values_only=True))


@settings(max_examples=40, deadline=None)
@given(rows=ROWS)
def test_a_sheet_has_the_same_values_and_text_stays_text(rows: list[list[Value]]) -> None:
    def expected(value: Value) -> object:
        if isinstance(value, str):
            return clean(value)
        long = isinstance(value, int) and not isinstance(value, bool) and len(str(abs(value))) > 15
        return str(value) if long else value

    columns = named(rows)
    header, *back = sheet(rows, columns)
    assert list(header) == columns
    padded = [list(row) + [None] * (len(columns) - len(row)) for row in back]
    padded += [[None] * len(columns)] * (len(rows) - len(padded))
    assert padded == [[expected(value) for value in row] for row in rows]


def test_a_sheet_without_its_header() -> None:
    assert sheet([["a", 1]], ["x", "y"], header=False) == [("a", 1)]


@pytest.fixture
def elsewhere() -> Iterator[Callable[[], None]]:
    """Called, this process is on the other side of the world."""
    patch = pytest.MonkeyPatch()

    def go() -> None:
        patch.setenv("TZ", "Pacific/Kiritimati")
        time.tzset()

    yield go
    patch.undo()
    time.tzset()


def test_the_same_rows_at_the_same_seal_give_the_same_sheet(elsewhere: Callable[[], None]) -> None:
    def made() -> bytes:
        out = io.BytesIO()
        xlsx.write(out, ["a"], [["x"], ["y"]], AT, header=True)
        assert len({entry.date_time for entry in zipfile.ZipFile(out).infolist()}) == 1
        return out.getvalue()

    first = made()
    elsewhere()
    assert made() == first


class Discarded:
    def write(self, content: bytes, /) -> None:
        """It is too large to keep."""


def test_a_cell_or_a_window_too_large_for_a_sheet_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotBeWritten, match="row 2, note: an XLSX cell has 32,767 characters"):
        xlsx.write(Discarded(), ["note"], [["x" * 32_767], ["x" * 32_768]], AT, header=True)
    # The bound itself, without a million rows.
    monkeypatch.setattr(xlsx, "MAX_ROWS", 3)
    assert xlsx.write(Discarded(), ["a"], [["x"]] * 2, AT, header=True) == 2
    assert xlsx.write(Discarded(), ["a"], [["x"]] * 3, AT, header=False) == 3
    with pytest.raises(CannotBeWritten, match="choose format: csv, or a schedule with shorter windows"):
        xlsx.write(Discarded(), ["a"], [["x"]] * 3, AT, header=True)


def test_a_sheet_that_has_no_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(CannotBeWritten, match=r"put together in .*gone: give it room, or choose format: csv"):
        xlsx.write(Discarded(), ["a"], [["x"]], AT, header=True)


@pytest.mark.parametrize(
    "file", [CsvFormat(), JsonLinesFormat(format="json_lines"), XlsxFormat(format="xlsx")]
)
def test_a_row_of_another_width_is_a_bug_told_by_its_number(file) -> None:
    with pytest.raises(ValueError, match="row 2 has 1 cells for 2 columns"):
        write(Discarded(), file, ["a", "b"], Feed.of([["x", "y"], ["z"]]), PACKED, guard=False)


# What no reader is known to bend: line ends and control characters are told of in test_csv_file.py.
PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp", "Cn"]), max_size=20)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(PLAIN, min_size=3, max_size=3), min_size=1, max_size=5),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    quoting=st.sampled_from(["all", "minimal"]),
    line_end=st.sampled_from(["crlf", "lf"]),
)
def test_duckdb_and_python_read_the_same_values_from_csv(
    tmp_path_factory, rows, delimiter, quoting, line_end
) -> None:
    path: Path = tmp_path_factory.getbasetemp() / "read_back.csv"
    form = CsvFormat(delimiter=delimiter, quoting=quoting, line_end=line_end)
    with path.open("wb") as out:
        assert write(out, form, ["a", "b", "c"], Feed.of(rows), PACKED, guard=False).rows == len(rows)
    with path.open(newline="", encoding="utf-8") as text:
        assert list(csv.reader(text, delimiter=delimiter, strict=True)) == [["a", "b", "c"], *rows]
    found = duckdb.read_csv(
        str(path),
        header=True,
        sep=delimiter,
        quotechar='"',
        escapechar='"',
        all_varchar=True,
        na_values="\x01",
    ).fetchall()
    assert [[cell or "" for cell in row] for row in found] == rows
