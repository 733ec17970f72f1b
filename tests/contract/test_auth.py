"""Credentials as receivers and token servers see them, over the worker's own HTTP client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import time
from dataclasses import dataclass, replace

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from consumer.auth.authenticator import Authenticator
from consumer.auth.token_answer import MAX_LIFETIME_S, MAX_QUIET_S, MAX_TOKEN, UNSAID_S, Token
from consumer.auth.token_request import ASSERTION_S
from consumer.auth.tokens import MAX_KEPT, MIN_USE_S, QUIET_S, REFRESH_S, REPLACED_S, SPARE_S
from consumer.crm.answers import Pause, Retry
from consumer.exchange import ClientIdentity, Request
from consumer.http_client import HttpClient
from consumer.secrets import TTL_S, Secrets
from deploy.embedded.processes import free_port
from schemas.push import HttpConnection
from tests.support.peers import LOCAL, answer, then_hang, then_reset
from tests.support.token_server import json_answer, refusal, token_server

KEY = "2b0b3b0e-56a1-5f0c-8f3e-5a1d6b1c9d2e"
NOW = 1_700_000_000.0
ENVIRON = {
    "KEY": "SECRET-KEY",
    "ODD": "SECRET& =/?%+ü",
    "LINES": "SECRET\r\nX-Injected: 1",
    "BLANKS": " SECRET ",
    "CLIENT": "SECRET-CLIENT",
    "WEBHOOK": "whsec_" + base64.b64encode(b"SECRET" * 5).decode(),
    "CERTIFICATE": "-----BEGIN CERTIFICATE-----\nSECRET\n-----END CERTIFICATE-----\n",
    "PRIVATE": "-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----\n",
    "LOCKED": "-----BEGIN ENCRYPTED PRIVATE KEY-----\nSECRET\n-----END ENCRYPTED PRIVATE KEY-----\n",
}
BEARER = {"kind": "bearer", "token": "${env:KEY}"}
WEBHOOK = {"kind": "standard_webhooks", "secrets": ["${env:WEBHOOK}"]}
IDENTITY = {"certificate": "${env:CERTIFICATE}", "private_key": "${env:PRIVATE}"}
URL = "https://crm.example.com/leads"


def connected(auth=None, **members):
    given = {"kind": "http", "name": "crm", "url": URL, "fields": ["email"]} | members
    return HttpConnection.model_validate(given | ({"auth": auth} if auth else {}))


def asked(url=URL, *headers):
    return Request("POST", url, (("Idempotency-Key", KEY), *headers), b'{"email":"SECRET-PERSON"}', 5.0)


def at_once(coroutine):
    """The result of a coroutine that never gives up the loop."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    raise AssertionError("it suspended")


async def nobody(_):
    raise AssertionError("no token server was to be asked")


def authenticated(auth=None, request=None, environ=ENVIRON, **members):
    one = Authenticator(Secrets(environ), nobody)
    return at_once(one.authenticate(connected(auth, **members), request or asked(), KEY, NOW, 0.0))


@dataclass
class Desk:
    """An authenticator whose token requests go out over real connections, at any monotonic second."""

    authenticator: Authenticator
    client: HttpClient

    async def ask(self, connection, at=0.0):
        return await self.authenticator.authenticate(connection, asked(), KEY, time.time(), at)

    async def authorization(self, connection, at=0.0):
        got = await self.ask(connection, at)
        return dict(got.headers)["Authorization"].removeprefix("Bearer ") if isinstance(got, Request) else got


@contextlib.asynccontextmanager
async def desk(environ=ENVIRON, within=None):
    """`within`: seconds a token request may take, where a test waits for that to pass."""
    client = HttpClient(LOCAL)

    async def send(request):
        return await client.send(request if within is None else replace(request, timeout=within))

    try:
        yield Desk(Authenticator(Secrets(environ), send), client)
    finally:
        await client.aclose()


def oauth(server, **members):
    given = {
        "kind": "oauth2",
        "token_url": server.url,
        "client_id": "client",
        "client_secret": "${env:CLIENT}",
    }
    return connected(given | members)


