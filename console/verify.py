"""`referrals verify`: a delivered file against the document beside it. Needs no server and no settings."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from batcher.files import manifest
from batcher.files.manifest import Entry, Sidecar
from batcher.files.name import SIDECAR
from consumer.service import Stop

#: Documents looked through in the file's folder.
MAX_LOOKED_AT = 10_000
#: Read at once.
BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Verified:
    """The file is as it was sent; `missing` are the window's other files that are not beside it."""

    entry: Entry
    sidecar: Sidecar
    missing: tuple[str, ...]


def verify(file: str, sidecar: str | None) -> Verified:
    """`sidecar`: by default the document in the file's folder that lists it. Raises Stop."""
    path = Path(file)
    found = _read(Path(sidecar)) if sidecar is not None else _beside(path)
    entry = next((one for one in found.files if one.name == path.name), None)
    if entry is None:
        names = ", ".join(one.name for one in found.files)
        raise Stop(f"{path.name} is not among the files of {found.window}: {names}")
    try:
        digest, size = hashlib.sha256(), 0
        with path.open("rb") as content:
            while block := content.read(BLOCK):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise Stop(f"{file}: cannot be read: {error.strerror}") from error
    wrong = manifest.differences(entry, size, digest.hexdigest())
    if wrong:
        raise Stop(f"{file} {wrong}")
    missing = (one.name for one in found.files if not (path.parent / one.name).exists())
    return Verified(entry, found, tuple(missing))


def _beside(path: Path) -> Sidecar:
    for candidate in islice(sorted(path.parent.glob(f"*{SIDECAR}")), MAX_LOOKED_AT):
        try:
            found = _read(candidate)
        except Stop:
            continue
        if any(one.name == path.name for one in found.files):
            return found
    raise Stop(
        f"no document *{SIDECAR} in {path.parent} lists {path.name}: fetch the one that was delivered with "
        "it, or name it with --sidecar"
    )


def _read(path: Path) -> Sidecar:
    try:
        with path.open("rb") as document:
            content = document.read(manifest.MAX_BYTES + 1)
    except OSError as error:
        raise Stop(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > manifest.MAX_BYTES:
        raise Stop(f"{path} is not the document that goes with a window's files")
    try:
        return manifest.parse(content)
    except ValueError as error:
        raise Stop(f"{path} {error}") from error
