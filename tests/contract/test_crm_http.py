"""The generic HTTP connection: what it asks, what it makes of answers, on real connections."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import parse_qsl

import pytest

from consumer.crm import BY_KIND
from consumer.crm.answers import Delivered, KeyConflict, Pause, Rejected, Retry
from consumer.crm.port import Sending
from consumer.exchange import Request
from consumer.frozen import Frozen, thaw
from consumer.http_client import HttpClient
from consumer.secrets import Secrets
from deploy.embedded.receivers import EffectLog, read_effects
from deploy.embedded.receivers.crm import Crm
from deploy.embedded.receivers.protocol import Http
from schemas.connection import HttpConnection
from schemas.delivery import Action, delivery_id
from schemas.referral import CampaignType, EventType, Referral
from tests.support.peers import LOCAL, answer, peer

CRM = BY_KIND["http"]
KEY = delivery_id("crm", "r-1", 1)
URL = "https://crm.example/"
FIELDS = [
    "referral_id",
    "email",
    {"name": "Vorname", "from": "first_name"},
    {"name": "via", "constant": "us"},
]


def connection(url=URL, **changes):
    given = {"kind": "http", "name": "crm", "url": url, "fields": FIELDS, **changes}
    return HttpConnection.model_validate(given)


def referral(campaign_type=CampaignType.LEAD, **fields):
    known = {
        "referral_id": "r-1",
        "email": "j\u00fcrgen@example.org",
        "first_name": "J\u00fcrgen",
        "attributes": {"tier": "gold"},
        **fields,
    }
    return Referral("r-1", EventType.CREATED, 1, False, "acme", "c", campaign_type, 0, known)


def frozen(made, person):
    """As intake keeps it, through Redis and back."""
    rendered = CRM.render(made, person)
    kept = Frozen(
        KEY, "r-1", 1, "acme", "c", 0, rendered.body, values=rendered.values, removal=rendered.removal
    )
    return thaw(kept.freeze())


def sent(row):
    return Sending(row.delivery_id, row.action, (row,))


def asked(made, person=None, secrets=None, *, taken_back=False):
    row = frozen(made, person or referral())
    row = row.taken_back(made.name) if taken_back else row
    return CRM.request(made, Secrets(secrets or {}), sent(row), 0.0)


def headers(request):
    return dict(request.headers)


async def exchange(*script, made=connection, **kind):
    """The connection's request to a peer: what was received, and what it came to."""
    client = HttpClient(LOCAL)
    try:
        async with peer(*script, **kind) as there:
            to = made(there.url())
            row = frozen(to, referral())
            got = await client.send(CRM.request(to, Secrets({}), sent(row), 0.0))
            return there.received, CRM.classify(to, sent(row), got, 0.0)
    finally:
        await client.aclose()


@pytest.mark.parametrize(
    ("changes", "person", "body"),
    [
        pytest.param(
            {}, {"first_name": None},
            '{"referral_id":"r-1","email":"j\u00fcrgen@example.org","Vorname":null,"via":"us"}',
            id="JSON in the connection's order",
        ),
        pytest.param(
            {"body": "form"}, {"first_name": None},
            "referral_id=r-1&email=j%C3%BCrgen%40example.org&Vorname=&via=us",
            id="form",
        ),
        pytest.param(
            {"body": "form", "fields": [{"name": "a b&c", "from": "email"}]}, {"email": "x=1&y=2 +"},
            "a+b%26c=x%3D1%26y%3D2+%2B",
            id="a form keeps its members apart",
        ),
        pytest.param(
            {
                "nested": True,
                "fields": [
                    {"name": "person.name.first", "from": "first_name"},
                    "referral_id",
                    {"name": "person.mail", "from": "email"},
                    {"name": "age", "constant": "35", "type": "number"},
                ],
            },
            {"email": '"}'},
            '{"person":{"name":{"first":"J\u00fcrgen"},"mail":"\\"}"},"referral_id":"r-1","age":35}',
            id="nested",
        ),
        pytest.param(
            {"fields": [{"name": "person.mail", "from": "email"}]}, {"email": None},
            '{"person.mail":null}',
            id="a dot is a dot where nothing is nested",
        ),
        pytest.param(
            {"fields": ["email"]}, {"email": "\u2028</script>\x00"},
            '{"email":"\u2028</script>\\u0000"}',
            id="odd characters",
        ),
    ],
)  # fmt: skip
def test_bodies(changes, person, body):
    made = connection(**changes)
    request = asked(made, referral(**person))
    assert request.body.decode() == body
    if made.body == "form":
        assert headers(request)["Content-Type"] == "application/x-www-form-urlencoded"
        assert [name for name, _ in parse_qsl(body, keep_blank_values=True)] == [f.name for f in made.fields]
    else:
        assert headers(request)["Content-Type"] == "application/json"
        assert isinstance(json.loads(body), dict)


