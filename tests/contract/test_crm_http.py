"""The generic HTTP connection and the client under it, on real connections to peers that misbehave."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from datetime import timedelta

import pytest

from consumer import http_client
from consumer.crm import BY_KIND
from consumer.crm.answers import Delivered, KeyConflict, Pause, Retry
from consumer.exchange import NotSent, Request, Response, Unknown, Unsendable
from consumer.http_client import MAX_BODY, MAX_CLIENTS, HttpClient
from consumer.secrets import Secrets
from deploy.embedded.receivers import EffectLog, read_effects
from deploy.embedded.receivers.crm import Crm, Http
from schemas.connection import HttpConnection
from schemas.delivery import delivery_id
from schemas.referral import CampaignType, EventType, Referral
from tests.support.certificates import Authority
from tests.support.peers import answer, free_port, peer, then_hang, then_reset

OK = b"HTTP/1.1 200 OK\r\n"
SECRETS = ("SECRET-QUERY", "SECRET-HEADER", "SECRET-BODY")
#: Seconds where the test waits for the limit to pass, and where it must not.
SHORT, LONG = 0.8, 20.0


def request(url, *, timeout=LONG, body=b'{"name":"SECRET-BODY"}', headers=()):
    return Request("POST", url, (("Authorization", "SECRET-HEADER"), *headers), body, timeout)


def shows_no_secret(result):
    return not any(secret in repr(result) for secret in SECRETS)


async def send_to(*script, times=1, within=LONG, **kind):
    """What `times` requests, one after another, brought back, and the peer."""
    client = HttpClient()
    try:
        async with peer(*script, **kind) as there:
            results = [await client.send(request(there.url(), timeout=within)) for _ in range(times)]
            return results, there
    finally:
        await client.aclose()


@pytest.mark.parametrize("status", [200, 201, 202, 204, 400, 401, 404, 409, 410, 422, 429, 500, 503, 999])
def test_an_answer_is_an_answer(status):
    body = b"" if status == 204 else b'{"id":1}'
    (got,), there = asyncio.run(send_to(answer(status, "Retry-After: 7", body=body)))
    assert got == Response(
        status, {"content-length": str(len(body)), "retry-after": "7"}, body, read_fully=True
    )
    head, sent = there.received[0]
    assert sent == b'{"name":"SECRET-BODY"}'
    assert head.startswith(b"POST /referrals?token=SECRET-QUERY HTTP/1.1\r\n")
    assert b"\r\nAuthorization: SECRET-HEADER\r\n" in head


def test_connections_are_kept_and_hold_no_cookies_and_ask_for_no_compression():
    flood = [f"Set-Cookie: c{number}=x" for number in range(90)]
    results, there = asyncio.run(send_to(answer(200, *flood, body=b"x"), times=5))
    assert [got.status for got in results] == [200] * 5
    assert there.connections == 1
    for head, _ in there.received:
        assert b"cookie" not in head.lower()
        assert b"accept-encoding" not in head.lower()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status):
    async def run():
        async with peer(answer(200)) as elsewhere:
            results, _ = await send_to(answer(status, f"Location: {elsewhere.url()}"))
            return results[0], elsewhere.connections

    got, connections = asyncio.run(run())
    assert (got.status, connections) == (status, 0)


def test_proxies_of_the_environment_are_not_used(monkeypatch):
    async def run():
        async with peer(answer(200)) as proxy:
            for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            results, _ = await send_to(answer(204))
            return results[0].status, proxy.connections

    assert asyncio.run(run()) == (204, 0)


BROKEN = [
    pytest.param(then_reset(), True, Unknown("reset after sending"), id="reset after the request was read"),
    pytest.param(b"", True, Unknown("closed after sending"), id="closed after the request was read"),
    pytest.param(
        b"", False, (Unknown("closed after sending"), Unknown("reset after sending")), id="closed unread"
    ),
    pytest.param(
        then_reset(),
        False,
        (Unknown("reset after sending"), NotSent("connection reset while connecting")),
        id="reset before the request was read",
    ),
    pytest.param(b"\x00\xff garbage\r\n\r\n", True, Unknown("the answer is not HTTP"), id="garbage"),
    pytest.param(b"<html>hello</html>", True, Unknown("the answer is not HTTP"), id="HTTP/0.9"),
    pytest.param(
        b"HTTP/1.1 1000 X\r\n\r\n", True, Unknown("the answer is not HTTP"), id="status of four digits"
    ),
    pytest.param(
        OK + b"Content-Length: -2\r\n\r\nok", True, Unknown("the answer is not HTTP"), id="negative length"
    ),
    pytest.param(
        OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok1",
        True,
        Unknown("the answer is not HTTP"),
        id="two lengths",
    ),
    pytest.param(
        OK + b"X: " + b"y" * 2_000_000 + b"\r\n\r\n",
        True,
        Unknown("the answer's head is too large"),
        id="2 MB head",
    ),
    pytest.param(
        OK + b"X: y\r\n" * 150 + b"\r\n", True, Unknown("the answer's head is too large"), id="150 fields"
    ),
    pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", True, Unknown("closed after sending"), id="1xx only"),
    pytest.param(then_hang(), True, Unknown("no answer in 0.8 s"), id="hangs"),
    pytest.param(
        then_hang(OK, drip=b"X: y\r\n"), True, Unknown("no answer in 0.8 s"), id="head drop by drop"
    ),
    pytest.param(
        then_hang(drip=b"HTTP/1.1 100 Continue\r\n\r\n"),
        True,
        Unknown("no answer in 0.8 s"),
        id="flood of 100 Continue",
    ),
]


@pytest.mark.parametrize(("reply", "reads", "expected"), BROKEN)
def test_no_answer_after_sending_is_unknown(reply, reads, expected):
    within = SHORT if expected == Unknown("no answer in 0.8 s") else LONG
    (got,), there = asyncio.run(send_to(reply, reads=reads, within=within))
    assert got in (expected if isinstance(expected, tuple) else (expected,))
    assert there.connections == 1
    assert shows_no_secret(got)


@pytest.mark.parametrize(
    ("reply", "within"),
    [
        pytest.param(OK + b"Content-Length: 100\r\n\r\nhalf", LONG, id="shorter than announced"),
        pytest.param(then_reset(OK + b"Content-Length: 100\r\n\r\nhalf"), LONG, id="reset in the body"),
        pytest.param(
            OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", LONG, id="chunks without an end"
        ),
        pytest.param(
            OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n", LONG, id="chunk of no length"
        ),
        pytest.param(then_hang(OK + b"Content-Length: 100\r\n\r\nhalf"), SHORT, id="hangs in the body"),
        pytest.param(
            then_hang(OK + b"Content-Length: 100000\r\n\r\nhalf", drip=b"x"), SHORT, id="body drop by drop"
        ),
    ],
)
def test_a_status_counts_though_its_body_breaks_off(reply, within):
    (got,), _ = asyncio.run(send_to(reply, within=within))
    assert (got.status, got.read_fully) == (200, False)
    assert got.body in (b"", b"half") or got.body.startswith(b"halfx")


@pytest.mark.parametrize(
    ("reply", "within"),
    [
        pytest.param(OK + b"Content-Length: 9\r\n\r\n", LONG, id="closed"),
        pytest.param(then_hang(OK + b"Content-Length: 9\r\n\r\n"), SHORT, id="hangs"),
    ],
)
def test_a_server_whose_bodies_never_come_is_soon_read_by_its_status(reply, within):
    results, _ = asyncio.run(send_to(reply, times=3, within=within))
    assert results[0] in (
        Unknown("the answer ended after its head"),
        Response(200, {"content-length": "9"}, b"", False),
    )
    assert results[1:] == [Response(200, {"content-length": "9"}, b"", read_fully=False)] * 2


def test_a_body_of_a_gigabyte_is_read_to_the_cap():
    written = 0

    async def gigabyte(_, writer):
        nonlocal written
        writer.write(OK + b"Content-Length: 1073741824\r\n\r\n")
        while written < 1 << 30:
            writer.write(b"x" * 65_536)
            await writer.drain()
            written += 65_536

    (got,), _ = asyncio.run(send_to(gigabyte))
    assert (got.status, got.body, got.read_fully) == (200, b"x" * MAX_BODY, False)
    assert written < 1 << 25


def test_a_bomb_is_not_inflated():
    bomb = gzip.compress(b"x" * 10_000_000)
    (got,), _ = asyncio.run(send_to(answer(200, "Content-Encoding: gzip", body=bomb)))
    assert got.body == bomb


def test_bytes_that_come_with_an_answer_are_not_the_next_one():
    async def stuffed(_, writer):
        writer.write(OK + b"Content-Length: 2\r\n\r\nokHTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        return True

    results, _ = asyncio.run(send_to(stuffed, times=50))
    assert results == [Response(200, {"content-length": "2"}, b"ok")] * 50


def test_header_bytes_that_are_no_text_are_absent():
    (got,), _ = asyncio.run(send_to(OK + b"Retry-After: \xd9\xa3\r\nX: \xe9\r\nContent-Length: 2\r\n\r\nok"))
    assert got == Response(200, {"content-length": "2"}, b"ok")


@pytest.mark.parametrize("orderly", [True, False], ids=["closed", "reset"])
def test_a_stale_connection_never_doubles_a_request(orderly):
    """The server closes the kept connection at the moment the next request may arrive."""

    async def leave(reader, writer):
        await answer(200, body=b"ok")(reader, writer)
        await asyncio.sleep(0)
        return None if orderly else await then_reset()(reader, writer)

    async def run():
        client = HttpClient()
        async with peer(leave) as there:
            results = [
                await client.send(request(there.url(), headers=(("Idempotency-Key", f"key-{number:04}"),)))
                for number in range(300)
            ]
            await client.aclose()
            return results, there

    results, there = asyncio.run(run())
    keys = [head.partition(b"Idempotency-Key: ")[2][:8] for head, _ in there.received]
    assert len(keys) == len(set(keys))
    answered = sum(isinstance(got, Response) for got in results)
    assert 1 <= answered <= len(keys)
    assert all(isinstance(got, Response | Unknown) for got in results)


def test_refused_is_not_sent():
    async def run():
        client = HttpClient()
        got = await client.send(request(f"http://127.0.0.1:{free_port()}/?token=SECRET-QUERY"))
        await client.aclose()
        return got

    assert asyncio.run(run()) == NotSent("connection refused")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param(
            "http://name.invalid/?SECRET-QUERY", NotSent("the name does not resolve"), id="no such name"
        ),
        pytest.param("http://a..b/?SECRET-QUERY", NotSent("the name does not resolve"), id="empty label"),
        pytest.param(
            "http://h:99999/?SECRET-QUERY", Unsendable("the address cannot be called"), id="port too large"
        ),
        pytest.param(
            "ftp://host/SECRET-QUERY", Unsendable("the address cannot be called"), id="another scheme"
        ),
        pytest.param(
            "http://[::1/SECRET-QUERY", Unsendable("the address cannot be called"), id="half an IPv6"
        ),
        pytest.param("SECRET-QUERY", Unsendable("the address cannot be called"), id="no address"),
    ],
)
def test_addresses_that_lead_nowhere(url, expected):
    async def run():
        client = HttpClient()
        got = await client.send(request(url))
        await client.aclose()
        return got

    assert asyncio.run(run()) == expected


@pytest.mark.parametrize("value", ["a\r\nX-Injected: SECRET-HEADER", "a\nb", "a\x00b", "\x7f"])
def test_a_header_of_two_lines_is_never_sent(value):
    async def run():
        client = HttpClient()
        async with peer(answer(200)) as there:
            got = await client.send(request(there.url(), headers=(("X", value),)))
            await client.aclose()
            return got, there.connections

    got, connections = asyncio.run(run())
    assert (got, connections) == (Unsendable("the address or a header cannot be sent"), 0)


def test_a_server_that_takes_no_connections_is_not_sent():
    """A full backlog: the kernel drops our SYN."""

    async def run():
        client = HttpClient()
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen(0)
            waiting = [socket.socket() for _ in range(4)]
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(server.getsockname())
            got = await client.send(request(f"http://127.0.0.1:{server.getsockname()[1]}/", timeout=1.0))
            for one in waiting:
                one.close()
        await client.aclose()
        return got

    assert asyncio.run(run()) == NotSent("no connection in time")


@pytest.mark.parametrize(
    ("certificate", "trusted", "expected"),
    [
        pytest.param(("localhost", 1), True, 200, id="valid"),
        pytest.param(
            ("localhost", 1), False, NotSent("TLS certificate from an unknown issuer"), id="unknown issuer"
        ),
        pytest.param(
            ("other.example", 1), True, NotSent("TLS certificate not valid for the name"), id="wrong name"
        ),
        pytest.param(("localhost", -1), True, NotSent("TLS certificate expired"), id="expired"),
    ],
)
def test_tls(tmp_path, certificate, trusted, expected):
    authority = Authority(tmp_path)
    name, days = certificate

    async def run():
        client = HttpClient(authority.pem if trusted else b"")
        async with peer(answer(200), tls=authority.server(name, timedelta(days=days))) as there:
            got = await client.send(request(there.url("https", "localhost")))
            await client.aclose()
            return got, len(there.received)

    got, received = asyncio.run(run())
    assert (got.status if isinstance(got, Response) else got) == expected
    assert received == (1 if expected == 200 else 0)


@pytest.mark.parametrize(
    ("reply", "reads", "expected"),
    [
        pytest.param(b"HTTP/1.1 400 X\r\n\r\n", False, "the port does not speak TLS", id="plain HTTP"),
        pytest.param(then_hang(), False, "no connection in time", id="silent"),
    ],
)
def test_a_port_without_tls_is_not_sent(reply, reads, expected):
    async def run():
        client = HttpClient()
        async with peer(reply, reads=reads) as there:
            got = await client.send(request(there.url("https"), timeout=1.0))
            await client.aclose()
            return got

    assert asyncio.run(run()) == NotSent(expected)


def test_more_servers_than_clients_are_kept_and_none_loses_a_request():
    """A route is an address and its connect timeout: one peer gives as many as the test needs."""

    async def run():
        client = HttpClient()
        others_done = asyncio.Event()

        async def wait(reader, writer):
            await others_done.wait()
            return await answer(201)(reader, writer)

        async with peer(wait, answer(200)) as there:
            first = asyncio.create_task(client.send(request(there.url(), timeout=60)))
            await there.asked.wait()
            for number in range(MAX_CLIENTS + 5):
                assert await client.send(request(there.url(), timeout=5 + number / 1_000))
            kept = len(client._peers)
            others_done.set()
            got = await first
            await client.aclose()
            return kept, got.status

    # Half of the timeout up to CONNECT_S is the connect timeout, so these stay below 10 s.
    assert 5 + (MAX_CLIENTS + 5) / 1_000 < 2 * http_client.CONNECT_S
    assert asyncio.run(run()) == (MAX_CLIENTS, 201)


def test_closing_ends_what_is_in_flight_as_unknown():
    async def run():
        client = HttpClient()
        async with peer(then_hang()) as there:
            sending = asyncio.create_task(client.send(request(there.url())))
            await there.asked.wait()
            await client.aclose()
            return await sending, await client.send(request(there.url()))

    assert asyncio.run(run()) == (Unknown("stopped before the answer"), NotSent("the client is closed"))


# The generic connection


def connection(url, **changes):
    fields = [
        "referral_id",
        "email",
        {"name": "Vorname", "from": "first_name"},
        {"name": "via", "constant": "us"},
    ]
    given = {"kind": "http", "name": "crm", "url": url, "fields": fields, **changes}
    return HttpConnection.model_validate(given)


def referral(**fields):
    known = {"referral_id": "r-1", "email": "j\u00fcrgen@example.org", "first_name": "J\u00fcrgen", **fields}
    return Referral("r-1", EventType.CREATED, 1, False, "acme", "c", CampaignType.LEAD, 0, known)


CRM = BY_KIND["http"]
KEY = delivery_id("crm", "r-1", 1)


def test_the_body_is_json_in_the_connections_order():
    body = CRM.body(connection("https://crm.example/"), referral(first_name=None))
    assert (
        body == '{"referral_id":"r-1","email":"j\u00fcrgen@example.org","Vorname":null,"via":"us"}'.encode()
    )


def made(secrets=None, **changes):
    return CRM.request(connection("https://crm.example/", **changes), Secrets(secrets or {}), KEY, b"{}", 0.0)


def test_the_request_carries_the_quoted_key_and_resolved_headers():
    got = made({"TOKEN": "t"}, headers={"Authorization": "Bearer ${env:TOKEN}"}, method="PUT", timeout=7)
    assert got == Request(
        "PUT",
        "https://crm.example/",
        (
            ("Idempotency-Key", f'"{KEY}"'),
            ("Authorization", "Bearer t"),
            ("Content-Type", "application/json"),
            ("User-Agent", "referral-delivery"),
        ),
        b"{}",
        7.0,
    )
    assert "Bearer" not in repr(got)


def test_the_key_may_stand_bare_under_another_name():
    got = made(idempotency={"header": "X-Request-Id", "quoted": False})
    assert got.headers[0] == ("X-Request-Id", KEY)


def test_the_connections_headers_win_over_defaults():
    got = made(headers={"content-type": "application/vnd.api+json"})
    assert [value for name, value in got.headers if name.lower() == "content-type"] == [
        "application/vnd.api+json"
    ]


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"X": "${env:NONE}"}, "header X: ${env:NONE} is not set in the environment"),
        ({"X": "${env:LINES}"}, "header X: its value is not one line of ASCII text"),
        ({"X": "${env:UMLAUT}"}, "header X: its value is not one line of ASCII text"),
        ({"X": "${env:NUL}"}, "header X: its value is not one line of ASCII text"),
    ],
)
def test_a_request_that_cannot_be_made_pauses_and_shows_no_secret(headers, reason):
    secrets = {"LINES": "SECRET-HEADER\r\nX: y", "UMLAUT": "SECRET-HEADER\u00fc", "NUL": "SECRET-HEADER\0"}
    assert made(secrets, headers=headers) == Pause(reason)


def test_retry_after_over_the_wire():
    (got,), _ = asyncio.run(send_to(answer(429, "Retry-After: 120")))
    answered = CRM.classify(connection("https://crm.example/"), got, 0.0)
    assert answered == Retry("answered 429 Too Many Requests", unknown=False, status=429, retry_after=120.0)


def test_the_projects_receiver_takes_a_key_once(tmp_path):
    """Same key and body: an effect, then repeats. Another body under the key: no effect."""

    async def run():
        log = EffectLog(tmp_path / "effects.jsonl")
        server = await asyncio.get_running_loop().create_server(lambda: Http(crm), "127.0.0.1", 0)
        crm = Crm(log)
        to = connection(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/crm/referrals")
        client = HttpClient()
        answers = []
        for first_name in ("Ana", "Ana", "Ana", "Eva"):
            frozen = CRM.body(to, referral(first_name=first_name))
            got = await client.send(CRM.request(to, Secrets({}), KEY, frozen, 0.0))
            answers.append((got.status, got.body, CRM.classify(to, got, 0.0)))
        await client.aclose()
        server.close()
        log.close()
        return answers

    answers = asyncio.run(run())
    assert answers[:3] == [(201, b'{"id":1}', Delivered(201))] * 3
    assert answers[3][0] == 422
    effects = list(read_effects(tmp_path / "effects.jsonl"))
    assert [effect["kind"] for effect in effects] == ["effect", "repeat", "repeat", "mismatch"]
    assert {(effect["key"], effect["referral_id"]) for effect in effects} == {(KEY, "r-1")}


def test_a_key_used_for_another_body_is_an_alarm():
    said = json.dumps({"type": "https://example.org/idempotency-key-reused", "status": 422}).encode()
    (got,), _ = asyncio.run(send_to(answer(422, "Content-Type: application/problem+json", body=said)))
    assert isinstance(CRM.classify(connection("https://crm.example/"), got, 0.0), KeyConflict)