@pytest.mark.parametrize(
    ("auth", "header"),
    [
        pytest.param(
            {"kind": "header", "name": "X-Key", "value": "${env:KEY}"}, ("X-Key", "SECRET-KEY"), id="key"
        ),
        pytest.param(BEARER, ("Authorization", "Bearer SECRET-KEY"), id="bearer"),
        pytest.param(
            {"kind": "basic", "username": "Aladdin", "password": "${env:P}"},
            ("Authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            id="RFC 7617, 2",
        ),
        pytest.param(
            {"kind": "basic", "username": "test", "password": "${env:Q}"},
            ("Authorization", "Basic dGVzdDoxMjPCow=="),
            id="RFC 7617, 2.1, UTF-8",
        ),
    ],
)
def test_a_credential_in_a_header_stands_there_once(auth, header):
    environ = ENVIRON | {"P": "open sesame", "Q": "123£"}
    request = asked(URL, (header[0].lower(), "of the connection's own"), ("X-Other", "1"))
    got = authenticated(auth, request, environ)
    assert got == replace(request, headers=(request.headers[0], ("X-Other", "1"), header))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (URL, f"{URL}?api_key=SECRET%26%20%3D%2F%3F%25%2B%C3%BC"),
        (f"{URL}?", f"{URL}?api_key=SECRET%26%20%3D%2F%3F%25%2B%C3%BC"),
        (f"{URL}?a=%20b", f"{URL}?a=%20b&api_key=SECRET%26%20%3D%2F%3F%25%2B%C3%BC"),
        (f"{URL}?a=1&", f"{URL}?a=1&api_key=SECRET%26%20%3D%2F%3F%25%2B%C3%BC"),
    ],
)
def test_a_key_in_the_query_is_encoded_once_and_changes_nothing_else(url, expected):
    got = authenticated({"kind": "query", "name": "api_key", "value": "${env:ODD}"}, asked(url))
    assert got == replace(asked(url), url=expected)


def test_without_credential_the_request_is_the_same_object():
    request = asked()
    assert authenticated(request=request) is request


def test_signature_and_certificate_come_on_top():
    got = authenticated(BEARER, signature=WEBHOOK, client_certificate=IDENTITY)
    assert [name for name, _ in got.headers] == [
        "Idempotency-Key",
        "Authorization",
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
    ]
    assert dict(got.headers)["webhook-id"] == KEY
    assert got.body == asked().body
    pems = (ENVIRON["CERTIFICATE"].removesuffix("\n"), ENVIRON["PRIVATE"].removesuffix("\n"))
    assert got.client_certificate in (
        ClientIdentity(*(pem.encode() for pem in pems)),
        ClientIdentity(ENVIRON["CERTIFICATE"].encode(), ENVIRON["PRIVATE"].encode()),
    )
    assert "SECRET" not in repr(got)


