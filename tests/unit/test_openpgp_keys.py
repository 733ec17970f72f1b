"""Which OpenPGP keys files are encrypted to and signed with. The public keys were made with GnuPG 2.2."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pysequoia
import pytest
from pysequoia.packet import PacketPile

from batcher.channels import Hold
from batcher.files.openpgp import Unusable, signing_trouble, usable
from batcher.pack import packing
from batcher.window import State, WindowState
from consumer.secrets import Secrets
from schemas.connection import SftpConnection

KEYS = Path(__file__).parents[1] / "support" / "openpgp"
#: After the keys were made.
NOW = datetime(2026, 11, 24, tzinfo=UTC)

CASES = [
    pytest.param("rsa", None, id="a primary key that encrypts itself"),
    pytest.param("mixed", None, id="one part expired, another lives"),
    pytest.param("expired", "expired on 2024-01-02: ask the advertiser", id="expired"),
    pytest.param("revoked", "was revoked: ask the advertiser", id="revoked"),
    pytest.param("signonly", "only signs: ask the advertiser", id="signs only"),
    pytest.param("subexpired", "has no part left that encrypts", id="its encryption part expired"),
    pytest.param("subrevoked", "has no part left that encrypts", id="its encryption part was revoked"),
]


@pytest.mark.parametrize(("name", "says"), CASES)
def test_keys(name: str, says: str | None) -> None:
    found = usable((KEYS / f"{name}.asc").read_text(), NOW)
    if says is None:
        assert isinstance(found, bytes)
    else:
        assert isinstance(found, Unusable)
        assert says in found.reason


@pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg is not installed: Debian's gnupg")
@pytest.mark.parametrize(("name", "says"), CASES)
def test_gpg_is_of_the_same_opinion(tmp_path: Path, name: str, says: str | None) -> None:
    tmp_path.chmod(0o700)
    shown = subprocess.run(
        ["gpg", "--homedir", tmp_path, "--batch", "--show-keys", "--with-colons", KEYS / f"{name}.asc"],
        capture_output=True, check=True, timeout=30,
    )  # fmt: skip
    [primary] = [line for line in shown.stdout.decode("latin-1").splitlines() if line.startswith("pub:")]
    fields = primary.split(":")
    alive = fields[1] not in {"e", "r"} and "E" in fields[11]
    assert alive is (says is None)


def test_a_part_that_expired_is_left_out_where_another_lives() -> None:
    armored = (KEYS / "mixed.asc").read_text()
    kept = usable(armored, NOW)
    assert isinstance(kept, bytes)
    parts = [str(p.tag) for p in PacketPile.from_bytes(kept)].count("Tag.PublicSubkey")
    assert parts == 1
    assert [str(p.tag) for p in PacketPile.from_bytes(armored.encode())].count("Tag.PublicSubkey") == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "is no OpenPGP public key", id="nothing"),
        pytest.param("ssh-ed25519 AAAA", "is no OpenPGP public key", id="an SSH key"),
        pytest.param((KEYS / "rsa.asc").read_text()[:400], "is no OpenPGP public key", id="cut off"),
        pytest.param((KEYS / "two.asc").read_text(), "is 2 keys in one", id="two keys"),
        pytest.param(str(pysequoia.Tsk.generate("a <a@x.example>")), "is a secret key", id="a secret key"),
    ],
)
def test_what_is_no_key_to_encrypt_to(text: str, says: str) -> None:
    found = usable(text, NOW)
    assert isinstance(found, Unusable)
    assert says in found.reason


def lasting(until: datetime) -> pysequoia.Tsk:
    key = pysequoia.Tsk.generate("a <a@x.example>")
    dated = key.extract_certificate().set_expiration(until, key.certifier())
    secret = {
        packet.fingerprint: packet for packet in PacketPile.from_bytes(bytes(key)) if packet.fingerprint
    }
    return pysequoia.Tsk.from_packets(
        [secret.get(p.fingerprint, p) for p in PacketPile.from_bytes(bytes(dated))]
    )


def test_a_key_expires_while_it_is_in_use() -> None:
    made = datetime.now(UTC)
    public = str(lasting(made + timedelta(hours=1)).extract_certificate())
    assert isinstance(usable(public, made), bytes)
    late = usable(public, made + timedelta(days=1))
    assert isinstance(late, Unusable)
    assert "expired on" in late.reason


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "is no OpenPGP secret key", id="nothing"),
        pytest.param((KEYS / "rsa.asc").read_text(), "is no OpenPGP secret key", id="a public key"),
    ],
)
def test_what_is_no_key_to_sign_with(text: str, says: str) -> None:
    found = signing_trouble(text, None, NOW)
    assert found is not None
    assert says in found.reason


def test_our_own_key() -> None:
    made = datetime.now(UTC)
    key = str(lasting(made + timedelta(hours=1)))
    assert signing_trouble(key, None, made) is None
    late = signing_trouble(key, None, made + timedelta(days=1))
    assert late is not None
    assert "prolong it" in late.reason


WINDOW = WindowState("c", 1, State.SEALED, "", 1, NOW, "", 0, 0.0, {"sealed_at": "1780000000000"})


@pytest.mark.parametrize(
    ("file", "says"),
    [
        pytest.param({"compression": "zip", "password": "${env:NONE}"}, "file.password: ${env:NONE} is not set", id="password"),
        pytest.param({"openpgp": {"recipients": ["${file:/nowhere.asc}"]}}, "file.openpgp.recipients: ${file:/nowhere.asc} cannot be read", id="key file"),
        pytest.param({"openpgp": {"recipients": ["${env:GOOD}", "${env:EXPIRED}"]}}, "file.openpgp.recipients: the key in ${env:EXPIRED} expired on 2024-01-02", id="expired key"),
        pytest.param({"openpgp": {"recipients": ["${env:GOOD}"], "signing_key": "${env:GOOD}"}}, "file.openpgp.signing_key: our key in ${env:GOOD} is no OpenPGP secret key", id="signing key"),
        pytest.param({"openpgp": {"recipients": ["${env:GOOD}"], "signing_key": "${env:OWN}", "passphrase": "${env:NONE}"}}, "file.openpgp.passphrase: ${env:NONE} is not set", id="passphrase"),
    ],
)  # fmt: skip
def test_a_window_is_held_for_what_its_file_cannot_be_packed_with(file: dict, says: str) -> None:
    connection = SftpConnection.model_validate(
        {
            "name": "c", "kind": "sftp", "host": "h", "username": "u", "password": "${env:P}", "fields": ["email"],
            "host_keys": ["SHA256:" + "A" * 43], "schedule": {"cron": "0 8 * * *"}, "file": file,
        }
    )  # fmt: skip
    good, expired = ((KEYS / f"{name}.asc").read_text() for name in ("rsa", "expired"))
    secrets = Secrets(
        {"GOOD": good, "EXPIRED": expired, "OWN": str(pysequoia.Tsk.generate("us <us@x.example>"))}
    )
    found = packing(secrets, WINDOW, connection, 0.0, NOW)
    assert isinstance(found, Hold)
    assert found.reason.startswith(says)
