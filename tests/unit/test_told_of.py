"""Which windows can be sent once more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from batcher.resend import told_of
from consumer.manifests import Remembered
from schemas.manifest import Artefact, Kind, Manifest

SEALED = datetime(2026, 3, 1, 8, tzinfo=UTC)
FILE = Artefact(name="a.csv", rows=1, bytes=1, sha256="0" * 64, plain="0" * 64)
SOON = timedelta(hours=1)

WINDOWS: list[Any] = [
    pytest.param({}, timedelta(days=14), None, id="as long as erasures are known"),
    pytest.param({}, timedelta(days=14, seconds=1), "over 14 days ago", id="too old"),
    pytest.param({"outcome": None}, SOON, "it has not ended yet", id="under way"),
    pytest.param({"sealed_at": None}, SOON, "by a release that did not note", id="before artefacts"),
    pytest.param({"artefacts": ()}, SOON, "it had no file", id="no file"),
    pytest.param({"window": 2}, SOON, "no such window", id="another one"),
]


@pytest.mark.parametrize(("changes", "age", "why"), WINDOWS)
def test_windows_that_can_be_sent_again(changes: dict[str, Any], age: timedelta, why: str | None) -> None:
    given = {
        "kind": Kind.WINDOW,
        "at": SEALED,
        "connection": "acme",
        "window": 1,
        "outcome": "DELIVERED",
        "account_id": "acme",
        "sealed_at": SEALED,
        "artefacts": (FILE,),
    }
    found = Manifest(**{**given, **changes})
    told = told_of(Remembered(windows={"acme": {found.window or 0: found}}), "acme", 1, SEALED + age)
    assert told == found if why is None else why in str(told)