def test_the_request_carries_the_quoted_key_and_resolved_headers():
    got = asked(
        connection(headers={"Authorization": "Bearer ${env:TOKEN}"}, method="PUT", timeout=7),
        secrets={"TOKEN": "t"},
    )
    assert got == Request(
        "PUT",
        "https://crm.example/",
        (
            ("Idempotency-Key", f'"{KEY}"'),
            ("Authorization", "Bearer t"),
            ("Content-Type", "application/json"),
            ("User-Agent", "referral-delivery"),
        ),
        got.body,
        7.0,
    )
    assert "Bearer" not in repr(got)


def test_the_key_may_stand_bare_under_another_name():
    got = asked(connection(idempotency={"header": "X-Request-Id", "quoted": False}))
    assert got.headers[0] == ("X-Request-Id", KEY)


def test_the_connections_headers_win_over_defaults():
    got = asked(connection(headers={"content-type": "application/vnd.api+json"}))
    assert [value for name, value in got.headers if name.lower() == "content-type"] == [
        "application/vnd.api+json"
    ]


def test_address_and_headers_take_values_as_they_were_at_intake():
    made = connection(
        "https://crm.example/{attributes.tier}/{referral_id}?mail={email}",
        headers={"X-Key": "${env:KEY}/{attributes.tier}/{{x}}"},
    )
    got = asked(made, secrets={"KEY": "{email}"})
    assert got.url == "https://crm.example/gold/r-1?mail=j%C3%BCrgen%40example.org"
    # Neither what a secret holds nor what a person wrote is a template or a reference.
    assert headers(got)["X-Key"] == "{email}/gold/{x}"
    got = asked(made, referral(attributes={"tier": "${env:KEY}"}), secrets={"KEY": "k"})
    assert headers(got)["X-Key"] == "k/${env:KEY}/{x}"
    assert got.url.startswith("https://crm.example/%24%7Benv%3AKEY%7D/")


@pytest.mark.parametrize(
    ("changes", "person", "reason"),
    [
        pytest.param({"url": URL + "{email}"}, {"email": None}, "not sent: the path needs {email}, which is missing or may not leave", id="missing"),
        pytest.param({"url": URL + "{email}"}, {"campaign_type": CampaignType.WEBSITE_TRAFFIC}, "not sent: the path needs {email}, which is missing or may not leave", id="kept here by the campaign's type"),
        pytest.param({"url": URL + "{partner_id}"}, {"partner_id": "p"}, "not sent: the path needs {partner_id}, which is missing or may not leave", id="partner data"),
        pytest.param({"url": URL + "{email}"}, {"email": ".."}, "not sent: the path would lead elsewhere: {email} holds dots", id="dots"),
        pytest.param({"headers": {"X-N": "{first_name}"}}, {}, "not sent: header X-N: a header needs {first_name}, which is not one line of ASCII text: send it in the body", id="umlaut in a header"),
        pytest.param({"headers": {"X-N": "{first_name}"}}, {"first_name": "a\r\nX: b"}, "not sent: header X-N: a header needs {first_name}, which is not one line of ASCII text: send it in the body", id="line break in a header"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_stand_there_rejects_one_referral_alone(changes, person, reason):
    made = connection(**changes)
    assert asked(made, referral(**person)) == Rejected(None, reason)
    fine = referral(email="a@b.example", first_name="Ana", partner_id="p")
    assert isinstance(asked(made.model_copy(update={"partner_data": True}), fine), Request)


def test_a_field_the_address_asks_for_since_is_not_missing_but_unknown():
    row = frozen(connection(), referral())
    made = connection(URL + "?m={email}")
    assert CRM.request(made, Secrets({}), sent(row), 0.0) == Rejected(
        None, "not sent: it was taken before {email} stood in the connection: replay it"
    )


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"X": "${env:NONE}"}, "header X: ${env:NONE} is not set in the environment"),
        ({"X": "${env:LINES}"}, "header X: its value is not one line of ASCII text"),
        ({"X": "${env:UMLAUT}"}, "header X: its value is not one line of ASCII text"),
        ({"X": "${env:NUL}"}, "header X: its value is not one line of ASCII text"),
    ],
)
def test_a_request_that_cannot_be_made_pauses_and_shows_no_secret(given, reason):
    secrets = {"LINES": "SECRET-HEADER\r\nX: y", "UMLAUT": "SECRET-HEADER\u00fc", "NUL": "SECRET-HEADER\0"}
    assert asked(connection(headers=given), secrets=secrets) == Pause(reason)


def test_a_removal_is_a_request_of_its_own():
    removal = {"url": URL + "people/{email}"}
    made = connection(headers={"X-Tier": "{attributes.tier}"}, removal=removal)
    got = asked(made, taken_back=True)
    key = delivery_id("crm", "r-1", 1, Action.REMOVE)
    assert got == Request(
        "DELETE",
        "https://crm.example/people/j%C3%BCrgen%40example.org",
        (("Idempotency-Key", f'"{key}"'), ("X-Tier", "gold"), ("User-Agent", "referral-delivery")),
        b"",
        20.0,
    )
    made = connection(removal=removal | {"method": "POST", "fields": ["email"]}, body="form")
    got = asked(made, taken_back=True)
    assert (got.method, got.body) == ("POST", b"email=j%C3%BCrgen%40example.org")
    assert headers(got)["Content-Type"] == "application/x-www-form-urlencoded"


