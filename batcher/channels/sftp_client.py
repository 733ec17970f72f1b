"""The requests of one SFTP connection. With `ssh` the owner of paramiko: its errors end here, as `Trouble`.

The law: every answer is read. paramiko alone drops the errors of writes sent ahead and of close, and
folds most refusals into one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from stat import S_ISDIR
from typing import TYPE_CHECKING

import paramiko
from paramiko.sftp import (
    CMD_CLOSE,
    CMD_EXTENDED,
    CMD_HANDLE,
    CMD_NAME,
    CMD_OPEN,
    CMD_OPENDIR,
    CMD_READDIR,
    CMD_WRITE,
    SFTPError,
    int64,
)

from batcher.channels import Hold
from batcher.channels.line import Trouble, cannot_rename
from batcher.channels.ssh import Login, explained

#: What every server takes in one write.
CHUNK = 32 * 1024
#: Writes sent ahead of their answers: 2.5 MB/s at 100 ms, and little enough to fit a socket's buffers.
WRITES_AHEAD = 8
#: A folder with more entries is not searched further: our own temporary files are few.
MAX_LISTED = 10_000
#: Nor is one whose server goes on without naming any: OpenSSH names 100 at a time.
MAX_LISTINGS = 1_000

_CREATE_NEW = 0x02 | 0x08 | 0x20  # SSH_FXF_WRITE, CREAT, EXCL
_EOF, _NO_SUCH_FILE, _PERMISSION_DENIED, _FAILURE, _OP_UNSUPPORTED = 1, 2, 3, 4, 8  # SSH_FX_…


class Client:
    """A logged-in connection, as `upload.Client` asks for it."""

    chunk = CHUNK
    lossy = False

    def __init__(self, login: Login) -> None:
        """Raises Trouble."""
        self.target = login.target
        self._expired = login.expired
        with self._asking("starting the session"):
            self._sftp = _Sftp(login.channel)

    def create(self, path: str) -> bytes:
        with self._asking("creating a file"):
            try:
                return self._sftp.create(path)
            except _RefusedError as refused:
                self._require_folder(refused)
                raise

    def replace(self, path: str) -> bytes:
        if self.size(path) is not None:
            self.remove(path)
        return self.create(path)

    def write(self, handle: bytes, offset: int, content: bytes) -> None:
        with self._asking("writing"):
            self._sftp.write(handle, offset, content)

    def finish(self, handle: bytes) -> None:
        """On the server's disk, where it can say so, and closed."""
        with self._asking("completing a file"):
            self._sftp.finish(handle)

    def size(self, path: str) -> int | None:
        """In bytes, None where there is no such file; 0 for a folder or a server that does not tell."""
        with self._asking("looking for a file"):
            try:
                return self._sftp.stat(path).st_size or 0
            except _RefusedError as refused:
                if refused.code == _NO_SUCH_FILE:
                    return None
                self._require_folder(refused)
                raise

    def shown(self, path: str) -> int | None:
        return self.size(path)

    def has_folder(self, path: str) -> bool:
        """Also where the server does not tell a folder from a file."""
        with self._asking("looking for the folder"):
            try:
                mode = self._sftp.stat(path).st_mode
            except _RefusedError as refused:
                if refused.code in {_NO_SUCH_FILE, _FAILURE}:
                    return False
                raise
            return mode is None or S_ISDIR(mode)

    def rename(self, old: str, new: str) -> None:
        """Never over an existing file, as far as the server keeps to the protocol."""
        with self._asking("renaming a file"):
            try:
                self._sftp.rename(old, new)
            except _RefusedError as refused:
                if refused.code == _NO_SUCH_FILE:
                    raise
                answer = f"SFTP status {refused.code}"
                raise Trouble(cannot_rename(self.target.where, answer)) from refused

    def remove(self, path: str) -> None:
        with self._asking("removing a file"):
            try:
                self._sftp.remove(path)
            except _RefusedError as refused:
                if refused.code != _NO_SUCH_FILE:
                    raise

    def names(self, folder: str) -> list[str]:
        """About the first MAX_LISTED, in the server's order."""
        with self._asking("listing the folder"):
            return self._sftp.names(folder)

    def read(self, path: str) -> Iterator[bytes]:
        with self._asking("reading a file back"), self._sftp.open(path, "rb") as remote:
            while chunk := remote.read(CHUNK):
                yield chunk

    def _require_folder(self, refused: _RefusedError) -> None:
        """The usual reason of a refusal that gives none."""
        if refused.code == _FAILURE and not self.has_folder(self.target.directory):
            raise _RefusedError(_NO_SUCH_FILE) from refused

    @contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        with explained(self.target, doing, self._expired):
            try:
                yield
            except _RefusedError as refused:
                raise Trouble(refusal(refused.code, self.target.where, doing)) from refused


