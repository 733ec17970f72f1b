"""What commands keep on disk while they run: gone afterwards, and its trouble in one line."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from console.disk import Disk, room
from consumer.service import Stop


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_gone_when_it_is_closed(folder: Path) -> None:
    disk = Disk("CREATE TABLE one (n INTEGER PRIMARY KEY);")
    disk.execute("INSERT INTO one VALUES (?)", (1,))
    disk.execute("INSERT OR IGNORE INTO one VALUES (?)", (1,))
    assert disk.execute("SELECT count(*) FROM one").fetchall() == [(1,)]
    assert list(folder.iterdir())
    disk.close()
    assert not list(folder.iterdir())


def test_a_disk_that_is_full_is_one_line(folder: Path) -> None:
    disk = Disk("CREATE TABLE one (n BLOB); PRAGMA max_page_count = 4;")
    try:
        with (
            pytest.raises(Stop, match=r"cannot be sorted on disk \(.*full\): point TMPDIR elsewhere"),
            room(),
        ):
            disk.execute("INSERT INTO one VALUES (zeroblob(100000))")
    finally:
        disk.close()
