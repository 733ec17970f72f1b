"""A thread beside the main loop. Its law: it never dies unseen."""

from __future__ import annotations

import threading
from collections.abc import Callable

from consumer.service import Stop

#: Threads end within this, or are left behind.
JOIN_S = 5.0


class Background:
    """A thread that repeats something until the service stops; what ends it is told to the main loop."""

    def __init__(
        self, name: str, stopping: threading.Event, pause_s: float, work: Callable[[], bool]
    ) -> None:
        """`work` returns whether there was something to do: then it is called again at once."""
        self.failure: str | None = None
        self._stopping, self._pause_s, self._work = stopping, pause_s, work
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                if not self._work():
                    self._stopping.wait(self._pause_s)
        except Stop as stop:
            self.failure = str(stop)
        except Exception as error:  # noqa: BLE001 - a thread must not die unseen
            self.failure = f"{threading.current_thread().name}: {type(error).__name__}: {error}"

    def join(self) -> None:
        self._thread.join(JOIN_S)
