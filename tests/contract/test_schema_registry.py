"""Confluent-framed records: a push service, and a Schema Registry that has its troubles."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

import pytest

from consumer.kafka_out import KafkaOut, Out
from consumer.keys import Role
from consumer.reading import read_all
from consumer.stream import Record
from schemas import codec
from schemas import referral as referrals
from schemas.delivery import Outcome
from schemas.receipt import coordinates
from tests.support.deployment import PARTITIONS, Deployment, deployment, http_connection, wait_until
from tests.support.kafka import Kafka
from tests.support.referral_events import event

WITHIN = 30.0
SHIPPED = (files("schemas") / "avro" / "referral_event.v1.avsc").read_text("utf-8")
#: A later version of upstream's: a field we do not know in front, one we know gone.
EVOLVED = json.loads(SHIPPED)
EVOLVED["fields"] = [
    {"name": "loyalty", "type": "string"},
    *(field for field in EVOLVED["fields"] if field["name"] != "title"),
]
#: What the registry answers while it is in trouble: status, content type, body. None: it hangs up.
TROUBLES: dict[str, tuple[int, str, bytes] | None] = {
    "internal error": (
        500,
        "application/json",
        b'{"error_code":50001,"message":"Error in the backend data store"}',
    ),
    "not ready": (503, "text/plain", b"no leader"),
    "another server's 404": (404, "text/html", b"<h1>Not Found</h1>"),
    "another server's 200": (200, "text/html", b"<h1>Welcome</h1>"),
    "hanging up": None,
}


class SchemaRegistry:
    """`GET /schemas/ids/{id}` as Confluent's answers it. `asked`: the ids of all requests, in order."""

    def __init__(self) -> None:
        self.schemas: dict[int, dict[str, str]] = {}
        self.trouble: str | None = None
        self.asked: list[int] = []
        self._met: Counter[str] = Counter()
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_GET(self) -> None:
                asked = re.fullmatch(r"/schemas/ids/(\d+)(\?.*)?", self.path)
                assert asked is not None
                given = registry.answer(int(asked[1]))
                self.close_connection = given is None
                if given is not None:
                    status, kind, body = given
                    self.send_response(status)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Not a word."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def add(self, schema: str, kind: str = "AVRO") -> int:
        """A new id. As the original, it does not name the type where it is Avro."""
        schema_id = 1_000 + len(self.schemas)
        self.schemas[schema_id] = {"schema": schema, **({} if kind == "AVRO" else {"schemaType": kind})}
        return schema_id

    def answer(self, schema_id: int) -> tuple[int, str, bytes] | None:
        self.asked.append(schema_id)
        trouble = self.trouble
        if trouble is not None:
            self._met[trouble] += 1
            return TROUBLES[trouble]
        found = self.schemas.get(schema_id)
        kind = "application/vnd.schemaregistry.v1+json"
        if found is None:
            return (
                404,
                kind,
                json.dumps({"error_code": 40403, "message": f"Schema {schema_id} not found"}).encode(),
            )
        return 200, kind, json.dumps(found).encode()

    def met(self, trouble: str) -> int:
        """How many requests met this trouble."""
        return self._met[trouble]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass
class Fed:
    """A push service that reads Confluent-framed records."""

    running: Deployment
    registry: SchemaRegistry
    out: KafkaOut
    published: int = 0

    def send(self, *values: bytes, key: str) -> None:
        self.out.send([Out(self.running.topics.referrals, key, value) for value in values])
        self.published += len(values)

    def wait(self, condition: Any, what: str) -> None:
        wait_until(condition, what, WITHIN, self.running)

    def taken(self) -> bool:
        return self.running.next_offsets(Role.PUSH) == self.published

    def wait_ended(self) -> None:
        self.wait(self.taken, "all records are taken")
        self.wait(lambda: self.running.pending() == 0, "all pushes have ended")

    def delivered(self, referral_id: str) -> int:
        return sum(effect["referral_id"] == referral_id for effect in self.running.crm.effects("effect"))

    def letters(self, referral_id: str) -> list[tuple[Record, str, Record]]:
        """(dead letter, its reason, the record it was) of the records under this key, in order."""
        kafka, topics = self.running.settings.kafka, self.running.topics
        letters = {
            (letter.key or b"").decode(): letter for letter in read_all(kafka, {}, topics.dead_letters)
        }
        named = [
            (letters.get(coordinates(record.topic, record.partition, record.offset)), record)
            for record in read_all(kafka, {}, topics.referrals)
            if record.key == referral_id.encode()
        ]
        return [
            (letter, dict(letter.headers)["reason"].decode(), record) for letter, record in named if letter
        ]


