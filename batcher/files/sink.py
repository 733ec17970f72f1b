"""What files are written to, and what is known of a file once it is written."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol


class Out(Protocol):
    """Takes bytes; nothing is read back and nothing is written over."""

    def write(self, content: bytes, /) -> object: ...


@dataclass(frozen=True, slots=True)
class Written:
    """Rows without the header; size in bytes and SHA-256 in hex of the whole file.

    `plain`: the same of its content, before compression with a password or encryption made it another at
    every try.
    """

    rows: int
    bytes: int
    sha256: str
    plain: str = ""


class CannotBeWritten(Exception):  # noqa: N818 - what the file is
    """The rows make no file as its connection wants it. The message is for the operator: where, and what
    to do; never a value.
    """


class Sink:
    """Counts, digests and passes on."""

    def __init__(self, out: Out) -> None:
        self._out = out
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, content: bytes, /) -> int:
        self._out.write(content)
        self.digest.update(content)
        self.size += len(content)
        return len(content)


class Quiet:
    """Takes everything and passes it on until that fails; then it keeps the failure for whoever asks.

    A library that writes an archive cannot close it any more once it was told of a failure.
    """

    def __init__(self, out: Out) -> None:
        self._out = out
        self._failure: BaseException | None = None

    def write(self, content: bytes, /) -> int:
        if self._failure is None:
            try:
                self._out.write(content)
            except BaseException as error:  # noqa: BLE001 - raised by `check`
                self._failure = error
        return len(content)

    def flush(self) -> None:
        """Nothing is kept here."""

    def give_up(self, failure: BaseException) -> None:
        """Drop what still comes."""
        self._failure = self._failure or failure

    def check(self) -> None:
        """Raise what went wrong, if anything did."""
        if self._failure is not None:
            raise self._failure
