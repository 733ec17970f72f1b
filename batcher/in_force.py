"""What of a connection holds for a window under way. Pure.

Its content is as frozen at the seal, so that no edit moves the columns of a pending file. Its way is as it
is now, so that a window held for a key, a password or an address leaves once the connection is mended.
"""

from __future__ import annotations

from batcher.windows import State, WindowState
from schemas.connection import EmailConnection, SftpConnection

FileConnection = SftpConnection | EmailConnection


def in_force(frozen: FileConnection, current: FileConnection | None, window: WindowState) -> FileConnection:
    """`current`: None where the connection was taken out. Once something has left, the kind stays too, and
    an uploaded file is looked for where it was put.
    """
    content = {name: getattr(frozen, name) for name in ("fields", "partner_data", "file", "schedule")}
    match frozen, current:
        case SftpConnection(), SftpConnection() if window.state is not State.SEALED:
            ways = (current.model_copy(update=content), frozen)
            return next((way for way in ways if place(way) == window.fields.get("place")), ways[0])
        case EmailConnection(), EmailConnection():
            return current.model_copy(update={**content, "subject": frozen.subject})
        case _ if current is not None and window.state is State.SEALED:
            return current.model_copy(update=content)
        case _:
            return frozen


def place(connection: SftpConnection) -> str:
    """Where its files are put."""
    return f"{connection.username}@{connection.host}:{connection.port}/{connection.directory}"
