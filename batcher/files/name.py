"""What a window's files are called. Pure."""

from __future__ import annotations

from batcher.window import WindowState
from schemas import file_name
from schemas.connection import FileConnection
from schemas.file_name import Named

#: Ending of the document that lists a window's files, beside them.
SIDECAR = ".manifest.json"


#: Of files that are sent once more, where they are not to have the names they had.
AGAIN = "-resend"


def content_name(window: WindowState, connection: FileConnection, file: int = 0) -> str:
    """The file's name inside an archive: its own, without what archive and envelope add."""
    return file_name.ended(_stem(window, connection, file), connection.file.endings[:1])


def final_name(window: WindowState, connection: FileConnection, file: int = 0) -> str:
    """The file's name: never the same twice for a connection. `file`: which of several, 0 for the one."""
    return connection.file.called(_stem(window, connection, file))


def sidecar_name(window: WindowState, connection: FileConnection) -> str:
    """Of the document that goes with the window's files."""
    return f"{_stem(window, connection)}{SIDECAR}"


def _stem(window: WindowState, connection: FileConnection, file: int = 0) -> str:
    named = Named(
        account=window.fields.get("account", ""),
        connection=connection.name,
        campaign=connection.campaigns[0] if len(connection.campaigns) == 1 else "",
        number=window.first_number,
        at=window.sealed_at,
        zone=connection.schedule.zone,
    )
    name = file_name.render(connection.file.name, named)
    return f"{file_name.numbered(name, file)}{window.fields.get('suffix', '')}"
