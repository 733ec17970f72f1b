"""What the operator is told of connections."""

from __future__ import annotations

from typing import Any

import pytest

from console.connections import Difference, difference, require, row, rows
from console.export import choose, guarded
from console.show import one_line
from consumer.route import AnyConnection
from consumer.service import Stop
from schemas.connection import Account, ConnectionSet

HTTP: dict[str, Any] = {
    "name": "crm",
    "kind": "http",
    "url": "https://crm.example.com:8443/secret-path",
    "fields": ["referral_id", "email"],
}
SFTP: dict[str, Any] = {
    "name": "drop",
    "kind": "sftp",
    "host": "sftp.example.com",
    "username": "acme",
    "password": "${env:ACME_PASSWORD}",
    "host_keys": ["SHA256:" + "A" * 43],
    "campaigns": ["c-1", "c-2", "c-3", "c-4", "c-5", "c-6", "c-7"],
    "fields": ["referral_id"],
    "schedule": {"cron": "30 3 * * *", "zone": "Australia/Sydney"},
}
MAIL: dict[str, Any] = {
    "name": "inbox",
    "kind": "email",
    "recipients": ["zoe@example.com", "ann@example.com"],
    "fields": ["referral_id"],
    "schedule": {"cron": "0 * * * *"},
}


def accounts(**connections: list[dict[str, Any]]) -> ConnectionSet:
    return ConnectionSet(
        accounts=tuple(
            Account.model_validate({"account": name, "connections": given})
            for name, given in connections.items()
        )
    )


def one(given: dict[str, Any], **changes) -> AnyConnection:
    return accounts(acme=[{**given, **changes}]).accounts[0].connections[0]


def test_a_row_says_what_an_account_gets() -> None:
    assert rows(accounts(acme=[HTTP, SFTP], globex=[MAIL])) == [
        ("acme", "crm", "http", "POST https://crm.example.com:8443", "all", "2", "at once"),
        (
            "acme", "drop", "sftp", "sftp.example.com:22", "c-1, c-2, c-3, c-4, c-5 and 2 more", "1",
            "30 3 * * * Australia/Sydney",
        ),
        ("globex", "inbox", "email", "2 recipients", "all", "1", "0 * * * * UTC"),
    ]  # fmt: skip


@pytest.mark.parametrize("given", [HTTP, SFTP, MAIL])
def test_a_row_shows_neither_secrets_nor_peoples_addresses(given: dict[str, Any]) -> None:
    shown = " ".join(row("acme", one(given)))
    assert not [word for word in ("secret", "PASSWORD", "zoe", "SHA256") if word in shown]


def test_a_difference_names_connections_and_their_members() -> None:
    before = accounts(acme=[HTTP, SFTP], globex=[MAIL])
    after = accounts(
        acme=[{**HTTP, "fields": ["referral_id"], "timeout": 5}, MAIL], globex=[{**SFTP, "name": "new"}]
    )
    assert difference(before, after) == Difference(
        added=("new",), changed={"crm": ("fields", "timeout"), "inbox": ("account",)}, removed=("drop",)
    )


def test_whom_an_account_approved_is_a_member_of_its_mails() -> None:
    before = accounts(acme=[HTTP, MAIL])
    after = ConnectionSet(
        accounts=tuple(
            Account.model_validate({**account.model_dump(), "approved_recipients": ["@example.com"]})
            for account in before.accounts
        )
    )
    assert difference(before, after).changed == {"inbox": ("approved_recipients",)}
    assert not difference(after, after).changed


def test_a_change_of_kind_names_the_members_of_both() -> None:
    found = difference(accounts(acme=[HTTP]), accounts(acme=[{**MAIL, "name": "crm"}]))
    assert {"kind", "url", "recipients"} <= set(found.changed["crm"])


def test_the_same_set_differs_in_nothing() -> None:
    assert difference(accounts(acme=[HTTP, SFTP]), accounts(acme=[SFTP, HTTP])) == Difference((), {}, ())


@pytest.mark.parametrize(
    ("name", "names", "says"),
    [
        pytest.param(
            "acme-cmr",
            ["acme-crm", "globex"],
            "there is no connection 'acme-cmr': did you mean acme-crm",
            id="near",
        ),
        pytest.param("zzz", ["acme-crm"], "`referrals connections list` shows them", id="far"),
        pytest.param("zzz", [], "run `referrals connections apply DIR`", id="none at all"),
        pytest.param("a\x1b[2Jb", ["acme-crm"], r"'a \[2Jb'", id="cannot move the cursor"),
    ],
)
def test_an_unknown_name_is_told_with_a_guess(name: str, names: list[str], says: str) -> None:
    with pytest.raises(Stop, match=says):
        require(name, names)


def test_an_export_takes_the_named_or_the_only_connection() -> None:
    stored = accounts(acme=[HTTP, SFTP], globex=[MAIL], empty=[])
    assert choose(stored, "acme", "drop").name == "drop"
    assert choose(stored, "globex", None).name == "inbox"
    for account, name, says in (
        ("acme", None, "acme has 2 connections, and each has its own fields: say --connection crm or drop"),
        ("empty", None, "empty has 0 connections"),
        ("acme", "inbox", "acme has no connection 'inbox'"),
        ("acne", None, "there is no account 'acne': did you mean acme"),
    ):
        with pytest.raises(Stop, match=says):
            choose(stored, account, name)


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        pytest.param(one(MAIL), True, id="mail: a person opens it"),
        pytest.param(one(SFTP), False, id="SFTP: a machine reads it"),
        pytest.param(one(HTTP), True, id="HTTP: a person asked for the file"),
        pytest.param(one(SFTP, file={"formula_guard": True}), True, id="SFTP, told to"),
        pytest.param(one(MAIL, file={"formula_guard": False}), False, id="mail, told not to"),
    ],
)
def test_formulas_are_disarmed_as_the_connection_says(connection: AnyConnection, expected: bool) -> None:
    assert guarded(connection) is expected


def test_what_others_wrote_stays_on_its_line() -> None:
    assert one_line("Zoë\n\x1b[31m\u2028x") == "Zoë  [31m x"
