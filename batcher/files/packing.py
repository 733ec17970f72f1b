"""What goes round a file's content, with its secrets in clear: only in memory, and never in a repr."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Envelope:
    """OpenPGP: whom it is encrypted to and who signs. Keys as checked by `openpgp.usable`."""

    recipients: tuple[bytes, ...]
    signing_key: str | None = field(default=None, repr=False)
    passphrase: str | None = field(default=None, repr=False)
    armor: bool = False


@dataclass(frozen=True, slots=True)
class Packing:
    """`name`: of the content inside an archive; `at`: its date there, local time of the seal."""

    name: str
    at: datetime
    password: str | None = field(default=None, repr=False)
    envelope: Envelope | None = None
