"""What is SFTP's own, on real servers: asyncssh's, and OpenSSH's where it is installed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from batcher.channels import Hold, Retry
from batcher.channels.sftp import Renamed, Target, Uploaded, connect
from deploy.embedded.processes import free_port
from tests.support.channels import (
    CONTENT,
    SOON,
    Place,
    deliver_with_the_reply_lost,
    fill,
    opened,
    sent,
    uploaded,
)
from tests.support.peers import LOCAL
from tests.support.proxy import proxy
from tests.support.receivers import sftp_receiver
from tests.support.sshd import MISSING, Sshd, sshd

USERS = {"acme": {"password": "correct horse"}}


def asyncssh_target(port: int, fingerprint: str, directory: str = ".") -> Target:
    given = ("127.0.0.1", port, "acme", (fingerprint,), directory, 10.0)
    return Target(*given, password="correct horse", policy=LOCAL)


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
        policy=LOCAL,
    )


@pytest.fixture(params=["asyncssh", "openssh"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "asyncssh":
        server: Place = request.getfixturevalue("asyncssh_place")
    else:
        running: Sshd = request.getfixturevalue("openssh")
        server = Place(openssh_target(running), running.folder)
    return server.own()


def test_secrets_are_not_shown() -> None:
    shown = repr(Target("h", 22, "u", (), ".", 1.0, "pass-secret", "key-secret", "phrase-secret"))
    assert "secret" not in shown


@pytest.mark.case(27)
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


@pytest.mark.case(27)
def test_a_used_up_quota(tmp_path: Path) -> None:
    with sftp_receiver(tmp_path, USERS, "--quota", "70000") as running:
        target = asyncssh_target(running.port, running.words[1])
        held = sent(target)
        assert isinstance(held, Hold)
        assert "quota" in held.reason
        assert list((tmp_path / "acme").iterdir()) == []
        assert isinstance(sent(target, lambda file: file.write(b"x" * 70_000)), Uploaded)


def test_a_listing_without_an_end(tmp_path: Path) -> None:
    """And with names that lead out of the folder."""
    with sftp_receiver(tmp_path, USERS, "--endless") as running:
        with connect(asyncssh_target(running.port, running.words[1])) as session:
            found = uploaded(opened(session).upload(".one.part", fill))
            assert opened(session).list_parts(".one.") == (".one.part",)
            assert opened(session).deliver(found, "one.csv") == Renamed()


@pytest.mark.case(24)
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


@pytest.mark.case(25)
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
