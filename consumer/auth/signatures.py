"""Signatures over a request's body: plain HMAC, and Standard Webhooks.

Its law: what is signed are the very bytes that are sent; the time is the attempt's, the id is the
delivery's. Source: standard-webhooks.md of the Standard Webhooks specification.
"""

from __future__ import annotations

import binascii
import hmac
from base64 import b64encode
from typing import assert_never

from consumer.auth.secret_lines import line
from consumer.auth.static import Headers
from consumer.crm.answers import Pause
from consumer.secrets import Secrets
from schemas.auth import Hmac, StandardWebhooks

#: Standard Webhooks: 24 to 64 random bytes, as base64 behind this prefix.
PREFIX = "whsec_"
MIN_BYTES, MAX_BYTES = 24, 64


def signed(
    signature: Hmac | StandardWebhooks,
    secrets: Secrets,
    key: str,
    body: bytes,
    now_s: float,
    monotonic_s: float,
) -> Headers | Pause:
    """The headers that prove `body`, or why they cannot be made.

    `key`: the idempotency key. `now_s`: Unix seconds; their whole seconds are sent.
    """
    match signature:
        case Hmac():
            return _hmac(signature, secrets, body, str(int(now_s)), monotonic_s)
        case StandardWebhooks():
            return _standard(signature, secrets, key, body, str(int(now_s)), monotonic_s)
        case _:
            assert_never(signature)


def _hmac(signature: Hmac, secrets: Secrets, body: bytes, second: str, monotonic_s: float) -> Headers | Pause:
    secret = line(secrets, signature.secret, "signature.secret", monotonic_s)
    if isinstance(secret, Pause):
        return secret
    named = signature.timestamp_header
    content = body if named is None else f"{second}.".encode("ascii") + body
    digest = hmac.digest(secret.encode(), content, signature.algorithm)
    text = digest.hex() if signature.encoding == "hex" else b64encode(digest).decode("ascii")
    value = signature.prefix + text
    if not (value.isascii() and value.isprintable()):
        return Pause("signature.prefix: its value is not one line of ASCII text")
    proof = ((signature.header, value),)
    return proof if named is None else (*proof, (named, second))


def _standard(
    signature: StandardWebhooks, secrets: Secrets, key: str, body: bytes, second: str, monotonic_s: float
) -> Headers | Pause:
    content = f"{key}.{second}.".encode() + body
    proofs = []
    for number, reference in enumerate(signature.secrets, 1):
        what = f"signature.secrets, number {number}"
        text = line(secrets, reference, what, monotonic_s)
        if isinstance(text, Pause):
            return text
        secret = _decoded(text)
        if secret is None:
            return Pause(f"{what}: its value is not {PREFIX} and base64 of {MIN_BYTES} to {MAX_BYTES} bytes")
        proofs.append("v1," + b64encode(hmac.digest(secret, content, "sha256")).decode("ascii"))
    return (("webhook-id", key), ("webhook-timestamp", second), ("webhook-signature", " ".join(proofs)))


def _decoded(text: str) -> bytes | None:
    """Its padding may be left out, as the official libraries let it."""
    encoded = text.removeprefix(PREFIX).rstrip("=")
    try:
        secret = binascii.a2b_base64(encoded + "=" * (-len(encoded) % 4), strict_mode=True)
    except ValueError:
        return None
    return secret if text.startswith(PREFIX) and MIN_BYTES <= len(secret) <= MAX_BYTES else None
