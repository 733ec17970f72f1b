"""One JSON line per event, ids only. The one owner of structlog.

Never a body, a token or personal data: callers pass ids, coordinates, counts and outcomes.
"""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path
from typing import Any

import structlog


def configure(service: str, level: str) -> None:
    """Log to standard error, at `level` and above, with the service's name on each line."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    _bound.update(service=service)


_bound: dict[str, Any] = {}


def event(name: str, **facts: Any) -> None:
    """Something that happened, such as `delivery.attempted`."""
    structlog.get_logger().info(name, **_bound, **facts)


def trouble(name: str, **facts: Any) -> None:
    """Something an operator should look at."""
    structlog.get_logger().warning(name, **_bound, **facts)


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