class _RefusedError(Exception):
    """The server answered with a status other than OK."""

    def __init__(self, code: int) -> None:
        super().__init__(f"SFTP status {code}")
        self.code = code


class _Sftp(paramiko.SFTPClient):
    """Keeps the server's status codes, and the answers to writes sent ahead and to close."""

    _unanswered = 0
    #: The first status other than OK among the answers to writes.
    _failed = 0

    if TYPE_CHECKING:

        def _request(self, t: int, *args: object) -> tuple[int, paramiko.Message]: ...
        def _async_request(self, fileobj: object, t: int, *args: object) -> int: ...
        def _read_response(self) -> object: ...

    def create(self, path: str) -> bytes:
        kind, answer = self._request(CMD_OPEN, path, _CREATE_NEW, paramiko.SFTPAttributes())
        if kind != CMD_HANDLE:
            raise SFTPError("no handle")
        return answer.get_binary()

    def write(self, handle: bytes, offset: int, content: bytes) -> None:
        self._drain(WRITES_AHEAD - 1)
        self._async_request(self, CMD_WRITE, handle, int64(offset), content)
        self._unanswered += 1

    def finish(self, handle: bytes) -> None:
        self._drain(0)
        try:
            self._request(CMD_EXTENDED, "fsync@openssh.com", handle)
        except _RefusedError as refused:
            if refused.code != _OP_UNSUPPORTED:
                raise
        self._request(CMD_CLOSE, handle)

    def names(self, folder: str) -> list[str]:
        """Unlike paramiko's own: also names that are no UTF-8, and an end where the server has none."""
        kind, answer = self._request(CMD_OPENDIR, folder)
        if kind != CMD_HANDLE:
            raise SFTPError("no handle")
        handle = answer.get_binary()
        found: list[str] = []
        for _ in range(MAX_LISTINGS):
            try:
                kind, answer = self._request(CMD_READDIR, handle)
            except EOFError:
                break
            if kind != CMD_NAME:
                raise SFTPError("no names")
            for _ in range(min(answer.get_int(), MAX_LISTED)):
                found.append(answer.get_binary().decode(errors="replace"))
                answer.get_binary()
                paramiko.SFTPAttributes._from_msg(answer)  # type: ignore[attr-defined]  # noqa: SLF001 - its only parser
            if len(found) >= MAX_LISTED:
                break
        self._request(CMD_CLOSE, handle)
        return found

    def _drain(self, leaving: int) -> None:
        while self._unanswered > leaving:
            self._read_response()
        if self._failed:
            raise _RefusedError(self._failed)

    def _async_response(self, t: int, msg: paramiko.Message, num: int) -> None:  # noqa: ARG002 - paramiko's hook
        self._unanswered -= 1
        self._failed = self._failed or msg.get_int()

    def _convert_status(self, msg: paramiko.Message) -> None:
        code = msg.get_int()
        if code == _EOF:
            raise EOFError
        if code:
            raise _RefusedError(code)


def refusal(code: int, where: str, doing: str) -> Hold:
    """What a status other than OK means for a file. Pure."""
    if code == _NO_SUCH_FILE:
        return Hold(f"{where} knows no such folder or file while {doing}: check `directory`")
    if code == _PERMISSION_DENIED:
        return Hold(f"{where} denies permission while {doing}: ask the advertiser for the right to do so")
    if code == _OP_UNSUPPORTED:
        return Hold(f"{where} does not support {doing}: another server or channel is needed")
    return Hold(
        f"{where} refuses without a reason while {doing} (SFTP status {code}): usually a full disk, "
        "a used-up quota, or a folder that may only be read"
    )
