"""FTPS: one connection for one transfer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from batcher.channels import Hold, Retry
from batcher.channels.ftp_tls import Target, log_in
from batcher.channels.ftps_client import Client
from batcher.channels.line import Trouble
from batcher.channels.resolution import Renamed, Uploaded
from batcher.channels.upload import WITHIN, Session

__all__ = ["Renamed", "Session", "Target", "Uploaded", "connect"]


@contextmanager
def connect(target: Target, within: float = WITHIN) -> Iterator[Session | Retry | Hold]:
    """One connection, for one transfer."""
    with ExitStack() as stack:
        opened: Session | Retry | Hold
        try:
            opened = Session(Client(log_in(target, within, stack)))
        except Trouble as trouble:
            opened = trouble.value
        yield opened
