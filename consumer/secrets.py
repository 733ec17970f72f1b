"""Resolves `${env:NAME}` and `${file:/run/secrets/x}` references, when they are used.

Its law: a value leaves only through `resolve`; errors name the reference. A changed file is seen
within TTL_S, a missing secret that was put right at once.
"""

from __future__ import annotations

import os
import re
import stat
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from schemas.connection import REFERENCE

#: Seconds a value is kept: spares the disk at thousands of requests a second, and a rotation is seen soon.
TTL_S = 30.0
#: References kept: four for each client the worker keeps.
MAX_KEPT = 1_024
#: Bytes of a secret file: a private key with its chain fits; a path mistaken for a secret does not.
MAX_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Missing:
    """A reference that leads nowhere. `reason` names it and says why, and never holds a value."""

    reason: str


class Secrets:
    """Resolves references against the environment and files. Its repr shows no value."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._kept: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def resolve(self, text: str, now: float) -> str | Missing:
        """`text` with every reference in it replaced. `now`: seconds of a monotonic clock."""
        if "${" not in text:
            return text
        parts = []
        end = 0
        for match in REFERENCE.finditer(text):
            value = self._value(match, now)
            if isinstance(value, Missing):
                return value
            parts += [text[end : match.start()], value]
            end = match.end()
        return "".join([*parts, text[end:]])

    def _value(self, match: re.Match[str], now: float) -> str | Missing:
        reference, kind, name = match.group(0, 1, 2)
        kept = self._kept.get(reference)
        if kept is not None and 0 <= now - kept[0] < TTL_S:
            return kept[1]
        value = self._variable(name) if kind == "env" else _file(name)
        if isinstance(value, Missing):
            self._kept.pop(reference, None)
            return Missing(f"{reference} {value.reason}")
        self._kept[reference] = (now, value)
        self._kept.move_to_end(reference)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return value

    def _variable(self, name: str) -> str | Missing:
        return self._environ.get(name) or Missing("is not set in the environment")


def _file(path: str) -> str | Missing:
    """A small regular file's text without its last line end. Opened so that a pipe cannot block us."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return Missing("is not a file")
            content = os.read(descriptor, MAX_BYTES + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        return Missing(f"cannot be read ({getattr(error, 'strerror', None) or 'not a path'})")
    if len(content) > MAX_BYTES:
        return Missing(f"is larger than {MAX_BYTES} bytes")
    try:
        value = content.decode("utf-8")
    except UnicodeDecodeError:
        return Missing("is not UTF-8 text")
    return value.removesuffix("\n").removesuffix("\r") or Missing("is empty")
