"""Secrets as values of one line.

Its law: a reason names the field and the reference, never a value.
"""

from __future__ import annotations

from consumer.crm.answers import Pause
from consumer.secrets import Missing, Secrets


def line(secrets: Secrets, text: str, what: str, monotonic_s: float) -> str | Pause:
    """`text` with its references replaced, as one line of printable text in any script.

    `what`: the field's place in the connection's file, such as `auth.token`, for the reason.
    """
    value = secrets.resolve(text, monotonic_s)
    if isinstance(value, Missing):
        return Pause(f"{what}: {value.reason}")
    return value if value.isprintable() else Pause(f"{what}: its value is not one line of printable text")


def header_value(secrets: Secrets, text: str, what: str, monotonic_s: float) -> str | Pause:
    """The same, as a header's value (RFC 9110, 5.5): ASCII, and no outer blanks, which servers drop."""
    value = line(secrets, text, what, monotonic_s)
    if isinstance(value, Pause) or (value.isascii() and value == value.strip(" ")):
        return value
    return Pause(f"{what}: its value is not ASCII text without outer blanks, as a header needs it")


def whole(secrets: Secrets, text: str, what: str, monotonic_s: float) -> str | Pause:
    """The same, of any number of lines: a PEM."""
    value = secrets.resolve(text, monotonic_s)
    return Pause(f"{what}: {value.reason}") if isinstance(value, Missing) else value
