"""The files of a window as Redis keeps them: one field each, so that each has a state of its own. Pure.

A file is pinned once the receiver has all of it under a name nobody looks at; the list is whole before the
first of them gets its final name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from batcher.files.manifest import Entry
from schemas.manifest import Artefact

Fields = dict[str, str | int]


@dataclass(frozen=True, slots=True)
class Pinned:
    """A file of a window. `part`: its temporary name, where it has one. `following`: the row the next file
    begins with, None for the last. `sidecar`: it is the document that lists the others.
    """

    name: str
    part: str
    rows: int
    bytes: int
    sha256: str
    plain: str
    following: int | None = None
    sidecar: bool = False

    @property
    def told(self) -> Artefact:
        """As the manifest names it."""
        return Artefact(
            name=self.name, rows=self.rows, bytes=self.bytes, sha256=self.sha256, plain=self.plain
        )

    @property
    def entry(self) -> Entry:
        """As the document beside it lists it."""
        return Entry(self.name, self.rows, self.bytes, self.sha256)


def pinned(fields: Mapping[str, str]) -> tuple[Pinned, ...]:
    """Those the window has, in order."""
    count = int(fields.get("files", "0"))
    return tuple(Pinned(**json.loads(fields[_field(number)])) for number in range(1, count + 1))


def pin(number: int, artefact: Pinned) -> Fields:
    """The fields that say that the window has `number` files, and this is the last of them."""
    return {_field(number): json.dumps(asdict(artefact), separators=(",", ":")), "files": number}


def contents(fields: Mapping[str, str]) -> tuple[Pinned, ...]:
    """The files with rows, without the document beside them."""
    return tuple(artefact for artefact in pinned(fields) if not artefact.sidecar)


def digest(fields: Mapping[str, str]) -> str | None:
    """SHA-256 of the file, where there is one; the manifest has those of several."""
    found = contents(fields)
    return found[0].sha256 if len(found) == 1 else None


def delivered(number: int) -> Fields:
    """It has its final name."""
    return {_delivered(number): 1}


def none_delivered(count: int) -> Fields:
    """Of `count` files none has, whatever was noted before."""
    return {_delivered(number): "" for number in range(1, count + 1)}


def is_delivered(fields: Mapping[str, str], number: int) -> bool:
    return bool(fields.get(_delivered(number)))


def forgotten(fields: Mapping[str, str]) -> Fields:
    """Nothing is left of them: whoever looks at a closed window need not read a thousand files' fields."""
    count = int(fields.get("files", "0"))
    return {"files": 0, **{_field(number): "" for number in range(1, count + 1)}}


def counted(marks: Mapping[int, int]) -> str:
    """Removal marks by partition, as a field holds them."""
    return ",".join(f"{partition}:{number}" for partition, number in marks.items())


def first_byte(fields: Mapping[str, str]) -> dict[int, int] | None:
    """How many removal marks each partition had when the first byte was sent; None before."""
    if not fields.get("first_byte"):
        return None
    pairs = (item.split(":") for item in fields["first_byte"].split(","))
    return {int(partition): int(number) for partition, number in pairs}


def _field(number: int) -> str:
    return f"artefact:{number}"


def _delivered(number: int) -> str:
    return f"delivered:{number}"