UNUSABLE = "its value is not "
ONE_LINE = f"{UNUSABLE}one line of printable text"
FOR_HEADERS = f"{UNUSABLE}ASCII text without outer blanks, as a header needs it"


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        (
            {"auth": BEARER | {"token": "${env:GONE}"}},
            "auth.token: ${env:GONE} is not set in the environment",
        ),
        ({"auth": BEARER | {"token": "${env:LINES}"}}, f"auth.token: {ONE_LINE}"),
        ({"auth": BEARER | {"token": "${env:ODD}"}}, f"auth.token: {FOR_HEADERS}"),
        ({"auth": BEARER | {"token": "${env:BLANKS}"}}, f"auth.token: {FOR_HEADERS}"),
        ({"auth": {"kind": "header", "name": "X", "value": "${env:LINES}"}}, f"auth.value: {ONE_LINE}"),
        ({"auth": {"kind": "query", "name": "k", "value": "${env:LINES}"}}, f"auth.value: {ONE_LINE}"),
        (
            {"auth": {"kind": "basic", "username": "u", "password": "${env:LINES}"}},
            f"auth.password: {ONE_LINE}",
        ),
        (
            {"auth": {"kind": "basic", "username": "u:v", "password": "${env:KEY}"}},
            "auth.username: a user name with a colon cannot be sent as Basic (RFC 7617)",
        ),
        (
            {"signature": {"kind": "hmac", "secret": "${file:/none}", "header": "X"}},
            "signature.secret: ${file:/none} cannot be read (No such file or directory)",
        ),
        (
            {"signature": {"kind": "hmac", "secret": "${env:KEY}", "header": "X", "prefix": "a\nb"}},
            f"signature.prefix: {UNUSABLE}one line of ASCII text",
        ),
        (
            {"client_certificate": IDENTITY | {"certificate": "${env:KEY}"}},
            f"client_certificate.certificate: {UNUSABLE}the PEM of a certificate",
        ),
        (
            {"client_certificate": IDENTITY | {"private_key": "${env:LOCKED}"}},
            f"client_certificate.private_key: {UNUSABLE}the PEM of a key without passphrase",
        ),
        (
            {"client_certificate": IDENTITY | {"private_key": "${env:GONE}"}},
            "client_certificate.private_key: ${env:GONE} is not set in the environment",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_secret_that_cannot_be_used_pauses_and_is_not_shown(members, reason):
    assert authenticated(**members) == Pause(reason)


def test_a_rotated_secret_is_sent_once_it_is_seen(tmp_path):
    file = tmp_path / "token"
    connection = connected(BEARER | {"token": f"${{file:{file}}}"})
    one = Authenticator(Secrets({}), nobody)
    for content, at, expected in (("old", 0.0, "old"), ("new", TTL_S - 1, "old"), ("new", TTL_S, "new")):
        file.write_text(content)
        got = at_once(one.authenticate(connection, asked(), KEY, NOW, at))
        assert dict(got.headers)["Authorization"] == f"Bearer {expected}"


# OAuth2


@pytest.mark.parametrize("client_auth", ["basic", "body"])
def test_client_credentials_of_any_characters_get_a_token_the_api_takes(client_auth):
    async def run():
        settings = {"client_id": "a:b c&ü", "client_secret": ENVIRON["ODD"], "scope": "read write/all"}
        environ = ENVIRON | {"SCOPE": "write/all", "AUDIENCE": "https://api.example.com"}
        async with token_server(client_auth=client_auth, **settings) as server, desk(environ) as ours:
            connection = oauth(
                server,
                client_id="a:b c&ü",
                client_secret="${env:ODD}",
                client_auth=client_auth,
                scope="read ${env:SCOPE}",
                audience="${env:AUDIENCE}/?a=b&c",
            )
            got = await ours.ask(connection)
            sent = await ours.client.send(replace(got, url=server.api))
            again = at_once(ours.ask(connection, 10.0))
            return got, sent, again, server

    got, sent, again, server = asyncio.run(run())
    assert sent.status == 200
    assert again == got
    assert server.asked == 1
    assert server.forms[0]["audience"] == "https://api.example.com/?a=b&c"
    assert got.body == asked().body


@pytest.fixture(scope="module")
def key():
    return rsa.generate_private_key(65537, 2048)


def pem(key, format=serialization.PrivateFormat.PKCS8, lock=None):
    encryption = serialization.BestAvailableEncryption(lock) if lock else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, format, encryption).decode()


def public(key):
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, info)


def assertion(server, **members):
    given = {
        "kind": "oauth2_assertion",
        "token_url": server.url,
        "issuer": "us@x.iam",
        "private_key": "${env:PEM}",
    }
    return connected(given | members)


@pytest.mark.parametrize(
    ("format", "members"),
    [
        pytest.param(serialization.PrivateFormat.PKCS8, {"scope": "a b"}, id="as for Google"),
        pytest.param(
            serialization.PrivateFormat.TraditionalOpenSSL,
            {"subject": "${env:WHO}@x"},
            id="as for Salesforce",
        ),
    ],
)
def test_a_signed_assertion_verifies_with_the_public_key(key, format, members):
    async def run():
        issuers = {"us@x.iam": public(key)}
        environ = {"PEM": pem(key, format), "WHO": "user"}
        async with token_server(issuers=issuers, scope=members.get("scope")) as server, desk(environ) as ours:
            got = await ours.ask(assertion(server, **members))
            return await ours.client.send(replace(got, url=server.api)), server

    wall = int(time.time())
    sent, server = asyncio.run(run())
    assert sent.status == 200
    claims = dict(server.claims[0])
    members = {name: value.replace("${env:WHO}", "user") for name, value in members.items()}
    assert len(claims.pop("jti")) >= 16
    issued = claims.pop("iat")
    assert wall <= issued <= time.time()
    assert claims == {"iss": "us@x.iam", "aud": server.url, "exp": issued + ASSERTION_S} | {
        {"subject": "sub"}.get(name, name): value for name, value in members.items()
    }


