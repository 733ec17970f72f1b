"""How connections stand, as the list shows it."""

from __future__ import annotations

from console.standing import COLUMNS, Figures, Standing, rows
from consumer.connection_sets import StoredSet
from schemas.connection import Account, ConnectionSet

HTTP = {"kind": "http", "url": "https://crm.example.com/x", "fields": ["email"]}
MAIL = {
    "kind": "email",
    "recipients": ["a@example.com"],
    "fields": ["email"],
    "schedule": {"cron": "0 7 * * 1"},
}


def test_each_shows_what_waits_and_why() -> None:
    given = [
        {**HTTP, "name": "busy", "credential": "shared"},
        {**HTTP, "name": "idle"},
        {**MAIL, "name": "mail"},
    ]
    account = Account.model_validate({"account": "acme", "connections": given})
    standing = Standing(
        StoredSet(3, ConnectionSet(accounts=(account,))),
        paused={"mail": "holiday", "old": "by an operator"},
        quiet={"shared": 1_767_225_600.0, "idle-not": 1.0},
        figures={"busy": Figures(12_000, 3, 70), "gone": Figures(1), "ended": Figures()},
    )
    shown = [dict(zip(COLUMNS, row, strict=True)) for row in rows(standing)]
    state = ("connection", "waiting", "held", "parked", "quiet until", "paused")
    assert [tuple(row[name] for name in state) for row in shown] == [
        ("busy", "12,000", "3", "70", "2026-01-01T00:00:00+00:00", ""),
        ("idle", "0", "0", "0", "", ""),
        ("mail", "", "", "", "", "holiday"),
        ("gone", "1", "0", "0", "", ""),
        ("old", "", "", "", "", "by an operator"),
    ]
    assert [row["kind"] for row in shown[-2:]] == ["removed", "removed"]
