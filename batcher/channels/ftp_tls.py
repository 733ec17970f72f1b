"""Logging in over FTP with TLS. With `ftps_client` and `ftp_replies` the owner of ftplib: its
errors end here, as `Trouble`.

The law: nothing but the greeting and `AUTH TLS` goes in clear; the server is known by its certificate
before it hears the password; data connections are made by us, to the same address, protected and with the
control connection's TLS session, which some servers demand; every wait is bounded.
"""

from __future__ import annotations

import ftplib
import hashlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from batcher.channels import Hold, Retry
from batcher.channels.dial import PUBLIC_ONLY, dial
from batcher.channels.ftp_replies import code_of, explain
from batcher.channels.line import Trouble, cut_after, late
from batcher.channels.upload import path_in
from consumer.addresses import Policy

#: A reply of more lines is no reply.
MAX_REPLY_LINES = 200
#: Seconds. Firewalls forget a connection that is silent while a large file goes over the other one.
KEEPALIVE = 15
#: Seconds. A server need not answer the end of a TLS connection, and its reply comes on the other one.
CLOSING = 2.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where files go. The password is resolved; `timeout` is seconds per step.

    `certificates`: SHA-256 fingerprints in hexadecimal, which then alone decide. `ca`: PEM that stands in
    for the system's authorities. `policy`: the addresses that `host` may stand for.
    """

    host: str
    port: int
    username: str
    directory: str
    timeout: float
    password: str = field(repr=False)
    implicit: bool = False
    certificates: tuple[str, ...] = ()
    ca: str | None = field(default=None, repr=False)
    policy: Policy = PUBLIC_ONLY

    @property
    def where(self) -> str:
        return f"{self.host}:{self.port}"

    def path(self, name: str) -> str:
        return path_in(self.directory, name).removeprefix("./")


class Line(ftplib.FTP_TLS):
    """The control connection, and the data connection of the transfer under way."""

    sock: socket.socket | None
    data: ssl.SSLSocket | None = None
    _cut = False

    def __init__(self, target: Target) -> None:
        """Not yet connected. Raises Trouble."""
        super().__init__(context=_context(target), timeout=target.timeout)
        self._target = target

    def dial(self) -> None:
        target = self._target
        self.sock = line = dial(target.host, target.port, target.timeout, target.policy)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE)
        self.host, self.af = target.host, line.family
        if target.implicit:
            self.sock = self._known(self.context.wrap_socket(line, server_hostname=target.host))
        # Replies in an old code page are read too; only their codes count.
        self.file = self.sock.makefile("r", encoding=self.encoding, errors="replace")
        try:
            self.welcome = self.voidresp()
        except ftplib.error_perm as refused:
            held = Hold(
                f"{target.where} turns us away (FTP reply {code_of(refused)}): ask the advertiser why"
            )
            raise Trouble(held) from refused

    def protect(self) -> None:
        if not self._target.implicit:
            self.auth()
            assert isinstance(self.sock, ssl.SSLSocket)
            self._known(self.sock)
            self.file = self.sock.makefile("r", encoding=self.encoding, errors="replace")

    def open_data(self, command: str) -> None:
        """Begin a transfer. The reply that ends it is still to come: `end_data` or `drop_data` reads it."""
        assert isinstance(self.sock, ssl.SSLSocket)
        with self._passive() as plain:
            reply = self.sendcmd(command)
            if reply[0] == "2":  # some servers say that it is well before they say that it begins
                reply = self.getresp()
            if reply[0] != "1":
                raise ftplib.error_reply(reply)  # noqa: S321 - an exception
            session = self.sock.session
            try:
                self.data = self.context.wrap_socket(plain, server_hostname=self.host, session=session)
            except ssl.SSLCertVerificationError:
                raise
            except (ssl.SSLError, ConnectionError):
                self.voidresp()  # the server may say why
                raise
        self._known(self.data)

    def end_data(self) -> None:
        """All is written or read. The peer's end is awaited before ours: a socket closed with something
        unread, if only TLS tickets, is reset, and the file loses its end.
        """
        assert self.data is not None
        with suppress(OSError):
            self.data.settimeout(min(CLOSING, self._target.timeout))
            self.data.unwrap()
        with suppress(OSError):
            self.data.shutdown(socket.SHUT_WR)
        try:
            self.voidresp()
        finally:
            self.data.close()
            self.data = None

    def drop_data(self) -> None:
        """Give up the transfer under way, if there is one."""
        if self.data is not None:
            self.data.close()
            self.data = None
            with suppress(ftplib.Error):
                self.voidresp()

    def getmultiline(self) -> str:
        lines = [self.getline()]
        code = lines[0][:3]
        while lines[0][3:4] == "-" and (len(lines) == 1 or lines[-1][:4] not in {code, f"{code} "}):
            if len(lines) == MAX_REPLY_LINES:
                raise ftplib.error_proto("a reply without an end")  # noqa: S321 - an exception
            lines.append(self.getline())
        return "\n".join(lines)

    def cut(self) -> None:
        """From another thread."""
        self._cut = True
        for line in (self.sock, self.data):
            if line is not None:
                with suppress(OSError):
                    # SSLSocket's own would take the protection off first.
                    socket.socket.shutdown(line, socket.SHUT_RDWR)

    def close(self) -> None:
        if self.data is not None:
            self.data.close()
        super().close()

    def _passive(self) -> socket.socket:
        """To the control connection's address: the one the server tells is often behind its firewall, and
        was not judged.
        """
        assert self.sock is not None
        _, port = self.makepasv()
        try:
            return socket.create_connection((self.sock.getpeername()[0], port), self._target.timeout)
        except (OSError, OverflowError) as error:
            where = self._target.where
            why = "its passive ports must be open to us"
            raise Trouble(Retry(f"{where} offers port {port} for data and is not there: {why}")) from error

    def _known(self, line: ssl.SSLSocket) -> ssl.SSLSocket:
        """`line`, if its certificate is the pinned one: a resumed one has that of its first connection."""
        pinned = self._target.certificates
        shown = hashlib.sha256(line.getpeercert(binary_form=True) or b"").hexdigest()
        if pinned and shown not in pinned:
            raise Trouble(
                Hold(
                    f"{self._target.where} shows the certificate {shown}, which is not among certificates: "
                    "ask the advertiser whether it was changed, and add it only if so"
                )
            )
        if self._cut:
            self.cut()
        return line


@dataclass(frozen=True, slots=True)
class Login:
    """`expired` is set when the whole transfer took too long and was cut."""

    target: Target
    line: Line
    expired: threading.Event


def log_in(target: Target, within: float, stack: ExitStack) -> Login:
    """`stack` closes it. Cut after `within` seconds. Raises Trouble."""
    if not target.password.isprintable():
        raise Trouble(Hold(f"the password for {target.where} is not one line of text: FTP cannot send it"))
    line = Line(target)
    stack.callback(line.close)
    expired = stack.enter_context(cut_after(within, line.cut))
    with explained(target, "connecting", expired):
        line.dial()
    with explained(target, "protecting the connection by TLS", expired):
        line.protect()
    with explained(target, "logging in", expired):
        line.login(target.username, target.password)
    with explained(target, "protecting data by TLS", expired):
        line.prot_p()
    with explained(target, "starting the session", expired):
        line.voidcmd("TYPE I")
    return Login(target, line, expired)


def _context(target: Target) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=target.ca)
    except (ssl.SSLError, ValueError) as error:
        held = Hold(f"the authorities for {target.where} cannot be read: give `ca` as PEM certificates")
        raise Trouble(held) from error
    if target.certificates:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def explained(target: Target, doing: str, expired: threading.Event) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ftplib.Error, ValueError, OverflowError) as error:
        # The last two: of numbers in replies, and of names no resolver takes.
        if expired.is_set():
            raise Trouble(late(target.where, doing)) from error
        raise Trouble(explain(error, target.where, doing)) from error
