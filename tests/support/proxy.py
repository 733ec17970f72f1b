"""A TCP proxy on loopback that loses what it is told to lose."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Proxy:
    """Passes every connection on to `port`. The faults hold for all connections until changed."""

    def __init__(self, port: int) -> None:
        #: Where connections go from now on; one that does not listen refuses them.
        self.target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lines: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        #: Bytes from the client of one connection, after which that connection is reset; None: never.
        self.cut_after: int | None = None
        #: What the server says is read and thrown away.
        self.deaf = False
        #: Deaf from the moment `passed` reaches this.
        self.deaf_after: int | None = None
        #: Bytes from the client, over all connections.
        self.passed = 0
        #: Told what a client says, and what the server says, before it is passed on; may wait or set faults.
        self.hears: Callable[[bytes], object] = len
        self.tells: Callable[[bytes], object] = len
        #: What a client is told in the server's place, which then hears nothing; None: it is asked.
        self.answers: Callable[[bytes], bytes | None] = lambda _said: None
        self._start(self._accept)

    def cut(self) -> None:
        """Reset every connection, as a router does that forgot them."""
        with self._lock:
            lines, self._lines = self._lines, []
        for line in lines:
            with suppress(OSError):
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                line.shutdown(socket.SHUT_RDWR)
            line.close()

    def mend(self) -> None:
        """From the next connection on."""
        self.cut_after = None

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def _start(self, run: object, *args: object) -> None:
        thread = threading.Thread(target=run, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            for line in (client, server):
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._lines += [client, server]
            self._start(self._upstream, client, server)
            self._start(self._downstream, client, server)

    def _upstream(self, client: socket.socket, server: socket.socket) -> None:
        passed = 0
        with suppress(OSError):
            while data := client.recv(65536):
                self.hears(data)
                if (answer := self.answers(data)) is not None:
                    client.sendall(answer)
                    continue
                if self.cut_after is not None and passed + len(data) >= self.cut_after:
                    server.sendall(data[: self.cut_after - passed])
                    self.cut()
                    return
                passed += len(data)
                self.passed += len(data)
                self.deaf = self.deaf or (self.deaf_after is not None and self.passed >= self.deaf_after)
                server.sendall(data)
        with suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _downstream(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                self.tells(data)
                if not self.deaf:
                    client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_WR)


@contextmanager
def proxy(port: int) -> Iterator[Proxy]:
    made = Proxy(port)
    try:
        yield made
    finally:
        made.close()
