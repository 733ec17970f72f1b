"""Ctrl-C and SIGTERM, noticed between two steps.

An exception in the middle of a step could be swallowed by a library's callback, or leave a child that
nobody knows of yet. Only the second signal raises at once: who sends it wants no order any more.
"""

from __future__ import annotations

import signal
import time
from types import FrameType


class Interrupted(Exception):  # noqa: N818 - what happened to the run
    """Somebody wants this to end."""


class Interrupts:
    """Installed when made. From the main thread."""

    def __init__(self) -> None:
        self._seen = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def pause(self, seconds: float) -> None:
        """Sleep, a second at most. Raises Interrupted where a signal has come."""
        time.sleep(seconds)
        if self._seen:
            raise Interrupted

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self._seen:
            raise KeyboardInterrupt
        self._seen = True