@pytest.mark.filterwarnings("ignore:Key size should be")
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        pytest.param(lambda _: "SECRET", f"{UNUSABLE}the PEM of an RSA", id="no PEM"),
        pytest.param(lambda key: pem(key)[:400], f"{UNUSABLE}the PEM of an RSA", id="cut short"),
        pytest.param(
            lambda key: json.dumps({"private_key": pem(key)}),
            f"{UNUSABLE}the PEM of an RSA",
            id="Google's JSON file",
        ),
        pytest.param(lambda key: pem(key, lock=b"x"), f"{UNUSABLE}the PEM of an RSA", id="locked"),
        pytest.param(
            lambda _: pem(ec.generate_private_key(ec.SECP256R1())),
            f"{UNUSABLE}the PEM of an RSA",
            id="elliptic",
        ),
        pytest.param(lambda key: public(key).decode(), "it is a public key", id="public"),
        pytest.param(
            lambda _: pem(rsa.generate_private_key(65537, 1024)),
            "an RS256 key has at least 2048 bits",
            id="weak",
        ),
        pytest.param(lambda _: "", "${env:PEM} is not set", id="missing"),
    ],
)
def test_a_key_that_cannot_sign_pauses_and_asks_nobody(key, bad, reason):
    async def run():
        async with token_server() as server, desk({"PEM": bad(key)}) as ours:
            return await ours.ask(assertion(server)), server.asked

    got, times = asyncio.run(run())
    assert isinstance(got, Pause)
    assert got.reason.startswith(f"auth.private_key: {reason}")
    assert times == 0


def test_a_token_is_fetched_once_however_many_ask():
    async def run():
        async with token_server() as server, desk() as ours:
            connection, other = oauth(server), oauth(server, audience="another")
            got = await asyncio.gather(*(ours.authorization(connection) for _ in range(500)))
            assert await ours.authorization(connected(oauth(server).auth.model_dump(), name="twin")) == got[0]
            return set(got), await ours.authorization(other), server.asked

    assert asyncio.run(run()) == ({"SECRET-TOKEN-1"}, "SECRET-TOKEN-2", 2)


def test_when_the_one_that_asks_is_cancelled_the_next_one_asks():
    async def run():
        async with token_server(says=then_hang()) as server, desk() as ours:
            tasks = [asyncio.create_task(ours.authorization(oauth(server))) for _ in range(3)]
            await server.peer.asked.wait()
            server.says = None
            tasks[0].cancel()
            return await asyncio.gather(*tasks, return_exceptions=True), server.asked

    (first, *others), times = asyncio.run(run())
    assert isinstance(first, asyncio.CancelledError)
    assert (others, times) == (["SECRET-TOKEN-1"] * 2, 2)


