"""Removal marks: which sealed rows stay out of a file. Pure.

WITHDRAWN counts up to the seal; ERASED up to the first byte sent. Both are told by sequence numbers: of
a partition's marks, so many were known when it was sealed, and so many when the first byte left.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Removal:
    """A removal mark: the revision WITHDRAWN reaches up to, and since which mark it holds; 0 for never."""

    revision: int
    withdrawn: int
    erased: int


def parse(value: str) -> Removal:
    """As `mark.lua` writes it."""
    _kind, revision, withdrawn, erased, *_ = value.split(" ")
    return Removal(int(revision), int(withdrawn), int(erased))


def leaves_out(removal: Removal, revision: int, sealed: int, first_byte: int | None) -> bool:
    """Whether a sealed row stays out of the file.

    `sealed`: marks known at the seal. `first_byte`: marks known when the first byte left, None before it.
    """
    if removal.erased and (first_byte is None or removal.erased <= first_byte):
        return True
    return bool(removal.withdrawn) and removal.withdrawn <= sealed and revision <= removal.revision


def may_count(sealed: int, first_byte: int | None) -> bool:
    """Whether `leaves_out` can be true of any mark there is or will be."""
    return sealed > 0 or first_byte is None or first_byte > 0
