"""The HTTP client on real connections to peers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import ssl
import threading
import time
from datetime import timedelta

import pytest

from consumer import http_client
from consumer.clients import MAX_CLIENTS
from consumer.exchange import ClientIdentity, NotSent, Request, Response, Unknown, Unsendable
from consumer.http_client import MAX_BODY, HttpClient
from consumer.names import LOOKUP_S, MAX_LOOKUPS, REFRESH_S, RESOLVE_S
from deploy.embedded.processes import free_port
from tests.support.certificates import Authority
from tests.support.peers import LOCAL, answer, peer, then_hang, then_reset

OK = b"HTTP/1.1 200 OK\r\n"
SECRETS = ("SECRET-QUERY", "SECRET-HEADER", "SECRET-BODY")
#: Seconds where the test waits for the limit to pass, and where it must not.
SHORT, LONG = 0.8, 20.0
#: What an exchange may take beyond that, on a busy machine.
SLACK = 3.0


def request(url, *, timeout=LONG, body=b'{"name":"SECRET-BODY"}', headers=(), identity=None):
    return Request("POST", url, (("Authorization", "SECRET-HEADER"), *headers), body, timeout, identity)


def shows_no_secret(result):
    return not any(secret in repr(result) for secret in SECRETS)


async def send_to(*script, times=1, within=LONG, **kind):
    """What `times` requests, one after another, brought back, and the peer."""
    client = HttpClient(LOCAL)
    try:
        async with peer(*script, **kind) as there:
            results = []
            for _ in range(times):
                begun = time.monotonic()
                results.append(await client.send(request(there.url(), timeout=within)))
                assert time.monotonic() - begun < (within if within < LONG else 0) + SLACK
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


@pytest.mark.case(22)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_not_even_to_itself(status):
    (got,), there = asyncio.run(send_to(answer(status, "Location: /referrals?token=SECRET-QUERY")))
    assert (got.status, len(there.received)) == (status, 1)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxies_of_the_environment_are_not_used(monkeypatch, tmp_path, scheme):
    authority = Authority(tmp_path)

    async def run():
        async with peer(answer(200)) as proxy:
            for name in ("http_proxy", "https_proxy", "all_proxy"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
                monkeypatch.setenv(name.upper(), f"http://127.0.0.1:{proxy.port}")
            tls = authority.server("crm.example") if scheme == "https" else None
            client = HttpClient(LOCAL, authority.pem, lambda _: ["127.0.0.1"])
            async with peer(answer(204), tls=tls) as there:
                got = await client.send(request(there.url(scheme, "crm.example")))
            await client.aclose()
            return got.status, proxy.connections

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


@pytest.mark.case(22)
@pytest.mark.parametrize(("reply", "reads", "expected"), BROKEN)
def test_no_answer_after_sending_is_unknown(reply, reads, expected):
    within = SHORT if expected == Unknown("no answer in 0.8 s") else LONG
    (got,), there = asyncio.run(send_to(reply, reads=reads, within=within))
    assert got in (expected if isinstance(expected, tuple) else (expected,))
    assert there.connections == 1
    assert shows_no_secret(got)


@pytest.mark.case(22)
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


@pytest.mark.case(22)
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


@pytest.mark.case(22)
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
        client = HttpClient(LOCAL)
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
        client = HttpClient(LOCAL)
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
        pytest.param(
            "http://crm.example:99999/?SECRET-QUERY",
            Unsendable("the URL cannot be read: invalid port number"),
            id="port too large",
        ),
        pytest.param(
            "ftp://crm.example/SECRET-QUERY",
            Unsendable("ftp:// is not allowed: give an https:// URL"),
            id="another scheme",
        ),
        pytest.param(
            "http://[::1/SECRET-QUERY",
            Unsendable("the URL cannot be read: invalid IPv6 address"),
            id="half an IPv6",
        ),
        pytest.param(
            "SECRET-QUERY",
            Unsendable("the URL is not whole: give https://, a host name and a path"),
            id="no address",
        ),
    ],
)
def test_urls_that_lead_nowhere(url, expected):
    async def run():
        client = HttpClient(LOCAL)
        got = await client.send(request(url))
        await client.aclose()
        return got

    assert asyncio.run(run()) == expected


@pytest.mark.parametrize("value", ["a\r\nX-Injected: SECRET-HEADER", "a\nb", "a\x00b", "\x7f"])
def test_a_header_of_two_lines_is_never_sent(value):
    async def run():
        client = HttpClient(LOCAL)
        async with peer(answer(200)) as there:
            got = await client.send(request(there.url(), headers=(("X", value),)))
            await client.aclose()
            return got, there.connections

    got, connections = asyncio.run(run())
    assert (got, connections) == (Unsendable("the address or a header cannot be sent"), 0)


def test_a_server_that_takes_no_connections_is_not_sent():
    """A full backlog: the kernel drops our SYN."""

    async def run():
        client = HttpClient(LOCAL)
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
        client = HttpClient(LOCAL, authority.pem if trusted else b"")
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
        client = HttpClient(LOCAL)
        async with peer(reply, reads=reads) as there:
            got = await client.send(request(there.url("https"), timeout=1.0))
            await client.aclose()
            return got

    assert asyncio.run(run()) == NotSent(expected)


MUTUAL = [
    pytest.param(lambda own, _: own.client("us"), 200, id="ours"),
    pytest.param(lambda _own, _: None, NotSent("the server asks for a client certificate"), id="none"),
    pytest.param(
        lambda _, other: other.client("us"),
        NotSent("the server refuses our client certificate"),
        id="foreign",
    ),
    pytest.param(
        lambda own, _: ClientIdentity(own.client("us").certificate, own.client("them").private_key),
        Unsendable("client certificate: the private key is not the certificate's"),
        id="another's key",
    ),
    *(
        pytest.param(
            lambda own, _, change=change: change(own.client("us")),
            Unsendable("client certificate: give certificate and unencrypted private key as PEM"),
            id=name,
        )
        for name, change in {
            "no key": lambda us: ClientIdentity(us.certificate, b""),
            "no certificate": lambda us: ClientIdentity(b"", us.private_key),
            "junk": lambda us: ClientIdentity(us.certificate, b"SECRET-BODY"),
        }.items()
    ),
]


@contextlib.contextmanager
def asking(context):
    """A TLS server, one connection at a time, that says why it refuses one: asyncio's says nothing.

    Yields its port and the requests it read.
    """
    server, stop, read = socket.create_server(("127.0.0.1", 0)), threading.Event(), []
    server.settimeout(0.1)

    def serve():
        while not stop.is_set():
            with contextlib.suppress(OSError):
                plain, _ = server.accept()
                plain.settimeout(5)
                # Open until the client left: a reset would take the alert with it.
                with plain.dup() as held:
                    try:
                        with context.wrap_socket(plain, server_side=True) as secured:
                            read.append(secured.recv(65_536))
                            secured.sendall(OK + b"Content-Length: 0\r\n\r\n")
                            secured.recv(1)
                    except ssl.SSLError:
                        while held.recv(65_536):
                            pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server.getsockname()[1], read
    finally:
        stop.set()
        thread.join()
        server.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2], ids=["1.3", "1.2"])
@pytest.mark.parametrize(("identity", "expected"), MUTUAL)
def test_mutual_tls(tmp_path, identity, expected, version):
    (tmp_path / "other").mkdir()
    authority, other = Authority(tmp_path), Authority(tmp_path / "other")
    shown = identity(authority, other)
    context = authority.server("localhost", clients=authority)
    context.maximum_version = version

    async def run():
        client = HttpClient(LOCAL, authority.pem)
        got = await client.send(request(f"https://localhost:{port}/", identity=shown, timeout=5.0))
        await client.aclose()
        return got

    with asking(context) as (port, read):
        got = asyncio.run(run())
    if version is ssl.TLSVersion.TLSv1_2 and shown is None:
        expected = NotSent("the server refuses our TLS version, ciphers or client certificate")
    assert (got.status if isinstance(got, Response) else got) == expected
    assert len(read) == (1 if expected == 200 else 0)
    assert "BEGIN" not in repr(shown)
    assert shows_no_secret(got)


def test_more_servers_than_clients_are_kept_and_none_loses_a_request():
    """A route is an address and its connect timeout: one peer gives as many as the test needs."""

    async def run():
        client = HttpClient(LOCAL)
        others_done = asyncio.Event()

        async def wait(reader, writer):
            await others_done.wait()
            return await answer(201)(reader, writer)

        async with peer(wait, answer(200)) as there:
            first = asyncio.create_task(client.send(request(there.url(), timeout=60)))
            await there.asked.wait()
            for number in range(MAX_CLIENTS + 5):
                assert await client.send(request(there.url(), timeout=5 + number / 1_000))
            kept = client.kept
            others_done.set()
            got = await first
            await client.aclose()
            return kept, got.status

    # Half of the timeout up to CONNECT_S is the connect timeout, so these stay below 10 s.
    assert 5 + (MAX_CLIENTS + 5) / 1_000 < 2 * http_client.CONNECT_S
    assert asyncio.run(run()) == (MAX_CLIENTS, 201)


def test_closing_ends_what_is_in_flight_as_unknown():
    async def run():
        client = HttpClient(LOCAL)
        async with peer(then_hang()) as there:
            sending = asyncio.create_task(client.send(request(there.url())))
            await there.asked.wait()
            await client.aclose()
            return await sending, await client.send(request(there.url()))

    assert asyncio.run(run()) == (Unknown("stopped before the answer"), NotSent("the client is closed"))


# Names.


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


class NameServer:
    """What a name stands for is what the test says now; `gate` holds answers back."""

    def __init__(self, *addresses):
        self.addresses, self.asked = addresses, []
        self.gate, self.reached = threading.Event(), threading.Event()
        self.gate.set()

    def __call__(self, host):
        self.asked.append(host)
        self.reached.set()
        self.gate.wait(10)
        if not self.addresses:
            raise socket.gaierror("no such name")
        return self.addresses


def test_the_checked_address_is_called_by_the_servers_name(tmp_path):
    authority, server = Authority(tmp_path), NameServer("127.0.0.1")

    async def run():
        client = HttpClient(LOCAL, authority.pem, server)
        async with peer(answer(200), tls=authority.server("xn--bcher-kva.example")) as there:
            results = [
                await client.send(request(there.url("https", host)))
                for host in ("b\u00fccher.example", "XN--BCHER-KVA.example", "b%C3%BCcher.example")
            ]
            other = await client.send(request(there.url("https", "kva.example")))
            await client.aclose()
            return [got.status for got in results], other, there

    statuses, other, there = asyncio.run(run())
    assert statuses == [200] * 3
    assert other == NotSent("TLS certificate not valid for the name")
    hosts = {head.lower().partition(b"\r\nhost: ")[2].partition(b":")[0] for head, _ in there.received}
    assert hosts == {b"xn--bcher-kva.example"}
    assert server.asked == ["xn--bcher-kva.example", "kva.example"]


async def over_time(first, then, later, *, times=2):
    """Requests before and after the name's answer changed, `later` seconds apart, and the peer."""
    server, clock = NameServer(*first), Clock()
    client = HttpClient(LOCAL, b"", server, clock)
    async with peer(answer(200)) as there:
        url = there.url("http", "crm.example")
        results = [await client.send(request(url))]
        server.addresses = then
        clock.now += later
        results += [await client.send(request(url)) for _ in range(times)]
        await client.aclose()
        return [got.status if isinstance(got, Response) else got for got in results], there, server


