"""One JSON line per event, ids only. The one owner of structlog.

Never a body, a token or personal data: callers pass ids, coordinates, counts and outcomes.
"""

from __future__ import annotations

import atexit
import json
import logging
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

#: Lines wait so long for others: writing each alone costs a system call and, for who holds it, the
#: interpreter. A warning is written at once, with what waits.
WRITE_EVERY_S = 0.1
#: Lines that wait; over it whoever logs writes.
MAX_WAITING = 10_000
#: Made once: `json.dumps` makes one for each document.
_JSON = json.JSONEncoder(default=repr)


class _Lines:
    """What was logged, on its way to standard error. Any thread may log."""

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()
        self._writing = threading.Lock()
        self.logger: Any = structlog.get_logger()

    def write(self, text: str) -> None:
        self._waiting.append(text)
        if len(self._waiting) > MAX_WAITING:
            self.write_out()

    def flush(self) -> None:
        """The logger asks for it after each line."""

    def write_out(self) -> None:
        with self._writing:
            text = "".join(self._waiting.popleft() for _ in range(len(self._waiting)))
            # Whether somebody reads it is not the work's affair.
            with suppress(OSError, ValueError):
                sys.stderr.write(text)
                sys.stderr.flush()

    def keep_writing(self) -> None:
        while True:
            time.sleep(WRITE_EVERY_S)
            self.write_out()


_lines = _Lines()
_writer = threading.Thread(target=_lines.keep_writing, name="log", daemon=True)
write_out = _lines.write_out


def configure(service: str, level: str) -> None:
    """Log to standard error, at `level` and above, with the service's name on each line."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _rendered,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.WriteLoggerFactory(file=_lines),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    _lines.logger = structlog.get_logger().bind(service=service)
    if not _writer.is_alive():
        _writer.start()
        atexit.register(write_out)


def _rendered(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    return _JSON.encode(event)


def event(name: str, **facts: Any) -> None:
    """Something that happened, such as `delivery.attempted`."""
    _lines.logger.info(name, **facts)


def trouble(name: str, **facts: Any) -> None:
    """Something an operator should look at."""
    _lines.logger.warning(name, **facts)
    write_out()


def where(error: BaseException | None) -> str:
    """File and line an exception came from, without its text, which may repeat personal data."""
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "nowhere"


def silent() -> logging.Logger:
    """For libraries that log on their own: those who wait for them report what matters."""
    logger = logging.getLogger("silent")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
    return logger