@pytest.mark.parametrize(
    ("expires_in", "refreshed", "ended"),
    [
        pytest.param(3600, 3600 - REFRESH_S, 3600 - SPARE_S, id="an hour"),
        pytest.param("3600", 3600 - REFRESH_S, 3600 - SPARE_S, id="in a string"),
        pytest.param(60.0, 45.0, 52.5, id="a minute"),
        pytest.param(None, UNSAID_S - REFRESH_S, UNSAID_S - SPARE_S, id="unsaid"),
        pytest.param("soon", UNSAID_S - REFRESH_S, UNSAID_S - SPARE_S, id="a word"),
        pytest.param(True, UNSAID_S - REFRESH_S, UNSAID_S - SPARE_S, id="true"),
        pytest.param(float("nan"), UNSAID_S - REFRESH_S, UNSAID_S - SPARE_S, id="not a number"),
        pytest.param({}, UNSAID_S - REFRESH_S, UNSAID_S - SPARE_S, id="an object"),
        pytest.param(10**30, MAX_LIFETIME_S - REFRESH_S, MAX_LIFETIME_S - SPARE_S, id="for ever"),
        pytest.param("9" * 4000, MAX_LIFETIME_S - REFRESH_S, MAX_LIFETIME_S - SPARE_S, id="4,000 digits"),
        pytest.param(float("inf"), MAX_LIFETIME_S - REFRESH_S, MAX_LIFETIME_S - SPARE_S, id="infinite"),
        pytest.param(0, MIN_USE_S, MIN_USE_S, id="ended already"),
        pytest.param(-5, MIN_USE_S, MIN_USE_S, id="negative"),
    ],
)
def test_a_token_is_asked_for_anew_before_it_ends(expires_in, refreshed, ended):
    """Of those who ask while it still holds, one waits for the new one; the others go on with the old."""

    #: What the first answer took is part of its shortest use.
    slack = 2.0

    async def run():
        async with token_server(members={"expires_in": expires_in}) as server, desk() as ours:
            connection = oauth(server)
            first = await ours.authorization(connection)
            assert at_once(ours.authorization(connection, refreshed - 0.1)) == first
            assert server.asked == 1
            if ended > refreshed:
                one = asyncio.create_task(ours.authorization(connection, refreshed + slack))
                await asyncio.sleep(0)
                assert at_once(ours.authorization(connection, refreshed + slack)) == first
                assert await one == "SECRET-TOKEN-2"
            else:
                assert await ours.authorization(connection, ended + slack) == "SECRET-TOKEN-2"
            return server.asked

    assert asyncio.run(run()) == 2


def test_a_token_server_that_fails_does_not_end_the_token_that_still_holds():
    async def run():
        async with token_server() as server, desk() as ours:
            connection = oauth(server)
            first = await ours.authorization(connection)
            server.says = answer(503)
            late = 3600.0 - SPARE_S
            during = [
                await ours.authorization(connection, at) for at in (late - 20, late - 19, late - 8, late - 1)
            ]
            after = await ours.authorization(connection, late + 1)
            return during == [first] * 4, after, server.asked

    same, after, times = asyncio.run(run())
    assert same
    assert isinstance(after, Retry)
    assert 2 <= times <= 4


THE_SERVER = "the token server 127.0.0.1"
FAILURES = [
    pytest.param(
        refusal(401, "invalid_client"), Pause("401 invalid_client: check the client's id"), id="bad client"
    ),
    pytest.param(refusal(400, "invalid_grant"), Pause("400 invalid_grant: check issuer"), id="bad grant"),
    pytest.param(refusal(400, "invalid_scope"), Pause("400 invalid_scope: check scope"), id="bad scope"),
    pytest.param(
        refusal(400, "SECRET_code"), Pause("400: check token_url and the credential"), id="unknown code"
    ),
    pytest.param(json_answer(400, {"error": {"a": 1}}), Pause("400: check token_url"), id="code of no text"),
    pytest.param(answer(404, body=b"SECRET"), Pause("404: check token_url"), id="no such page"),
    pytest.param(
        answer(302, "Location: http://127.0.0.1/SECRET"),
        Pause("302: redirects are not followed"),
        id="redirect",
    ),
    pytest.param(
        json_answer(200, {"error": "invalid_client"}),
        Pause("200 without an access token invalid_client"),
        id="200 error",
    ),
    pytest.param(answer(204), Pause("204 without an access token"), id="no content"),
    pytest.param(answer(200, body=b"<html>SECRET</html>"), Pause("200 without an access token"), id="HTML"),
    pytest.param(answer(200, body=b"\xff\xfe\x00"), Pause("200 without an access token"), id="not UTF-8"),
    pytest.param(answer(200, body=b"[" * 60_000), Pause("200 without an access token"), id="60,000 deep"),
    pytest.param(answer(200, body=b"[1]"), Pause("200 without an access token"), id="a list"),
    pytest.param(
        json_answer(200, {"access_token": 7}), Pause("200 without an access token"), id="token of digits"
    ),
    pytest.param(
        json_answer(200, {"access_token": ""}), Pause("does not fit into a header"), id="empty token"
    ),
    pytest.param(
        json_answer(200, {"access_token": "SECRET\r\nX-Injected:1"}),
        Pause("does not fit into a header"),
        id="two lines",
    ),
    pytest.param(
        json_answer(200, {"access_token": "SECRETé"}), Pause("does not fit into a header"), id="not ASCII"
    ),
    pytest.param(
        json_answer(200, {"access_token": "S" * (MAX_TOKEN + 1)}),
        Pause("does not fit into a header"),
        id="long token",
    ),
    pytest.param(
        json_answer(200, {"access_token": "SECRET", "token_type": "mac"}),
        Pause("not of the type Bearer"),
        id="another type",
    ),
    pytest.param(
        json_answer(200, {"access_token": "SECRET", "token_type": []}),
        Pause("not of the type Bearer"),
        id="type of no text",
    ),
    pytest.param(answer(200, body=b"S" * 200_000), Retry("too long or broke off", unknown=False), id="huge"),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{",
        Retry("too long or broke off", unknown=False),
        id="cut short",
    ),
    pytest.param(answer(500), Retry("answered 500", unknown=False), id="500"),
    pytest.param(answer(429), Retry("answered 429", unknown=False), id="429"),
    pytest.param(
        refusal(400, "temporarily_unavailable"), Retry("answered 400", unknown=False), id="unavailable"
    ),
    pytest.param(then_reset(), Retry("reset after sending", unknown=False), id="reset"),
    pytest.param(then_hang(), Retry("no answer in 0.8 s", unknown=False), id="hangs"),
]


