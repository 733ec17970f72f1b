"""pandas in a process and a folder of its own: too large for every checkout's virtual environment."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import debian

#: uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url
REQUIREMENTS = Path(__file__).with_name("pandas.txt")
_CHILD = """
import json, sys
sys.path.insert(0, sys.argv[1])
import pandas
for line in sys.stdin:
    path, options = json.loads(line)
    table = pandas.read_csv(path, **options).astype(object)
    rows = table.where(table.notna(), None).values.tolist()
    print(json.dumps([list(table.columns), rows]), flush=True)
"""


class Pandas:
    def __init__(self, child: subprocess.Popen[str], errors: Path) -> None:
        self._child, self._errors = child, errors

    def read_csv(self, path: Path, **options: Any) -> tuple[list[str], list[list[Any]]]:
        """Columns and rows, with None for what is missing."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps([str(path), options]) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        assert line, self._errors.read_text()
        columns, rows = json.loads(line)
        return columns, rows


def find() -> Path | str:
    """The folder it is in, or why there is none."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    folder = debian.CACHE / f"pandas-{sys.implementation.cache_tag}-{digest}"
    try:
        debian.once(folder, _fetch)
    except (OSError, subprocess.SubprocessError) as error:
        return f"pandas cannot be fetched here ({type(error).__name__})"
    return folder


@contextmanager
def pandas(folder: Path, errors: Path) -> Iterator[Pandas]:
    # -I and -S: nothing of ours and of our libraries is seen there.
    argv = (sys.executable, "-I", "-S", "-c", _CHILD, str(folder))
    with (
        errors.open("wb") as log,
        subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8"
        ) as child,
    ):
        try:
            yield Pandas(child, errors)
        finally:
            child.kill()


def _fetch(place: Path) -> None:
    debian.run(
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes",
        "--only-binary", ":all:", "--no-deps", "--target", str(place), "-r", str(REQUIREMENTS), folder=place,
    )  # fmt: skip
