"""A database on disk for what memory cannot hold, where TMPDIR points. The one owner of sqlite3.

It is gone when it is closed, or when the process is.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from consumer.service import Stop

#: SQLite's page cache and its sorter's memory, each.
CACHE_KIB = 65_536
_PRAGMAS = f"""
PRAGMA cache_size = -{CACHE_KIB}; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
"""


class Disk:
    """One transaction from beginning to end: nothing needs to outlive it."""

    def __init__(self, tables: str) -> None:
        """`tables`: the statements that make them."""
        self._folder = tempfile.TemporaryDirectory(prefix="referrals-")
        self._db = sqlite3.connect(Path(self._folder.name) / "facts", isolation_level=None)
        self._db.executescript(f"{_PRAGMAS} {tables} BEGIN;")

    def close(self) -> None:
        self._db.close()
        self._folder.cleanup()

    def execute(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        return self._db.execute(statement, values)


@contextmanager
def room() -> Iterator[None]:
    """Turn the trouble of a disk that is full or taken away into Stop."""
    try:
        yield
    except sqlite3.Error as error:
        raise Stop(f"facts cannot be sorted on disk ({error}): point TMPDIR elsewhere") from error