@pytest.mark.parametrize(("says", "expected"), FAILURES)
def test_a_token_server_that_fails_is_asked_once_by_all_and_later_again(says, expected):
    async def run():
        async with token_server(says=says) as server, desk(within=0.8) as ours:
            connection = oauth(server)
            answers = await asyncio.gather(*(ours.ask(connection) for _ in range(50)))
            answers.append(at_once(ours.ask(connection, QUIET_S - 0.1)))
            times, server.says = server.asked, None
            return answers, times, await ours.authorization(connection, QUIET_S + 3.0)

    answers, times, later = asyncio.run(run())
    assert times == 1
    assert later == "SECRET-TOKEN-1"
    for got in answers:
        assert type(got) is type(expected)
        assert got.reason.startswith(THE_SERVER)
        assert expected.reason in got.reason
        assert "SECRET" not in got.reason
        assert isinstance(got, Pause) or (not got.unknown and 0 < got.retry_after <= QUIET_S + 3.0)


@pytest.mark.parametrize(("asked_for", "quiet"), [("30", 30.0), ("86400", MAX_QUIET_S), ("0", QUIET_S)])
def test_a_token_server_may_ask_for_quiet_within_bounds(asked_for, quiet):
    async def run():
        async with token_server(says=answer(503, f"Retry-After: {asked_for}")) as server, desk() as ours:
            connection = oauth(server)
            first = await ours.ask(connection)
            again = at_once(ours.ask(connection, quiet - 0.1))
            await ours.ask(connection, quiet + 3.0)
            return first, again, server.asked

    first, again, times = asyncio.run(run())
    assert first.retry_after == pytest.approx(quiet)
    assert 0 < again.retry_after < 3.0
    assert times == 2


def test_a_token_server_that_is_away_is_no_unknown_attempt():
    async def run():
        async with desk() as ours:
            port = free_port()
            auth = {"kind": "oauth2", "client_id": "c", "client_secret": "${env:CLIENT}"}
            return await ours.ask(connected(auth | {"token_url": f"http://127.0.0.1:{port}/"}))

    got = asyncio.run(run())
    assert (got.reason, got.unknown) == (f"{THE_SERVER}: connection refused", False)


def test_the_token_url_is_checked_like_every_address():
    async def run():
        async with desk() as ours:
            auth = {"kind": "oauth2", "client_id": "c", "client_secret": "${env:CLIENT}"}
            return await ours.ask(connected(auth | {"token_url": "https://169.254.169.254/latest"}))

    got = asyncio.run(run())
    assert isinstance(got, Pause)
    assert got.reason.startswith("the token server 169.254.169.254: ")
    assert got.reason.endswith(": check token_url")


