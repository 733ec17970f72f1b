"""What the operator sees: results to standard output, everything about them to standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Without a terminal nothing is cut: a line of a table is for grep, and this is longer than any.
UNLIMITED = 100_000


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on standard output; fitted to a terminal, one line a row elsewhere."""
    shown = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        shown.add_row(*(Text(one_line(cell)) for cell in row))
    terminal = sys.stdout.isatty()
    Console(file=sys.stdout, width=None if terminal else UNLIMITED, highlight=False).print(shown)


def say(line: str) -> None:
    """A result."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def note(line: str) -> None:
    """About a result: how much, what was left out."""
    sys.stderr.write(f"{line}\n")


def one_line(text: str) -> str:
    """What others wrote cannot move the cursor or fake a row."""
    return "".join(character if character.isprintable() else " " for character in text)


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 connection`, `20,000 referrals`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