PRIVATE = NotSent("crm.example resolves to 10.0.0.1, which is a private network: nothing was sent")


@pytest.mark.parametrize(
    ("then", "later", "expected"),
    [
        pytest.param(["10.0.0.1"], RESOLVE_S - 20, [200, 200, 200], id="not asked again yet"),
        pytest.param(["10.0.0.1"], RESOLVE_S, [200, PRIVATE, PRIVATE], id="private"),
        pytest.param(["127.0.0.1", "10.0.0.1"], RESOLVE_S, [200, PRIVATE, PRIVATE], id="mixed"),
        pytest.param([], RESOLVE_S, [200, *[NotSent("the name does not resolve")] * 2], id="gone"),
        pytest.param(["127.0.0.1"], RESOLVE_S, [200, 200, 200], id="the same"),
        pytest.param(["127.9.9.9", "127.0.0.1"], RESOLVE_S, [200, 200, 200], id="turned round"),
    ],
)
def test_a_name_is_asked_again_and_judged_again(then, later, expected):
    results, there, _ = asyncio.run(over_time(["127.0.0.1"], then, later))
    assert results == expected
    assert len(there.received) == expected.count(200)


def test_a_busy_name_is_asked_again_beside_its_requests():
    """A silent name server delays nobody who has a checked address; its private answer is obeyed."""

    async def run():
        server, clock = NameServer("127.0.0.1"), Clock()
        client = HttpClient(LOCAL, b"", server, clock)
        async with peer(answer(200)) as there:
            url = there.url("http", "crm.example")
            await client.send(request(url))
            server.gate.clear()
            server.addresses = ["10.0.0.1"]
            clock.now += REFRESH_S
            results = [await client.send(request(url)) for _ in range(20)]
            asked = len(server.asked)
            server.gate.set()
            while (got := await client.send(request(url))) != PRIVATE:
                assert got.status == 200
            await client.aclose()
            return [got.status for got in results], asked

    assert asyncio.run(asyncio.wait_for(run(), 10)) == ([200] * 20, 2)