@pytest.fixture(scope="module")
def fed(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fed]:
    registry = SchemaRegistry()
    folder, prefix = tmp_path_factory.mktemp("registry"), f"t{uuid.uuid4().hex[:12]}."
    with deployment(folder, kafka.bootstrap, prefix, REFERRALS_SCHEMA_REGISTRY=registry.url) as running:
        running.write("acme", "account: acme\nconnections:\n" + http_connection(running.crm, "acme-crm"))
        running.init()
        running.start("push")
        yield Fed(running, registry, KafkaOut(kafka.bootstrap, {}))
    registry.close()


@pytest.fixture
def referral_id() -> str:
    return str(uuid.uuid4())


def framed(schema_id: int, referral_id: str, **changes: Any) -> bytes:
    return referrals.encode_confluent(event(referral_id=referral_id, **changes), schema_id)


def test_a_registered_schema_is_asked_for_once(fed: Fed, referral_id: str) -> None:
    schema_id = fed.registry.add(SHIPPED)
    fed.send(*(framed(schema_id, referral_id, revision=n) for n in range(1, 21)), key=referral_id)
    fed.wait_ended()
    assert fed.delivered(referral_id) == 20
    assert fed.registry.asked.count(schema_id) == 1
    assert fed.letters(referral_id) == []


def test_both_framings_stand_side_by_side(fed: Fed, referral_id: str) -> None:
    schema_id = fed.registry.add(SHIPPED)
    single = referrals.encode(event(referral_id=referral_id, revision=1))
    fed.send(single, framed(schema_id, referral_id, revision=2), key=referral_id)
    fed.wait_ended()
    assert fed.delivered(referral_id) == 2


def test_a_later_version_is_read_into_ours(fed: Fed, referral_id: str) -> None:
    schema_id = fed.registry.add(json.dumps(EVOLVED))
    datum = {**event(referral_id=referral_id), "loyalty": "gold"}
    del datum["title"]
    header = codec.CONFLUENT + struct.pack(">I", schema_id)
    fed.send(codec.encode(codec.parse(json.dumps(EVOLVED)), header, datum), key=referral_id)
    fed.wait_ended()
    assert fed.delivered(referral_id) == 1
    body = f'{{"referral_id":"{referral_id}","email":"zoe@example.com","first_name":"Zoë","sex":"F"}}'
    [digest] = [e["sha256"] for e in fed.running.crm.effects("effect") if e["referral_id"] == referral_id]
    assert digest == hashlib.sha256(body.encode()).hexdigest()


def test_an_id_the_registry_does_not_have_is_a_dead_letter_and_asked_for_once(
    fed: Fed, referral_id: str
) -> None:
    schema_id = fed.registry.add(SHIPPED)
    unknown = [framed(77, referral_id, revision=n) for n in range(1, 6)]
    fed.send(*unknown, framed(schema_id, referral_id, revision=9), key=referral_id)
    fed.wait_ended()
    assert fed.delivered(referral_id) == 1
    found = fed.letters(referral_id)
    assert [letter.value for letter, _, _ in found] == unknown
    assert {reason for _, reason, _ in found} == {"schema 77: the Schema Registry has no such schema"}
    assert fed.registry.asked.count(77) == 1
    at = {coordinates(record.topic, record.partition, record.offset) for _, _, record in found}

    def undecodable() -> bool:
        receipts = [r for r in fed.running.receipts() if r.subject_id in at]
        return len(receipts) == 5 and {r.outcome for r in receipts} == {Outcome.UNDECODABLE}

    fed.wait(undecodable, "a receipt of each")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(lambda value: value + b"!!", "2 bytes left over after the datum", id="trailing bytes"),
        pytest.param(lambda value: value[:-5], "not an Avro datum of its schema", id="truncated"),
        pytest.param(lambda value: value[:4], "cut off inside the Confluent header", id="header cut off"),
        pytest.param(lambda value: value[:5], "cut off inside the Confluent header", id="header alone"),
    ],
)
def test_damaged_records_are_dead_letters(fed: Fed, referral_id: str, damage: Any, reason: str) -> None:
    schema_id = fed.registry.add(SHIPPED)
    whole = framed(schema_id, referral_id)
    fed.send(damage(whole), whole, key=referral_id)
    fed.wait_ended()
    assert fed.delivered(referral_id) == 1
    [(letter, why, _)] = fed.letters(referral_id)
    assert letter.value == damage(whole)
    assert why.startswith(reason)


