"""What a window's file is packed with: its secrets resolved, its keys found usable, or why it is held.

Looked up at every try, so that a key that was prolonged or a password that was mended counts at once.
"""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from batcher.channels import Hold
from batcher.files import openpgp
from batcher.files.name import content_name
from batcher.files.openpgp import Unusable
from batcher.files.packing import Envelope, Packing
from batcher.windows import WindowState
from consumer.secrets import Missing, Secrets
from schemas.connection import FileConnection
from schemas.files import OpenPgp


def packing(
    secrets: Secrets, window: WindowState, connection: FileConnection, monotonic: float, now: datetime
) -> Packing | Hold:
    """`monotonic` seconds for the age of secrets, `now` aware for that of keys."""
    file, password, envelope = connection.file, None, None
    if file.password is not None:
        found = secrets.resolve(file.password, monotonic)
        if isinstance(found, Missing):
            return Hold(f"file.password: {found.reason}")
        password = found
    if file.openpgp is not None:
        sealed = _envelope(secrets, file.openpgp, monotonic, now)
        if isinstance(sealed, Hold):
            return sealed
        envelope = sealed
    at = window.sealed_at.astimezone(ZoneInfo(connection.schedule.zone))
    return Packing(content_name(window, connection), at, password, envelope)


def _envelope(secrets: Secrets, given: OpenPgp, monotonic: float, now: datetime) -> Envelope | Hold:
    keys: list[bytes] = []
    for reference in given.recipients:
        found = secrets.resolve(reference, monotonic)
        key = Unusable(found.reason) if isinstance(found, Missing) else openpgp.usable(found, now)
        if isinstance(key, Unusable):
            where = "" if isinstance(found, Missing) else f"the key in {reference} "
            return Hold(f"file.openpgp.recipients: {where}{key.reason}")
        keys.append(key)
    own: list[str | None] = []
    for name in ("signing_key", "passphrase"):
        reference = getattr(given, name)
        value = None if reference is None else secrets.resolve(reference, monotonic)
        if isinstance(value, Missing):
            return Hold(f"file.openpgp.{name}: {value.reason}")
        own.append(value)
    signing_key, passphrase = own
    trouble = None if signing_key is None else openpgp.signing_trouble(signing_key, passphrase, now)
    if trouble is not None:
        return Hold(f"file.openpgp.signing_key: our key in {given.signing_key} {trouble.reason}")
    return Envelope(tuple(keys), signing_key, passphrase, given.armor)
