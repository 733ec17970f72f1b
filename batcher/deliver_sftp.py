"""How a sealed window leaves by SFTP."""

from __future__ import annotations

from batcher.channels import Hold, sftp
from batcher.deliver import Result, Sending, resolved
from batcher.deliver_upload import by_upload
from batcher.windows import WindowState
from schemas.connection import SftpConnection


def by_sftp(sending: Sending, window: WindowState, connection: SftpConnection) -> tuple[WindowState, Result]:
    secrets = resolved(sending, connection, "password", "private_key", "passphrase")
    if isinstance(secrets, Hold):
        return window, secrets
    target = sftp.Target(
        host=connection.host,
        port=connection.port,
        username=connection.username,
        host_keys=connection.host_keys,
        directory=connection.directory,
        timeout=connection.timeout,
        policy=sending.policy,
        **secrets,
    )
    return by_upload(sending, window, connection, sftp.connect(target))
