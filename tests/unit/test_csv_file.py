"""CSV files: every row one line, the same rows the same bytes, no formula where people look."""

from __future__ import annotations

import csv
import io
import re
import tracemalloc
from collections.abc import Iterator, Sequence
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.files.csv_file import write
from batcher.files.sink import CannotBeWritten
from schemas.files import CsvFormat
from schemas.mapping import Value

PLAIN = CsvFormat()


def written(
    rows: Sequence[Sequence[Value]], columns: Sequence[str] = ("a",), guard: bool = False, **form
) -> bytes:
    out = io.BytesIO()
    assert write(out, CsvFormat(**form), columns, rows, guard=guard) == len(rows)
    return out.getvalue()


def cell(value: Value, guard: bool = False) -> str:
    """The one cell of a file of one row, as csv.reader reads it."""
    [[found]] = csv.reader(io.StringIO(written([[value]], header=False, guard=guard).decode(), newline=""))
    return found


def test_the_bytes() -> None:
    rows = [["Zoë", None, True, 7, "02650"], ['say "hi"', "a,b", False, -1, ""]]
    assert written(rows, ["name", "x", "ok", "n", "zip"]).decode() == (
        '"name","x","ok","n","zip"\r\n"Zoë","","true","7","02650"\r\n"say ""hi""","a,b","false","-1",""\r\n'
    )


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters(delimiter: str) -> None:
    found = written([[f"x{delimiter}y", "z"]], ["a", "b"], delimiter=delimiter).decode()
    assert found == f'"a"{delimiter}"b"\r\n"x{delimiter}y"{delimiter}"z"\r\n'


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({}, b'"a"\r\n'),
        ({"header": False}, b""),
        ({"bom": True}, b'\xef\xbb\xbf"a"\r\n'),
        ({"bom": True, "header": False}, b"\xef\xbb\xbf"),
        ({"line_end": "lf"}, b'"a"\n'),
        ({"quoting": "minimal"}, b"a\r\n"),
        ({"encoding": "utf-16"}, b'\xff\xfe"\x00a\x00"\x00\r\x00\n\x00'),
    ],
)
def test_files_without_rows(form: dict[str, bool], expected: bytes) -> None:
    assert written([], **form) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("a\nb", "a b", id="LF"),
        pytest.param("a\rb", "a b", id="CR alone"),
        pytest.param("a\r\nb", "a b", id="CRLF is one"),
        pytest.param("a\n\nb", "a  b", id="an empty line"),
        pytest.param("a\u2028b\u2029c\x85d\x0be\x0cf\x1cg", "a b c d e f g", id="other line ends"),
        pytest.param("a\x00b", "a\ufffdb", id="NUL"),
        pytest.param("a\x1ab\x7fc\x9bd", "a\ufffdb\ufffdc\ufffdd", id="control characters"),
        pytest.param("a\ud83d", "a\ufffd", id="half a surrogate pair"),
        pytest.param("a\tb", "a\tb", id="TAB stays"),
        pytest.param("\ufeffa", "\ufeffa", id="BOM stays"),
        pytest.param("\u202eabc", "\u202eabc", id="right-to-left override stays"),
        pytest.param("👩‍🚀 ünï", "👩‍🚀 ünï", id="emoji"),
        pytest.param("007", "007", id="leading zeros"),
        pytest.param("12345678901234567890", "12345678901234567890", id="long digits"),
        pytest.param("1.0", "1.0", id="a fraction of zero"),
        pytest.param("  a  ", "  a  ", id="outer blanks"),
        pytest.param('"', '"', id="a quote"),
        pytest.param("", "", id="empty"),
        pytest.param(None, "", id="nothing"),
        pytest.param("x" * 1_000_000, "x" * 1_000_000, id="a megabyte"),
    ],
)
def test_cells(value: Value, expected: str) -> None:
    csv.field_size_limit(2_000_000)
    assert cell(value) == expected


@pytest.mark.parametrize(
    "value",
    ["=1+1", "+61400", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\tx", "\rx", "\r\nx", " =1", "\u00a0=1", "\ufeff=1",
     "\u200b=1", "\x00=1", "＝1", "＋1", "－1", "＠x", "=", "-"],
)  # fmt: skip
def test_formulas_are_guarded_only_where_asked(value: str) -> None:
    assert cell(value, guard=True).startswith("'")
    assert not cell(value).startswith("'")
    assert cell(value, guard=True)[1:] == cell(value)


@pytest.mark.parametrize(
    "value", ["x", "a=b", "1-2", "zoe@example.com", "", " x", "'=1", None, True, 5, -5, "…=1"]
)
def test_what_is_no_formula_is_left_alone(value: Value) -> None:
    assert cell(value, guard=True) == cell(value)


def test_the_header_is_guarded_too() -> None:
    assert written([], ["=cmd|x", "ok"], guard=True) == b'"\'=cmd|x","ok"\r\n'
    assert written([], ["=cmd|x", "ok"]) == b'"=cmd|x","ok"\r\n'


