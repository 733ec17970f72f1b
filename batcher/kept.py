"""Files kept in Redis from the moment their first byte may have left until the window is closed.

Only those that no second making would give again, and that a mail takes: what bounds them is its size.
"""

from __future__ import annotations

from batcher.windows import Windows, WindowState

#: A file kept by a worker that died before it could say so is forgotten after a day.
UNTOLD_S = 86_400


def keep(windows: Windows, window: WindowState, file: bytes) -> WindowState:
    """Keep the file that is about to leave. Durable with the next barrier. Raises Gone.

    It stands under the holder's token: a worker that was overtaken never replaces what its follower sends.
    """
    key = windows.keys.kept_file(window.connection, window.token)
    windows.store.command("SET", key, file, "EX", UNTOLD_S)
    told = windows.advance(window, {"kept": window.token}, durable=False)
    windows.store.command("PERSIST", key)
    if "kept" in window.fields and _key(windows, window) != key:
        forget(windows, window)
    return told


def kept(windows: Windows, window: WindowState) -> bytes | None:
    """The file kept, or None where it is gone."""
    found: bytes | None = windows.store.command("GET", _key(windows, window))
    return found


def forget(windows: Windows, window: WindowState) -> None:
    """Nothing is left of it, where something was kept."""
    if "kept" in window.fields:
        windows.store.command("UNLINK", _key(windows, window))


def _key(windows: Windows, window: WindowState) -> str:
    return windows.keys.kept_file(window.connection, int(window.fields["kept"]))
