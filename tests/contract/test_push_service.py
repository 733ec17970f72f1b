"""The push service as it runs: processes on a real Kafka, Valkey and receivers. Each test has accounts of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from console import connections
from consumer.breaker import FAILURES
from consumer.kafka_out import KafkaOut, Out
from consumer.keys import Role
from consumer.metrics import ATTEMPT_OUTCOMES, DEAD_LETTER_REASONS, FENCED_REASONS, GATE_STATES
from consumer.reading import read_all
from consumer.stream import Record
from deploy.embedded.processes import Child, Command, start
from schemas import referral as referrals
from schemas.delivery import Outcome, delivery_id
from schemas.receipt import Receipt, Subject, coordinates
from tests.support import oracle
from tests.support.deployment import PARTITIONS, ROOT, Deployment, deployment, http_connection, wait_until
from tests.support.kafka import Kafka
from tests.support.referral_events import PERSONAL_VALUES, event

#: Small, so that the bound on repeats means something.
MAX_IN_FLIGHT = 64
#: Seconds; busy machines are slow, a lost delivery never comes.
WITHIN = 30.0
#: A receiver may be in trouble for long, and is asked again soon.
PATIENT = f"[{', '.join(['1'] * 40)}]"
#: Account (its connection is <account>-crm) to the connection's options.
ACCOUNTS: dict[str, dict[str, str]] = {
    "busy": {"retry_seconds": PATIENT},
    "picky": {},
    "locked": {},
    "silent": {"retry_seconds": PATIENT, "timeout": "1", "max_in_flight": "8"},
    "quick": {},
    "poisoned": {},
    "routed": {},
    "removed": {},
    "drained": {},
    "probed": {},
    "killed": {"max_in_flight": "32"},
    "frozen": {"max_in_flight": "32", "retry_seconds": PATIENT},
}


class Recorder:
    """A CRM that keeps every request whole, and answers on each path the status it was told, else 200."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.status: dict[str, int] = {}
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                recorder.requests.append((self.command, self.path, dict(self.headers.items()), body))
                self.send_response(recorder.status.get(self.path, 200))
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_PUT = do_POST

            def log_message(self, format: str, *args: Any) -> None:
                """Not a word."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def of(self, path: str) -> list[tuple[str, str, dict[str, str], bytes]]:
        return [request for request in list(self.requests) if request[1] == path]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass
class Push:
    """The deployment and what tests ask of it. `at_start`: /metrics before the first record."""

    running: Deployment
    out: KafkaOut
    recorder: Recorder
    at_start: str = ""
    published: int = 0

    def publish(self, account: str, count: int = 1, **changes: Any) -> list[str]:
        """So many new referrals; their ids."""
        ids = [str(uuid.uuid4()) for _ in range(count)]
        self.publish_all([made(account, referral_id, **changes) for referral_id in ids])
        return ids

    def publish_all(self, events: Sequence[dict[str, Any]]) -> None:
        self.send([(e["referral_id"], referrals.encode(e)) for e in events])

    def send(self, records: Sequence[tuple[str, bytes | None]], **headers: str) -> None:
        topic = self.running.topics.referrals
        self.out.send([Out(topic, key, value, headers) for key, value in records])
        self.published += len(records)

    def wait(self, condition: Callable[[], Any], what: str, within: float = WITHIN) -> None:
        wait_until(condition, what, within, self.running)

    def wait_taken(self) -> None:
        self.wait(lambda: self.running.next_offsets(Role.PUSH) == self.published, "all records are taken")

    def pending(self, account: str) -> int:
        """Deliveries of its connection in Redis that have not ended."""
        keys = self.running.keys(Role.PUSH)
        with self.running.valkey.client() as client:
            return sum(client.hlen(f"{keys.prefix(p)}lane:{account}-crm:body") for p in range(PARTITIONS))

    def wait_ended(self, account: str) -> None:
        self.wait_taken()
        self.wait(lambda: self.pending(account) == 0, f"every delivery of {account} has ended")

    def head(self, field: str) -> list[bytes | None]:
        keys = self.running.keys(Role.PUSH)
        with self.running.valkey.client() as client:
            return [client.hget(keys.head(p), field) for p in range(PARTITIONS)]

    def paused(self, account: str) -> str | None:
        with self.running.valkey.client() as client:
            found = client.hget(self.running.keys(Role.PUSH).paused, f"{account}-crm")
        return None if found is None else found.decode()

    def resume(self, account: str) -> None:
        assert connections.resume(self.running.settings, f"{account}-crm")

    def receipts(self, count: int, chosen: Callable[[Receipt], bool]) -> list[Receipt]:
        """The chosen receipts, waited for: they reach Kafka a moment after the end they tell of."""
        found: list[Receipt] = []

        def all_there() -> bool:
            found[:] = filter(chosen, self.running.receipts())
            return len(found) >= count

        self.wait(all_there, f"{count} receipts")
        return found

    def receipts_of(self, account: str, count: int) -> list[Receipt]:
        found = self.receipts(count, lambda receipt: receipt.connection == f"{account}-crm")
        assert len(found) == count
        return found

    def dead_letters(self) -> dict[str, Record]:
        """The first of each key."""
        found: dict[str, Record] = {}
        for letter in read_all(self.running.settings.kafka, {}, self.running.topics.dead_letters):
            found.setdefault((letter.key or b"").decode(), letter)
        return found

    def records(self, referral_id: str) -> list[Record]:
        """What stands under this key in the referral topic, in order."""
        every = read_all(self.running.settings.kafka, {}, self.running.topics.referrals)
        return [record for record in every if record.key == referral_id.encode()]

    def mode(self, account: str, mode: str) -> None:
        self.running.crm.modes({f"/{account}-crm": mode})

    def counts(self, account: str) -> Counter[str]:
        return self.running.crm.modes({}).get(f"{account}-crm", Counter())

    def verdict(self, account: str, wanted: Sequence[str]) -> oracle.Verdict:
        return oracle.crm(self.running.crm.folder / "effects.jsonl", f"{account}-crm", wanted)

    def arrived(self, account: str) -> list[dict[str, Any]]:
        return [e for e in self.running.crm.effects("effect") if e["connection"] == f"{account}-crm"]

    def ready(self, name: str, text: str) -> bool:
        return get(self.running.children[name], "/readyz") == (200, f"{text}\n")


def made(account: str, referral_id: str, **changes: Any) -> dict[str, Any]:
    now = datetime.now(UTC)
    return event(referral_id=referral_id, account_id=account, produced_at=now, **changes)


def get(child: Child, path: str) -> tuple[int, str]:
    """What a service's own port answers."""
    started = next(line for line in child.output().splitlines() if '"service.started"' in line)
    address = f"http://127.0.0.1:{json.loads(started)['port']}{path}"
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def metric(exposition: str, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", exposition, re.MULTILINE)
    assert found is not None, f"no {series} in /metrics"
    return float(found[1])


def recorded(port: int, account: str, fields: str, more: str = "") -> str:
    return f"""account: {account}
connections:
  - name: {account}-crm
    kind: http
    url: http://127.0.0.1:{port}/{account}
    retry_seconds: {PATIENT}
    fields: {fields}{more}
"""


@pytest.fixture(scope="module")
def push(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Push]:
    prefix = f"t{uuid.uuid4().hex[:12]}."
    folder = tmp_path_factory.mktemp("push")
    recorder = Recorder()
    with deployment(folder, kafka.bootstrap, prefix, REFERRALS_MAX_IN_FLIGHT=str(MAX_IN_FLIGHT)) as running:
        for account, options in ACCOUNTS.items():
            connection = http_connection(running.crm, f"{account}-crm", **options)
            running.write(account, f"account: {account}\nconnections:\n{connection}")
        running.write("edited", recorded(recorder.port, "edited", "[referral_id, email]"))
        running.write("draft", recorded(recorder.port, "draft", DRAFT_FIELDS))
        running.write("plain", recorded(recorder.port, "plain", "[email]", PLAIN_OPTIONS))
        running.init()
        running.start("push")
        found = Push(running, KafkaOut(kafka.bootstrap, {}), recorder)
        found.at_start = get(running.children["push"], "/metrics")[1]
        found.wait(lambda: found.ready("push", f"{PARTITIONS} partitions"), "it has all partitions")
        yield found
    recorder.close()


DRAFT_FIELDS = (
    "[referral_id, first_name, {name: sex, from: gender, values: {F: Female}}, birth_date, bid_price, age, "
    "answers.q1, {name: origin, constant: marketplace}, partner_id]"
)
PLAIN_OPTIONS = """
    method: PUT
    idempotency: {header: X-Request-Id, quoted: false}
    headers: {Content-Type: application/vnd.crm+json, X-Api-Key: "${env:SFTP_PASSWORD}"}"""


def test_body_and_key_go_out_as_the_file_says(push: Push) -> None:
    [drafted], [plain] = push.publish("draft"), push.publish("plain")
    push.wait_ended("draft")
    push.wait_ended("plain")
    [(method, _, headers, body)] = push.recorder.of("/draft")
    assert body.decode() == (
        f'{{"referral_id":"{drafted}","first_name":"Zoë","sex":"Female","birth_date":"1990-12-31",'
        '"bid_price":"1.2500","age":35,"answers.q1":"Fortnightly","origin":"marketplace","partner_id":null}'
    )
    assert method == "POST"
    named = {name.lower(): value for name, value in headers.items()}
    assert named["idempotency-key"] == f'"{delivery_id("draft-crm", drafted, 2)}"'
    assert named["content-type"] == "application/json"
    assert named["user-agent"] == "referral-delivery"
    assert int(named["content-length"]) == len(body)
    [(method, _, headers, body)] = push.recorder.of("/plain")
    named = {name.lower(): value for name, value in headers.items()}
    assert (method, body) == ("PUT", b'{"email":"zoe@example.com"}')
    assert named["x-request-id"] == delivery_id("plain-crm", plain, 2)
    assert "idempotency-key" not in named
    assert (named["content-type"], named["x-api-key"]) == ("application/vnd.crm+json", "sesame")


@pytest.mark.case(20)
def test_a_busy_receiver_gets_everything_later(push: Push) -> None:
    push.mode("busy", "503")
    ids = push.publish("busy", 300)
    push.wait_taken()
    push.wait(lambda: push.counts("busy")["refused"] >= FAILURES, "it was asked again and again")
    assert push.pending("busy") == 300
    push.mode("busy", "ok")
    push.wait_ended("busy")
    assert push.verdict("busy", ids) == oracle.Verdict(expected=300, delivered=300, lost=0, duplicates=0)
    receipts = push.receipts_of("busy", 300)
    assert {receipt.outcome for receipt in receipts} == {Outcome.DELIVERED}
    # Every refusal is an attempt of some delivery, and nothing else is.
    assert sum(receipt.attempts - 1 for receipt in receipts) == push.counts("busy")["refused"]
    assert {receipt.referral_id for receipt in receipts} == set(ids)
    # A receiver that fails is not asked for each delivery.
    assert push.counts("busy")["refused"] <= 2 * FAILURES


@pytest.mark.case(21)
def test_what_the_receiver_rejects_is_a_dead_letter_with_its_body(push: Push) -> None:
    push.mode("picky", "400")
    ids = push.publish("picky", 20)
    push.wait_ended("picky")
    receipts = {receipt.referral_id: receipt for receipt in push.receipts_of("picky", 20)}
    assert receipts.keys() == set(ids)
    assert push.counts("picky")["refused"] == 20
    letters = push.dead_letters()
    for referral_id in ids:
        key = delivery_id("picky-crm", referral_id, 2)
        body = json.dumps(
            {"referral_id": referral_id, "email": "zoe@example.com", "first_name": "Zoë", "sex": "F"},
            ensure_ascii=False,
            separators=(",", ":"),
        ).encode()
        receipt, letter = receipts[referral_id], letters[key]
        assert (receipt.outcome, receipt.status, receipt.attempts) == (Outcome.REJECTED, 400, 1)
        assert (receipt.subject, receipt.subject_id) == (Subject.DELIVERY, key)
        assert receipt.digest == hashlib.sha256(body).hexdigest()
        assert letter.value == body
        assert {name: value.decode() for name, value in letter.headers} == {
            "delivery_id": key,
            "connection": "picky-crm",
            "referral_id": referral_id,
            "outcome": "REJECTED",
            "reason": "answered 400 Bad Request",
            "attempts": "1",
        }


def test_a_refused_credential_pauses_the_connection_until_it_is_resumed(push: Push) -> None:
    push.mode("locked", "401")
    ids = push.publish("locked", 50)
    push.wait(lambda: push.paused("locked"), "the connection is paused")
    push.wait_taken()
    assert "401" in (push.paused("locked") or "")
    later = push.publish("locked", 10)
    push.wait_taken()
    refused = push.counts("locked")["refused"]
    assert 0 < refused <= 16
    assert push.pending("locked") == 60
    push.mode("locked", "ok")
    push.resume("locked")
    push.wait_ended("locked")
    assert push.verdict("locked", [*ids, *later]) == oracle.Verdict(60, 60, 0, 0)
    assert push.counts("locked")["refused"] == refused
    # What stood still has spent no attempt.
    assert {(r.outcome, r.attempts) for r in push.receipts_of("locked", 60)} == {(Outcome.DELIVERED, 1)}
    assert push.paused("locked") is None


@pytest.mark.case(22)
def test_a_receiver_that_never_answers_delays_nobody_else(push: Push) -> None:
    push.mode("silent", "hang")
    pairs = [(str(uuid.uuid4()), str(uuid.uuid4())) for _ in range(100)]
    push.publish_all([made(a, i) for pair in pairs for a, i in zip(("silent", "quick"), pair, strict=True)])
    published = time.time()
    push.wait(lambda: len(push.arrived("quick")) == 100, "the others are delivered", within=10)
    assert max(effect["at"] for effect in push.arrived("quick")) - published < 3
    push.wait_taken()
    assert push.pending("silent") == 100
    assert push.arrived("silent") == []
    push.wait(lambda: push.counts("silent")["refused"] > 1, "it was asked again after its time was up")
    push.mode("silent", "ok")
    push.wait_ended("silent")
    assert push.verdict("silent", [silent for silent, _ in pairs]) == oracle.Verdict(100, 100, 0, 0)
    assert push.verdict("quick", [quick for _, quick in pairs]) == oracle.Verdict(100, 100, 0, 0)
    receipts = push.receipts_of("silent", 100)
    assert {receipt.outcome for receipt in receipts} == {Outcome.DELIVERED}
    assert sum(receipt.attempts - 1 for receipt in receipts) == push.counts("silent")["refused"]


def test_poison_goes_to_dead_letters_and_the_partition_goes_on(push: Push) -> None:
    [referral_id] = push.publish("poisoned")
    whole = referrals.encode(made("poisoned", referral_id, revision=3))
    poison: list[bytes | None] = [
        b"garbage \xff\x00",
        b"",
        None,
        whole[:-7],
        whole + b"!",
        b"\0\0\0\0\x07" + whole[10:],
    ]
    push.send([(referral_id, value) for value in poison], trace="a1", agent="partner\xff")
    push.send([(referral_id, whole)])
    push.wait_ended("poisoned")
    assert push.verdict("poisoned", [referral_id] * 2) == oracle.Verdict(2, 1, 0, 0)
    records = push.records(referral_id)
    assert len({record.partition for record in records}) == 1
    letters = push.dead_letters()
    reasons = []
    for record, value in zip(records[1:-1], poison, strict=True):
        letter = letters[coordinates(record.topic, record.partition, record.offset)]
        assert letter.value == record.value == value
        headers = {name: given.decode() for name, given in letter.headers}
        reasons.append(headers.pop("reason"))
        assert headers == {
            "topic": push.running.topics.referrals,
            "partition": str(record.partition),
            "offset": str(record.offset),
            "original-trace": "a1",
            "original-agent": "partner\xff",
        }
    single_object = "no Avro single-object header (C3 01) in front"
    assert reasons[:3] == [single_object, "the record has no value", "the record has no value"]
    assert reasons[3].startswith("not an Avro datum of its schema")
    assert reasons[4:] == ["1 bytes left over after the datum", single_object]
    at = {coordinates(r.topic, r.partition, r.offset) for r in records[1:-1]}
    receipts = push.receipts(len(poison), lambda receipt: receipt.subject_id in at)
    assert {receipt.outcome for receipt in receipts} == {Outcome.UNDECODABLE}
    assert sorted(r.reason or "" for r in receipts) == sorted(reasons)


@pytest.mark.case(33)
def test_what_becomes_no_delivery_leaves_a_receipt_of_its_record(push: Push) -> None:
    tested, unrouted, twice = (str(uuid.uuid4()) for _ in range(3))
    events = [
        made("routed", tested, is_test=True),
        made("nobody-we-know", unrouted),
        made("routed", twice),
        made("routed", twice, event_id="another", email="other@example.com"),
    ]
    push.publish_all(events)
    push.wait_ended("routed")
    assert push.verdict("routed", [twice]) == oracle.Verdict(1, 1, 0, 0)
    mine = {tested, unrouted, twice}
    receipts = push.receipts(4, lambda receipt: receipt.referral_id in mine)
    assert {(r.referral_id, r.outcome) for r in receipts} == {
        (tested, Outcome.TEST),
        (unrouted, Outcome.UNROUTED),
        (twice, Outcome.DELIVERED),
        (twice, Outcome.DUPLICATE_UPSTREAM),
    }
    doubled = push.records(twice)[1]
    [duplicate] = [r for r in receipts if r.outcome is Outcome.DUPLICATE_UPSTREAM]
    assert duplicate.subject_id == coordinates(doubled.topic, doubled.partition, doubled.offset)
    assert (duplicate.partition, duplicate.offset) == (doubled.partition, doubled.offset)
    assert duplicate.digest == hashlib.sha256(doubled.value or b"").hexdigest()


def test_what_was_withdrawn_or_erased_while_it_waited_is_never_sent(push: Push) -> None:
    paused = "referral_connections_paused"

    def shown() -> float:
        return metric(get(push.running.children["push"], "/metrics")[1], paused)

    before = shown()
    assert connections.pause(push.running.settings, "removed-crm", "the test says so")
    push.wait(lambda: shown() == before + 1, "the service knows")
    withdrawn, corrected, erased, kept, early, never = (str(uuid.uuid4()) for _ in range(6))
    push.publish_all(
        [
            *(made("removed", i, revision=2) for i in (withdrawn, corrected, erased, kept)),
            made("removed", early, event_type="WITHDRAWN", revision=2),
            made("removed", never, event_type="ERASED", revision=0),
        ]
    )
    push.wait_taken()
    push.publish_all(
        [
            made("removed", withdrawn, event_type="WITHDRAWN", revision=2),
            made("removed", corrected, event_type="WITHDRAWN", revision=1),
            made("removed", erased, event_type="ERASED", revision=0),
            made("removed", early, revision=2),
            made("removed", never, revision=9),
        ]
    )
    push.wait_taken()
    # The receipts do not wait for the connection.
    gone = {r.referral_id: r for r in push.receipts_of("removed", 4)}
    assert gone.keys() == {withdrawn, erased, early, never}
    assert {(r.outcome, r.attempts) for r in gone.values()} == {(Outcome.WITHDRAWN, 0)}
    assert push.arrived("removed") == []
    push.resume("removed")
    push.wait_ended("removed")
    receipts = {r.referral_id: r.outcome for r in push.receipts_of("removed", 6)}
    assert {i for i, outcome in receipts.items() if outcome is Outcome.DELIVERED} == {corrected, kept}
    assert push.verdict("removed", [corrected, kept]) == oracle.Verdict(2, 2, 0, 0)


def test_an_edit_leaves_what_was_accepted_before_as_it_was(push: Push) -> None:
    push.recorder.status["/edited"] = 429
    old = push.publish("edited", 20)

    def tried() -> set[str]:
        return {json.loads(body)["referral_id"] for *_, body in push.recorder.of("/edited")}

    push.wait(lambda: tried() == set(old), "each was tried")
    push.running.write("edited", recorded(push.recorder.port, "edited", "[referral_id, city, email]"))
    settings = push.running.settings
    applied = connections.apply(settings, connections.read(settings, None))
    assert applied.version == applied.before + 1
    assert applied.difference.changed == {"edited-crm": ("fields",)}
    new = push.publish("edited", 20)
    push.wait_taken()
    push.recorder.status["/edited"] = 200
    push.wait_ended("edited")
    seen: dict[str, set[tuple[str, bytes]]] = {}
    for _, _, headers, body in push.recorder.of("/edited"):
        key = headers.get("Idempotency-Key") or headers["idempotency-key"]
        seen.setdefault(json.loads(body)["referral_id"], set()).add((key, body))
    expected = {i: f'{{"referral_id":"{i}","email":"zoe@example.com"}}' for i in old}
    expected |= {i: f'{{"referral_id":"{i}","city":"Wagga","email":"zoe@example.com"}}' for i in new}
    assert seen == {
        i: {(f'"{delivery_id("edited-crm", i, 2)}"', body.encode())} for i, body in expected.items()
    }
    assert {r.outcome for r in push.receipts_of("edited", 40)} == {Outcome.DELIVERED}


def test_a_stop_finishes_what_is_under_way_and_gives_the_lease_back(push: Push) -> None:
    push.mode("drained", "slow:300")
    ids = push.publish("drained", 200)
    push.wait_taken()
    push.wait(lambda: push.arrived("drained"), "requests are under way")
    assert push.running.children["push"].stop() == 0
    try:
        assert push.head("lease") == [b"0"] * PARTITIONS
        sent = push.counts("drained")
        left = push.pending("drained")
        assert left > 0
        assert sent == {"effect": 200 - left}
        # No effect without its receipt: the next owner knows what was done.
        delivered = {r.referral_id for r in push.receipts_of("drained", 200 - left)}
        assert delivered == {effect["referral_id"] for effect in push.arrived("drained")}
    finally:
        push.mode("drained", "ok")
        push.running.start("push")
    push.wait_ended("drained")
    assert push.verdict("drained", ids) == oracle.Verdict(200, 200, 0, 0)


AT_ZERO = [
    "referral_consumed_total",
    "referral_replayed_dropped_total",
    "referral_duplicates_dropped_total",
    "referral_offset_gap_total",
    "referral_miskeyed_total",
    "referral_redis_rewind_total",
    "referral_unrouted_total",
    "referral_removals_total",
    "referral_push_latency_seconds_count",
    "referral_delivery_age_seconds_count",
    "referral_push_pending",
    "referral_push_in_flight",
    "referral_push_oldest_pending_timestamp_seconds",
    "referral_connections_paused",
    "referral_outbox_length",
    "referral_push_uncertain_total",
    "referral_push_parked",
    *(f'referral_connections_held_back{{state="{state}"}}' for state in GATE_STATES),
    'referral_ambiguous_total{sink="crm"}',
    *(f'referral_fenced_total{{reason="{reason}"}}' for reason in FENCED_REASONS),
    *(f'referral_dlq_total{{reason="{reason}"}}' for reason in DEAD_LETTER_REASONS),
    *(f'referral_push_attempts_total{{outcome="{outcome}"}}' for outcome in ATTEMPT_OUTCOMES),
    *(f'referral_deliveries_ended_total{{outcome="{outcome}"}}' for outcome in Outcome),
    *(f'referral_lag_records{{partition="{partition}"}}' for partition in range(PARTITIONS)),
]


def test_every_series_stands_at_zero_before_the_first_record(push: Push) -> None:
    assert {series: metric(push.at_start, series) for series in AT_ZERO} == dict.fromkeys(AT_ZERO, 0.0)
    assert metric(push.at_start, "referral_last_progress_timestamp_seconds") >= 0


def test_what_the_probes_answer_and_the_figures_count(push: Push) -> None:
    child = push.running.children["push"]
    push.wait(lambda: push.ready("push", f"{PARTITIONS} partitions"), "it has all partitions")
    assert get(child, "/healthz") == (200, "ok\n")
    assert get(child, "/nothing")[0] == 404
    before = get(child, "/metrics")[1]
    push.publish("probed", 5)
    push.wait_ended("probed")
    after = get(child, "/metrics")[1]

    def grown(series: str) -> float:
        return metric(after, series) - metric(before, series)

    assert grown("referral_consumed_total") == 5
    assert grown('referral_push_attempts_total{outcome="delivered"}') == 5
    assert grown('referral_deliveries_ended_total{outcome="DELIVERED"}') == 5
    assert grown("referral_push_latency_seconds_count") == 5
    assert 0 < grown("referral_push_latency_seconds_sum") < 5 * 5
    assert abs(time.time() - metric(after, "referral_last_progress_timestamp_seconds")) < 10
    assert not any(value in after for value in PERSONAL_VALUES if len(value) > 3)
    log = child.command.log.read_text()
    assert not any(value in log for value in ("zoe@example.com", "Nguyễn", "+61400000001", "sesame"))


@contextmanager
def second_worker(push: Push) -> Iterator[Child]:
    """A second push service, once the partitions are shared."""
    running = push.running
    argv = (sys.executable, "-m", "consumer")
    log = running.folder / "push-2.log"
    command = Command(
        "push-2", argv, log, lambda out: "service.started" in out, running.environment, folder=ROOT
    )
    running.children["push-2"] = start(command)
    try:
        push.wait(lambda: shared(push), "the partitions are shared")
        yield running.children["push-2"]
    finally:
        running.children.pop("push-2").kill()
        push.wait(lambda: push.ready("push", f"{PARTITIONS} partitions"), "it has all partitions again")


def shared(push: Push) -> bool:
    return all(push.ready(name, f"{PARTITIONS // 2} partitions") for name in ("push", "push-2"))


def test_a_killed_worker_s_deliveries_are_taken_over(push: Push) -> None:
    push.mode("killed", "slow:50")
    with second_worker(push) as victim:
        ids = push.publish("killed", 2_000)
        push.wait(lambda: push.counts("killed")["effect"] >= 400, "referrals flow")
        victim.kill()
        assert push.pending("killed") > 0
        push.wait_ended("killed")
        verdict = push.verdict("killed", ids)
        print(verdict)
        assert (verdict.delivered, verdict.lost, verdict.duplicates, verdict.mismatches) == (2_000, 0, 0, 0)
        assert verdict.repeats <= MAX_IN_FLIGHT
        assert {r.outcome for r in push.receipts_of("killed", 2_000)} == {Outcome.DELIVERED}


@pytest.mark.case(2)
def test_a_worker_that_froze_starts_nothing_more_of_what_was_taken_over(push: Push) -> None:
    push.mode("frozen", "slow:50")
    with second_worker(push) as zombie:
        ids = push.publish("frozen", 800)
        push.wait(lambda: push.counts("frozen")["effect"] >= 100, "referrals flow")
        os.kill(zombie.pid, signal.SIGSTOP)
        # All that is left stays left, so that both have it in memory when the zombie wakes.
        push.mode("frozen", "429:1")
        try:
            push.wait(lambda: push.ready("push", f"{PARTITIONS} partitions"), "the other has its partitions")
            push.wait(lambda: inherited(push), "the other has its deliveries")
            push.mode("frozen", "slow:20")
        finally:
            os.kill(zombie.pid, signal.SIGCONT)
        push.wait_ended("frozen")
        push.wait(lambda: shared(push), "it takes its part again")
        ids += push.publish("frozen", 100)
        push.wait_ended("frozen")
        verdict = push.verdict("frozen", ids)
        print(verdict)
        assert (verdict.delivered, verdict.lost, verdict.duplicates, verdict.mismatches) == (900, 0, 0, 0)
        assert verdict.repeats <= MAX_IN_FLIGHT
        assert {r.outcome for r in push.receipts_of("frozen", 900)} == {Outcome.DELIVERED}
        assert zombie.stop() == 0


def inherited(push: Push) -> bool:
    """The first worker has everything in memory that is pending."""
    pending = push.pending("frozen")
    assert pending > 0
    loaded = metric(get(push.running.children["push"], "/metrics")[1], "referral_push_pending")
    return loaded >= pending
