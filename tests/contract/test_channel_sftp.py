"""SFTP on real servers: asyncssh's, and OpenSSH's where it is installed."""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from batcher.channels import Hold, Retry
from batcher.channels.sftp import Renamed, Session, Target, Uploaded, connect
from deploy.embedded.processes import free_port
from tests.support.proxy import Proxy, proxy
from tests.support.receivers import sftp_receiver
from tests.support.sshd import MISSING, Sshd, sshd

CONTENT = b"".join(b"%06d,first,last\r\n" % n for n in range(6_000))
USERS = {"acme": {"password": "correct horse"}}
#: For a step that is expected to run into its limit.
SOON = 1.0


@dataclass(frozen=True)
class Place:
    """A server, and a folder on it that is this test's alone."""

    target: Target
    folder: Path

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


def asyncssh_target(port: int, fingerprint: str, directory: str = ".") -> Target:
    return Target("127.0.0.1", port, "acme", (fingerprint,), directory, 10.0, password="correct horse")


@pytest.fixture(scope="module")
def asyncssh_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("asyncssh")
    with sftp_receiver(folder, USERS) as running:
        yield Place(asyncssh_target(running.port, running.words[1]), folder / "acme")


@pytest.fixture(scope="module")
def openssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if MISSING:
        pytest.skip(MISSING)
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


def openssh_target(server: Sshd) -> Target:
    return Target(
        "127.0.0.1",
        server.port,
        server.username,
        (server.fingerprints["ed25519"],),
        ".",
        10.0,
        private_key=server.private_key,
    )


@pytest.fixture(params=["asyncssh", "openssh"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "asyncssh":
        server: Place = request.getfixturevalue("asyncssh_place")
    else:
        running: Sshd = request.getfixturevalue("openssh")
        server = Place(openssh_target(running), running.folder)
    folder = server.folder / uuid.uuid4().hex
    folder.mkdir(parents=True)
    return Place(dataclasses.replace(server.target, directory=folder.name), folder)


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


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a"])
def test_names_stay_in_the_folder(asyncssh_place: Place, name: str) -> None:
    with pytest.raises(ValueError, match="not a file's name"):
        asyncssh_place.target.path(name)


def test_secrets_are_not_shown() -> None:
    shown = repr(Target("h", 22, "u", (), ".", 1.0, "pass-secret", "key-secret", "phrase-secret"))
    assert "secret" not in shown


def test_host_keys(place: Place) -> None:
    wrong = "SHA256:" + "a" * 43
    held = sent(dataclasses.replace(place.target, host_keys=(wrong,)))
    assert isinstance(held, Hold)
    assert place.target.host_keys[0] in held.reason
    assert place.names() == []
    assert isinstance(sent(dataclasses.replace(place.target, host_keys=())), Hold)
    rotating = dataclasses.replace(place.target, host_keys=(wrong, *place.target.host_keys))
    assert isinstance(sent(rotating), Uploaded)


def test_the_pinned_host_key_need_not_be_of_the_type_the_server_prefers(openssh: Sshd) -> None:
    target = dataclasses.replace(openssh_target(openssh), host_keys=(openssh.fingerprints["rsa"],))
    assert isinstance(sent(target), Uploaded)
    refused = sent(dataclasses.replace(target, private_key=None, password="no"))
    assert isinstance(refused, Hold)
    assert "publickey" in refused.reason


def new_key(passphrase: bytes | None = None) -> tuple[str, str]:
    """The private key as text, and the line for the server."""
    key = Ed25519PrivateKey.generate()
    locked = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, locked)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode(), public.decode()


def test_credentials(tmp_path: Path) -> None:
    private, public = new_key(b"phrase")
    with sftp_receiver(tmp_path, {**USERS, "globex": {"key": public}}) as running:
        target = asyncssh_target(running.port, running.words[1])
        globex = dataclasses.replace(
            target, username="globex", password=None, private_key=private, passphrase="phrase"
        )
        assert isinstance(sent(globex), Uploaded)
        for wrong in (
            dataclasses.replace(globex, passphrase="guess"),
            dataclasses.replace(globex, passphrase=None),
            dataclasses.replace(globex, private_key="-----BEGIN nonsense"),
            dataclasses.replace(globex, private_key=new_key()[0], passphrase=None),
            dataclasses.replace(target, password="guess"),
            dataclasses.replace(target, username="nobody"),
        ):
            held = sent(wrong)
            assert isinstance(held, Hold), held
            assert "guess" not in held.reason


def test_a_missing_folder(place: Place) -> None:
    held = sent(dataclasses.replace(place.target, directory="not-there"))
    assert isinstance(held, Hold)
    assert "directory" in held.reason


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_a_server_that_lets_us_only_read(tmp_path: Path) -> None:
    with sshd(tmp_path, "-R") as running:
        held = sent(openssh_target(running))
    assert isinstance(held, Hold)
    assert "permission" in held.reason


def test_a_used_up_quota(tmp_path: Path) -> None:
    with sftp_receiver(tmp_path, USERS, "--quota", "70000") as running:
        target = asyncssh_target(running.port, running.words[1])
        held = sent(target)
        assert isinstance(held, Hold)
        assert "quota" in held.reason
        assert list((tmp_path / "acme").iterdir()) == []
        assert isinstance(sent(target, lambda file: file.write(b"x" * 70_000)), Uploaded)


def test_a_server_killed_in_mid_upload_and_started_again(tmp_path: Path) -> None:
    with sftp_receiver(tmp_path, USERS, port=free_port()) as running:
        target = asyncssh_target(running.port, running.words[1])

        def kill_then_write(file: BinaryIO) -> None:
            file.write(CONTENT)
            running.kill()
            for _ in range(50):
                file.write(CONTENT)

        assert isinstance(sent(target, kill_then_write), Retry)
        assert isinstance(sent(target), Retry)
        running.restart()
        assert isinstance(sent(target), Uploaded)


@pytest.mark.parametrize("megabytes", [1, 20])
def test_a_frozen_server(tmp_path: Path, megabytes: int) -> None:
    with sftp_receiver(tmp_path, USERS) as running:
        target = dataclasses.replace(asyncssh_target(running.port, running.words[1]), timeout=SOON)

        def freeze_then_write(file: BinaryIO) -> None:
            running.freeze()
            for _ in range(megabytes * 16):
                file.write(b"x" * 65_536)

        begun = time.monotonic()
        assert isinstance(sent(target, freeze_then_write), Retry)
        assert time.monotonic() - begun < 10 * SOON
        begun = time.monotonic()
        assert isinstance(sent(target), Retry)
        assert time.monotonic() - begun < 10 * SOON
        running.thaw()
        assert isinstance(sent(dataclasses.replace(target, timeout=10.0)), Uploaded)


@pytest.mark.parametrize("step", ["login", "session"])
def test_a_server_that_is_stuck(tmp_path: Path, step: str) -> None:
    """Also the login: silence is no refusal, and must not disable a connection."""
    with sftp_receiver(tmp_path, USERS, "--stuck", step) as running:
        target = dataclasses.replace(asyncssh_target(running.port, running.words[1]), timeout=SOON)
        begun = time.monotonic()
        assert isinstance(sent(target), Retry)
        assert time.monotonic() - begun < 10 * SOON


def test_a_transfer_that_takes_too_long_is_cut(place: Place) -> None:
    def endless(file: BinaryIO) -> None:
        while True:
            file.write(b"x" * 1024)
            threading.Event().wait(0.005)  # a slow source, so that no disk fills

    late = sent(place.target, endless, within=SOON)
    assert isinstance(late, Retry)
    assert "longer" in late.reason


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


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(None, id="silent"),
        pytest.param(b"", id="closed at once"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="speaks HTTP"),
        pytest.param(b"SSH-2.0-x\r\n" + bytes(range(256)) * 20, id="speaks nonsense"),
        pytest.param(b"x" * 100_000, id="an endless banner"),
    ],
)
def test_not_an_ssh_server(words: bytes | None) -> None:
    with saying(words) as port:
        begun = time.monotonic()
        assert isinstance(sent(Target("127.0.0.1", port, "u", (), ".", SOON, password="p")), Retry)
        assert time.monotonic() - begun < 10 * SOON


