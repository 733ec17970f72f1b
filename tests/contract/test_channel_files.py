"""What every channel that uploads files promises, on real servers: asyncssh's and OpenSSH's, vsftpd's and ours."""

from __future__ import annotations

import dataclasses
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from batcher.channels import Hold, Retry, ftps, sftp
from batcher.channels.upload import Renamed, Session, Uploaded
from consumer.addresses import Policy
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
    place_as_flush_does,
    saying,
    sent,
    through,
    uploaded,
)
from tests.support.ftps_server import ftps_server
from tests.support.peers import LOCAL
from tests.support.proxy import proxy
from tests.support.receivers import eventually, sftp_receiver
from tests.support.sshd import MISSING, sshd
from tests.support.vsftpd import find, vsftpd

#: A name that is no UTF-8.
LATIN = os.fsdecode(b"caf\xe9.csv")


def placed(target: Target) -> object:
    with connect(target) as session:
        return session.place("two.csv", fill) if isinstance(session, Session) else session


def named(target: Target, found: Uploaded) -> object:
    with connect(target) as session:
        return session.deliver(found, "one.csv") if isinstance(session, Session) else session


@contextmanager
def server(kind: str, folder: Path) -> Iterator[Place]:
    """Its files begin in a folder of their own. In `kind` may stand what it does not allow."""
    keeps, reads = "no rename" in kind, "read only" in kind
    if "asyncssh" in kind:
        options = ["--no-rename"] if keeps else []
        with sftp_receiver(folder, {"acme": {"password": "sesame"}}, *options) as ssh:
            given = ("127.0.0.1", ssh.port, "acme", (ssh.words[1],), ".", 10.0)
            yield Place(sftp.Target(*given, password="sesame", policy=LOCAL), folder / "acme")
        return
    if "openssh" in kind:
        if MISSING:
            pytest.skip(MISSING)
        options = ["-P", "rename,posix-rename"] if keeps else ["-R"] if reads else []
        with sshd(folder, *options) as openssh:
            pins = (openssh.fingerprints["ed25519"],)
            target = sftp.Target("127.0.0.1", openssh.port, openssh.username, pins, ".", 10.0, policy=LOCAL)
            yield Place(dataclasses.replace(target, private_key=openssh.private_key), openssh.folder)
        return
    authority = Authority(folder)
    program, implicit = find() if "vsftpd" in kind else "", "implicit" in kind
    given = ("localhost", 0, "anonymous", ".", 10.0, "a@b.example", implicit)
    target = ftps.Target(*given, ca=authority.pem.decode(), policy=LOCAL)
    if isinstance(program, Path):
        certificate = authority.issue("localhost")
        limits = {"cmds_denied": "RNFR,RNTO"} if keeps else {"write_enable": "NO"} if reads else {}
        with vsftpd(program, folder / "vsftpd", certificate, implicit=implicit, **limits) as debian:
            yield Place(dataclasses.replace(target, port=debian.port, directory="files"), debian.folder)
        return
    if program:
        pytest.skip(program)
    users = {"anonymous": "a@b.example"}
    with ftps_server(folder / "files", authority.server("localhost"), users, implicit=implicit) as ours:
        if keeps:
            ours.faults.refuse = {"RNFR": "502 not here"}
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
    (place.folder / LATIN).touch()
    with connect(place.target) as session:
        for name in (".acme-1.a.part", ".acme-1.b.part", ".other-1.part"):
            uploaded(opened(session).upload(name, fill))
        found = session.list_parts(".acme-1.")
        assert isinstance(found, tuple)
        assert sorted(found) == [".acme-1.a.part", ".acme-1.b.part"]
        assert session.remove(".acme-1.a.part") is None
        assert session.remove(".acme-1.a.part") is None
    assert place.names() == [".acme-1.b.part", ".other-1.part", LATIN]


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


@pytest.mark.parametrize("folder", ["missing", "a file", "a link to nowhere", "a link to itself"])
def test_no_folder(place: Place, folder: str) -> None:
    """Neither at upload nor, where it went meanwhile, at the renaming."""
    path = place.folder / "sub"
    path.mkdir()
    target = dataclasses.replace(place.target, directory=f"{place.target.directory}/sub")
    with connect(target) as session:
        found = uploaded(opened(session).upload(".one.part", fill))
    path.rename(place.folder / "away")
    if folder == "a file":
        path.touch()
    elif folder != "missing":
        path.symlink_to("nowhere" if folder == "a link to nowhere" else "sub")
    for ended in (sent(target), placed(target), named(target, found)):
        assert isinstance(ended, Hold)
        assert "directory" in ended.reason
    path.unlink(missing_ok=True)
    path.symlink_to("away")
    assert named(target, found) == Renamed()
    assert isinstance(placed(target), Uploaded)
    assert sorted(file.name for file in path.iterdir()) == ["one.csv", "two.csv"]


@pytest.mark.case(27)
@pytest.mark.parametrize("kind", ["openssh, read only", "vsftpd, read only"])
def test_no_right_to_write(kind: str, tmp_path: Path) -> None:
    with server(kind, tmp_path) as house:
        for ended in (sent(house.target), placed(house.target)):
            assert isinstance(ended, Hold)
            assert re.search("permission|our rights", ended.reason)
        assert house.names() == []


