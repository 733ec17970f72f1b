"""SFTP: one connection for one transfer."""

from __future__ import annotations

from contextlib import AbstractContextManager

from batcher.channels import Hold, Retry
from batcher.channels.resolution import Renamed, Uploaded
from batcher.channels.sftp_client import Client
from batcher.channels.ssh import Target, log_in
from batcher.channels.upload import WITHIN, Session, opened

__all__ = ["Renamed", "Session", "Target", "Uploaded", "connect"]


def connect(target: Target, within: float = WITHIN) -> AbstractContextManager[Session | Retry | Hold]:
    """One connection, for one transfer."""
    return opened(lambda stack: Client(log_in(target, within, stack)))
