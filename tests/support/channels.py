"""What the tests of the SFTP and the FTPS channel share."""

from __future__ import annotations

import dataclasses
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from batcher.channels import Hold, Retry, ftps, sftp
from batcher.channels.upload import Renamed, Session, Uploaded
from tests.support.proxy import Proxy

Target = sftp.Target | ftps.Target

CONTENT = b"".join(b"%06d,first,last\r\n" % n for n in range(6_000))
#: For a step that is expected to run into its limit.
SOON = 1.0


@dataclass(frozen=True)
class Place:
    """A server, and a folder on it that is this test's alone."""

    target: Target
    folder: Path

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def own(self) -> Place:
        """A new folder in it."""
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir(parents=True)
        below = self.target.directory.removeprefix(".")
        directory = f"{below}/{folder.name}" if below else folder.name
        return Place(dataclasses.replace(self.target, directory=directory), folder)


def connect(target: Target, within: float = 60.0) -> AbstractContextManager[Session | Retry | Hold]:
    return sftp.connect(target, within) if isinstance(target, sftp.Target) else ftps.connect(target, within)


def fill(file: BinaryIO) -> None:
    file.write(CONTENT)


def opened(session: Session | Retry | Hold) -> Session:
    assert isinstance(session, Session), session
    return session


def uploaded(found: Uploaded | Retry | Hold) -> Uploaded:
    assert isinstance(found, Uploaded), found
    return found


def sent(target: Target, write: Callable[[BinaryIO], object] = fill, within: float = 60.0) -> object:
    """The first thing that goes wrong between dialling and a finished upload, else the upload."""
    with connect(target, within) as session:
        if not isinstance(session, Session):
            return session
        return session.upload(f".{uuid.uuid4().hex}.part", write)


def through(target: Target, line: Proxy) -> Target:
    return dataclasses.replace(target, port=line.port)


def deliver_with_the_reply_lost(line: Proxy, target: Target) -> Uploaded:
    """Delivers a first file to learn how long the requests are, then loses the reply to the last of them."""
    with connect(dataclasses.replace(through(target, line), timeout=SOON)) as session:
        first = uploaded(opened(session).upload(".one.part", fill))
        before = line.passed
        assert session.deliver(first, "one.csv") == Renamed()
        requests = line.passed - before
        second = uploaded(session.upload(".two.part", fill))
        line.deaf_after = line.passed + requests
        assert isinstance(session.deliver(second, "two.csv"), Retry)
    assert line.deaf
    line.deaf_after, line.deaf = None, False
    return second


def deliver_as_flush_does(target: Target, mend: Callable[[], None]) -> None:
    """With everything whole again from the second connection on."""
    state: Uploaded | None = None
    for attempt in range(3):
        with connect(target) as session:
            ended: object = session
            if isinstance(session, Session) and state is None:
                ended = session.upload(f".one.{attempt}.part", fill)
                state = ended if isinstance(ended, Uploaded) else None
            if isinstance(session, Session) and state is not None:
                ended = session.deliver(state, "one.csv")
        if ended == Renamed():
            return
        assert isinstance(ended, Retry), ended
        mend()
    raise AssertionError("not delivered with everything whole")


def place_as_flush_does(target: Target, mend: Callable[[], None]) -> None:
    """As `deliver_as_flush_does`, where the server has no rename."""
    state: Uploaded | None = None
    for _ in range(3):
        with connect(target) as session:
            ended: object = session
            if isinstance(session, Session) and state is None:
                ended = session.place("one.csv", fill)
                state = ended if isinstance(ended, Uploaded) else None
            if isinstance(session, Session) and state is not None:
                ended = session.done(state)
        if ended == Renamed():
            return
        assert isinstance(ended, Retry), ended
        mend()
    raise AssertionError("not delivered with everything whole")


@contextmanager
def saying(words: bytes | None) -> Iterator[int]:
    """A port where whoever calls is told `words` and cut off, or for None nothing at all."""
    calls: list[socket.socket] = []

    def answer() -> None:
        while True:
            try:
                call, _ = listener.accept()
            except OSError:
                return
            if words is None:
                calls.append(call)
                continue
            call.sendall(words)
            call.close()

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()
        for call in calls:
            call.close()
