"""`referrals windows NAME --past COUNT`: sealed windows as Kafka remembers them, with their files."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC

from console.ground import standing
from consumer.service import Settings, Stop
from schemas.delivery import window_id
from schemas.manifest import Manifest

COLUMNS = ("window", "sealed", "outcome", "file", "rows", "bytes", "sha256")


def windows(settings: Settings, name: str, most: int) -> list[tuple[str, ...]]:
    """The newest first, a row per file, a cell per column of COLUMNS. Raises Stop."""
    with standing(settings) as ground:
        known = ground.remembered.windows.get(name, {})
    if not known:
        raise Stop(f"Kafka remembers no window of {name}: see `referrals windows`")
    newest = sorted(known.items(), reverse=True)[:most]
    return [row for number, told in newest for row in rows(name, number, told)]


def rows(name: str, number: int, told: Manifest) -> Iterator[tuple[str, ...]]:
    """A window without a file has one row, too. Pure."""
    sealed = "" if told.sealed_at is None else told.sealed_at.astimezone(UTC).isoformat(timespec="seconds")
    common = (window_id(name, number), sealed, told.outcome or "under way")
    for file in told.artefacts:
        yield (*common, file.name, str(file.rows), str(file.bytes), file.sha256)
    if not told.artefacts:
        yield (*common, "", "0" if told.outcome else str(sum(mark.rows for mark in told.marks)), "", "")
