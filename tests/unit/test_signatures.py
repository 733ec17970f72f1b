"""Signatures against published vectors, and against the official verifier."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from typing import Any

import pytest
from pydantic import TypeAdapter
from standardwebhooks import Webhook, WebhookVerificationError

from consumer.auth.signatures import signed
from consumer.crm.answers import Pause
from consumer.secrets import TTL_S, Secrets
from schemas.auth import Signature

KEY = "2b0b3b0e-56a1-5f0c-8f3e-5a1d6b1c9d2e"
BODY = '{"name":"Zoë","consent":true}'.encode()
OLD, NEW = (f"whsec_{base64.b64encode(bytes([number]) * 32).decode()}" for number in (1, 2))


def proof(source: Secrets, body: bytes = BODY, key: str = KEY, now=1_700_000_000.9, at=0.0, **model: Any):
    signature = TypeAdapter(Signature).validate_python(model)
    got = signed(signature, source, key, body, now, at)
    return got if isinstance(got, Pause) else dict(got)


def of_hmac(secret: str, body: bytes, **model: Any):
    given = {"kind": "hmac", "secret": "${env:S}", "header": "X-Signature"} | model
    return proof(Secrets({"S": secret}), body, **given)


def of_webhook(*secrets: str, **given: Any):
    environ = {f"S{number}": secret for number, secret in enumerate(secrets)}
    references = [f"${{env:{name}}}" for name in environ]
    return proof(Secrets(environ), kind="standard_webhooks", secrets=references, **given)


JEFE = ("Jefe", b"what do ya want for nothing?")
SHA256 = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"


@pytest.mark.parametrize(
    ("secret", "body", "model", "value"),
    [
        pytest.param(*JEFE, {}, SHA256, id="RFC 4231, case 2"),
        pytest.param(
            *JEFE,
            {"algorithm": "sha512"},
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
            id="RFC 4231, case 2, SHA-512",
        ),
        pytest.param(
            *JEFE, {"algorithm": "sha1"}, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79", id="RFC 2202, case 2"
        ),
        pytest.param(
            *JEFE,
            {"encoding": "base64"},
            base64.b64encode(bytes.fromhex(SHA256)).decode(),
            id="as base64",
        ),
        pytest.param(
            "It's a Secret to Everybody",
            b"Hello, World!",
            {"prefix": "sha256="},
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
            id="GitHub's documented example",
        ),
        pytest.param(
            "schlüssel", b"", {}, hmac.new("schlüssel".encode(), b"", "sha256").hexdigest(), id="empty body"
        ),
    ],
)
def test_hmac_over_the_body(secret, body, model, value):
    assert of_hmac(secret, body, **model) == {"X-Signature": value}


def test_hmac_over_the_second_and_the_body():
    """As Stripe and Slack verify: their second, a dot, the bytes as they came."""
    got = of_hmac("s3cret", BODY, timestamp_header="X-Timestamp")
    expected = hmac.new(b"s3cret", b"1700000000." + BODY, hashlib.sha256).hexdigest()
    assert got == {"X-Signature": expected, "X-Timestamp": "1700000000"}


def test_the_documented_webhook():
    got = of_webhook(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        key="msg_p5jXN8AQM9LWM0D4loKWxJek",
        body=b'{"test": 2432232314}',
        now=1_614_265_330.0,
    )
    assert got == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize(
    ("secrets", "verifiers"),
    [
        pytest.param((OLD,), (OLD,), id="one"),
        pytest.param((OLD, NEW), (OLD, NEW), id="two, while one replaces the other"),
        pytest.param((OLD.rstrip("="),), (OLD,), id="unpadded"),
        *(
            pytest.param((secret,), (secret,), id=f"{size} bytes")
            for size in (24, 64)
            for secret in [f"whsec_{base64.b64encode(bytes(range(size))).decode()}"]
        ),
    ],
)
def test_the_official_library_verifies(secrets, verifiers):
    headers = of_webhook(*secrets, now=time.time())
    for secret in verifiers:
        assert Webhook(secret).verify(BODY, headers)["name"] == "Zoë"
    for secret, body, changed in (
        ("whsec_" + base64.b64encode(b"another" * 5).decode(), BODY, {}),
        (verifiers[0], BODY.replace(b"true", b"null"), {}),
        (verifiers[0], BODY, {"webhook-id": "another"}),
        (verifiers[0], BODY, {"webhook-timestamp": str(int(time.time()) + 60)}),
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, headers | changed)


def test_a_retry_has_its_own_time_and_the_same_id():
    first, second = (of_webhook(OLD, now=now) for now in (1_700_000_000.0, 1_700_086_400.0))
    assert first["webhook-id"] == second["webhook-id"] == KEY
    assert second["webhook-timestamp"] == "1700086400"
    assert first["webhook-signature"] != second["webhook-signature"]


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param(OLD.removeprefix("whsec_"), id="no prefix"),
        pytest.param("whsec_", id="nothing"),
        pytest.param("whsec_" + base64.b64encode(b"x" * 23).decode(), id="too short"),
        pytest.param("whsec_" + base64.b64encode(b"x" * 65).decode(), id="too long"),
        pytest.param(OLD.replace("A", "_", 1), id="not base64"),
        pytest.param(OLD[:30] + " " * 4 + OLD[30:], id="blanks inside"),
        pytest.param(OLD + "\n" + NEW, id="two in one file"),
        pytest.param(OLD[:-2] + "é", id="not ASCII"),
        pytest.param("whsk_" + OLD.removeprefix("whsec_"), id="an asymmetric key"),
    ],
)
def test_a_secret_that_cannot_sign_is_said_and_not_shown(secret):
    expected = (
        Pause("signature.secrets, number 2: its value is not one line of printable text"),
        Pause("signature.secrets, number 2: its value is not whsec_ and base64 of 24 to 64 bytes"),
    )
    assert of_webhook(NEW, secret) in expected


@pytest.mark.parametrize(
    "model",
    [
        pytest.param({"kind": "hmac", "secret": "${env:GONE}", "header": "X"}, id="HMAC"),
        pytest.param({"kind": "standard_webhooks", "secrets": ["${env:S}", "${env:GONE}"]}, id="webhooks"),
    ],
)
def test_a_missing_secret_is_named(model):
    got = proof(Secrets({"S": OLD}), **model)
    assert isinstance(got, Pause)
    assert got.reason.endswith(": ${env:GONE} is not set in the environment")


def test_a_rotated_secret_signs_once_it_is_seen(tmp_path):
    file = tmp_path / "secret"
    model = {"kind": "standard_webhooks", "secrets": [f"${{file:{file}}}"]}
    secrets = Secrets({})
    for content, at, expected in ((OLD, 0.0, OLD), (NEW, TTL_S - 1, OLD), (NEW, TTL_S, NEW)):
        file.write_text(content + "\n")
        headers = proof(secrets, now=time.time(), at=at, **model)
        Webhook(expected).verify(BODY, headers)
