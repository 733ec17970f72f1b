"""What is FTPS's own, on a server of ours that does wrong whatever it is told to."""

from __future__ import annotations

import dataclasses
import ssl
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from batcher.channels import Hold, Retry
from batcher.channels.ftps import Renamed, Target, Uploaded, connect
from deploy.embedded.processes import free_port
from tests.support.certificates import Authority
from tests.support.channels import CONTENT, SOON, deliver_as_flush_does, fill, opened, sent, uploaded
from tests.support.ftps_server import Faults, Server, ftps_server
from tests.support.peers import LOCAL

USERS = {"acme": "correct horse"}


@dataclass(frozen=True)
class House:
    """A server, whose files lie in `folder`."""

    authority: Authority
    server: Server
    target: Target

    @property
    def folder(self) -> Path:
        return self.server.folder

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


def target_of(authority: Authority, port: int) -> Target:
    ca = authority.pem.decode()
    return Target("localhost", port, "acme", ".", 10.0, "correct horse", ca=ca, policy=LOCAL)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    authority = Authority(tmp_path)
    with ftps_server(tmp_path / "files", authority.server("localhost"), USERS) as server:
        yield House(authority, server, target_of(authority, server.port))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_all_is_protected_and_sessions_are_reused(tmp_path: Path, version: ssl.TLSVersion) -> None:
    authority = Authority(tmp_path)
    context = authority.server("localhost")
    context.minimum_version = context.maximum_version = version
    with ftps_server(tmp_path / "files", context, USERS) as server:
        with connect(target_of(authority, server.port)) as session:
            found = uploaded(opened(session).upload(".one.part", fill))
            # The same content under the final name is read back, and only then ours removed.
            (server.folder / "one.csv").write_bytes(CONTENT)
            assert opened(session).list_parts(".one") == (".one.part",)
            assert opened(session).deliver(found, "one.csv") == Renamed()
        assert server.protected == [command != "AUTH" for command in server.commands]
        assert server.reused == [True, True, True]
        assert server.commands[:7] == ["AUTH", "USER", "PASS", "PBSZ", "PROT", "TYPE", "PWD"]
        assert [path.name for path in server.folder.iterdir()] == ["one.csv"]


def fingerprint(path: Path) -> str:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    return certificate.fingerprint(hashes.SHA256()).hex()


def test_a_server_that_is_not_the_right_one_hears_no_password(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    (tmp_path / "stranger").mkdir()
    stranger = Authority(tmp_path / "stranger").pem.decode()
    old, valid = authority.server("localhost", timedelta(days=-1)), authority.server("localhost")
    pin = fingerprint(tmp_path / "localhost.pem")
    with ftps_server(tmp_path / "files", valid, USERS) as server:
        target = target_of(authority, server.port)
        pinned = dataclasses.replace(target, ca=None, certificates=("0" * 64, pin))
        assert isinstance(sent(target), Uploaded)
        assert isinstance(sent(pinned), Uploaded)
        assert isinstance(sent(dataclasses.replace(pinned, host="127.0.0.1")), Uploaded)
        server.commands.clear()
        for wrong, says in (
            (dataclasses.replace(target, host="127.0.0.1"), "127.0.0.1"),
            (dataclasses.replace(target, ca=stranger), "certificate"),
            (dataclasses.replace(target, ca=None), "local issuer"),
            (dataclasses.replace(target, ca="nonsense"), "PEM"),
            (dataclasses.replace(pinned, certificates=("0" * 64,)), pin),
        ):
            held = sent(wrong)
            assert isinstance(held, Hold)
            assert says in held.reason
        assert set(server.commands) == {"AUTH"}
    with ftps_server(tmp_path / "files", old, USERS) as server:
        held = sent(target_of(authority, server.port))
        assert isinstance(held, Hold)
        assert "expired" in held.reason
        assert server.commands == ["AUTH"]


def test_tls_that_is_no_longer_safe(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = authority.server("localhost")
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with ftps_server(tmp_path / "files", context, USERS) as server:
        held = sent(target_of(authority, server.port))
        assert isinstance(held, Hold)
        assert "no version of TLS" in held.reason
        assert server.commands == ["AUTH"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"password": "guess"}, "password", id="password"),
        pytest.param({"username": "nobody"}, "user name", id="user"),
        pytest.param({"password": "two\r\nDELE x"}, "one line", id="a line break"),
    ],
)
def test_credentials(house: House, changes: dict[str, str], says: str) -> None:
    target = dataclasses.replace(house.target, **changes)
    held = sent(target)
    assert isinstance(held, Hold)
    assert says in held.reason
    assert not any(value in held.reason + repr(target).replace("'nobody'", "") for value in changes.values())
    assert "DELE" not in house.server.commands