def test_a_rotated_client_secret_is_used_for_the_next_token(tmp_path):
    file = tmp_path / "secret"
    file.write_text("SECRET-CLIENT")

    async def run():
        async with token_server() as server, desk() as ours:
            connection = oauth(server, client_secret=f"${{file:{file}}}")
            first = await ours.authorization(connection)
            server.client_secret = "SECRET-ROTATED"
            file.write_text("SECRET-ROTATED\n")
            return first, await ours.authorization(connection, 3600.0)

    assert asyncio.run(run()) == ("SECRET-TOKEN-1", "SECRET-TOKEN-2")


def test_a_refused_token_is_replaced_once():
    async def run():
        async with token_server() as server, desk() as ours:
            connection = oauth(server)
            early = [await ours.ask(connection) for _ in range(3)]
            server.revoked.add("SECRET-TOKEN-1")
            sent = await ours.client.send(replace(early[0], url=server.api))
            assert sent.status == 401
            assert ours.authenticator.refused(connection, early[0], 1.0)
            fresh = await ours.ask(connection, 2.0)
            assert (await ours.client.send(replace(fresh, url=server.api))).status == 200
            # Answers to what was sent with the old one come late: they say nothing about the new one.
            assert all(ours.authenticator.refused(connection, late, 3.0) for late in early[1:])
            assert at_once(ours.ask(connection, 3.0)) == fresh
            assert not ours.authenticator.refused(connection, fresh, 4.0)
            third = await ours.ask(connection, 5.0)
            assert ours.authenticator.refused(connection, third, 1.0 + REPLACED_S)
            return server.asked

    assert asyncio.run(run()) == 3


def test_no_token_helps_where_none_is_used():
    one = Authenticator(Secrets(ENVIRON), nobody)
    assert not one.refused(connected(BEARER), asked(), 0.0)


def test_the_tokens_kept_are_bounded():
    async def run():
        async with token_server() as server, desk() as ours:
            for number in range(MAX_KEPT + 5):
                await ours.ask(oauth(server, audience=str(number)))
            kept = at_once(ours.authorization(oauth(server, audience=str(MAX_KEPT + 4))))
            return (
                kept,
                await ours.authorization(oauth(server, audience="0")),
                len(ours.authenticator._tokens._kept),
            )

    assert asyncio.run(run()) == (f"SECRET-TOKEN-{MAX_KEPT + 5}", f"SECRET-TOKEN-{MAX_KEPT + 6}", MAX_KEPT)


def test_nothing_shows_a_secret(key, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    environ = ENVIRON | {"PEM": pem(key)}

    async def run():
        shown = []
        async with token_server(issuers={"us@x.iam": public(key)}) as server, desk(environ) as ours:
            auths = [
                connected(BEARER, signature=WEBHOOK, client_certificate=IDENTITY),
                connected({"kind": "query", "name": "k", "value": "${env:KEY}"}),
                connected({"kind": "basic", "username": "u", "password": "${env:KEY}"}),
                connected(signature={"kind": "hmac", "secret": "${env:KEY}", "header": "X"}),
                oauth(server),
                oauth(server, client_secret="${env:KEY}"),
                oauth(server, client_secret="${env:LINES}"),
                assertion(server),
                assertion(server, issuer="another"),
            ]
            for connection in auths:
                got = await ours.ask(connection)
                shown += [repr(got), repr(connection), getattr(got, "reason", "")]
                ours.authenticator.refused(connection, asked(), 0.0)
            shown += [repr(held) for held in ours.authenticator._tokens._kept.values()]
            return [*shown, repr(ours.authenticator), repr(Token("Bearer SECRET", 1.0))]

    shown = asyncio.run(run())
    everything = "\n".join([*shown, caplog.text, *capfd.readouterr()])
    secrets = [
        "SECRET",
        pem(key).splitlines()[5],
        base64.b64encode(b"SECRET").decode()[:7],
        "PRIVATE KEY-----",
    ]
    assert [secret for secret in secrets if secret in everything] == []
    assert sum("Request(" in text for text in shown) >= 6
