"""What a window's file is packed with: its secrets resolved, its keys found usable, or why it is held.

Looked up at every try, so that a key that was prolonged or a password that was mended counts at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from batcher.channels import Hold
from batcher.files import openpgp
from batcher.files.name import content_name
from batcher.files.openpgp import Unusable
from batcher.files.packing import Envelope, Packing
from batcher.window import WindowState
from consumer.secrets import Missing, Secrets
from schemas.connection import FileConnection
from schemas.files import OpenPgp


def packing(
    secrets: Secrets,
    window: WindowState,
    connection: FileConnection,
    monotonic: float,
    now: datetime,
    file: int = 0,
) -> Packing | Hold:
    """`monotonic` seconds for the age of secrets, `now` aware for that of keys. `file`: which of several."""
    form, envelope = connection.file, None
    own = members(secrets, form, ("password",), monotonic, "file.")
    if isinstance(own, Hold):
        return own
    if form.openpgp is not None:
        sealed = _envelope(secrets, form.openpgp, monotonic, now)
        if isinstance(sealed, Hold):
            return sealed
        envelope = sealed
    at = window.sealed_at.astimezone(ZoneInfo(connection.schedule.zone))
    return Packing(content_name(window, connection, file), at, own["password"], envelope)


def members(
    secrets: Secrets, given: object, names: Sequence[str], monotonic: float, where: str = ""
) -> dict[str, str | None] | Hold:
    """The secrets behind these members, None where one is not given. `where`: put before a name."""
    values: dict[str, str | None] = {}
    for name in names:
        reference = getattr(given, name)
        value = None if reference is None else secrets.resolve(reference, monotonic)
        if isinstance(value, Missing):
            return Hold(f"{where}{name}: {value.reason}")
        values[name] = value
    return values


def _envelope(secrets: Secrets, given: OpenPgp, monotonic: float, now: datetime) -> Envelope | Hold:
    keys: list[bytes] = []
    for reference in given.recipients:
        found = secrets.resolve(reference, monotonic)
        key = Unusable(found.reason) if isinstance(found, Missing) else openpgp.usable(found, now)
        if isinstance(key, Unusable):
            where = "" if isinstance(found, Missing) else f"the key in {reference} "
            return Hold(f"file.openpgp.recipients: {where}{key.reason}")
        keys.append(key)
    own = members(secrets, given, ("signing_key", "passphrase"), monotonic, "file.openpgp.")
    if isinstance(own, Hold):
        return own
    signing_key, passphrase = own["signing_key"], own["passphrase"]
    trouble = None if signing_key is None else openpgp.signing_trouble(signing_key, passphrase, now)
    if trouble is not None:
        return Hold(f"file.openpgp.signing_key: our key in {given.signing_key} {trouble.reason}")
    return Envelope(tuple(keys), signing_key, passphrase, given.armor)
