"""How a sealed window leaves by FTPS."""

from __future__ import annotations

from batcher.channels import Hold, ftps
from batcher.deliver import Result, Sending, resolved
from batcher.deliver_upload import by_upload
from batcher.windows import WindowState
from schemas.connection import FtpsConnection


def by_ftps(sending: Sending, window: WindowState, connection: FtpsConnection) -> tuple[WindowState, Result]:
    secrets = resolved(sending, connection, "password", "ca")
    if isinstance(secrets, Hold):
        return window, secrets
    target = ftps.Target(
        host=connection.host,
        port=connection.port,
        username=connection.username,
        directory=connection.directory,
        timeout=connection.timeout,
        password=secrets["password"] or "",
        implicit=connection.tls == "implicit",
        certificates=tuple(pin.replace(":", "").lower() for pin in connection.certificates),
        ca=secrets["ca"],
        policy=sending.policy,
    )
    return by_upload(sending, window, connection, ftps.connect(target))