@pytest.mark.parametrize(
    ("encoding", "value", "expected"),
    [
        pytest.param("latin-1", "Zoë", b"Zo\xeb", id="latin-1"),
        pytest.param("latin-1", "a\x00b\ud800", b"a?b?", id="control characters where there is no U+FFFD"),
        pytest.param("windows-1252", "5 €", b"5 \x80", id="windows-1252"),
        pytest.param("utf-16", "👩", b"=\xd8i\xdc", id="utf-16 beyond its first plane"),
        pytest.param("utf-8", "👩", "👩".encode(), id="utf-8"),
    ],
)
def test_encodings(encoding: str, value: str, expected: bytes) -> None:
    quote = '"'.encode("utf-16-le" if encoding == "utf-16" else "ascii")
    assert quote + expected + quote in written([[value]], header=False, encoding=encoding)


@pytest.mark.parametrize(
    ("encoding", "columns", "rows", "says"),
    [
        pytest.param("latin-1", ["a", "name"], [["x", "y"], ["€", "Łucja"]], "row 2, a: latin-1 does not", id="row"),
        pytest.param("windows-1252", ["a", "name"], [["€", "Łucja"]], "row 1, name: windows-1252", id="column"),
        pytest.param("latin-1", ["a", "名"], [], "the header, 名: latin-1", id="header"),
    ],
)  # fmt: skip
def test_what_an_encoding_does_not_have_is_told_without_the_value(encoding, columns, rows, says) -> None:
    with pytest.raises(CannotBeWritten) as told:
        written(rows, columns, encoding=encoding)
    assert says in str(told.value)
    assert "choose encoding: utf-8" in str(told.value)
    assert "Łucja" not in str(told.value)


def test_only_what_needs_it_is_quoted_and_a_missing_value_has_its_text() -> None:
    rows = [["a,b", None, ""], ['say "hi"', " x ", 7]]
    encoded = written(rows, ["one", "two", "three"], quoting="minimal", missing="NULL", line_end="lf")
    assert encoded == b'one,two,three\n"a,b",NULL,\n"say ""hi""", x ,7\n'


@pytest.mark.parametrize("row", [[], ["a"], ["a", "b", "c"]])
def test_a_row_of_another_width_is_a_bug_told_by_its_number(row: list[str]) -> None:
    with pytest.raises(ValueError, match="row 2 has"):
        written([["x", "y"], row], ["a", "b"])


VALUES = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text() | st.sampled_from(
    ["\r", "\n", "\r\n", '"', '""', ",", ";", "\x00", "\ud800", "=1", "\u2028", "'", "\t", "\x1a"]
)  # fmt: skip
ROWS = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(VALUES, min_size=width, max_size=width), max_size=6)
)
FORMS = st.fixed_dictionaries(
    {
        "delimiter": st.sampled_from([",", ";", "\t", "|"]),
        "header": st.booleans(),
        "quoting": st.sampled_from(["all", "minimal"]),
        "line_end": st.sampled_from(["crlf", "lf"]),
        "encoding": st.sampled_from(["utf-8", "utf-16"]),
    }
)


@given(rows=ROWS, form=FORMS, guard=st.booleans())
def test_every_row_is_one_line_and_comes_back(rows: list[list[Value]], form: dict, guard: bool) -> None:
    columns = [f"c{n}" for n in range(len(rows[0]) if rows else 1)]
    encoded = written(rows, columns, guard, **form)
    content = encoded.decode(form["encoding"])
    end = {"crlf": "\r\n", "lf": "\n"}[form["line_end"]]
    lines = content.splitlines(keepends=True)
    assert len(lines) == len(rows) + form["header"]
    assert all(line.endswith(end) for line in lines)
    found = list(csv.reader(io.StringIO(content, newline=""), delimiter=form["delimiter"], strict=True))
    assert [len(row) for row in found] == [len(columns)] * len(lines)
    for row, back in zip(rows, found[form["header"] :], strict=True):
        for value, there in zip(row, back, strict=True):
            if isinstance(value, str) and value.isprintable():
                assert there in ({value, f"'{value}"} if guard else {value})
            elif not isinstance(value, str):
                assert there == ("" if value is None else str(value).lower())
    assert encoded == written(rows, columns, guard, **form)


@given(st.text(st.characters(codec="utf-8")))
def test_only_line_ends_and_control_characters_are_replaced(value: str) -> None:
    found = cell(value)
    assert found == re.sub(
        "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufffe\uffff]",
        "\ufffd",
        re.sub("\r\n|[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", " ", value),
    ).replace("\x1f", "\ufffd")


@given(st.text(min_size=1))
def test_no_guarded_cell_begins_as_a_formula(value: str) -> None:
    assert not re.match(r"\s*[=+\-@]", cell(value, guard=True))


def test_memory_stays_flat() -> None:
    class Discard(io.RawIOBase):
        def write(self, data) -> int:
            return len(data)

    def rows(count: int) -> Iterator[list[Value]]:
        return (["Zoë", number, None, "x" * 100] for number in range(count))

    def peak(count: int) -> int:
        tracemalloc.start()
        found = write(Discard(), PLAIN, ["a", "b", "c", "d"], rows(count), guard=True)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found == count
        return most

    peak(10)
    assert peak(20_000) < peak(200) + 20_000


def test_money_is_text_before_it_comes_here() -> None:
    assert cell(format(Decimal("1.2500"), "f")) == "1.2500"
