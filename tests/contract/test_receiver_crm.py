"""The CRM that stands in for the advertisers': the oracle of every push test must not be blind."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from deploy.embedded.processes import free_port
from tests.support.receivers import Receiver, receiver

BODY = json.dumps({"referral_id": "r-1"}).encode()
MODES = (
    "--mode",
    "/deaf=ignore-keys",
    "--mode",
    "/busy=503:7",
    "--mode",
    "/gone=404",
    "--mode",
    "/lost=lost",
)
TROUBLE = (
    "--mode",
    "/reset=reset",
    "--mode",
    "/hang=hang",
    "--mode",
    "/slow=slow:300",
    "--mode",
    "/acme/v2=401",
)


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[Receiver]:
    with receiver("crm", tmp_path, *MODES, *TROUBLE, port=free_port()) as running:
        yield running


def ask(
    crm: Receiver, path: str, key: str = "k", body: bytes = BODY, method: str = "POST"
) -> tuple[int, str | None, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", crm.port, timeout=1.0)) as line:
        line.request(method, path, body, {"Idempotency-Key": f'"{key}"'})
        answer = line.getresponse()
        return answer.status, answer.getheader("Retry-After"), answer.read()


def kinds(crm: Receiver, connection: str) -> Counter[str]:
    _, _, counts = ask(crm, "/_control", body=b"", method="GET")
    return Counter(json.loads(counts).get(connection, {}))


def test_a_key_is_honoured_also_over_a_restart(crm: Receiver) -> None:
    first = ask(crm, "/acme/leads")
    assert first[0] == 201
    assert ask(crm, "/acme/other") == first
    crm.kill()
    crm.restart()
    assert ask(crm, "/acme") == first
    assert ask(crm, "/acme", body=b'{"referral_id": "r-2"}')[0] == 422
    assert ask(crm, "/globex")[0] == 201
    assert kinds(crm, "acme") == {"effect": 1, "repeat": 2, "mismatch": 1}
    (effect,) = (line for line in crm.effects("effect") if line["connection"] == "acme")
    assert (effect["key"], effect["referral_id"]) == ("k", "r-1")


def test_one_that_ignores_keys_doubles(crm: Receiver) -> None:
    ask(crm, "/deaf")
    ask(crm, "/deaf")
    assert kinds(crm, "deaf") == {"effect": 2}


def test_refusals_have_no_effect(crm: Receiver) -> None:
    assert ask(crm, "/busy")[:2] == (503, "7")
    assert ask(crm, "/gone")[:2] == (404, None)
    assert ask(crm, "/acme/v2/leads")[0] == 401
    with pytest.raises(ConnectionResetError):
        ask(crm, "/reset")
    with pytest.raises(TimeoutError):
        ask(crm, "/hang")
    assert crm.effects("effect") == []
    assert ask(crm, "/_control", body=b'{"/busy": "ok"}')[0] == 200
    assert ask(crm, "/busy")[0] == 201
    assert ask(crm, "/_control", body=b'{"/busy": "well"}')[0] == 400


def test_a_lost_answer_has_its_effect(crm: Receiver) -> None:
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            ask(crm, "/lost")
    assert kinds(crm, "lost") == {"effect": 1, "repeat": 1}


def test_an_effect_that_is_denied_is_one(crm: Receiver) -> None:
    assert ask(crm, "/_control", body=b'{"/liar": "applied:500"}')[0] == 200
    assert [ask(crm, "/liar")[0] for _ in range(2)] == [500, 500]
    assert kinds(crm, "liar") == {"effect": 1, "repeat": 1}


def test_a_person_is_forgotten_once(crm: Receiver) -> None:
    first = ask(crm, "/acme/people/r-1", key="gone", body=b"", method="DELETE")
    assert first[0] == 201
    crm.kill()
    crm.restart()
    assert ask(crm, "/acme/people/r-1?now=1", key="gone", body=b"", method="DELETE") == first
    assert ask(crm, "/acme/people/r-2", key="gone", body=b"", method="DELETE")[0] == 422
    assert ask(crm, "/busy/people/r-1", key="gone", body=b"", method="DELETE")[0] == 503
    assert kinds(crm, "acme") == {"removal": 1, "removal-repeat": 1, "mismatch": 1}
    (removal,) = crm.effects("removal")
    assert (removal["key"], removal["referral_id"]) == ("gone", "r-1")


def test_a_slow_answer(crm: Receiver) -> None:
    begun = time.monotonic()
    assert ask(crm, "/slow")[0] == 201
    assert time.monotonic() - begun >= 0.3


def test_what_is_no_request_of_ours(crm: Receiver) -> None:
    assert ask(crm, "/acme", body=b"{")[0] == 400
    assert ask(crm, "/acme", body=b"x" * 1_100_000)[0] == 413
    assert crm.effects("effect") == []
