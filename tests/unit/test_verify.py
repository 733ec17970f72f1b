"""The document beside a window's files, and `referrals verify` by whoever got them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from batcher.files.manifest import MAX_BYTES, Entry, Sidecar, document, parse, ranges
from console.__main__ import main
from console.verify import verify
from consumer.service import Stop
from schemas.manifest import Mark

CONTENT = b'"email"\r\n"a@example.com"\r\n"b@example.com"\r\n'
ENTRY = Entry("leads-1.csv", 2, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
OTHER = Entry("leads-2.csv", 0, 9, "0" * 64)
MARKS = [Mark(partition=p, start=10, to=12, rows=1, digest="", removals=0) for p in (0, 1)]
SIDECAR = Sidecar("acme-000001", "acme", datetime(2026, 6, 1, 8, tzinfo=UTC), (ENTRY,), ranges(MARKS))


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    def putting(content: bytes = CONTENT, sidecar: Sidecar = SIDECAR) -> Path:
        (tmp_path / "leads.manifest.json").write_bytes(document(sidecar))
        (tmp_path / "another.manifest.json").write_bytes(b"{}")
        (tmp_path / ENTRY.name).write_bytes(content)
        return tmp_path / ENTRY.name

    return putting


def test_the_document() -> None:
    told = json.loads(document(SIDECAR))
    assert told == {
        "version": 1,
        "window": "acme-000001",
        "connection": "acme",
        "sealed_at": "2026-06-01T08:00:00.000+00:00",
        "rows": 2,
        "files": [{"name": ENTRY.name, "rows": 2, "bytes": len(CONTENT), "sha256": ENTRY.sha256}],
        "ranges": [{"partition": 0, "from": 10, "to": 12}, {"partition": 1, "from": 10, "to": 12}],
    }
    assert parse(document(SIDECAR)) == SIDECAR


def test_a_file_as_it_was_sent(put: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = put(sidecar=replace(SIDECAR, files=(ENTRY, OTHER)))
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(path)])
    assert ended.value.code in {0, None}
    told = capsys.readouterr()
    assert told.out == "leads-1.csv: whole and unchanged, 2 rows, 43 bytes\n"
    assert told.err == "leads-2.csv of the same window is not here\n"
    assert verify(str(path), str(path.parent / "leads.manifest.json")).missing == ("leads-2.csv",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(CONTENT[:-1], "has 42 bytes of 43: it is cut off, fetch it again", id="cut off"),
        pytest.param(b"", "has 0 bytes of 43", id="empty"),
        pytest.param(CONTENT + b"\n", "has 44 bytes, and 43 were sent", id="longer"),
        pytest.param(CONTENT.replace(b"a@", b"c@"), "it was changed after it was sent", id="changed"),
    ],
)
def test_a_file_that_is_another(put: Callable[..., Path], content: bytes, says: str) -> None:
    with pytest.raises(Stop) as told:
        verify(str(put(content)), None)
    assert says in str(told.value)


def changed(**members: object) -> bytes:
    return json.dumps({**json.loads(document(SIDECAR)), **members}).encode()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"", "is not the document", id="empty"),
        pytest.param(b"[]", "is not the document", id="a list"),
        pytest.param(b"\xff\xfe", "is not the document", id="not UTF-8"),
        pytest.param(b"[" * 100_000, "is not the document", id="deep"),
        pytest.param(b" " * (MAX_BYTES + 1), "is not the document", id="large"),
        pytest.param(changed(version=2), "of another version", id="version"),
        pytest.param(changed(rows=3), "do not add up", id="rows"),
        pytest.param(changed(files=[{"name": "x"}]), "is not the document", id="entry"),
        pytest.param(changed(files=[{"name": "x", "rows": -1, "bytes": 1, "sha256": "0" * 64}]), "is not the", id="negative"),
        pytest.param(changed(files=[{"name": "x", "rows": 2, "bytes": 1, "sha256": "x"}]), "is not the", id="digest"),
        pytest.param(changed(sealed_at="yesterday"), "is not the document", id="time"),
    ],
)  # fmt: skip
def test_what_is_no_such_document(
    put: Callable[..., Path], tmp_path: Path, content: bytes, says: str
) -> None:
    path, sidecar = put(), tmp_path / "given"
    sidecar.write_bytes(content)
    with pytest.raises(Stop) as told:
        verify(str(path), str(sidecar))
    assert says in str(told.value)


def test_without_a_document_nothing_can_be_said(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(CONTENT)
    with pytest.raises(Stop, match=r"lists x\.csv: fetch the one that was delivered with it"):
        verify(str(tmp_path / "x.csv"), None)
    with pytest.raises(Stop, match="cannot be read: No such file"):
        verify(str(tmp_path / "x.csv"), str(tmp_path / "none"))


def test_a_file_the_document_does_not_list(put: Callable[..., Path], tmp_path: Path) -> None:
    put()
    (tmp_path / "x.csv").write_bytes(CONTENT)
    with pytest.raises(Stop, match=r"x\.csv is not among the files of acme-000001: leads-1\.csv"):
        verify(str(tmp_path / "x.csv"), str(tmp_path / "leads.manifest.json"))
