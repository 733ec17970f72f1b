"""An error of a file people write: where it stands, what it is, what to do. It never repeats a value."""

from __future__ import annotations

from dataclasses import dataclass

#: A name in a path: long enough for a slip, too short for a document.
MAX_SHOWN = 60


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One error of a file. `line` counts from 1; `where` is a path such as connections[2].url."""

    file: str
    line: int
    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{self.file}:{self.line}: {place}{self.what}; {self.remedy}"


def join(where: str, name: str) -> str:
    """The path of a member, its name as it may be shown: short and printable."""
    text = name if name.isprintable() else "?"
    text = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
    return f"{where}.{text}" if where else text
