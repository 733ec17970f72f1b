"""The connections folder on disk: read whole, or refused with every error of every file."""

from __future__ import annotations

from pathlib import Path

from consumer.service import Stop
from schemas.connection import ConnectionSet
from schemas.connection_file import assemble

#: One file per account; more is another folder mounted by mistake.
MAX_FILES = 10_000
#: Larger than any account's file.
MAX_FILE_BYTES = 1 << 20


def read(folder: str) -> ConnectionSet:
    """The set that `folder`/*.yaml describes. Raises Stop with a line per error."""
    root = Path(folder)
    if not root.is_dir():
        raise Stop(f"connections folder {folder} is not a folder: check the path or REFERRALS_CONNECTIONS")
    paths = sorted([*root.glob("*.yaml"), *root.glob("*.yml")])
    if len(paths) > MAX_FILES:
        raise Stop(f"connections folder {folder} has {len(paths)} files, over {MAX_FILES}: is it the right one?")
    read = [_text(path) for path in paths]
    found = assemble([file for file in read if not isinstance(file, Problem)]) if read or not paths else []
