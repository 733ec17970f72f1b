"""A new file on a server, as something to write to."""

from __future__ import annotations

import hashlib
import io
from typing import Protocol


class Writer(Protocol):
    """The part of a connection that a new file needs. Each method raises Trouble and nothing else."""

    #: Bytes of one `write`.
    chunk: int

    def write(self, handle: bytes, offset: int, content: bytes) -> None: ...

    def finish(self, handle: bytes) -> None:
        """On the server's disk, as far as it can say so, and closed."""


class RemoteFile(io.BufferedIOBase):
    """`handle` is that of an empty file. Written in the connection's chunks, in order."""

    def __init__(self, client: Writer, handle: bytes) -> None:
        self._client = client
        self._handle = handle
        self._pending = bytearray()
        self._digest = hashlib.sha256()
        self._sent = 0

    @property
    def sha256(self) -> str:
        """Of what was sent; in hexadecimal."""
        return self._digest.hexdigest()

    def writable(self) -> bool:
        return True

    def write(self, content: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]
        self._pending += content
        while len(self._pending) >= self._client.chunk:
            self._send(self._client.chunk)
        return len(content)

    def finish(self) -> int:
        """The size of the whole file in bytes, once the server has it all."""
        if self._pending:
            self._send(len(self._pending))
        self._client.finish(self._handle)
        return self._sent

    def _send(self, length: int) -> None:
        chunk = bytes(self._pending[:length])
        del self._pending[:length]
        self._client.write(self._handle, self._sent, chunk)
        self._digest.update(chunk)
        self._sent += length