def test_a_silent_name_server_holds_up_its_own_names_only():
    async def run():
        silent = NameServer("127.0.0.1")
        silent.gate.clear()
        asked = []

        def resolve(host):
            asked.append(host)
            return silent(host) if host == "silent.example" else ["127.0.0.1"]

        client = HttpClient(LOCAL, b"", resolve)
        async with peer(answer(200)) as there:
            waiting = [
                asyncio.create_task(client.send(request(there.url("http", "silent.example"))))
                for _ in range(100)
            ]
            begun = time.monotonic()
            got = await client.send(request(there.url("http", "crm.example")))
            assert time.monotonic() - begun < SLACK
            results = set(await asyncio.gather(*waiting))
            assert time.monotonic() - begun < LOOKUP_S + SLACK
            silent.gate.set()
            await client.aclose()
            return got.status, results, sorted(asked), len(there.received)

    late = NotSent("the name did not resolve in 5 s")
    assert asyncio.run(run()) == (200, {late}, ["crm.example", "silent.example"], 1)


def test_so_many_names_are_asked_for_at_once():
    """All of them resolve in the end: those over the limit wait for the first."""
    lock, under_way, most = threading.Lock(), set(), []

    def resolve(host):
        with lock:
            under_way.add(host)
            most.append(len(under_way))
            if len(under_way) == MAX_LOOKUPS:
                full.set()
        full.wait(10)
        with lock:
            under_way.discard(host)
        return ["127.0.0.1"]

    full = threading.Event()

    async def run():
        client = HttpClient(LOCAL, b"", resolve)
        async with peer(answer(200)) as there:
            urls = [there.url("http", f"crm{number}.example") for number in range(MAX_LOOKUPS + 8)]
            results = await asyncio.gather(*(client.send(request(url)) for url in urls))
            await client.aclose()
            return {got.status for got in results}

    assert asyncio.run(run()) == {200}
    assert max(most) == MAX_LOOKUPS


