"""Files of mails, kept in Redis from the moment their first byte may leave until the window is closed.

What some recipient has may come out otherwise when it is made again. What bounds them is the size of a mail
and the number of mails a window may take.
"""

from __future__ import annotations

from batcher.window import WindowState
from batcher.windows import Windows
from consumer.store import Call, Script

KEEP = Script("batcher", "keep")

#: A file kept by a worker that died before it could say so is forgotten after this: all are made in minutes.
UNTOLD_S = 3_600


def keep(windows: Windows, window: WindowState, number: int, file: bytes) -> None:
    """Put by the window's file `number`, from 1 on. It is kept for good once `told` has run.

    It stands under the holder's token: a worker that was overtaken never replaces what its follower sends.
    """
    key = windows.kept_file(window.connection, window.token, number)
    windows.store.call(Call(KEEP, key, (file, UNTOLD_S)))


def tell(windows: Windows, window: WindowState, fields: dict[str, str | int]) -> WindowState:
    """Write `fields` with their number of `files`, all put by before. Durable with the next barrier. Raises
    Gone.
    """
    told = windows.advance(window, {**fields, "kept": window.token}, durable=False)
    for key in _keys(windows, told):
        windows.store.command("PERSIST", key)
    return told


def discard(windows: Windows, window: WindowState, count: int) -> None:
    """What the holder has put by, up to file `count`, and will not tell."""
    keys = [windows.kept_file(window.connection, window.token, n) for n in range(1, count + 1)]
    if keys:
        windows.store.command("UNLINK", *keys)


def kept(windows: Windows, window: WindowState, number: int) -> bytes | None:
    """The file kept, or None where it is gone."""
    token = int(window.fields.get("kept", "0"))
    key = windows.kept_file(window.connection, token, number)
    found: bytes | None = windows.store.command("GET", key)
    return found


def forget(windows: Windows, window: WindowState) -> None:
    """Nothing is left of them, where something was kept."""
    keys = _keys(windows, window)
    if keys:
        windows.store.command("UNLINK", *keys)


def _keys(windows: Windows, window: WindowState) -> list[str]:
    if "kept" not in window.fields:
        return []
    token, count = int(window.fields["kept"]), int(window.fields.get("files", "0"))
    return [windows.kept_file(window.connection, token, n) for n in range(1, count + 1)]
