"""The connections folder on disk: read whole with its warnings, or refused with every error of every file."""

from __future__ import annotations

from pathlib import Path

from consumer.service import Stop
from schemas.connection import ConnectionSet
from schemas.connection_file import Assembled, Problem, examine

#: One file per account; more is another folder mounted by mistake.
MAX_FILES = 10_000
#: Larger than any account's file.
MAX_FILE_BYTES = 1 << 20
#: Warnings that a service logs of a folder; `referrals connections check` shows all.
MAX_WARNINGS = 20


def read(folder: str) -> ConnectionSet:
    """The set that `folder`/*.yaml describes. Raises Stop with a line per error."""
    return look(folder).connections


def look(folder: str) -> Assembled:
    """The set that `folder`/*.yaml describes, and its warnings. Raises Stop with a line per error."""
    root = Path(folder)
    if not root.is_dir():
        raise Stop(f"connections folder {folder} is not a folder: check the path or REFERRALS_CONNECTIONS")
    paths = sorted([*root.glob("*.yaml"), *root.glob("*.yml")])
    if len(paths) > MAX_FILES:
        raise Stop(
            f"connections folder {folder} has {len(paths)} files, over {MAX_FILES}: is it the right one?"
        )
    files = [_text(path) for path in paths]
    problems = [file for file in files if isinstance(file, Problem)]
    texts = [file for file in files if not isinstance(file, Problem)]
    found = examine(texts) if texts or not problems else []
    if isinstance(found, Assembled):
        if not problems:
            return found
        found = []
    raise Stop("\n".join(str(problem) for problem in sorted(problems + found)))


def _text(path: Path) -> tuple[str, str] | Problem:
    try:
        if not path.is_file():
            return Problem(path.name, 1, "", "not a file", "take it out of the folder")
        if path.stat().st_size > MAX_FILE_BYTES:
            what = f"larger than {MAX_FILE_BYTES:,} bytes"
            return Problem(path.name, 1, "", what, "is it an account's file?")
        return path.name, path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        return Problem(path.name, line, "", "not UTF-8 text", "save the file as UTF-8")
    except OSError as error:
        return Problem(path.name, 1, "", f"cannot be read ({error.strerror})", "check what it is and whose")
