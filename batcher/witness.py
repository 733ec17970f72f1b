"""Whether Redis still knows the windows Kafka was told of. Pure.

A number is durable before anything is sealed under it, and an end before it is told; so a Redis that
knows less was restored from an older copy, and would send again what was sent.
"""

from __future__ import annotations

from collections.abc import Mapping

from batcher.window import State, WindowState
from consumer.layout import REBUILD
from consumer.manifests import Remembered
from consumer.service import Stop

_ENDED = frozenset({State.ENDED, State.CLOSED})


def require_windows(remembered: Remembered, states: Mapping[str, WindowState]) -> None:
    """`states`: the newest window of each connection. Raises Stop with what is missing."""
    for connection, told in remembered.windows.items():
        number = max(told)
        window = states.get(connection)
        behind = window is None or window.number < number
        reopened = (
            window is not None
            and window.number == number
            and told[number].outcome is not None
            and window.state not in _ENDED
        )
        if behind or reopened:
            known = "none of its windows" if window is None else f"{window.id} as {window.state}"
            raise Stop(
                f"Redis went back: {told[number].key.removeprefix('window:')} was told to Kafka as "
                f"{told[number].outcome or 'sealed'}, but Redis knows {known}. It was restored from an older "
                f"copy: restore the newest append-only file, or {REBUILD}; nothing is sent until then"
            )
