"""What of a connection holds for a window under way. Pure.

Its content is as frozen at the seal, so that no edit moves the columns of a pending file. What a file is
written as stays too, unless the window is held before anything left: then a person mends it. Its way is as it
is now, so that a window held for a key, a password or an address leaves once the connection is mended.
"""

from __future__ import annotations

from batcher.window import State, WindowState
from schemas.connection import EmailConnection, FileConnection, SftpConnection, UploadConnection

__all__ = ["FileConnection", "in_force", "own", "place"]


def in_force(frozen: FileConnection, current: FileConnection | None, window: WindowState) -> FileConnection:
    """`current`: None where the connection was taken out. Once something has left, the kind stays too, and
    an uploaded file is looked for where it was put.
    """
    content = {
        name: getattr(frozen, name) for name in ("campaigns", "fields", "partner_data", "file", "schedule")
    }
    if current is not None and window.held and window.state is State.SEALED:
        content["file"] = current.file
    if window.state is State.UPLOADED:
        ways = [current.model_copy(update=content)] if current is not None else []
        uploads = [way for way in (*ways, frozen) if isinstance(way, UploadConnection)]
        here = [way for way in uploads if place(way) == window.fields.get("place")]
        return next(iter((*here, *uploads)), frozen)
    match frozen, current:
        case EmailConnection(), EmailConnection():
            return current.model_copy(update={**content, "subject": frozen.subject})
        case _, EmailConnection() if window.state is State.SENDING:
            return current.model_copy(update=content)
        case _ if current is not None and window.state is State.SEALED:
            return current.model_copy(update=content)
        case _:
            return frozen


def own(named: tuple[str, FileConnection] | None, window: WindowState) -> FileConnection | None:
    """The connection in force, `named` with its account, where it is of the account whose rows these are:
    another account may have its name by now.
    """
    return named[1] if named is not None and named[0] == window.fields["account"] else None


def place(connection: UploadConnection) -> str:
    """Where its files are put."""
    scheme = "" if isinstance(connection, SftpConnection) else f"{connection.kind}://"
    return f"{scheme}{connection.username}@{connection.host}:{connection.port}/{connection.directory}"
