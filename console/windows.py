"""`referrals windows` and `referrals flush`: how file connections stand, and one flushed on request."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from batcher.window import State, WindowState
from batcher.windows import ASKED, Windows
from console.connections import require
from console.ground import redis_alone
from console.show import one_line
from consumer import connection_sets
from consumer.keys import Keys, Role
from consumer.route import FILE_KINDS
from consumer.service import Settings, Stop
from consumer.store import Store
from consumer.topics import Topics

COLUMNS = ("connection", "window", "state", "slot", "rows", "reason", "since")
#: A flush takes seconds; Redis is asked this often meanwhile.
POLL_S = 0.2
#: Characters of the reason a window is given up for.
MAX_WHY = 200


@dataclass(frozen=True, slots=True)
class _Seen:
    """The newest window, and whether the flush that was asked for is still to be claimed."""

    window: WindowState | None
    asked: bool


def states(settings: Settings, name: str | None) -> list[tuple[str, ...]]:
    """A row per file connection, a cell per column of COLUMNS. Raises Stop."""
    with redis_alone(settings) as (store, _):
        names = _file_connections(store, settings)
        if name is not None:
            require(name, names, "there is no file connection")
            names = [name]
        windows = _windows(store, settings)
        asked = windows.asked()
        return [row(one, windows.state(one), asked.get(one)) for one in names]


def flush(settings: Settings, name: str, wait_s: float | None) -> str:
    """Ask for a window now; what became of it, as far as `wait_s` seconds tell. Raises Stop."""
    with redis_alone(settings) as (store, _):
        require(name, _file_connections(store, settings), "there is no file connection")
        windows = _windows(store, settings)
        before = windows.state(name)
        windows.ask(name, datetime.now(UTC))
        store.barrier()
        if wait_s is None:
            return f"asked for a window of {name}: `referrals windows {name}` shows how it goes"
        return _awaited(windows, name, before.number if before else 0, time.monotonic() + wait_s, time.sleep)


def give_up(settings: Settings, window: str, why: str) -> str:
    """Have a held window end undelivered, so that the connection's next ones may leave. Raises Stop."""
    name, number = parsed(window)
    with redis_alone(settings) as (store, _):
        windows = _windows(store, settings)
        found = windows.state(name)
        if found is None or found.number != number or not found.held:
            raise Stop(f"{window} is not held: only a window that waits for a person can be given up")
        if not why.isprintable() or not 0 < len(why) <= MAX_WHY:
            raise Stop(
                f"say why in one line of at most {MAX_WHY} characters, naming nobody: a receipt keeps it"
            )
        windows.give_up(found, why)
        store.barrier()
    rows = sum(mark.rows for mark in found.marks)
    return f"{window} will end undelivered; `referrals export` has its {rows} rows as long as Kafka does"


def release(settings: Settings, window: str) -> str:
    """Have a window sent that may have left before Redis was lost. Raises Stop."""
    name, number = parsed(window)
    with redis_alone(settings) as (store, _):
        windows = _windows(store, settings)
        found = windows.state(name)
        if found is None or found.number != number or not found.unsure:
            raise Stop(
                f"{window} does not wait for that word: only one that Redis's loss caught under way does"
            )
        if found.damaged:
            raise Stop(f"{window} cannot be sent: {one_line(found.reason)}")
        windows.let_go(found)
        store.barrier()
    return f"{window} is sent now: `referrals windows {name}` shows how it goes"


def parsed(window: str) -> tuple[str, int]:
    """A window's connection and number. Raises Stop. Pure."""
    name, _, number = window.rpartition("-")
    if not name or not number.isdecimal() or not number.isascii():
        raise Stop(f"{one_line(window)} is no window: they are called like acme-daily-000012")
    return name, int(number)


def _awaited(
    windows: Windows, name: str, before: int, deadline: float, sleep: Callable[[float], None]
) -> str:
    while True:
        seen = _Seen(windows.state(name), name in windows.asked())
        ended = outcome(seen.window, before, asked=seen.asked)
        if ended is not None:
            return ended
        if time.monotonic() > deadline:
            raise Stop(late(seen.window, name, asked=seen.asked))
        sleep(POLL_S)


def outcome(window: WindowState | None, before: int, *, asked: bool) -> str | None:
    """How the window asked for after number `before` ended, or None while it is under way. Raises Stop
    where it waits for a person. Pure.
    """
    if window is None:
        return None
    if window.held:
        raise Stop(f"window {window.id} is held: {one_line(window.reason)}")
    if asked or window.number <= before or window.state is not State.CLOSED:
        return None
    if not window.slot.startswith(ASKED):
        return f"the window asked for has ended; another one, {window.id}, came after it"
    rows, ended = window.fields.get("rows", "0"), window.fields.get("outcome", "")
    reason = f" ({one_line(window.reason)})" if window.reason else ""
    return f"window {window.id}: {ended}, {rows} rows{reason}"


def late(window: WindowState | None, name: str, *, asked: bool) -> str:
    """Why there is no outcome yet. Pure."""
    if asked or window is None:
        return (
            f"nobody has begun the window of {name} yet: does `python -m batcher flush` run? The wish stays"
        )
    reason = f", {one_line(window.reason)}" if window.reason else ""
    return f"window {window.id} has not ended yet ({window.state}{reason}); it goes on without this command"


def row(name: str, window: WindowState | None, asked: str | None) -> tuple[str, ...]:
    """A cell per column of COLUMNS. Pure."""
    wish = f"a flush was asked for at {asked}" if asked else ""
    if window is None:
        return (name, "", "none yet", "", "", wish, "")
    reason = "; ".join(filter(None, (window.reason, wish)))
    rows = window.fields.get("rows") or str(sum(mark.rows for mark in window.marks))
    since = window.since.astimezone(UTC).isoformat(timespec="seconds")
    state = f"{window.state} (held)" if window.held else str(window.state)
    return (name, str(window.number), state, window.slot, rows, reason, since)


def _windows(store: Store, settings: Settings) -> Windows:
    return Windows(store, Keys(Topics(settings.prefix).referrals, Role.BATCH))


def _file_connections(store: Store, settings: Settings) -> list[str]:
    connections = connection_sets.current(store, Topics(settings.prefix)).set.by_name()
    return [name for name, (_, connection) in connections.items() if connection.kind in FILE_KINDS]
