"""A file gets its final name once, wherever the line is cut: what SFTP and FTPS share.

The law: content goes to a temporary name nobody else uses; once that is durable as `Uploaded`, only
`deliver` runs, as often as it takes. It looks before it renames and after a rename that was refused, and
never overwrites. This assumes that nobody else deletes our temporary file.

Where a server cannot rename, `place` writes under the final name and `done` adds an empty file that says so:
at least once, for a receiver that touches no file before its `.done`. One that has it is never replaced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import BinaryIO, Protocol, cast

from batcher.channels import Hold, Retry
from batcher.channels.line import Trouble
from batcher.channels.remote_file import RemoteFile, Writer
from batcher.channels.resolution import Renamed, RenameNow, Seen, Uploaded, resolve

__all__ = ["DONE", "WITHIN", "Client", "Folder", "Renamed", "Session", "Uploaded", "opened", "path_in"]

#: Seconds from dialling to the last reply of one transfer: a large file on a slow line, never a stuck one.
WITHIN = 900.0
#: Behind a file's name: the name of the empty file that says it is whole.
DONE = ".done"


class Folder(Protocol):
    """Where files go, as a target of any protocol knows it."""

    @property
    def directory(self) -> str: ...
    def path(self, name: str) -> str: ...


class Client(Writer, Protocol):
    """The requests of one connection. Paths are the server's; each method raises Trouble and nothing else."""

    #: Whether the end of a file may be lost on the way although the server says it has all of it.
    lossy: bool

    @property
    def target(self) -> Folder: ...

    def create(self, path: str) -> bytes:
        """The handle of a new file; a file that exists is refused."""

    def replace(self, path: str) -> bytes:
        """The handle of a new file; one that exists is removed first, so who still writes it does no harm."""

    def size(self, path: str) -> int | None:
        """In bytes, None where there is no such file; 0 where the server does not tell."""

    def shown(self, path: str) -> int | None:
        """As `size`, but one look, which may miss a file: not for what follows from its absence."""

    def has_folder(self, path: str) -> bool: ...

    def rename(self, old: str, new: str) -> None:
        """Never over an existing file, as far as the protocol allows for it."""

    def remove(self, path: str) -> None:
        """A file that is gone already is fine."""

    def names(self, folder: str) -> list[str]:
        """Of its files, as far as the server shows them."""

    def read(self, path: str) -> Iterator[bytes]: ...


_FOLDER_GONE = Hold("the folder is gone: check `directory` with the advertiser")


class _ShortError(Trouble):
    """The server lacks some of the file, over a line that still works."""


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
            handle = self._client.create(path)
            try:
                return self._filled(name, handle, write)
            except BaseException as error:
                cut = isinstance(error, Trouble) and isinstance(error.value, Retry)
                if not cut or isinstance(error, _ShortError):
                    with suppress(Trouble):
                        self._client.remove(path)
                raise
        except Trouble as trouble:
            return trouble.value

    def place(self, name: str, write: Callable[[BinaryIO], object]) -> Uploaded | Retry | Hold:
        """As `upload`, straight under its final name. What a former try left there is replaced.

        What fails stays: by then it may be another worker's, and without its `.done` it is nothing.
        """
        try:
            if self._client.shown(self._target.path(name + DONE)) is not None:
                return Hold(
                    f"{name}{DONE} is already there, so a file {name} counts as whole: "
                    "find out with the advertiser whether it was taken, and move both away"
                )
            return self._filled(name, self._client.replace(self._target.path(name)), write)
        except Trouble as trouble:
            return trouble.value

    def done(self, placed: Uploaded) -> Renamed | Retry | Hold:
        """Say that a placed file is whole. After Retry the outcome may be unknown: ask again.

        Placed and gone without its `.done` means taken, as with a temporary file.
        """
        path, marker = self._target.path(placed.name), self._target.path(placed.name + DONE)
        try:
            if self._client.shown(marker) is not None:
                return Renamed()
            size = self._client.shown(path)
            if size is None and self._client.size(path) is None:
                return Renamed() if self._client.has_folder(self._target.directory) else _FOLDER_GONE
            if size != placed.size:
                return Hold(
                    f"the placed file {placed.name} now has {size} bytes instead of {placed.size}: "
                    "ask the advertiser what changed it"
                )
            self._client.finish(self._client.replace(marker))
        except Trouble as trouble:
            return trouble.value
        return Renamed()

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
            names = self._client.names(self._target.directory)
        except Trouble as trouble:
            return trouble.value
        return tuple(name for name in names if name.startswith(prefix) and "/" not in name)

    def _filled(self, name: str, handle: bytes, write: Callable[[BinaryIO], object]) -> Uploaded:
        """The file behind `handle` written, and as long as what was sent. Raises Trouble."""
        remote = RemoteFile(self._client, handle)
        write(cast("BinaryIO", remote))
        uploaded = Uploaded(name, remote.finish(), remote.sha256)
        size = self._client.size(self._target.path(name))
        if size == uploaded.size:
            return uploaded
        seen = "is gone" if size is None else f"has {size} bytes instead of {uploaded.size}"
        if self._client.lossy and size is not None:
            raise _ShortError(Retry(f"the file just uploaded {seen}: the line was cut, or its disk is full"))
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
            return _FOLDER_GONE
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
