"""A file gets its final name once, wherever the line is cut: what SFTP and FTPS share.

The law: content goes to a temporary name nobody else uses; once that is durable as `Uploaded`, only
`deliver` runs, as often as it takes. It looks before it renames and after a rename that was refused, and
never overwrites. This assumes that nobody else deletes our temporary file.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import BinaryIO, Protocol, cast

from batcher.channels import Hold, Retry
from batcher.channels.line import Trouble
from batcher.channels.resolution import Renamed, RenameNow, Seen, Uploaded, resolve

__all__ = ["WITHIN", "Client", "Folder", "Renamed", "Session", "Uploaded", "opened", "path_in"]

#: Seconds from dialling to the last reply of one transfer: a large file on a slow line, never a stuck one.
WITHIN = 900.0


class Folder(Protocol):
    """Where files go, as a target of any protocol knows it."""

    @property
    def directory(self) -> str: ...
    def path(self, name: str) -> str: ...


class Client(Protocol):
    """The requests of one connection. Paths are the server's; each method raises Trouble and nothing else."""

    #: Bytes of one `write`.
    chunk: int
    #: Whether the end of a file may be lost on the way although the server says it has all of it.
    lossy: bool

    @property
    def target(self) -> Folder: ...

    def create(self, path: str) -> bytes:
        """The handle of a new file; a file that exists is refused."""

    def write(self, handle: bytes, offset: int, content: bytes) -> None: ...

    def finish(self, handle: bytes) -> None:
        """On the server's disk, as far as it can say so, and closed."""

    def size(self, path: str) -> int | None:
        """In bytes, None where there is no such file; 0 where the server does not tell."""

    def has_folder(self, path: str) -> bool: ...

    def rename(self, old: str, new: str) -> None:
        """Never over an existing file, as far as the protocol allows for it."""

    def remove(self, path: str) -> None:
        """A file that is gone already is fine."""

    def names(self, folder: str) -> list[str]:
        """Of its files, as far as the server shows them."""

    def read(self, path: str) -> Iterator[bytes]: ...


class Session:
    """A logged-in connection. Each method asks the server and answers with a value."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._target = client.target

    def upload(self, name: str, write: Callable[[BinaryIO], object]) -> Uploaded | Retry | Hold:
        """`write` fills the new file `name`; what it raises passes through.

        `name` must differ at every attempt: one that exists is refused. Nothing is left behind where the
        connection still allows it.
        """
        path = self._target.path(name)
        try:
            remote = _RemoteFile(self._client, self._client.create(path))
            try:
                write(cast("BinaryIO", remote))
                return self._checked(path, Uploaded(name, remote.finish(), remote.sha256))
            except BaseException as error:
                if not (isinstance(error, Trouble) and isinstance(error.value, Retry)):
                    with suppress(Trouble):
                        self._client.remove(path)
                raise
        except Trouble as trouble:
            return trouble.value

    def deliver(self, uploaded: Uploaded, final: str) -> Renamed | Retry | Hold:
        """Give it its final name. After Retry the outcome may be unknown: ask again on a new connection."""
        try:
            verdict = self._verdict(uploaded, final)
            if not isinstance(verdict, RenameNow):
                return verdict
            try:
                self._client.rename(self._target.path(uploaded.name), self._target.path(final))
            except Trouble as trouble:
                if isinstance(trouble.value, Retry):
                    raise
                verdict = self._verdict(uploaded, final)
                return trouble.value if isinstance(verdict, RenameNow) else verdict
        except Trouble as trouble:
            return trouble.value
        return Renamed()

    def remove(self, name: str) -> Retry | Hold | None:
        """None when it is gone, also when it was gone before."""
        try:
            self._client.remove(self._target.path(name))
        except Trouble as trouble:
            return trouble.value
        return None

    def list_parts(self, prefix: str) -> tuple[str, ...] | Retry | Hold:
        """Names in the folder that begin with `prefix`, for the sweep of what dead workers left."""
        try:
            return tuple(n for n in self._client.names(self._target.directory) if n.startswith(prefix))
        except Trouble as trouble:
            return trouble.value

    def _checked(self, path: str, uploaded: Uploaded) -> Uploaded:
        size = self._client.size(path)
        if size == uploaded.size:
            return uploaded
        seen = "is gone" if size is None else f"has {size} bytes instead of {uploaded.size}"
        if self._client.lossy and size is not None:
            self._client.remove(path)
            raise Trouble(Retry(f"the file just uploaded {seen}: the line was cut, or its disk is full"))
        raise Trouble(
            Hold(f"the file just uploaded {seen}: its disk may be full, or something takes files away")
        )

    def _verdict(self, uploaded: Uploaded, final: str) -> Renamed | RenameNow | Hold:
        final_path = self._target.path(final)
        temporary, present = (
            self._client.size(self._target.path(uploaded.name)),
            self._client.size(final_path),
        )
        if temporary is None and not self._client.has_folder(self._target.directory):
            # From a folder that is away nothing can be concluded about the files in it.
            return Hold("the folder is gone: check `directory` with the advertiser")
        same = temporary is not None and present == uploaded.size and self._holds(final_path, uploaded.sha256)
        verdict = resolve(Seen(temporary, present, same), uploaded, final)
        if verdict == Renamed(leftover=True):
            self.remove(uploaded.name)
            return Renamed()
        return verdict

    def _holds(self, path: str, sha256: str) -> bool:
        digest = hashlib.sha256()
        try:
            for content in self._client.read(path):
                digest.update(content)
        except Trouble as trouble:
            if isinstance(trouble.value, Retry):
                raise
            return False  # we may write there but not read
        return digest.hexdigest() == sha256


class _RemoteFile(io.BufferedIOBase):
    """The new file, as something to write to."""

    def __init__(self, client: Client, handle: bytes) -> None:
        self._client = client
        self._handle = handle
        self._pending = bytearray()
        self._digest = hashlib.sha256()
        self._sent = 0

    @property
    def sha256(self) -> str:
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


@contextmanager
def opened(log_in: Callable[[ExitStack], Client]) -> Iterator[Session | Retry | Hold]:
    """One connection, for one transfer; what `log_in` leaves on the stack is closed behind it."""
    with ExitStack() as stack:
        found: Session | Retry | Hold
        try:
            found = Session(log_in(stack))
        except Trouble as trouble:
            found = trouble.value
        yield found


def path_in(directory: str, name: str) -> str:
    """Raises ValueError where `name` is no plain file name."""
    if "/" in name or name in {"", ".", ".."}:
        raise ValueError(f"{name!r} is not a file's name")
    return f"{directory.rstrip('/')}/{name}"