def test_closing_ends_the_wait_for_a_name():
    async def run():
        server = NameServer("127.0.0.1")
        server.gate.clear()
        client = HttpClient(LOCAL, b"", server)
        sending = asyncio.create_task(client.send(request("http://crm.example/")))
        assert await asyncio.to_thread(server.reached.wait, 10)
        await client.aclose()
        got = await sending
        server.gate.set()
        return got

    assert asyncio.run(run()) == NotSent("the client is closed")


def test_the_next_attempt_takes_the_next_address():
    results, there, _ = asyncio.run(over_time(["127.9.9.9", "127.0.0.1"], ["10.0.0.1"], 1))
    assert results == [NotSent("connection refused"), 200, 200]
    assert there.connections == 1


def test_a_changed_address_drains_the_old_one():
    """What is in flight there ends normally; what comes next goes to the new one."""

    async def run():
        server, clock, moved = NameServer("127.0.0.1"), Clock(), asyncio.Event()

        async def wait(reader, writer):
            await moved.wait()
            return await answer(201)(reader, writer)

        client = HttpClient(LOCAL, b"", server, clock)
        async with peer(wait) as old, peer(answer(202), at="127.0.0.2", port=old.port) as new:
            url = old.url("http", "crm.example")
            first = asyncio.create_task(client.send(request(url)))
            await old.asked.wait()
            server.addresses = ["127.0.0.2"]
            clock.now += RESOLVE_S
            second = await client.send(request(url))
            kept = client.kept
            moved.set()
            results = (await first).status, second.status, kept, len(old.received), len(new.received)
            await client.aclose()
            return results

    assert asyncio.run(run()) == (201, 202, 1, 1, 1)


@pytest.mark.case(22)
def test_a_hostile_server_delays_no_other():
    async def run():
        client = HttpClient(LOCAL)
        drips = then_hang(OK + b"Content-Length: 100000\r\n\r\n", drip=b"x")
        async with peer(drips) as hostile, peer(answer(200)) as there:
            held = [asyncio.create_task(client.send(request(hostile.url(), timeout=1.5))) for _ in range(50)]
            await hostile.asked.wait()
            slowest = 0.0
            for _ in range(100):
                begun = time.monotonic()
                assert (await client.send(request(there.url()))).status == 200
                slowest = max(slowest, time.monotonic() - begun)
            waiting = sum(not task.done() for task in held)
            results = await asyncio.gather(*held)
            await client.aclose()
            return slowest, waiting, results

    slowest, waiting, results = asyncio.run(run())
    assert waiting
    assert all((got.status, got.read_fully) == (200, False) for got in results)
    assert slowest < 1.0
