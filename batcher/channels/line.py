"""What every file channel meets on its line to a server: errors of the network, and time.

The law: no wait is without a bound, and an error of the line is a `Retry`.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from batcher.channels import Hold, Retry


class Trouble(Exception):  # noqa: N818 - carries a value out of nested calls
    """The one exception of a file channel, for its session to hand on as a value."""

    def __init__(self, value: Retry | Hold) -> None:
        super().__init__(value.reason)
        self.value = value


@contextmanager
def cut_after(seconds: float, cut: Callable[[], object]) -> Iterator[threading.Event]:
    """`cut` shuts the line: the only bound on what a library does without one. The event says it struck."""
    expired = threading.Event()

    def strike() -> None:
        expired.set()
        with suppress(OSError):
            cut()

    timer = threading.Timer(seconds, strike)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()


def late(where: str, doing: str) -> Retry:
    """The whole transfer took too long."""
    return Retry(f"{where} took longer than a whole transfer may; cut while {doing}")


def broken(error: Exception, where: str, doing: str) -> Retry:
    """What an error of the network means. Pure."""
    match error:
        case socket.gaierror():
            return Retry(f"the name in {where} cannot be resolved")
        case ConnectionRefusedError():
            return Retry(f"{where} refuses connections")
        case TimeoutError():
            return Retry(f"{where} did not answer in time while {doing}")
        case _:
            return Retry(f"the connection to {where} broke while {doing} ({type(error).__name__})")


def cannot_rename(where: str, answer: str) -> Hold:
    """What a refusal to rename means, where both names are right. Pure."""
    return Hold(
        f"{where} does not rename files for us ({answer}): have the advertiser allow it, or set "
        "`completion: done_file`, which does without and delivers at least once"
    )