def test_no_removal_where_the_connection_asks_for_none():
    assert frozen(connection(), referral()).taken_back("crm") is None
    made = connection(removal={"url": URL + "{referral_id}"})
    row = frozen(made, referral()).taken_back("crm")
    assert CRM.request(connection(), Secrets({}), sent(row), 0.0) == Rejected(
        None, "not sent: the connection no longer says how a person is removed"
    )


@pytest.mark.parametrize("status", [404, 410])
def test_who_is_gone_already_is_removed(status):
    made = connection(removal={"url": URL + "{referral_id}"})
    row = frozen(made, referral()).taken_back("crm")

    async def run():
        client = HttpClient(LOCAL)
        async with peer(answer(status)) as there:
            to = connection(removal={"url": there.url()})
            got = await client.send(CRM.request(to, Secrets({}), sent(row), 0.0))
            await client.aclose()
            return there.received[0][0], CRM.classify(to, sent(row), got, 0.0)

    head, came_to = asyncio.run(run())
    assert head.startswith(b"DELETE /")
    assert came_to == Delivered(status)


def test_what_was_asked_arrives_byte_for_byte():
    def made(url):
        return connection(
            f"{url.partition('?')[0]}/{{email}}?m={{email}}", headers={"X-T": "{attributes.tier}"}
        )

    received, came_to = asyncio.run(exchange(answer(201, body=b'{"lead": {"id": "L-7"}}'), made=made))
    head, body = received[0]
    assert head.split(b"\r\n")[0].endswith(b"/j%C3%BCrgen%40example.org?m=j%C3%BCrgen%40example.org HTTP/1.1")
    assert b"\r\nX-T: gold\r\n" in head
    assert json.loads(body)["email"] == "j\u00fcrgen@example.org"
    assert came_to == Delivered(201)


def test_rules_decide_on_what_the_wire_brought():
    def made(url):
        rules = [
            {"json": "ok", "equal": True, "is": "delivered"},
            {"json": "code", "equal": "DUP", "is": "duplicate"},
        ]
        return connection(url, responses=rules, record_id="lead.id")

    def came_to(body):
        return asyncio.run(exchange(answer(200, body=body), made=made))[1]

    assert came_to(b'{"ok": true, "lead": {"id": 7}}') == Delivered(200, "7")
    assert came_to(b'{"ok": false, "code": "DUP", "lead": {"id": "L"}}').record_id == "L"
    assert isinstance(came_to(b'{"ok": false}'), Retry)
    # Longer than what is read of an answer: nobody knows what it says.
    assert isinstance(came_to(b'{"ok": true, "pad": "' + b"x" * 70_000 + b'"}'), Retry)


@pytest.mark.case(20)
def test_retry_after_over_the_wire():
    _, came_to = asyncio.run(exchange(answer(429, "Retry-After: 120")))
    assert came_to == Retry("answered 429 Too Many Requests", unknown=False, status=429, retry_after=120.0)


def test_the_projects_receiver_takes_a_key_once(tmp_path):
    """Same key and body: an effect, then repeats. Another body under the key: no effect."""

    async def run():
        log = EffectLog(tmp_path / "effects.jsonl")
        server = await asyncio.get_running_loop().create_server(lambda: Http(crm.handle), "127.0.0.1", 0)
        crm = Crm(log)
        to = connection(
            f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/crm/referrals", record_id="id"
        )
        client = HttpClient(LOCAL)
        answers = []
        for first_name in ("Ana", "Ana", "Ana", "Eva"):
            row = frozen(to, referral(first_name=first_name))
            got = await client.send(CRM.request(to, Secrets({}), sent(row), 0.0))
            answers.append((got.status, got.body, CRM.classify(to, sent(row), got, 0.0)))
        await client.aclose()
        server.close()
        log.close()
        return answers

    answers = asyncio.run(run())
    assert answers[:3] == [(201, b'{"id":1}', Delivered(201, "1"))] * 3
    assert answers[3][0] == 422
    effects = list(read_effects(tmp_path / "effects.jsonl"))
    assert [effect["kind"] for effect in effects] == ["effect", "repeat", "repeat", "mismatch"]
    assert {(effect["key"], effect["referral_id"]) for effect in effects} == {(KEY, "r-1")}


@pytest.mark.case(21)
def test_a_key_used_for_another_body_is_an_alarm():
    said = json.dumps({"type": "https://example.org/idempotency-key-reused", "status": 422}).encode()
    _, came_to = asyncio.run(exchange(answer(422, "Content-Type: application/problem+json", body=said)))
    assert isinstance(came_to, KeyConflict)