def test_a_transfer_that_takes_too_long_is_cut(place: Place) -> None:
    def endless(file: BinaryIO) -> None:
        while True:
            file.write(b"x" * 1024)
            threading.Event().wait(0.005)  # a slow source, so that no disk fills

    late = sent(place.target, endless, within=SOON)
    assert isinstance(late, Retry)
    assert "longer" in late.reason


@pytest.mark.case(24)
def test_a_lost_reply_to_the_rename(place: Place) -> None:
    with proxy(place.target.port) as line:
        found = deliver_with_the_reply_lost(line, place.target)
        assert place.names() == ["one.csv", "two.csv"]
        with connect(through(place.target, line)) as session:
            assert opened(session).deliver(found, "two.csv") == Renamed()
    assert place.names() == ["one.csv", "two.csv"]


@pytest.mark.case(24)
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


@pytest.mark.case(27)
@pytest.mark.parametrize("kind", ["asyncssh", "openssh", "vsftpd", "our FTPS"])
def test_a_server_that_does_not_rename(kind: str, tmp_path: Path) -> None:
    with server(f"{kind}, no rename", tmp_path) as house, connect(house.target) as session:
        found = opened(session).upload(".one.part", fill)
        held = session.deliver(found, "one.csv") if isinstance(found, Uploaded) else found
        assert isinstance(held, Hold)
        assert "completion: done_file" in held.reason
        assert "one.csv" not in house.names()
        session.remove(".one.part")
        found = uploaded(session.place("one.csv", fill))
        assert house.names() == ["one.csv"]
        assert session.done(found) == Renamed()
        assert session.done(found) == Renamed()
        assert house.names() == ["one.csv", "one.csv.done"]
        assert (house.folder / "one.csv").read_bytes() == CONTENT
        assert (house.folder / "one.csv.done").read_bytes() == b""


def test_a_placed_file_replaces_what_a_former_try_left(place: Place) -> None:
    def broken(file: BinaryIO) -> None:
        file.write(CONTENT * 2)
        raise LookupError("taken over: what stands there may be another worker's by now")

    with connect(place.target) as session, pytest.raises(LookupError):
        opened(session).place("one.csv", broken)
    eventually(lambda: place.names() == ["one.csv"], "the file that was begun")
    with connect(place.target) as session:
        found = uploaded(opened(session).place("one.csv", fill))
        assert (place.folder / "one.csv").read_bytes() == CONTENT
        (place.folder / "one.csv").write_bytes(b"x")
        held = session.done(found)
        assert isinstance(held, Hold)
        assert "1 bytes" in held.reason
        assert isinstance(session.place("one.csv", fill), Uploaded)
        assert session.done(found) == Renamed()
        held = session.place("one.csv", fill)
        assert isinstance(held, Hold)
        assert "one.csv.done" in held.reason
    assert (place.folder / "one.csv").read_bytes() == CONTENT


def test_a_worker_that_was_thought_dead_spoils_no_placed_file(place: Place) -> None:
    def overtaken(file: BinaryIO) -> None:
        file.write(b"x" * 500_000)
        eventually(lambda: any(path.stat().st_size for path in place.folder.iterdir()), "a begun file")
        with connect(place.target) as other:
            assert opened(other).done(uploaded(opened(other).place("one.csv", fill))) == Renamed()
        file.write(b"x" * 500_000)

    with connect(place.target) as session:
        assert isinstance(opened(session).place("one.csv", overtaken), Hold | Retry)
    assert (place.folder / "one.csv").read_bytes() == CONTENT


def test_a_placed_file_that_was_taken_is_done(place: Place) -> None:
    with connect(place.target) as session:
        found = uploaded(opened(session).place("one.csv", fill))
        (place.folder / "one.csv").unlink()
        assert session.done(found) == Renamed()
        assert place.names() == []
        away = place.folder.rename(place.folder.with_name(place.folder.name + "-away"))
        held = session.done(found)
        away.rename(place.folder)
    assert isinstance(held, Hold)
    assert "directory" in held.reason


def test_cut_anywhere_a_placed_file_is_whole_before_it_is_done(place: Place) -> None:
    with proxy(place.target.port) as line:
        target = through(place.target, line)
        place_as_flush_does(target, line.mend)
        whole = line.passed
        for cut in [*range(1, whole, whole // 5), *range(whole - 700, whole, 140)]:
            for path in place.folder.iterdir():
                path.unlink()
            line.cut_after = cut
            place_as_flush_does(target, line.mend)
            assert line.cut_after is None, "the line was never cut"
            assert place.names() == ["one.csv", "one.csv.done"]
            assert (place.folder / "one.csv").read_bytes() == CONTENT


def test_servers_of_this_network_are_not_called(place: Place) -> None:
    held = sent(dataclasses.replace(place.target, policy=Policy()))
    assert isinstance(held, Hold)
    assert f"{place.target.where} " in held.reason
    assert "this machine" in held.reason
    assert "REFERRALS_ALLOWED_NETWORKS" in held.reason


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a"])
def test_names_stay_in_the_folder(place: Place, name: str) -> None:
    with pytest.raises(ValueError, match="not a file's name"):
        place.target.path(name)


def nowhere(kind: str, port: int) -> Target:
    """Any server there would do: no certificate or key is asked for."""
    if kind == "sftp":
        return sftp.Target("127.0.0.1", port, "u", (), ".", SOON, password="p", policy=LOCAL)
    return ftps.Target("127.0.0.1", port, "u", ".", SOON, "p", kind == "ftps, implicit TLS", policy=LOCAL)


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
