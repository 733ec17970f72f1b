"""What a window's state says, and which of its rows stay out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from batcher.in_force import in_force
from batcher.removal import Removal, leaves_out, may_count, parse
from batcher.window import State, WindowState
from schemas.connection import EmailConnection, SftpConnection
from schemas.delivery import window_id
from schemas.manifest import Mark


def window(state: State = State.SEALED, **fields: str) -> WindowState:
    return WindowState("acme-daily", 12, state, "", 3, datetime(2026, 6, 1, tzinfo=UTC), "", 0, 0.0, fields)


def test_what_a_window_says() -> None:
    marks = '[{"partition": 0, "start": 5, "to": 9, "rows": 3, "digest": "ab", "removals": 2}]'
    found = window(marks=marks, sealed_at="1780300800500", held="1")
    assert found.id == "acme-daily-000012"
    assert found.marks == (Mark(partition=0, start=5, to=9, rows=3, digest="ab", removals=2),)
    assert found.sealed_at == datetime(2026, 6, 1, 8, 0, 0, 500_000, UTC)
    assert found.held
    assert not window(held="0").held
    assert (window().held, window().marks) == (False, ())


def test_no_other_connections_files_are_swept() -> None:
    """A connection may be called as another's window is."""
    again = window(of="12")
    assert (again.id, again.sent_as) == ("acme-daily-000012-resend-12", "acme-daily-000012-resend-")
    assert not window_id("acme-daily-000012", 3).startswith(again.sent_as)
    assert not window_id("acme-daily-000012", 3).startswith(window().sent_as)


@pytest.mark.parametrize(
    ("mark", "expected"),
    [
        pytest.param("W 3 7 0 1780300800000 referrals-0-9", Removal(3, 7, 0), id="withdrawn"),
        pytest.param(
            "E 3 7 9 1780300800000 a name with blanks", Removal(3, 7, 9), id="withdrawn, then erased"
        ),
        pytest.param("E 0 0 1 1780300800000 referrals-0-9", Removal(0, 0, 1), id="erased"),
    ],
)
def test_a_mark_as_it_is_written(mark: str, expected: Removal) -> None:
    assert parse(mark) == expected


#: Five marks were known at the seal, eight when the first byte left.
SEALED, FIRST_BYTE = 5, 8


@pytest.mark.parametrize(
    ("removal", "revision", "before", "after"),
    [
        pytest.param(Removal(2, 5, 0), 2, True, True, id="withdrawn before the seal"),
        pytest.param(Removal(2, 5, 0), 1, True, True, id="withdrawn before the seal, an older revision"),
        pytest.param(Removal(2, 5, 0), 3, False, False, id="withdrawn, then corrected: stays in"),
        pytest.param(Removal(2, 6, 0), 2, False, False, id="withdrawn after the seal: stays in"),
        pytest.param(Removal(0, 0, 5), 9, True, True, id="erased before the seal, whatever the revision"),
        pytest.param(Removal(0, 0, 8), 9, True, True, id="erased before the first byte"),
        pytest.param(Removal(0, 0, 9), 9, True, False, id="erased after the first byte: stays in"),
        pytest.param(Removal(2, 5, 9), 2, True, True, id="withdrawn before the seal, erased after the first byte"),
        pytest.param(Removal(2, 6, 9), 2, True, False, id="both too late"),
    ],
)  # fmt: skip
def test_which_rows_stay_out(removal: Removal, revision: int, before: bool, after: bool) -> None:
    assert leaves_out(removal, revision, SEALED, None) is before
    assert leaves_out(removal, revision, SEALED, FIRST_BYTE) is after


@pytest.mark.parametrize(
    ("sealed", "first_byte", "may"),
    [
        pytest.param(0, 0, False, id="there was none before the first byte"),
        pytest.param(0, None, True, id="one may come until the first byte"),
        pytest.param(0, 1, True, id="one came after the seal"),
        pytest.param(1, 1, True, id="one came before the seal"),
    ],
)
def test_when_marks_are_asked_for(sealed: int, first_byte: int | None, may: bool) -> None:
    assert may_count(sealed, first_byte) is may
    earliest = [Removal(9, 1, 0), Removal(9, 0, 1), Removal(9, 1, 1)]
    assert any(leaves_out(removal, 0, sealed, first_byte) for removal in earliest) is may


