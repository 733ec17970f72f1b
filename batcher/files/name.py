"""What a window's files are called. Pure."""

from __future__ import annotations

from batcher.windows import WindowState
from schemas import file_name
from schemas.connection import FileConnection
from schemas.file_name import Named

#: Ending of the document that lists a window's files, beside them.
SIDECAR = ".manifest.json"


def content_name(window: WindowState, connection: FileConnection) -> str:
    """The file's name inside an archive: its own, without what archive and envelope add."""
    return file_name.ended(_stem(window, connection), connection.file.endings[:1])


def final_name(window: WindowState, connection: FileConnection) -> str:
    """The file's name: never the same twice for a connection."""
    return connection.file.called(_stem(window, connection))


def sidecar_name(window: WindowState, connection: FileConnection) -> str:
    """Of the document that goes with the window's files."""
    return f"{_stem(window, connection)}{SIDECAR}"


def _stem(window: WindowState, connection: FileConnection) -> str:
    named = Named(
        account=window.fields.get("account", ""),
        connection=connection.name,
        campaign=connection.campaigns[0] if len(connection.campaigns) == 1 else "",
        number=window.number,
        at=window.sealed_at,
        zone=connection.schedule.zone,
    )
    return file_name.render(connection.file.name, named)
