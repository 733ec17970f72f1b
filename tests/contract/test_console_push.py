"""`referrals connections preview, test, uncertain and list` on real receivers, a real Kafka and a real Valkey."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf
from pathlib import Path
from typing import Any

import pytest

from console import standing, uncertain
from console.__main__ import main
from consumer import held
from consumer.frozen import Frozen
from consumer.keys import Keys, Role
from consumer.pending import Reschedule, settle
from consumer.reading import read_all
from consumer.service import Stop
from consumer.store import Store
from consumer.topics import Topics
from consumer.tries import Tries
from schemas import receipt as receipts
from schemas.delivery import Outcome, delivery_id
from schemas.receipt import Subject
from tests.support.deployment import ROOT, Deployment, deployment, http_connection, wait_until
from tests.support.kafka import Kafka
from tests.support.referral_events import PERSONAL_VALUES, event
from tests.support.valkey import Valkey

#: Seconds; a busy machine is slow.
WITHIN = 30.0
TOKEN = "s3cr3t-t0ken/value"
WHSEC = "whsec_" + "A" * 43 + "="


class Receiver:
    """Keeps every request, and answers as `answers` says; "echo" answers 200 with all it got."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answer: tuple[int, dict[str, str], bytes | None] = (200, {}, None)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append((self.command, self.path, dict(self.headers.items()), body))
                status, headers, given = receiver.answer
                if status == 0:
                    self.close_connection = True
                    return
                echo = f"{self.path}\n{self.headers}".encode() if given is None else given
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(echo))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(echo)

            def log_message(self, format: str, *args: Any) -> None:
                """Not a word."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def crm() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.close()


class Command:
    """The command line, in this process."""

    def __init__(self, capfd: pytest.CaptureFixture[str], folder: Path) -> None:
        self._capfd, self.folder = capfd, folder

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        found = self._capfd.readouterr()
        return int(ended.value.code or 0), found.out, found.err

    def write(self, port: int, more: str = "", fields: str = "[referral_id, email, is_test]") -> str:
        """A folder with one connection, `acme-crm`."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "acme.yaml").write_text(f"""account: acme
