"""OpenPGP: which keys may be used, and encryption in a process of its own. The one owner of pysequoia.

The library encrypts to keys that expired or were revoked, so keys are checked here; and it keeps the
interpreter's lock for as long as it works, so the work is done by this very file, run by itself: it reads
an order and then the content from standard input and writes the message to standard output. It therefore
imports nothing of ours.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import pysequoia
from pysequoia.packet import KeyFlags, Packet, PacketPile, SignatureType, Tag

_SUBKEYS = (Tag.PublicSubkey, Tag.SecretSubkey)
_SECRET = (Tag.SecretKey, Tag.SecretSubkey)
_CERTIFICATIONS = (
    SignatureType.GenericCertification,
    SignatureType.PersonaCertification,
    SignatureType.CasualCertification,
    SignatureType.PositiveCertification,
    SignatureType.DirectKey,
)
#: Before the order stands its length in so many bytes.
_LENGTH = 4


@dataclass(frozen=True, slots=True)
class Unusable:
    """A key that cannot be used. `reason` completes: this key …"""

    reason: str


@dataclass(frozen=True, slots=True)
class _Part:
    """A key, subkey or user id and the signatures on it."""

    packet: Packet
    signatures: tuple[Packet, ...]


def usable(armored: str, now: datetime) -> bytes | Unusable:
    """A public key without its encryption subkeys that have expired or were revoked, so that none is used."""
    try:
        certificates = pysequoia.Cert.split_bytes(armored.encode())
        parts = list(_parts(PacketPile.from_bytes(armored.encode())))
    except RuntimeError:
        certificates, parts = [], []
    if not certificates:
        return Unusable("is no OpenPGP public key: give it as `gpg --armor --export` prints it")
    if len(certificates) != 1:
        return Unusable(f"is {len(certificates)} keys in one: give each a reference of its own")
    (certificate,) = certificates
    if any(_among(part.packet.tag, _SECRET) for part in parts):
        return Unusable("is a secret key: ask the advertiser for the public one, and to make a new pair")
    if certificate.is_revoked:
        return Unusable("was revoked: ask the advertiser for the new one")
    if certificate.expiration is not None and certificate.expiration <= now:
        return Unusable(
            f"expired on {certificate.expiration:%Y-%m-%d}: ask the advertiser for the prolonged or a new one"
        )
    return _only_live(parts, now)


def signing_trouble(armored: str, passphrase: str | None, now: datetime) -> Unusable | None:
    """Why our own key cannot sign, or None."""
    try:
        key = pysequoia.Tsk.from_bytes(armored.encode())
        secret = any(_among(p.tag, _SECRET) for p in PacketPile.from_bytes(armored.encode()))
    except RuntimeError:
        secret = False
    if not secret:
        return Unusable("is no OpenPGP secret key: give it as `gpg --armor --export-secret-keys` prints it")
    certificate = key.extract_certificate()
    if certificate.is_revoked:
        return Unusable("was revoked: make a new one and give its public half to the advertiser")
    if certificate.expiration is not None and certificate.expiration <= now:
        return Unusable(f"expired on {certificate.expiration:%Y-%m-%d}: prolong it")
    try:
        key.signer(passphrase)
    except RuntimeError:
        return Unusable("does not open for signing: check its passphrase, and that it has a part that signs")
    return None


def _only_live(parts: list[_Part], now: datetime) -> bytes | Unusable:
    primary = parts[0]
    own = [s for part in parts for s in part.signatures if _by(primary, s) and _is(s, _CERTIFICATIONS)]
    newest = _newest(own)
    found, live = [], newest is not None and _encrypts(newest.key_flags)
    ended = False
    for part in parts:
        binding = _newest([s for s in part.signatures if _is(s, (SignatureType.SubkeyBinding,))])
        if _among(part.packet.tag, _SUBKEYS) and binding is not None and _encrypts(binding.key_flags):
            if not _alive(part, binding, now):
                ended = True
                continue
            live = True
        found += [part.packet, *part.signatures]
    if live:
        return bytes(pysequoia.Cert.from_packets(found))
    if ended:
        return Unusable("has no part left that encrypts: those it had expired or were revoked")
    return Unusable("only signs: ask the advertiser for one that encrypts")


def _alive(subkey: _Part, binding: Packet, now: datetime) -> bool:
    created = subkey.packet.key_created
    if created is None or any(_is(s, (SignatureType.SubkeyRevocation,)) for s in subkey.signatures):
        return False
    period, until = binding.key_validity_period or timedelta(0), binding.signature_expiration_time
    return created <= now and (not period or now < created + period) and (until is None or now < until)


def _parts(packets: Iterable[Packet]) -> Iterator[_Part]:
    head: Packet | None = None
    signatures: list[Packet] = []
    for packet in packets:
        if packet.tag == Tag.Signature and head is not None:
            signatures.append(packet)
            continue
        if head is not None:
            yield _Part(head, tuple(signatures))
        head, signatures = packet, []
    if head is not None:
        yield _Part(head, tuple(signatures))


def _newest(signatures: Iterable[Packet]) -> Packet | None:
    dated = [(s.signature_created, s) for s in signatures if s.signature_created is not None]
    return max(dated, key=lambda pair: pair[0])[1] if dated else None


def _by(primary: _Part, signature: Packet) -> bool:
    """Whether the key signed it itself, and not a friend."""
    return primary.packet.fingerprint == signature.issuer_fingerprint or (
        signature.issuer_fingerprint is None and primary.packet.key_id == signature.issuer_key_id
    )


def _is(signature: Packet, types: tuple[SignatureType, ...]) -> bool:
    return any(signature.signature_type == one for one in types)


def _among(tag: Tag, tags: tuple[Tag, ...]) -> bool:
    return any(tag == one for one in tags)


def _encrypts(flags: KeyFlags | None) -> bool:
    return flags is not None and (flags.transport_encryption or flags.storage_encryption)


def order(
    recipients: Iterable[bytes], signing_key: str | None, passphrase: str | None, *, armor: bool
) -> bytes:
    """What the process of its own is told before the content."""
    told = json.dumps(
        {
            "recipients": [key.hex() for key in recipients],
            "signing_key": signing_key,
            "passphrase": passphrase,
            "armor": armor,
        }
    ).encode()
    return len(told).to_bytes(_LENGTH, "big") + told


def _read(size: int) -> bytes:
    """Exactly so many bytes of standard input, and none that is the library's to read."""
    found = b""
    while len(found) < size and (more := os.read(0, size - len(found))):
        found += more
    return found


def main() -> None:
    """Encrypt standard input to standard output, as the order before it says."""
    told = json.loads(_read(int.from_bytes(_read(_LENGTH), "big")))
    signer = None
    if told["signing_key"] is not None:
        signer = pysequoia.Tsk.from_bytes(told["signing_key"].encode()).signer(told["passphrase"])
    pysequoia.encrypt_file(
        "/dev/fd/0",
        "/dev/fd/1",
        recipients=[pysequoia.Cert.from_bytes(bytes.fromhex(key)) for key in told["recipients"]],
        signer=signer,
        armor=told["armor"],
    )


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # noqa: BLE001 - told to the process that started this one
        # The first line only: where Rust adds a backtrace, it follows.
        sys.exit(str(error).partition("\n")[0][:200])
