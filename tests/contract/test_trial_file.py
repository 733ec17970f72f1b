"""Trying a file connection: all but delivering, on real servers, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from console.preview import choose
from console.trial_file import TriedFile, trial
from consumer.service import Settings, Stop
from schemas.connection import FileConnection
from tests.support.batch import USER, House, house
from tests.support.kafka import Kafka
from tests.support.receivers import smtp_receiver


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, kafka: Kafka) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("house"), kafka.bootstrap, "trial.") as running:
        running.empty()
        yield running


@pytest.fixture(autouse=True)
def _environment(place: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)


def tried(place: House, connection: Any) -> TriedFile:
    place.apply(connection)
    return sent(place.settings, connection.name)


def sent(settings: Settings, name: str) -> TriedFile:
    chosen = choose(settings, name, None, None, test=True)
    assert isinstance(chosen.connection, FileConnection)
    return trial(settings, chosen.connection, chosen.referral)


@pytest.mark.parametrize("kind", ["sftp", "ftps"])
@pytest.mark.parametrize(("completion", "last"), [("rename", "renamed it"), ("done_file", None)])
def test_a_server(place: House, kind: str, completion: str, last: str | None) -> None:
    name = f"{kind}-{completion.replace('_', '-')}"
    found = tried(place, place.upload_connection(kind, name, completion=completion))
    assert found.trouble is None
    assert found.done[0].startswith(f"a file of one referral would be called {name}-")
    assert found.done[1].endswith(f" as {USER}")
    assert found.done[2].endswith(f" bytes into {name}")
    assert found.done[3:] == ((last,) if last else ()) + ("removed it",)
    assert place.files(name) == {}


TROUBLES = [
    pytest.param({"directory": "nowhere"}, "check `directory`", 2, id="no folder"),
    pytest.param({"host_keys": ("SHA256:" + "A" * 43,)}, "host key", 1, id="another host key"),
    pytest.param({"password": "${env:NOT_THERE}"}, "is not set in the environment", 1, id="no secret"),
    pytest.param({"password": "${env:REFERRALS_MAIL_FROM}"}, "refuses", 1, id="a wrong password"),
    pytest.param(
        {"file": {"openpgp": {"recipients": ["${env:SFTP_PASSWORD}"]}}},
        "no OpenPGP public key",
        0,
        id="no key",
    ),
]


@pytest.mark.parametrize(("changes", "says", "steps"), TROUBLES)
def test_a_server_in_trouble(place: House, changes: dict[str, Any], says: str, steps: int) -> None:
    found = tried(place, place.sftp_connection("trouble", **changes))
    assert found.trouble is not None
    assert says in found.trouble
    assert len(found.done) == steps
    assert place.files("trouble") == {}


def test_mails_go_as_far_as_the_relays_word(place: House, tmp_path: Path) -> None:
    connection = place.email_connection("mailed")
    found = tried(place, connection)
    assert found.trouble is None
    assert [line.partition(" takes ")[2] for line in found.done[1:]] == [
        f"mails for recipient {n}; none was sent" for n in (1, 2)
    ]
    assert place.mails("mailed") == {}
    with smtp_receiver(tmp_path / "refusing", "--mode", "b@mailed.example=550") as refusing:
        settings = place.settings.model_copy(update={"smtp": f"127.0.0.1:{refusing.port}"})
        refused = sent(settings, "mailed")
    assert refused.trouble is not None
    assert refused.trouble.startswith("recipient 2: ")
    assert "@" not in refused.trouble
    with pytest.raises(Stop, match="REFERRALS_MAIL_FROM"):
        sent(place.settings.model_copy(update={"mail_from": ""}), "mailed")
