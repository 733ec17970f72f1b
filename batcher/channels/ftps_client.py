"""The requests of one FTPS connection. With `ftp_tls` and `ftp_replies` the owner of
ftplib.

The law: FTP has no rename that spares an existing file, and one refusal for many causes. Whether a name is
free is asked before (a race that only a name of our own keeps harmless), and that a file is gone is
believed only when neither SIZE nor RNFR finds it. No MLST, fsync or folder listing is relied upon.
"""

from __future__ import annotations

import ftplib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from batcher.channels import Hold
from batcher.channels.ftp_replies import code_of, rename_refusal
from batcher.channels.ftp_tls import Login, explained
from batcher.channels.line import Trouble

CHUNK = 64 * 1024
#: Bytes of a folder's listing; beyond it our own temporary files are not searched for.
MAX_LISTING = 4 << 20

_NO_FILE, _NAME_REFUSED = 550, 553
_DENIED = re.compile(r"denied|permission|not permitted|not allowed|prohibited|forbidden", re.IGNORECASE)


class Client:
    """A logged-in connection, as `upload.Client` asks for it. It has one file open at a time."""

    chunk = CHUNK
    lossy = True

    def __init__(self, login: Login) -> None:
        """Raises Trouble."""
        self.target = login.target
        self._line = login.line
        self._expired = login.expired
        with self._asking("starting the session"):
            self._home = self._line.pwd()

    def create(self, path: str) -> bytes:
        with self._asking("creating a file"):
            if self._shown(path) is not None:
                raise Trouble(Hold(f"a file {path} is already there: find out whose it is and move it away"))
        return self._stored(path)

    def replace(self, path: str) -> bytes:
        if self.shown(path) is not None:
            self.remove(path)
        return self._stored(path)

    def write(self, handle: bytes, offset: int, content: bytes) -> None:  # noqa: ARG002 - in order, to one file
        with self._asking("writing"):
            assert self._line.data is not None
            try:
                self._line.data.sendall(content)
            except TimeoutError:
                raise
            except OSError:
                # It was cut by the server, which says why on the other connection.
                self._line.data.close()
                self._line.data = None
                self._line.voidresp()
                raise

    def finish(self, handle: bytes) -> None:  # noqa: ARG002 - the one file
        with self._asking("completing a file"):
            self._line.end_data()

    def size(self, path: str) -> int | None:
        with self._asking("looking for a file"):
            return self._size(path)

    def shown(self, path: str) -> int | None:
        """By SIZE alone."""
        with self._asking("looking for a file"):
            return self._shown(path)

    def has_folder(self, path: str) -> bool:
        with self._asking("looking for the folder"):
            return self._found(path)

    def rename(self, old: str, new: str) -> None:
        with self._asking("renaming a file"):
            try:
                self._line.rename(old, new)
            except ftplib.error_perm as refused:
                raise Trouble(rename_refusal(code_of(refused), self.target.where)) from refused

    def remove(self, path: str) -> None:
        with self._asking("removing a file"):
            self._line.drop_data()
            try:
                self._line.voidcmd(f"DELE {path}")
            except ftplib.error_perm:
                if self._size(path) is not None:
                    raise

    def names(self, folder: str) -> list[str]:
        """Hidden files too, where the server knows how. One without files may answer with an error."""
        with self._asking("listing the folder"):
            where = "" if folder == "." else f" {folder}"
            for command in (f"NLST -a{where}", f"NLST{where}"):
                with suppress(ftplib.error_perm, ftplib.error_temp):
                    lines = b"".join(self._lines(command)).decode(errors="replace").splitlines()
                    names = [line.rpartition("/")[2] for line in lines]
                    if set(names) - {".", ".."}:
                        return names
            return []

    def read(self, path: str) -> Iterator[bytes]:
        with self._asking("reading a file back"):
            self._line.open_data(f"RETR {path}")
            assert self._line.data is not None
            while content := self._line.data.recv(CHUNK):
                yield content
            self._line.end_data()

    def _lines(self, command: str) -> Iterator[bytes]:
        self._line.open_data(command)
        assert self._line.data is not None
        got = 0
        while got < MAX_LISTING and (content := self._line.data.recv(CHUNK)):
            got += len(content)
            yield content
        if got < MAX_LISTING:
            self._line.end_data()
        else:
            self._line.drop_data()

    def _stored(self, path: str) -> bytes:
        with self._asking("creating a file"):
            try:
                self._line.open_data(f"STOR {path}")
            except ftplib.error_perm as refused:
                if code_of(refused) in {_NO_FILE, _NAME_REFUSED} and not self._found(self.target.directory):
                    where = self.target.where
                    raise Trouble(Hold(f"{where} knows no such folder: check `directory`")) from refused
                raise
        return b""

    def _size(self, path: str) -> int | None:
        shown = self._shown(path)
        if shown is not None:
            return shown
        try:
            self._line.sendcmd(f"RNFR {path}")
        except ftplib.error_perm as refused:
            if code_of(refused) != _NO_FILE or _DENIED.search(str(refused)):
                raise Trouble(rename_refusal(code_of(refused), self.target.where)) from refused
            return None
        return 0

    def _shown(self, path: str) -> int | None:
        try:
            reply = self._line.sendcmd(f"SIZE {path}").split()
        except ftplib.error_perm as refused:
            if code_of(refused) != _NO_FILE or _DENIED.search(str(refused)):
                raise
            return None
        return int(reply[1]) if len(reply) > 1 and reply[1].isdecimal() else 0

    def _found(self, folder: str) -> bool:
        """Whether there is such a folder, from where a session begins."""
        try:
            self._line.voidcmd(f"CWD {folder}")
        except ftplib.error_perm as refused:
            if code_of(refused) != _NO_FILE:
                raise
            return False
        self._line.voidcmd(f"CWD {self._home}")
        return True

    @contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        with explained(self.target, doing, self._expired):
            yield
