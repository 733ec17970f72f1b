"""What files are called: in their folder, plain everywhere, never the same twice."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.file_name import MAX_NAME, Named, check, ended, render

NAMED = Named(
    "Acme.Ltd", "acme-daily", "spring 26", 12, datetime(2026, 6, 1, 14, 5, tzinfo=UTC), "Australia/Sydney"
)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        pytest.param(
            "{connection}-{date:%Y%m%d}-{number:06}", "acme-daily-20260602-000012", id="the default"
        ),
        pytest.param("{window}", "acme-daily-000012", id="window id"),
        pytest.param("leads {date:%d.%m.%y %Hh%M} {number}", "leads 02.06.26 00h05 12", id="local time"),
        pytest.param("{account}_{number:012}", "Acme_Ltd_000000000012", id="an account with a dot"),
        pytest.param("{campaign}_{number}", "spring_26_12", id="a campaign with a blank"),
        pytest.param("{date}{number}", "2026060212", id="a date without a form"),
    ],
)
def test_names(template: str, expected: str) -> None:
    assert render(check(template), NAMED) == expected


@pytest.mark.parametrize(
    ("template", "says"),
    [
        pytest.param("leads", "two windows would get the same name", id="the same every time"),
        pytest.param("{date:%Y%m%d%H%M%S}", "two windows would get the same name", id="a time is not unique"),
        pytest.param("../{number}", "without folders", id="another folder"),
        pytest.param("/tmp/{number}", "without folders", id="absolute"),
        pytest.param("a/{number}", "without folders", id="a folder"),
        pytest.param("a\\{number}", "without folders", id="backslash"),
        pytest.param("{date:%Y/%m}{number}", "without folders", id="a folder in a date"),
        pytest.param("{date:%H:%M}-{number}", "instead of {date:%H:%M}", id="a colon"),
        pytest.param(".{number}", "letters, digits", id="hidden"),
        pytest.param("-{number}", "letters, digits", id="an option"),
        pytest.param("{number}.", "letters, digits", id="a last dot"),
        pytest.param("{number} ", "letters, digits", id="a last blank"),
        pytest.param("a..{number}", "letters, digits", id="two dots"),
        pytest.param("größe-{number}", "letters, digits", id="not ASCII"),
        pytest.param("a\n{number}", "letters, digits", id="line end"),
        pytest.param("a\0{number}", "letters, digits", id="NUL"),
        pytest.param("", "two windows", id="nothing"),
        pytest.param("con.{number}", "a device", id="a device"),
        pytest.param("Lpt1.{number}", "a device", id="another"),
        pytest.param("{account}.{number}", "a device", id="an account called con"),
        pytest.param("{number", "a brace by itself", id="brace left open"),
        pytest.param("{{number}}", "a brace by itself", id="doubled braces"),
        pytest.param(
            "{email}-{number}", "the parts of a file's name are {account}, {campaign}", id="personal data"
        ),
        pytest.param("{number:6}", "a form follows", id="blanks in a number"),
        pytest.param("{number:0100}", "a form follows", id="a hundred digits"),
        pytest.param("{window:x}", "a form follows", id="a form of a window"),
        pytest.param("{date:%B}{number}", "the directives here are", id="a month's name"),
        pytest.param("{number}" + "x" * 120, f"over {MAX_NAME} characters", id="long"),
        pytest.param("{connection}{account}{number}", f"over {MAX_NAME} characters", id="long at worst"),
    ],
)
def test_a_template_that_cannot_be_used_is_told_why(template: str, says: str) -> None:
    with pytest.raises(ValueError) as told:
        check(template)
    assert says in str(told.value)


@pytest.mark.parametrize(
    ("name", "endings", "expected"),
    [
        ("a", (".csv",), "a.csv"),
        ("a.csv", (".csv",), "a.csv"),
        ("a.CSV", (".csv", ".gz"), "a.csv.gz"),
        ("a.csv", (".xlsx", ".zip", ".pgp"), "a.csv.xlsx.zip.pgp"),
    ],
)
def test_endings(name: str, endings: tuple[str, ...], expected: str) -> None:
    assert ended(name, endings) == expected


PIECES = st.sampled_from(["{account}", "{campaign}", "{connection}", "{date:%j%z}", "{number}", "{window}", "a", ".", " ", "_", "-", "/", "con"])  # fmt: skip


@given(st.lists(PIECES, max_size=5).map("".join), st.text(min_size=1, max_size=80), st.integers(1, 10**9))
def test_whatever_it_is_made_of_a_name_stays_in_its_folder(template: str, campaign: str, number: int) -> None:
    try:
        check(template)
    except ValueError:
        return
    name = render(template, Named("a.b", "c", campaign, number, NAMED.at, "UTC"))
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9 ._+-]*", name)
    assert len(name) <= MAX_NAME + 3
    other = render(template, Named("a.b", "c", campaign, number + 1, NAMED.at, "UTC"))
    assert name.lower() != other.lower()