def sftp(**changes: Any) -> SftpConnection:
    given = {
        "name": "acme-daily",
        "kind": "sftp",
        "host": "sftp.example.com",
        "username": "acme",
        "password": "${env:PASSWORD}",
        "host_keys": ["SHA256:" + "A" * 43],
        "schedule": {"cron": "0 8 * * *", "zone": "Australia/Sydney"},
        "fields": ["referral_id", "email"],
    }
    return SftpConnection.model_validate({**given, **changes})


def email(**changes: Any) -> EmailConnection:
    given = {
        "name": "acme-daily",
        "kind": "email",
        "recipients": ["a@example.com"],
        "schedule": {"cron": "0 9 * * *"},
        "fields": ["referral_id"],
    }
    return EmailConnection.model_validate({**given, **changes})


CONTENT: dict[str, Any] = {
    "fields": ["city"],
    "partner_data": True,
    "file": {"delimiter": ";"},
    "schedule": {"cron": "0 1 * * *", "zone": "UTC"},
}
FIELDS = {"fields": ["email", "phone_e164"]}
WAY: dict[str, Any] = {"password": "${env:NEW}", "host_keys": ["SHA256:" + "B" * 43], "timeout": 3.0}
ELSEWHERE = {**WAY, "host": "other.example.com", "directory": "in"}
HERE = {"place": "acme@sftp.example.com:22/."}
THERE = {"place": "acme@other.example.com:22/in"}
GONE = {"place": "acme@third.example.com:22/."}


@pytest.mark.parametrize(
    ("frozen", "current", "found", "expected"),
    [
        pytest.param(sftp(), None, window(), sftp(), id="taken out: as it was"),
        pytest.param(sftp(), sftp(**CONTENT), window(), sftp(), id="the content is frozen"),
        pytest.param(sftp(), sftp(**WAY), window(), sftp(**WAY), id="the way is not"),
        pytest.param(sftp(), sftp(**CONTENT, **ELSEWHERE), window(), sftp(**ELSEWHERE), id="both edited"),
        pytest.param(sftp(), sftp(**WAY), window(State.UPLOADED, **HERE), sftp(**WAY), id="uploaded: a new key"),
        pytest.param(sftp(), sftp(**ELSEWHERE), window(State.UPLOADED, **HERE), sftp(), id="uploaded, then moved: looked for there"),
        pytest.param(sftp(), sftp(**ELSEWHERE), window(State.UPLOADED, **THERE), sftp(**ELSEWHERE), id="moved, then uploaded"),
        pytest.param(sftp(), sftp(**ELSEWHERE), window(State.UPLOADED, **GONE), sftp(**ELSEWHERE), id="uploaded where nobody knows: refused later"),
        pytest.param(email(), email(subject="New", recipients=["b@example.com"]), window(State.SENDING), email(recipients=["b@example.com"]), id="mail: who gets it is not frozen, what is"),
        pytest.param(email(), sftp(**CONTENT), window(), sftp(fields=["referral_id"], schedule={"cron": "0 9 * * *"}), id="too large to mail: another kind"),
        pytest.param(email(), sftp(), window(State.SENDING), email(), id="another kind, too late"),
        pytest.param(sftp(), email(), window(State.SENDING), email(fields=["referral_id", "email"], schedule={"cron": "0 8 * * *", "zone": "Australia/Sydney"}), id="mailed since another kind failed: to its end"),
        pytest.param(sftp(), sftp(file={"format": "xlsx"}), window(), sftp(), id="how it is written stays"),
        pytest.param(sftp(), sftp(file={"format": "xlsx"}, **FIELDS), window(held="1"), sftp(file={"format": "xlsx"}), id="held: a person mends it"),
        pytest.param(sftp(), sftp(file={"format": "xlsx"}), window(State.UPLOADED, held="1", **HERE), sftp(), id="held, too late to mend"),
        pytest.param(sftp(), email(), window(State.UPLOADED, **HERE), sftp(), id="another kind, too late for a file"),
    ],
)  # fmt: skip
def test_what_of_a_connection_holds_for_a_window(frozen, current, found, expected) -> None:
    assert in_force(frozen, current, found) == expected
