"""Rows to JSON Lines: one object per line, UTF-8, LF; the same rows always give the same bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from batcher.files.sink import Out
from schemas.mapping import Value

#: Halves of surrogate pairs, which UTF-8 cannot write.
_HALF = re.compile("[\ud800-\udfff]")
#: JSON allows them in a text; readers that split lines wherever Unicode would do not.
_LINE_END = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def write(out: Out, columns: Sequence[str], rows: Iterable[Sequence[Value]]) -> int:
    """Write `rows`, one at a time, members in the columns' order. Answers how many there were.

    None is null; numbers and booleans are themselves; lone surrogates become U+FFFD, all else stays as it
    is. Raises ValueError when a row has not as many cells as there are columns.
    """
    count = 0
    for count, row in enumerate(rows, 1):
        if len(row) != len(columns):
            raise ValueError(f"row {count} has {len(row)} cells for {len(columns)} columns")
        line = json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False, separators=(",", ":"))
        out.write(f"{_HALF.sub(chr(0xFFFD), line).translate(_LINE_END)}\n".encode())
    return count
