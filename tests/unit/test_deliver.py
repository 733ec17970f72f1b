"""What a window's file is called and how it looks, and since when it must not change."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import TypeAdapter

from batcher.deliver import not_as_before, write
from batcher.deliver_mail import first_byte_left
from batcher.files.feed import Feed
from batcher.files.name import content_name, final_name
from batcher.files.packing import Packing
from batcher.window import State, WindowState
from schemas.connection import Connection
from schemas.delivery import Outcome

PLAIN = Packing("x.csv", datetime(2026, 6, 1, tzinfo=UTC))
COMMON: dict[str, Any] = {
    "name": "acme-daily",
    "schedule": {"cron": "0 8 * * *", "zone": "Australia/Sydney"},
    "fields": ["first_name", "phone_e164"],
}
KINDS = {
    "sftp": {
        "host": "sftp.example.com",
        "username": "acme",
        "password": "${env:PASSWORD}",
        "host_keys": ["SHA256:" + "A" * 43],
    },
    "email": {"recipients": ["a@example.com"]},
}


def connection(kind: str, **changes: Any) -> Any:
    return TypeAdapter(Connection).validate_python({**COMMON, "kind": kind, **KINDS[kind], **changes})


@pytest.mark.parametrize(
    ("sealed", "zone", "expected"),
    [
        pytest.param("2026-06-01T13:59:59Z", "Australia/Sydney", "acme-daily-20260601-000012.csv", id="before midnight there"),
        pytest.param("2026-06-01T14:00:00Z", "Australia/Sydney", "acme-daily-20260602-000012.csv", id="after midnight there"),
        pytest.param("2026-06-01T03:00:00Z", "America/New_York", "acme-daily-20260531-000012.csv", id="still yesterday there"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_called_after_the_local_day_of_its_seal(
    kind: str, sealed: str, zone: str, expected: str
) -> None:
    ms = int(datetime.fromisoformat(sealed).timestamp() * 1000)
    since = datetime(2020, 1, 1, tzinfo=UTC)
    window = WindowState("acme-daily", 12, State.SEALED, "", 1, since, "", 0, 0.0, {"sealed_at": str(ms)})
    found = connection(kind, schedule={"cron": "0 8 * * *", "zone": zone})
    assert final_name(window, found) == content_name(window, found) == expected


@pytest.mark.parametrize(
    ("kind", "guard", "cell"),
    [
        pytest.param("email", None, '"\'=1+1","\'+491"', id="mail goes to people: guarded"),
        pytest.param("sftp", None, '"=1+1","+491"', id="a folder is read by machines: not"),
        pytest.param("email", False, '"=1+1","+491"', id="mail, unguarded as asked"),
        pytest.param("sftp", True, '"\'=1+1","\'+491"', id="sftp, guarded as asked"),
    ],
)
def test_formulas_are_guarded_where_people_open_the_file(kind: str, guard: bool | None, cell: str) -> None:
    out = io.BytesIO()
    written = write(
        out, connection(kind, file={"formula_guard": guard}), Feed.of([["=1+1", "+491"]]), PLAIN, None
    )
    assert out.getvalue().decode() == f'"first_name","phone_e164"\r\n{cell}\r\n'
    assert (written.rows, written.bytes) == (1, len(out.getvalue()))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"rows": "3"}, False, id="nobody tried"),
        pytest.param({"to:a": "", "to:b": ""}, False, id="everybody surely not"),
        pytest.param({"to:a": "", "to:b": State.SENDING}, True, id="one was under way"),
        pytest.param({"to:a": Outcome.DELIVERED, "to:b": ""}, True, id="one has it"),
        pytest.param(
            {"to:a": Outcome.REJECTED, "to:b": ""}, False, id="one is refused, the other surely not"
        ),
        pytest.param({"to:a": "", "uncertain": "1"}, True, id="one may have it and gets it again"),
    ],
)
def test_since_when_a_mailed_file_stays_as_it_is(fields: dict[str, str], expected: bool) -> None:
    assert first_byte_left(fields) is expected


@pytest.mark.parametrize(
    ("before", "index", "plain", "last", "leaves"),
    [
        pytest.param(None, 0, "aa", True, True, id="the first time"),
        pytest.param(["aa"], 0, "aa", True, True, id="the same file"),
        pytest.param(["aa", "bb"], 0, "aa", False, True, id="the first of two"),
        pytest.param(["aa", "bb"], 1, "bb", True, True, id="the second of two"),
        pytest.param(["aa"], 0, "bb", True, False, id="another file"),
        pytest.param(["aa", "bb"], 0, "aa", True, False, id="one file of two"),
        pytest.param(["aa"], 0, "aa", False, False, id="more files than before"),
        pytest.param([], 0, "aa", True, False, id="a file where there was none"),
    ],
)
def test_what_is_sent_again_is_what_was_sent(
    before: list[str] | None, index: int, plain: str, last: bool, leaves: bool
) -> None:
    fields = {} if before is None else {"before": json.dumps(before)}
    window = WindowState("c", 1, State.SEALED, "", 1, datetime(2020, 1, 1, tzinfo=UTC), "", 0, 0.0, fields)
    found = not_as_before(window, index, plain, last=last)
    assert (found is None) == leaves
    if found is not None:
        assert "export the time range by hand" in found.reason
