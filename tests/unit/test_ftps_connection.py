"""FTPS in the advertisers' files: what is taken, what is refused and in which words, and what holds when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from batcher.in_force import in_force, place
from batcher.window import State, WindowState
from console.connections import row
from schemas.connection import EmailConnection, FtpsConnection, SftpConnection, load_definition
from schemas.connection_file import assemble

GOOD = """\
account: acme
connections:
  - name: nightly
    kind: ftps
    host: ftp.example.com
    username: us
    password: ${file:/run/secrets/ftps}
    schedule: {cron: "0 8 * * *", zone: Australia/Sydney}
    fields: [email]
"""
PIN = "AB:" * 31 + "cd"


def problems(text: str) -> list[tuple[int, str, str]]:
    found = assemble([("acme.yaml", text)])
    assert isinstance(found, list), "the text was taken"
    return [(problem.line, problem.where, f"{problem.what}; {problem.remedy}") for problem in found]


def connection(more: str = "") -> FtpsConnection:
    found = assemble([("acme.yaml", GOOD + more)])
    assert not isinstance(found, list), found
    (_, made), *_ = load_definition(found.definition()).by_name().values()
    assert isinstance(made, FtpsConnection)
    return made


@pytest.mark.parametrize(
    ("more", "port"),
    [
        pytest.param("", 21, id="explicit"),
        pytest.param("    tls: implicit\n", 990, id="implicit"),
        pytest.param("    port: 2121\n    tls: implicit\n", 2121, id="as given"),
    ],
)
def test_the_port_follows_the_kind_of_tls(more: str, port: int) -> None:
    made = connection(more)
    assert made.port == port
    assert row("acme", made)[2:4] == ("ftps", f"ftp.example.com:{port}")


@pytest.mark.parametrize(
    "more",
    [f"    certificates: ['{PIN}', {PIN.replace(':', '')}]\n", "    ca: ${file:/run/ca.pem}\n"],
    ids=["pinned", "authority"],
)
def test_whom_to_trust(more: str) -> None:
    connection(more)


@pytest.mark.parametrize(
    ("old", "new", "line", "where", "says"),
    [
        pytest.param("kind: ftps", "kind: ftp", 4, "kind", "plain FTP sends the password and people's data in the clear; write ftps or sftp", id="plain FTP"),
        pytest.param("kind: ftps", "kind: ftps2", 4, "kind", "did you mean ftps?", id="misspelt"),
        pytest.param("    password: ${file:/run/secrets/ftps}\n", "", 3, "password", "is missing", id="no password"),
        pytest.param("${file:/run/secrets/ftps}", "hunter2", 7, "password", "a secret is a reference", id="literal password"),
        pytest.param("username: us", "username: us\n    tls: none", 7, "tls", "'explicit' or 'implicit'", id="no TLS"),
        pytest.param("username: us", "username: us\n    certificates: [ABCD]", 7, "certificates[0]", "openssl x509 -fingerprint -sha256", id="fingerprint"),
        pytest.param("username: us", "username: us\n    ca: /run/ca.pem", 7, "ca", "a secret is a reference", id="authority by path"),
        pytest.param("username: us", f"username: us\n    ca: ${{env:CA}}\n    certificates: ['{PIN}']", 7, "ca", "give either ca or certificates", id="both trusts"),
        pytest.param("username: us", "username: us\n    private_key: x", 7, "private_key", "only sftp connections have it", id="of SFTP"),
        pytest.param("username: us", "username: us\n    directory: ../x", 7, "directory", "without '..'", id="folder"),
    ],
)  # fmt: skip
def test_errors_are_told_in_their_line(old: str, new: str, line: int, where: str, says: str) -> None:
    ((at, found, words),) = problems(GOOD.replace(old, new))
    assert (at, found) == (line, f"connections[0].{where}")
    assert says in words
    assert "hunter2" not in words


GIVEN: dict[str, Any] = {
    "name": "n",
    "host": "h.example",
    "username": "us",
    "password": "${env:P}",
    "schedule": {"cron": "0 8 * * *"},
    "fields": ["email"],
}


def ftps(**changes: Any) -> FtpsConnection:
    return FtpsConnection.model_validate({**GIVEN, "kind": "ftps", **changes})


def sftp(**changes: Any) -> SftpConnection:
    keys = {"host_keys": ["SHA256:" + "A" * 43]}
    return SftpConnection.model_validate({**GIVEN, "kind": "sftp", "port": 21, **keys, **changes})


def email() -> EmailConnection:
    mail = {"kind": "email", "recipients": ["a@example.com"]}
    common = {name: GIVEN[name] for name in ("name", "schedule", "fields")}
    return EmailConnection.model_validate({**common, **mail})


def test_a_place_tells_protocols_apart() -> None:
    assert place(ftps()) == "ftps://us@h.example:21/."
    assert place(sftp()) == "us@h.example:21/."


@pytest.mark.parametrize(
    ("frozen", "current", "at", "expected"),
    [
        pytest.param(ftps(), ftps(password="${env:Q}"), place(ftps()), ftps(password="${env:Q}"), id="a new password"),
        pytest.param(ftps(), ftps(host="g.example"), place(ftps()), ftps(), id="moved since"),
        pytest.param(sftp(), ftps(), place(ftps()), ftps(), id="moved to FTPS, then uploaded"),
        pytest.param(sftp(), ftps(), place(sftp()), sftp(), id="uploaded, then moved to FTPS"),
        pytest.param(email(), ftps(), place(ftps()), ftps(), id="too large to mail, then uploaded"),
    ],
)  # fmt: skip
def test_an_uploaded_file_is_looked_for_where_it_was_put(frozen, current, at, expected) -> None:
    began = datetime(2026, 6, 1, tzinfo=UTC)
    window = WindowState("n", 1, State.UPLOADED, "", 3, began, "", 0, 0.0, {"place": at})
    assert in_force(frozen, current, window) == expected