@pytest.mark.parametrize(
    ("command", "reply", "ending", "says"),
    [
        pytest.param("GREETING", "421 too many, acme", Retry, "421", id="busy at once"),
        pytest.param("GREETING", "500 OOPS", Hold, "500", id="broken at once"),
        pytest.param("AUTH", "502 no TLS", Hold, "TLS", id="no TLS"),
        pytest.param("AUTH", "431 not now", Retry, "431", id="no TLS now"),
        pytest.param("USER", "421 too many", Retry, "421", id="busy"),
        pytest.param("PASS", "530 no, acme", Hold, "password", id="no login"),
        pytest.param("PROT", "536 no", Hold, "data", id="no protected data"),
        pytest.param("PWD", "nonsense", Retry, "no FTP", id="no FTP"),
        pytest.param("PASV", "227 come (1,2,3,4,999,9)", Retry, "passive ports", id="no port of this world"),
        pytest.param("PASV", "227 come (1,2,3,4,0,1)", Retry, "passive ports", id="a port that is closed"),
        pytest.param("PASV", "425 no port", Retry, "425", id="no data connection"),
        pytest.param("STOR", "452 disk", Retry, "452", id="no room now"),
        pytest.param("STOR", "552 quota of acme", Hold, "quota", id="no room"),
        pytest.param("STOR", "550 no right", Hold, "rights", id="no right"),
        pytest.param("STOR", "553 no such name", Hold, "directory", id="no such name"),
        pytest.param("STOR", "522 reuse", Hold, "session", id="session"),
        pytest.param("HANDSHAKE", "522 reuse", Hold, "session", id="session, told while it is tried"),
        pytest.param("HANDSHAKE", "226 well", Retry, "creating", id="no handshake"),
        pytest.param("SIZE", "502 what?", Hold, "not support", id="no SIZE"),
        pytest.param("SIZE", "550 Permission denied", Hold, "rights", id="no right to look"),
    ],
)
def test_refusals_of_an_upload(house: House, command: str, reply: str, ending: type, says: str) -> None:
    house.server.faults.refuse[command] = reply
    found = sent(house.target)
    assert isinstance(found, ending), found
    assert says in found.reason
    assert "acme" not in found.reason
    assert house.names() == []
    if command in {"GREETING", "AUTH"}:
        assert "USER" not in house.server.commands


@pytest.mark.parametrize(
    ("refuse", "ending"),
    [
        pytest.param({"RNTO": "553 no"}, Hold, id="the name"),
        pytest.param({"RNTO": "450 busy"}, Retry, id="for now"),
        pytest.param({"RNTO": "502 what?"}, Hold, id="renaming"),
        pytest.param({"SIZE": "550 Permission denied"}, Hold, id="looking"),
        pytest.param({"SIZE": "550 failed"}, Hold, id="SIZE alone finds nothing"),
        pytest.param({"SIZE": "550 failed", "RNFR": "550 Not permitted"}, Hold, id="looking, in other words"),
        pytest.param({"SIZE": "450 busy"}, Retry, id="looking for now"),
        pytest.param({"SIZE": "550 failed", "RNFR": "550 failed", "CWD": "550 failed"}, Hold, id="folder away"),
    ],
)  # fmt: skip
def test_what_is_refused_is_not_renamed(house: House, refuse: dict[str, str], ending: type) -> None:
    with connect(house.target) as session:
        found = uploaded(opened(session).upload(".one.part", fill))
        house.server.faults.refuse = refuse
        assert isinstance(opened(session).deliver(found, "one.csv"), ending)
    assert house.names() == [".one.part"]
    house.server.faults = Faults()
    with connect(house.target) as session:
        assert opened(session).deliver(found, "one.csv") == Renamed()
    assert house.names() == ["one.csv"]