@pytest.mark.parametrize(
    ("schema", "kind", "reason"),
    [
        pytest.param('{"type": "object"}', "JSON", "is not an Avro schema", id="JSON Schema"),
        pytest.param('"string"', "AVRO", "not a", id="not a record"),
        pytest.param("{", "AVRO", "not an Avro schema", id="not a schema at all"),
        pytest.param(
            '{"type":"record","name":"Other","fields":[{"name":"a","type":"string"}]}', "AVRO",
            "not an Avro datum of its schema", id="another record",
        ),
    ],
)  # fmt: skip
def test_a_schema_that_is_none_of_ours_makes_dead_letters(
    fed: Fed, referral_id: str, schema: str, kind: str, reason: str
) -> None:
    foreign, ours = fed.registry.add(schema, kind), fed.registry.add(SHIPPED)
    fed.send(framed(foreign, referral_id), framed(ours, referral_id), key=referral_id)
    fed.wait_ended()
    assert fed.delivered(referral_id) == 1
    [(_, why, _)] = fed.letters(referral_id)
    assert reason in why


def test_while_the_registry_is_in_trouble_records_wait(fed: Fed, referral_id: str) -> None:
    """Through every kind of trouble, one after the other: none is a verdict on the record."""
    schema_id = fed.registry.add(SHIPPED)
    fed.registry.trouble = next(iter(TROUBLES))
    try:
        fed.send(framed(schema_id, referral_id), key=referral_id)
        for trouble in TROUBLES:
            before = fed.registry.met(trouble)
            fed.registry.trouble = trouble
            fed.wait(lambda t=trouble, b=before: fed.registry.met(t) > b, f"it met {trouble}")
        assert not fed.taken()
        assert fed.delivered(referral_id) == 0
    finally:
        fed.registry.trouble = None
    healed = time.monotonic()
    fed.wait_ended()
    assert time.monotonic() - healed < 10
    assert fed.delivered(referral_id) == 1
    assert fed.letters(referral_id) == []


def test_a_registry_that_is_away_delays_no_other_partition(fed: Fed, referral_id: str) -> None:
    schema_id = fed.registry.add(SHIPPED)
    fed.registry.trouble = "internal error"
    others = [str(uuid.uuid4()) for _ in range(40)]
    try:
        fed.send(framed(schema_id, referral_id), key=referral_id)
        fed.wait(lambda: schema_id in fed.registry.asked, "it is asked")
        for other in others[:20]:
            fed.send(referrals.encode(event(referral_id=other)), key=other)
        # The lease ends after 5 s where it is not renewed: what is delivered later shows that it was.
        fed.wait(lambda: fed.registry.met("internal error") > 6, "the registry stays away for a while")
        for other in others[20:]:
            fed.send(referrals.encode(event(referral_id=other)), key=other)
        fed.wait(lambda: any(map(fed.delivered, others[20:])), "other partitions are delivered")
        fed.wait(lambda: fed.running.pending() == 0, "what was taken is delivered and settled")
        assert fed.delivered(referral_id) == 0
    finally:
        fed.registry.trouble = None
    fed.wait_ended()
    assert [fed.delivered(one) for one in (referral_id, *others)] == [1] * 41


def test_a_stop_does_not_wait_for_the_registry(fed: Fed, referral_id: str) -> None:
    schema_id = fed.registry.add(SHIPPED)
    fed.registry.trouble = "internal error"
    try:
        fed.send(framed(schema_id, referral_id), key=referral_id)
        fed.wait(lambda: schema_id in fed.registry.asked, "it is asked")
        child = fed.running.children["push"]
        began = time.monotonic()
        assert child.stop() == 0
        assert time.monotonic() - began < 10
        keys = fed.running.keys(Role.PUSH)
        with fed.running.valkey.client() as client:
            assert {client.hget(keys.head(p), "lease") for p in range(PARTITIONS)} == {b"0"}
    finally:
        fed.registry.trouble = None
        fed.running.start("push")
    fed.wait_ended()
    assert fed.delivered(referral_id) == 1
