"""What every channel that uploads files promises, on real servers: asyncssh's and OpenSSH's, vsftpd's and ours."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from batcher.channels import Hold, Retry, ftps, sftp
from batcher.channels.upload import Renamed
from deploy.embedded.processes import free_port
from tests.support.certificates import Authority
from tests.support.channels import (
    CONTENT,
    SOON,
    Place,
    Target,
    connect,
    deliver_as_flush_does,
    deliver_with_the_reply_lost,
    fill,
    opened,
    saying,
    sent,
    through,
    uploaded,
)
from tests.support.ftps_server import ftps_server
from tests.support.proxy import proxy
from tests.support.receivers import sftp_receiver
from tests.support.sshd import MISSING, sshd
from tests.support.vsftpd import find, vsftpd


@contextmanager
def server(kind: str, folder: Path) -> Iterator[Place]:
    """Its files begin in a folder of their own."""
    if kind == "asyncssh":
        with sftp_receiver(folder, {"acme": {"password": "sesame"}}) as ssh:
            given = ("127.0.0.1", ssh.port, "acme", (ssh.words[1],), ".", 10.0)
            yield Place(sftp.Target(*given, password="sesame"), folder / "acme")
        return
    if kind == "openssh":
        if MISSING:
            pytest.skip(MISSING)
        with sshd(folder) as openssh:
            given = (
                "127.0.0.1",
                openssh.port,
                openssh.username,
                (openssh.fingerprints["ed25519"],),
                ".",
                10.0,
            )
            yield Place(sftp.Target(*given, private_key=openssh.private_key), openssh.folder)
        return
    authority = Authority(folder)
    program, implicit = find() if "vsftpd" in kind else "", "implicit" in kind
    target = ftps.Target(
        "localhost", 0, "anonymous", ".", 10.0, "a@b.example", implicit, ca=authority.pem.decode()
    )
    if isinstance(program, Path):
        with vsftpd(program, folder / "vsftpd", authority.issue("localhost"), implicit=implicit) as debian:
            yield Place(dataclasses.replace(target, port=debian.port, directory="files"), debian.folder)
        return
    if program:
        pytest.skip(program)
    users = {"anonymous": "a@b.example"}
    with ftps_server(folder / "files", authority.server("localhost"), users, implicit=implicit) as ours:
        yield Place(dataclasses.replace(target, port=ours.port), folder / "files")


KINDS = ("asyncssh", "openssh", "vsftpd", "vsftpd, implicit TLS", "our FTPS", "our FTPS, implicit TLS")


@pytest.fixture(scope="module", params=KINDS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with server(request.param, tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture
def place(running: Place) -> Place:
    return running.own()


def test_a_file_gets_its_final_name(place: Place) -> None:
    with connect(place.target) as session:
        found = uploaded(opened(session).upload(".one.part", fill))
        assert place.names() == [".one.part"]
        assert session.deliver(found, "one.csv") == Renamed()
        assert session.deliver(found, "one.csv") == Renamed()
    assert place.names() == ["one.csv"]
    assert (place.folder / "one.csv").read_bytes() == CONTENT
    assert found.size == len(CONTENT)


@pytest.mark.parametrize("size", [0, 1, 32_768, 32_769, 3_000_000])
def test_sizes(place: Place, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    with connect(place.target) as session:
        found = uploaded(opened(session).upload(".s.part", lambda file: file.write(content)))
        assert session.deliver(found, "s.csv") == Renamed()
    assert (place.folder / "s.csv").read_bytes() == content


def test_parts_are_listed_and_removed(place: Place) -> None:
    with connect(place.target) as session:
        for name in (".acme-1.a.part", ".acme-1.b.part", ".other-1.part"):
            uploaded(opened(session).upload(name, fill))
        found = session.list_parts(".acme-1.")
        assert isinstance(found, tuple)
        assert sorted(found) == [".acme-1.a.part", ".acme-1.b.part"]
        assert session.remove(".acme-1.a.part") is None
        assert session.remove(".acme-1.a.part") is None
    assert place.names() == [".acme-1.b.part", ".other-1.part"]


def test_what_the_writer_raises_passes_through_and_leaves_nothing(place: Place) -> None:
    def broken(file: BinaryIO) -> None:
        file.write(CONTENT)
        raise LookupError("the row store is away")

    with connect(place.target) as session, pytest.raises(LookupError):
        opened(session).upload(".x.part", broken)
    assert place.names() == []


def test_a_temporary_name_in_use_is_refused_and_kept(place: Place) -> None:
    (place.folder / ".x.part").write_bytes(b"another worker's")
    with connect(place.target) as session:
        assert isinstance(opened(session).upload(".x.part", fill), Hold)
    assert (place.folder / ".x.part").read_bytes() == b"another worker's"


def test_a_foreign_file_is_never_overwritten(place: Place) -> None:
    (place.folder / "one.csv").write_bytes(b"x" * len(CONTENT))
    with connect(place.target) as session:
        found = uploaded(opened(session).upload(".one.part", fill))
        held = session.deliver(found, "one.csv")
    assert isinstance(held, Hold)
    assert "one.csv" in held.reason
    assert place.names() == [".one.part", "one.csv"]
    assert (place.folder / "one.csv").read_bytes() == b"x" * len(CONTENT)


def test_a_server_that_died_inside_its_rename(place: Place) -> None:
    with connect(place.target) as session:
        found = uploaded(opened(session).upload(".one.part", fill))
        (place.folder / "one.csv").hardlink_to(place.folder / ".one.part")
        assert session.deliver(found, "one.csv") == Renamed()
    assert place.names() == ["one.csv"]


def test_nothing_is_concluded_from_a_folder_that_is_away(place: Place) -> None:
    with connect(place.target) as session:
        found = uploaded(opened(session).upload(".one.part", fill))
        away = place.folder.rename(place.folder.with_name(place.folder.name + "-away"))
        assert isinstance(session.deliver(found, "one.csv"), Hold)
        away.rename(place.folder)
        assert session.deliver(found, "one.csv") == Renamed()


def test_a_missing_folder(place: Place) -> None:
    held = sent(dataclasses.replace(place.target, directory="not-there"))
    assert isinstance(held, Hold)
    assert "directory" in held.reason


def test_a_transfer_that_takes_too_long_is_cut(place: Place) -> None:
    def endless(file: BinaryIO) -> None:
        while True:
            file.write(b"x" * 1024)
            threading.Event().wait(0.005)  # a slow source, so that no disk fills

    late = sent(place.target, endless, within=SOON)
    assert isinstance(late, Retry)
    assert "longer" in late.reason


def test_a_lost_reply_to_the_rename(place: Place) -> None:
    with proxy(place.target.port) as line:
        found = deliver_with_the_reply_lost(line, place.target)
        assert place.names() == ["one.csv", "two.csv"]
        with connect(through(place.target, line)) as session:
            assert opened(session).deliver(found, "two.csv") == Renamed()
    assert place.names() == ["one.csv", "two.csv"]


def test_cut_anywhere_there_is_one_whole_file(place: Place) -> None:
    with proxy(place.target.port) as line:
        target = through(place.target, line)
        deliver_as_flush_does(target, line.mend)
        whole = line.passed
        (place.folder / "one.csv").unlink()
        # Every tenth of the bytes, and closely through the last requests: fsync, close, stats, rename.
        for cut in [*range(1, whole, whole // 10), *range(whole - 700, whole, 50)]:
            line.cut_after = cut
            deliver_as_flush_does(target, line.mend)
            assert line.cut_after is None, "the line was never cut"
            assert [name for name in place.names() if not name.startswith(".")] == ["one.csv"]
            assert (place.folder / "one.csv").read_bytes() == CONTENT
            for path in place.folder.iterdir():
                path.unlink()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a"])
def test_names_stay_in_the_folder(place: Place, name: str) -> None:
    with pytest.raises(ValueError, match="not a file's name"):
        place.target.path(name)


def nowhere(kind: str, port: int) -> Target:
    """Any server there would do: no certificate or key is asked for."""
    if kind == "sftp":
        return sftp.Target("127.0.0.1", port, "u", (), ".", SOON, password="p")
    return ftps.Target("127.0.0.1", port, "u", ".", SOON, "p", kind == "ftps, implicit TLS")


PROTOCOLS = ("sftp", "ftps", "ftps, implicit TLS")


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(None, id="silent"),
        pytest.param(b"", id="closed at once"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="speaks HTTP"),
        pytest.param(b"SSH-2.0-x\r\n" + bytes(range(256)) * 20, id="speaks nonsense"),
        pytest.param(b"220-" + b"x" * 100_000, id="an endless line"),
        pytest.param(b"220-x\r\n" * 10_000, id="an endless banner"),
    ],
)
@pytest.mark.parametrize("kind", PROTOCOLS)
def test_not_a_server_of_this_kind(kind: str, words: bytes | None) -> None:
    with saying(words) as port:
        begun = time.monotonic()
        assert isinstance(sent(nowhere(kind, port)), Retry)
        assert time.monotonic() - begun < 10 * SOON


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_nobody_there(kind: str) -> None:
    target = nowhere(kind, free_port())
    assert isinstance(sent(target), Retry)
    assert isinstance(sent(dataclasses.replace(target, host="no-such-host.invalid")), Retry)