@pytest.mark.parametrize(
    ("reply", "ending"),
    [
        pytest.param("226 all of it", Retry, id="says it has it all"),
        pytest.param("426 cut", Retry, id="says it was cut"),
        pytest.param("451 local trouble", Retry, id="local trouble"),
        pytest.param("452 disk full now", Retry, id="no room now"),
        pytest.param("552 quota", Hold, id="quota"),
    ],
)
@pytest.mark.parametrize("size", [len(CONTENT), 20_000_000])
@pytest.mark.parametrize("after", [1, len(CONTENT) - 1])
def test_a_data_connection_that_is_cut(house: House, after: int, size: int, reply: str, ending: type) -> None:
    """Also where the kernels hold the rest, so that only its size tells."""
    house.server.faults.cut = (after, reply)

    def write(file: BinaryIO) -> None:
        for _ in range(0, size, len(CONTENT)):
            file.write(CONTENT)

    found = sent(house.target, write)
    assert isinstance(found, ending), found
    house.server.faults = Faults()
    assert isinstance(sent(house.target), Uploaded)


def test_a_file_that_arrived_short_is_removed(house: House) -> None:
    def write(file: BinaryIO) -> None:
        file.write(CONTENT)
        house.server.faults.refuse["SIZE"] = "213 5"

    found = sent(house.target, write)
    assert isinstance(found, Retry)
    assert "5 bytes" in found.reason
    assert house.names() == []


def test_cut_anywhere_in_its_data_a_file_arrives_whole(house: House) -> None:
    for after in range(1, len(CONTENT) + 1, len(CONTENT) // 10):
        house.server.faults.cut = (after, "226 all of it")
        deliver_as_flush_does(house.target, lambda: setattr(house.server, "faults", Faults()))
        assert house.server.faults.cut is None, "nothing was cut"
        assert [name for name in house.names() if not name.startswith(".")] == ["one.csv"]
        assert (house.folder / "one.csv").read_bytes() == CONTENT
        for path in house.folder.iterdir():
            path.unlink()


@pytest.mark.case(25)
@pytest.mark.parametrize("take", [False, True])
@pytest.mark.parametrize("command", ["PASS", "PROT", "PWD", "PASV", "STOR", "SIZE", "RNFR", "RNTO"])
def test_a_lost_reply(house: House, command: str, take: bool) -> None:
    """Also where the receiver takes the file as soon as it has its name."""
    house.server.faults = Faults(lose={command}, take=take)
    deliver_as_flush_does(house.target, lambda: house.server.faults.lose.clear())
    assert house.server.renamed == [("one.csv", CONTENT)]
    left = [name for name in house.names() if not name.startswith(".")]
    assert left == ([] if take else ["one.csv"])


@pytest.mark.parametrize(
    "at", ["GREETING", "AUTH", "USER", "PROT", "PASV", "STOR", "DATA", "SIZE"]
)  # fmt: skip
def test_a_server_that_is_stuck(house: House, at: str) -> None:
    house.server.faults.stall = {at}
    begun = time.monotonic()
    found = sent(dataclasses.replace(house.target, timeout=SOON), lambda file: file.write(b"x" * 20_000_000))
    assert isinstance(found, Retry), found
    assert time.monotonic() - begun < 10 * SOON


def test_a_listing_without_an_end(house: House) -> None:
    with connect(house.target) as session:
        found = uploaded(opened(session).upload(".one.part", fill))
        house.server.faults.endless = True
        assert opened(session).list_parts(".one.") == (".one.part",)
        assert opened(session).deliver(found, "one.csv") == Renamed()


def test_a_server_that_went_and_came_again(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context, port = authority.server("localhost"), free_port()
    target = target_of(authority, port)
    with ftps_server(tmp_path / "files", context, USERS, port=port) as server:

        def close_then_write(file: BinaryIO) -> None:
            file.write(CONTENT)
            server.close()
            for _ in range(50):
                file.write(CONTENT)

        assert isinstance(sent(target, close_then_write), Retry)
        assert isinstance(sent(target), Retry)
    with ftps_server(tmp_path / "files", context, USERS, port=port):
        assert isinstance(sent(target), Uploaded)
