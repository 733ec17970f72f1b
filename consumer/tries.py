"""What the attempts of a delivery leave behind for the next. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tries:
    """`unknown_since`: seconds since the epoch of the first attempt whose outcome nobody knows, 0 for none.
    `group`: it goes in one request with the others of the same name, "" for any.
    """

    attempts: int = 0
    unknown_since: float = 0.0
    group: str = ""

    def text(self) -> str:
        """As Redis keeps it."""
        return f"{self.attempts} {round(self.unknown_since * 1000)} {self.group}".rstrip()


NONE = Tries()


def parse(written: str) -> Tries:
    """What `Tries.text` wrote; "" is none yet."""
    attempts, _, rest = written.partition(" ")
    unknown_ms, _, group = rest.partition(" ")
    return Tries(int(attempts or 0), int(unknown_ms or 0) / 1000, group)