def test_nobody_there() -> None:
    target = Target("127.0.0.1", free_port(), "u", (), ".", SOON, password="p")
    assert isinstance(sent(target), Retry)
    assert isinstance(sent(dataclasses.replace(target, host="no-such-host.invalid")), Retry)


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


def test_a_lost_reply_to_the_rename(place: Place) -> None:
    with proxy(place.target.port) as line:
        found = deliver_with_the_reply_lost(line, place.target)
        assert place.names() == ["one.csv", "two.csv"]
        with connect(through(place.target, line)) as session:
            assert opened(session).deliver(found, "two.csv") == Renamed()
    assert place.names() == ["one.csv", "two.csv"]


def test_a_lost_reply_and_a_receiver_that_takes_the_file_at_once(tmp_path: Path) -> None:
    with sftp_receiver(tmp_path, USERS, "--take") as running, proxy(running.port) as line:
        target = asyncssh_target(running.port, running.words[1])
        found = deliver_with_the_reply_lost(line, target)
        with connect(target) as session:
            assert opened(session).deliver(found, "two.csv") == Renamed()
        assert [effect["name"] for effect in running.effects("rename")] == ["one.csv", "two.csv"]
        assert {effect["sha256"] for effect in running.effects("rename")} == {found.sha256}
    assert list((tmp_path / "acme").iterdir()) == []
    assert (tmp_path / ".taken" / "acme" / "two.csv").read_bytes() == CONTENT


def deliver_through(target: Target, line: Proxy) -> None:
    """What a flush does, with the line whole again from the second connection on."""
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
        line.cut_after = None
    pytest.fail("not delivered with a line that was whole")


def test_cut_anywhere_there_is_one_whole_file(place: Place) -> None:
    with proxy(place.target.port) as line:
        target = through(place.target, line)
        deliver_through(target, line)
        whole = line.passed
        (place.folder / "one.csv").unlink()
        # Every tenth of the bytes, and closely through the last requests: fsync, close, stats, rename.
        for cut in [*range(1, whole, whole // 10), *range(whole - 700, whole, 50)]:
            line.cut_after = cut
            deliver_through(target, line)
            assert line.cut_after is None, "the line was never cut"
            assert [name for name in place.names() if not name.startswith(".")] == ["one.csv"]
            assert (place.folder / "one.csv").read_bytes() == CONTENT
            for path in place.folder.iterdir():
                path.unlink()
