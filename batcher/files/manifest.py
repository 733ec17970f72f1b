"""The document beside a window's files, by which an advertiser can tell that all of them are there, whole.

JSON; the same window gives the same bytes. It names no person. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from schemas.manifest import Mark

#: Of the document's form; one that a reader does not know is refused.
VERSION = 1
#: Bytes of a document: thousands of files and partitions, never a file of rows taken for one.
MAX_BYTES = 1 << 20

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: rows without the header, bytes and SHA-256 in hex of the file as it was sent."""

    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Sidecar:
    """`ranges`: per partition of the referral topic, (partition, from, to), to exclusive."""

    window: str
    connection: str
    sealed_at: datetime
    files: tuple[Entry, ...]
    ranges: tuple[tuple[int, int, int], ...]

    @property
    def rows(self) -> int:
        return sum(entry.rows for entry in self.files)


def ranges(marks: Iterable[Mark]) -> tuple[tuple[int, int, int], ...]:
    """Those of a sealed window."""
    return tuple((mark.partition, mark.start, mark.to) for mark in marks)


def document(sidecar: Sidecar) -> bytes:
    told = {
        "version": VERSION,
        "window": sidecar.window,
        "connection": sidecar.connection,
        "sealed_at": sidecar.sealed_at.astimezone(UTC).isoformat(timespec="milliseconds"),
        "rows": sidecar.rows,
        "files": [asdict(entry) for entry in sidecar.files],
        "ranges": [{"partition": p, "from": start, "to": to} for p, start, to in sidecar.ranges],
    }
    return f"{json.dumps(told, indent=2)}\n".encode()


def parse(content: bytes) -> Sidecar:
    """Raises ValueError, in words for people."""
    try:
        told = json.loads(content)
        found = _sidecar(told) if told["version"] == VERSION else None
        rows = told["rows"]
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError("is not the document that goes with a window's files") from error
    if found is None:
        raise ValueError("is of another version: verify with the release that wrote it")
    if rows != found.rows:
        raise ValueError("contradicts itself: its files do not add up to its rows")
    return found


def differences(entry: Entry, size: int, sha256: str) -> str:
    """How a file differs from what was sent, or nothing."""
    if size < entry.bytes:
        return f"has {size:,} bytes of {entry.bytes:,}: it is cut off, fetch it again"
    if size > entry.bytes:
        return f"has {size:,} bytes, and {entry.bytes:,} were sent: it is another file or was changed"
    if sha256 != entry.sha256:
        return "has the right size and another content: it was changed after it was sent"
    return ""


def _sidecar(told: Mapping[str, Any]) -> Sidecar:
    return Sidecar(
        window=str(told["window"]),
        connection=str(told["connection"]),
        sealed_at=datetime.fromisoformat(told["sealed_at"]),
        files=tuple(_entry(one) for one in told["files"]),
        ranges=tuple((int(one["partition"]), int(one["from"]), int(one["to"])) for one in told["ranges"]),
    )


def _entry(told: Mapping[str, Any]) -> Entry:
    entry = Entry(told["name"], told["rows"], told["bytes"], told["sha256"])
    numbers = all(isinstance(n, int) and n >= 0 for n in (entry.rows, entry.bytes))
    if not numbers or not isinstance(entry.name, str) or not _SHA256.fullmatch(entry.sha256):
        raise TypeError("not an entry")
    return entry
