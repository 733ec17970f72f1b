"""An FTPS server in this process, that does wrong whatever it is told to.

It behaves as the common ones do: RNTO overwrites, hidden names are listed only on request, SIZE wants
TYPE I, a data connection that ends early counts as a whole file, and TLS sessions must be reused.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

#: Seconds; nothing on loopback takes as long.
LIMIT = 20.0


@dataclass
class Faults:
    """They hold until changed."""

    #: Replies given in place of doing what the command says; `HANDSHAKE` is that of a data connection.
    refuse: dict[str, str] = field(default_factory=dict)
    #: Commands that are carried out and never answered: the connection ends.
    lose: set[str] = field(default_factory=set)
    #: Commands at which everything stands still, `GREETING` and `DATA` among them.
    stall: set[str] = field(default_factory=set)
    #: After so many bytes of a file its data connection is cut, and this is the reply.
    cut: tuple[int, str] | None = None
    #: The receiver takes files as soon as they have their final name.
    take: bool = False
    #: A listing never ends.
    endless: bool = False


class Server:
    def __init__(
        self, folder: Path, context: ssl.SSLContext, users: Mapping[str, str], *, implicit: bool, port: int
    ) -> None:
        self.folder, self.context, self.users, self.implicit = folder, context, users, implicit
        self.faults = Faults()
        #: Final names given, with what the file held.
        self.renamed: list[tuple[str, bytes]] = []
        #: Commands of all connections, without arguments.
        self.commands: list[str] = []
        #: Whether the commands came in TLS, and each data connection resumed its session.
        self.protected: list[bool] = []
        self.reused: list[bool] = []
        self._lines: list[socket.socket] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    def close(self) -> None:
        if self._over.is_set():
            return
        with self._lock:
            self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for line in self._lines:
            with suppress(OSError):
                socket.socket.shutdown(line, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(LIMIT)
            assert not thread.is_alive()

    def stalled(self, at: str) -> None:
        if at in self.faults.stall:
            self._over.wait(LIMIT)

    def keep(self, line: socket.socket) -> socket.socket:
        """Closed with the server. Raises OSError once that is closed."""
        line.settimeout(LIMIT)
        with self._lock:
            if self._over.is_set():
                line.close()
                raise OSError("closed")
            self._lines.append(line)
        return line

    def _run(self, work: Callable[..., None], *given: object) -> None:
        thread = threading.Thread(target=work, args=given, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            self._run(self._serve, line)

    def _serve(self, line: socket.socket) -> None:
        call = _Call(self, line)
        try:
            self.keep(line)
            call.serve()
        except (OSError, ValueError):  # the client, or the test, is gone
            pass
        finally:
            call.close()


class _Call:
    """One control connection."""

    def __init__(self, server: Server, line: socket.socket) -> None:
        self._server, self._line = server, line
        self._user = self._renaming = ""
        self._in, self._binary, self._private = False, False, False
        self._cwd = server.folder
        self._passive: socket.socket | None = None

    def close(self) -> None:
        self._line.close()
        if self._passive is not None:
            self._passive.close()

    def serve(self) -> None:
        if self._server.implicit:
            self._protect()
        self._server.stalled("GREETING")
        self._say(
            self._server.faults.refuse.get("GREETING", "220-a receiver\r\n 220 in between\r\n220 ready")
        )
        while text := self._read():
            command, _, argument = text.partition(" ")
            command = command.upper()
            self._server.commands.append(command)
            self._server.protected.append(isinstance(self._line, ssl.SSLSocket))
            self._server.stalled(command)
            reply = self._server.faults.refuse.get(command)
            if reply is None:
                does = getattr(self, f"_do_{command.lower()}", None)
                if does is None:
                    reply = "502 what?"
                elif not self._in and command not in {"AUTH", "USER", "PASS"}:
                    reply = "530 who are you?"
                else:
                    reply = does(argument)
            if command in self._server.faults.lose:
                return
            self._say(reply)
            if command == "AUTH" and reply.startswith("234"):
                self._protect()

    def _protect(self) -> None:
        self._line = self._server.keep(self._server.context.wrap_socket(self._line, server_side=True))

    def _say(self, reply: str) -> None:
        self._line.sendall(reply.encode("latin-1") + b"\r\n")

    def _read(self) -> str:
        got = b""
        while not got.endswith(b"\r\n"):
            byte = self._line.recv(1)
            if not byte:
                return ""
            got += byte
        return got[:-2].decode()

    def _at(self, name: str) -> Path:
        given = f"{self._server.folder}/{name}" if name.startswith("/") else f"{self._cwd}/{name}"
        return Path(os.path.normpath(given))

    def _do_auth(self, _: str) -> str:
        return "234 go on"

    def _do_user(self, name: str) -> str:
        self._user = name
        return "331 and?"

    def _do_pass(self, password: str) -> str:
        self._in = self._server.users.get(self._user) == password
        return "230 you are in" if self._in else f"530 no, {self._user}"

    def _do_pbsz(self, _: str) -> str:
        return "200 ok"

    def _do_prot(self, level: str) -> str:
        self._private = level == "P"
        return "200 ok"

    def _do_type(self, kind: str) -> str:
        self._binary = kind == "I"
        return "200 ok"

    def _do_pwd(self, _: str) -> str:
        return '257 "/" is where you are'

    def _do_cwd(self, name: str) -> str:
        found = self._at(name)
        if not found.is_dir():
            return "550 no such folder"
        self._cwd = found
        return "250 ok"

    def _do_size(self, name: str) -> str:
        if not self._binary:
            return "550 SIZE not allowed in ASCII mode"
        found = self._at(name)
        return f"213 {found.stat().st_size}" if found.is_file() else "550 no such file"

    def _do_rnfr(self, name: str) -> str:
        self._renaming = name
        return "350 and to?" if self._at(name).exists() else "550 no such file"

    def _do_rnto(self, name: str) -> str:
        old, new = self._at(self._renaming), self._at(name)
        content = old.read_bytes()
        old.replace(new)
        self._server.renamed.append((name, content))
        if self._server.faults.take:
            new.unlink()
        return "250 ok"

    def _do_dele(self, name: str) -> str:
        if not self._at(name).is_file():
            return "550 no such file"
        self._at(name).unlink()
        return "250 ok"

    def _do_pasv(self, _: str) -> str:
        if self._passive is not None:
            self._passive.close()
        self._passive = socket.create_server(("127.0.0.1", 0))
        self._passive.settimeout(LIMIT)
        port = self._passive.getsockname()[1]
        # An address behind some firewall, as many servers tell: nobody may connect to it.
        return f"227 come (10,9,8,7,{port >> 8},{port & 255})"

    def _do_nlst(self, argument: str) -> str:
        hidden = argument.startswith("-a")
        folder = self._at(argument.removeprefix("-a").strip() or ".")
        names = sorted(path.name for path in folder.iterdir() if hidden or not path.name.startswith("."))
        return self._transfer(lambda data: self._list(data, names))

    def _list(self, data: ssl.SSLSocket, names: list[str]) -> None:
        lines = "".join(f"{name}\r\n" for name in names)
        data.sendall(lines.encode("utf-8", "surrogateescape"))
        while self._server.faults.endless:
            data.sendall(b"another\r\n" * 1_000)

    def _do_retr(self, name: str) -> str:
        return self._transfer(lambda data: data.sendall(self._at(name).read_bytes()))

    def _do_stor(self, name: str) -> str:
        if not self._at(name).parent.is_dir():
            return "553 cannot create it"
        return self._transfer(lambda data: self._store(data, self._at(name)))

    def _store(self, data: ssl.SSLSocket, path: Path) -> str | None:
        got = 0
        with path.open("wb") as file:
            while content := data.recv(65_536):
                cut = self._server.faults.cut
                if cut is not None and got + len(content) >= cut[0]:
                    file.write(content[: cut[0] - got])
                    return cut[1]
                got += len(content)
                file.write(content)
                self._server.stalled("DATA")
        return None

    def _transfer(self, does: Callable[[ssl.SSLSocket], str | None]) -> str:
        if self._passive is None or not self._private:
            return "425 PASV and PROT P first"
        self._say("150 go")
        plain, _ = self._passive.accept()
        self._server.keep(plain)
        if "HANDSHAKE" in self._server.faults.refuse:
            plain.close()
            return self._server.faults.refuse["HANDSHAKE"]
        try:
            with self._server.context.wrap_socket(plain, server_side=True) as data:
                self._server.keep(data)
                self._server.reused.append(data.session_reused is True)
                if not data.session_reused:
                    return "522 session reuse required"
                reply = does(data)
                if reply is not None:
                    return reply
                data.unwrap()
        except OSError:
            return "426 broken"
        return "226 complete"


@contextmanager
def ftps_server(
    folder: Path, context: ssl.SSLContext, users: Mapping[str, str], *, implicit: bool = False, port: int = 0
) -> Iterator[Server]:
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(folder, context, users, implicit=implicit, port=port)
    try:
        yield server
    finally:
        server.close()