connections:
  - name: acme-crm
    kind: http
    url: http://127.0.0.1:{port}/leads
    fields: {fields}
{more}
""")
        return str(self.folder)


@pytest.fixture
def run(
    kafka: Kafka,
    valkey: Valkey,
    topic_prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Command:
    for name in os.environ:
        if name.startswith("REFERRALS_"):
            monkeypatch.delenv(name)
    settings = {
        "KAFKA": kafka.bootstrap, "REDIS": valkey.url, "PREFIX": topic_prefix,
        "ALLOW_HTTP": "true", "ALLOWED_NETWORKS": "127.0.0.0/8", "ANY_PORT": "true",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(f"REFERRALS_{name}", value)
    monkeypatch.setenv("ACME_TOKEN", TOKEN)
    monkeypatch.setenv("ACME_USER", "acme-user")
    monkeypatch.setenv("ACME_WHSEC", WHSEC)
    return Command(capfd, tmp_path / "connections")


SECRET = {
    "bearer": '    auth: {kind: bearer, token: "${env:ACME_TOKEN}"}',
    "basic": '    auth: {kind: basic, username: "${env:ACME_USER}", password: "${env:ACME_TOKEN}"}',
    "header": '    auth: {kind: header, name: X-Key, value: "${env:ACME_TOKEN}"}',
    "query": '    auth: {kind: query, name: key, value: "${env:ACME_TOKEN}"}',
    "templates": '    headers: {X-Key: "k ${env:ACME_TOKEN}", X-Campaign: "{campaign_id}"}',
    "hmac": '    signature: {kind: hmac, secret: "${env:ACME_TOKEN}", header: X-Sign, timestamp_header: X-Time}',
    "webhooks": '    signature: {kind: standard_webhooks, secrets: ["${env:ACME_WHSEC}"]}',
}


@pytest.mark.parametrize("more", [pytest.param(text, id=name) for name, text in SECRET.items()])
def test_what_is_shown_is_what_is_sent_but_for_secrets(run: Command, crm: Receiver, more: str) -> None:
    """The receiver repeats all it got in its answer: it shows no secret either."""
    folder = run.write(crm.port, more)
    code, preview, _ = run("connections", "preview", "acme-crm", folder)
    assert code == 0
    code, out, err = run("connections", "test", "acme-crm", folder)
    assert (code, "delivered: answered 200 OK" in out, "would end DELIVERED" in out) == (0, True, True)
    ((method, path, received, body),) = crm.requests
    sent = {name.lower(): value for name, value in received.items()}
    request, _, rest = out.partition("\n\n")
    first, *headers = request.splitlines()
    shown = {name.lower(): value for name, value in (line.split(": ", 1) for line in headers)}
    assert sent.keys() - shown.keys() <= {"host", "content-length", "accept"}
    for name, value in shown.items():
        made = value.startswith(("<made", "Basic <"))
        assert sent[name] == value.replace("${env:ACME_TOKEN}", TOKEN) or (made and sent[name])
    assert first.split("?")[0] == f"{method} http://127.0.0.1:{crm.port}{path.split('?')[0]}"
    assert rest.startswith(body.decode() + "\n")
    # A preview differs in ids and the flag alone.
    names = [line.split(": ")[0] for line in preview.partition("\n\n")[0].splitlines()]
    assert names == [line.split(": ")[0] for line in request.splitlines()]
    said = preview + out + err
    secrets = [TOKEN, "s3cr3t-t0ken%2Fvalue", WHSEC]
    secrets += [sent[name] for name in ("authorization", "x-sign", "webhook-signature") if name in sent]
    assert not any(secret in said for secret in secrets)
    if "env:" in more and "signature" not in more:
        assert "${env:ACME_TOKEN}" in preview


ANSWERS = [
    pytest.param((200, {}, b"{}"), 0, ["delivered: answered 200 OK", "would end DELIVERED"], id="accepted"),
    pytest.param((409, {}, b"already exists"), 0, ["delivered before", "DUPLICATE_AT_DESTINATION"], id="has it"),
    pytest.param((422, {}, b"bad \x1b[31mphone"), 1, ["rejected: answered 422", "bad \\u001b[31mphone", "dead letter"], id="rejected"),
    pytest.param((503, {"Retry-After": "7200"}, b""), 1, ["retry-after: 7200", "it was not applied", "tried again about", "8 times more after that; nothing else is sent before"], id="busy"),
    pytest.param((500, {}, b"x" * 5_000), 1, ["nobody can know whether it was applied", "(more than the 2,048 characters shown)"], id="broken, with much to say"),
    pytest.param((401, {}, b""), 1, ["nothing of this connection can succeed", "would be paused", "referrals connections resume acme-crm"], id="credential"),
    pytest.param((410, {}, b""), 1, ["disabled by the receiver (410 Gone)", "would be paused"], id="gone"),
    pytest.param((0, {}, b""), 1, ["(no answer)", "nobody can know", "tried again about"], id="silence"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "code", "says"), ANSWERS)
def test_an_answer_is_told_in_words(
    run: Command, crm: Receiver, answer: tuple[int, dict[str, str], bytes], code: int, says: list[str]
) -> None:
    crm.answer = answer
    ended, out, err = run("connections", "test", "acme-crm", run.write(crm.port))
    assert ended == code, out
    for part in says:
        assert part in out
    assert "x" * 2_049 not in out
    assert "no receipt was written: topic" in err


@pytest.mark.parametrize(
    ("secret", "body"),
    [
        pytest.param(TOKEN, b"x" * 2_040 + TOKEN.encode() + b"y" * 99, id="cut in the middle"),
        pytest.param('s3cr3t"value', json.dumps({"sent": 's3cr3t"value'}).encode(), id="as JSON"),
        pytest.param("s3cr3t value", b"sent=s3cr3t+value", id="as a form"),
    ],
)
def test_a_secret_that_an_answer_repeats_is_not_shown(
    run: Command, crm: Receiver, monkeypatch: pytest.MonkeyPatch, secret: str, body: bytes
) -> None:
    monkeypatch.setenv("ACME_TOKEN", secret)
    crm.answer = (422, {}, body)
    folder = run.write(crm.port, '    auth: {kind: bearer, token: "${env:ACME_TOKEN}"}')
    _, out, _ = run("connections", "test", "acme-crm", folder)
    assert "answered 422" in out
    assert "s3cr3t" not in out


def test_a_test_is_flagged_its_own_and_changes_nothing(
    run: Command, crm: Receiver, valkey: Valkey, kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    assert run("init", "--from", "earliest", "--partitions", "2")[0] == 0
    assert run("connections", "apply", run.write(crm.port))[0] == 0
    assert run("connections", "pause", "acme-crm")[0] == 0
    file = tmp_path / "referral.json"
    file.write_text(json.dumps({
        "event_id": "e", "referral_id": "live-1", "event_type": "CREATED", "account_id": "acme", "campaign_id": "c-1",
        "campaign_type": "LEAD", "email": "zoe@example.com", "opted_in_at": "2026-03-01T00:00:00Z",
        "produced_at": "2026-03-01T00:00:00Z",
    }, indent=1))  # fmt: skip

    def state() -> dict[bytes, bytes]:
        with valkey.client() as client:
            return {key: client.dump(key) for key in client.keys("*")}

    before = state()
    crm.answer = (401, {}, b"")
    for _ in range(2):
        assert run("connections", "test", "acme-crm", "--referral", str(file))[0] == 1
    assert state() == before
    bodies = [json.loads(body) for *_, body in crm.requests]
    assert [(body["email"], body["is_test"]) for body in bodies] == [("zoe@example.com", True)] * 2
    ids = [body["referral_id"] for body in bodies]
    assert len({*ids, "live-1"}) == 3
    found = [
        receipts.decode(r.value or b"") for r in read_all(kafka.bootstrap, {}, Topics(topic_prefix).receipts)
    ]
    assert {(r.subject, r.outcome, r.referral_id, r.status) for r in found} == {
        (Subject.DELIVERY, Outcome.TEST, one, 401) for one in ids
    }
    assert sorted(r.subject_id for r in found) == sorted(delivery_id("acme-crm", one, 0) for one in ids)
    # Of another account it is nobody's to try.
    file.write_text(file.read_text().replace('"acme"', '"other"'))
    code, out, err = run("connections", "test", "acme-crm", "--referral", str(file))
    assert (code, out, len(crm.requests)) == (1, "", 2)
    assert "this referral is not for the connection" in err


@contextmanager
def pushing(tmp_path: Path, kafka: Kafka, prefix: str) -> Iterator[Deployment]:
    """Push runs; `acme-crm` holds what has no answer, as its key is forgotten before the next attempt."""
    with deployment(tmp_path, kafka.bootstrap, prefix, REFERRALS_ANY_PORT="true") as running:
        text = http_connection(running.crm, "acme-crm", key_ttl="60", retry_seconds="[120, 120]")
        running.write("acme", "account: acme\nconnections:\n" + text)
        running.init()
        running.start("push")
        yield running


def test_what_is_uncertain_waits_for_a_person(tmp_path: Path, kafka: Kafka, topic_prefix: str) -> None:
    with pushing(tmp_path, kafka, topic_prefix) as running:
        control(running, "lost")
        ids = [str(uuid.uuid4()) for _ in range(3)]
        made = [
            event(referral_id=one, account_id="acme", revision=1, produced_at=datetime.now(UTC))
            for one in ids
        ]
        running.publish(made)
        deliveries = [delivery_id("acme-crm", one, 1) for one in ids]

        def shown() -> list[str]:
            found = uncertain.show(running.settings, "acme-crm")
            assert found.count == len(found.rows)
            return sorted(row[0] for row in found.rows)

        wait_until(lambda: shown() == sorted(deliveries), "all are held", WITHIN, running)
        code, out, err = command(running, "connections", "uncertain", "acme-crm")
        assert code == 0
        assert "3 deliveries of acme-crm wait for a person" in err
        assert not any(value in out for value in PERSONAL_VALUES if value not in ("F", "35"))
        (listed,) = standing.rows(standing.read(running.settings))
        assert listed[-5:] == ("0", "3", "0", "", "")

        control(running, "ok")
        before = len(running.crm.effects("repeat"))
        told = uncertain.try_again(running.settings, "acme-crm", deliveries[0])
        assert told == "1 delivery of acme-crm will be tried again now"
        wait_until(
            lambda: len(running.crm.effects("repeat")) == before + 1,
            "it is sent with its key",
            WITHIN,
            running,
        )
        assert running.crm.effects("repeat")[-1]["key"] == deliveries[0]
        assert uncertain.give_up(running.settings, "acme-crm", deliveries[1]).startswith(
            "1 delivery of acme-crm given"
        )
        assert shown() == [deliveries[2]]
        with pytest.raises(Stop, match="waits for a person: `referrals connections uncertain acme-crm`"):
            uncertain.try_again(running.settings, "acme-crm", deliveries[1])
        assert command(running, "connections", "uncertain", "acme-crm", "--send-all")[0] == 0
        wait_until(lambda: running.pending() == 0, "the last is delivered", WITHIN, running)

        def ended() -> dict[str, tuple[Outcome, str | None]]:
            return {
                r.subject_id: (r.outcome, r.reason)
                for r in running.receipts()
                if "uncertain" not in r.subject_id
            }

        wait_until(lambda: len(ended()) == 3, "three ends are told", WITHIN, running)
        assert ended() == {
            deliveries[0]: (Outcome.DELIVERED, None),
            deliveries[1]: (
                Outcome.EXHAUSTED,
                "given up by an operator after an attempt nobody knows the end of",
            ),
            deliveries[2]: (Outcome.DELIVERED, None),
        }
        (letter,) = read_all(running.settings.kafka, {}, running.topics.dead_letters)
        assert letter.key == deliveries[1].encode()
        assert ids[1].encode() in (letter.value or b"")
        with running.valkey.client() as client:
            left = [
                key
                for key in client.keys("*push:lane:*")
                if b":made" not in key and client.type(key) != b"string"
            ]
            assert left == []


CORRECTED = Frozen("d", "r-1", 1, "acme", "c", 0, b"{}", removal=b"gone")


def test_what_is_let_go_is_due_first_and_what_waited_behind_it_next(
    valkey: Valkey, topic_prefix: str
) -> None:
    """Offsets 5 and 7, 9 are of one referral; 6 is another's, put off for its own reasons; 8 is given up."""
    keys = Keys(Topics(topic_prefix).referrals, Role.PUSH)
    lane, now = f"{keys.prefix(0)}lane:c", time.time()
    store = Store(valkey.url, append_only=False)
    with valkey.client() as client:
        client.hset(keys.head(0), mapping={"epoch": 1, "next": 10, "marks": 0, "set": 1})
        for offset in range(5, 10):
            body = replace(
                CORRECTED, delivery_id=f"d-{offset}", referral_id="r-2" if offset in {6, 8} else "r-1"
            )
            client.hset(f"{lane}:body", offset, body.freeze())
            client.incrby(f"{lane}:bytes", len(body.freeze()))
            client.zadd(f"{lane}:due", {str(offset): now * 1000})
        later = [
            Reschedule("c", 5, None, Tries(3, now - 99.0), "r-1"),
            Reschedule("c", 8, None, Tries(4, now - 99.0), "r-2"),
            Reschedule("c", 9, inf, Tries(), "r-1"),
            Reschedule("c", 7, inf, Tries(1), "r-1"),
            Reschedule("c", 6, now + 900, Tries(2), "r-2"),
        ]
        store.call(settle(keys, 0, 1, [], later))
        first, second = held.page(store, keys, 0, "c", 0)
        assert [(one.offset, one.tries.attempts) for one in (first, second)] == [(5, 3), (8, 4)]
        assert held.page(store, keys, 0, "c", 2) == []
        assert [held.send(store, keys, [first]), held.send(store, keys, [first])] == [1, 0]
        again = dict(client.zrange(f"{lane}:again", 0, -1, withscores=True))
        due = again[b"5"]
        assert 0 <= due - now * 1000 < 60_000
        assert again == {b"5": due, b"7": due + 1, b"9": due + 2, b"6": round((now + 900) * 1000)}
        assert client.hget(f"{lane}:tries", "5") == b"3 0"
        lanes = held.released(store, keys, [0, 1])
        assert lanes == [(0, "c")]
        held.noticed(store, keys, lanes)
        assert held.released(store, keys, [0, 1]) == []
        # It may have been applied: the receiver can still be told to forget it.
        assert [held.drop(store, keys, [second], now), held.drop(store, keys, [second], now)] == [1, 0]
        assert b"gone" in client.hget(f"{lane}:made", "r-2")
        assert (client.zcard(f"{lane}:held"), client.hexists(f"{lane}:body", "8")) == (0, False)
        assert client.llen(f"{keys.prefix(0)}outbox") == 1
        assert client.hget(f"{lane}:late", "r-2") == b"6"
        left = sum(len(body) for body in client.hvals(f"{lane}:body"))
        assert int(client.get(f"{lane}:bytes")) == left
    store.close()


def command(running: Deployment, *arguments: str) -> tuple[int, str, str]:
    """As a process of its own, as the operator runs it."""
    done = subprocess.run(
        [sys.executable, "-m", "console", *arguments], cwd=ROOT, env={**os.environ, **running.environment},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def control(running: Deployment, mode: str) -> None:
    running.crm.modes({"/acme-crm": mode})
