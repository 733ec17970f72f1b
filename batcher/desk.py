"""Which windows to work on, and the threads that do. Blocking libraries live in plain threads here.

Every half second the desk looks at all file connections: a window under way that nobody holds is
taken over; an operator's wish, a due slot or its size opens the next one. Its own timer: no new data is
needed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta

from batcher import schedule
from batcher.again import Wishes
from batcher.deliver import Sending
from batcher.flush import HELD_S
from batcher.full import FULL, Full
from batcher.in_force import FileConnection
from batcher.turn import ONCE_MORE, RESEND, Turn
from batcher.window import State, WindowState
from batcher.windows import ASKED, Windows
from consumer import connection_sets, metrics
from consumer.run import Ground
from schemas.connection import FileBase, Schedule

#: Windows flushed at once by one process: each holds a connection and a page of rows.
WORKERS = 4
LOOK_S = 0.5
#: A window later than this after its slot counts as overdue.
OVERDUE = timedelta(minutes=15)
#: The age of the oldest open row takes a look into every partition of every connection.
OBSERVE_S = 5.0
#: Threads end within this when the service stops; a transfer cut off is taken up again later.
JOIN_S = 20.0


def wanted(
    named: tuple[str, FileConnection] | None,
    window: WindowState | None,
    asked: str | None,
    began: datetime,
    now: datetime,
    *,
    full: bool = False,
) -> str | None:
    """The slot to claim, '' to take up the window under way, None for nothing. Pure.

    `named`: account and connection, None where the connection is no longer in force: then only what was
    sealed already goes out. `began`: the `since` of `schedule.due`. A wish ends the pause before the next
    try, too. `full`: the open window has the rows or bytes its schedule waits for; where a slot is due as
    well, the window is the slot's.
    """
    if window is not None and window.state is not State.CLOSED:
        ready = not _pausing(window, now) or _wished_since(window, asked, now)
        return "" if ready and (named is not None or window.state is not State.CLAIMED) else None
    if named is None:
        return None
    if asked is not None:
        return f"{ASKED}{asked}"
    slot = schedule.due(named[1].schedule, last_slot(window), began, now)
    if slot is not None:
        return slot.text
    return f"{FULL}{now.astimezone(UTC).isoformat(timespec='milliseconds')}" if full else None


def _pausing(window: WindowState, now: datetime) -> bool:
    """Whether the pause between its tries lasts; one longer than any was noted by a clock that was ahead."""
    return 0 < window.retry_at - now.timestamp() <= HELD_S


def _wished_since(window: WindowState, asked: str | None, now: datetime) -> bool:
    """Whether somebody asked after the last try. By a clock that is ahead: once that time has come, or every
    look would be another try.
    """
    tried = int(window.fields.get("tried_at", "0"))
    return asked is not None and tried <= datetime.fromisoformat(asked).timestamp() <= now.timestamp()


def last_slot(window: WindowState | None) -> str | None:
    return (window.fields.get("last") or None) if window is not None else None


class Desk:
    """The flush service's work. `look` is called in a loop by the main thread."""

    def __init__(
        self, ground: Ground, owner: str, new_sending: Callable[[Windows], Sending], pool: ThreadPoolExecutor
    ) -> None:
        """`new_sending`: what a thread needs to send windows over the given connection to Redis."""
        self._ground, self._pool = ground, pool
        self._turn = Turn(ground, owner, new_sending, self._pause)
        self._windows = Windows(ground.store, ground.keys)
        self._again = Windows(ground.store, ground.keys, again=True)
        self._wishes = Wishes(ground.store, ground.keys)
        self._full = Full(self._windows, ground.layout.partitions)
        #: Windows being worked on, and since when; those waiting for a thread too.
        self._busy: dict[str, tuple[Future[None], datetime]] = {}
        self._began: dict[str, datetime] = {}
        self._not_before: dict[str, float] = {}
        self._version = -1
        self._files: Mapping[str, tuple[str, FileConnection]] = {}
        #: Connections no longer in force that had windows: what was sealed for them is still delivered.
        self._former: Collection[str] = ()
        self._observed = -OBSERVE_S

    def look(self, now: datetime) -> None:
        """Start whatever is to be done. Raises StoreUnavailable."""
        self._load()
        states = self._windows.states([*self._files, *self._former])
        asked, paused = self._windows.asked(), self._windows.paused()
        self._busy = {name: busy for name, busy in self._busy.items() if not busy[0].done()}
        clock = time.monotonic()
        free = [
            name
            for name in [*self._files, *self._former]
            if name not in self._busy and name not in paused and clock >= self._not_before.get(name, 0.0)
        ]
        full = self._full.among(self._closed(free, states), clock)
        for name in free:
            connection, window = self._files.get(name), states.get(name)
            since = self._since(name, window, now)
            slot = wanted(connection, window, asked.get(name), since, now, full=name in full)
            if slot is not None:
                seen = window.number if window is not None else 0
                self._busy[name] = (self._pool.submit(self._turn.flush, name, connection, slot, seen), now)
        self._look_again(now, paused)
        self._observe(states, now)

    def _look_again(self, now: datetime, paused: Collection[str]) -> None:
        """Windows that are to be sent once more: beside those under way, and never two of one connection."""
        wishes = self._wishes.all()
        states = self._again.states(list(wishes))
        for name, wish in wishes.items():
            busy = f"{name}{ONCE_MORE}"
            window = states.get(name)
            if window is not None and window.state is State.CLOSED and window.asked_at == wish.at:
                # A worker died before it could forget what was done.
                self._wishes.done(wish)
                continue
            waits = window is not None and _pausing(window, now)
            late = time.monotonic() < self._not_before.get(busy, 0.0)
            if busy in self._busy or name in paused or waits or late:
                continue
            # One under way may be closed before its turn comes: the wish it fulfils opens no second one.
            under_way = window is not None and window.state is not State.CLOSED
            slot = "" if under_way else f"{RESEND}{wish.window}"
            seen = window.number if window is not None else 0
            self._busy[busy] = (
                self._pool.submit(self._turn.resend, wish, self._files.get(name), slot, seen),
                now,
            )

    def _pause(self, name: str, seconds: float) -> None:
        self._not_before[name] = time.monotonic() + seconds

    def _closed(self, names: Collection[str], states: Mapping[str, WindowState]) -> dict[str, Schedule]:
        """The schedules of those in force that have no window under way."""
        return {
            name: self._files[name][1].schedule
            for name in names
            if name in self._files and (name not in states or states[name].state is State.CLOSED)
        }

    def finish(self) -> bool:
        """Let what is under way end; False where it takes too long: whoever comes next takes it up."""
        under_way = [future for future, _ in self._busy.values() if not future.cancel()]
        return not wait(under_way, timeout=JOIN_S).not_done

    def _since(self, name: str, window: WindowState | None, now: datetime) -> datetime:
        """When the schedule began to count: at our first look, until a scheduled window was claimed; from
        then on when the newest was, by Redis's clock.
        """
        if window is not None and last_slot(window) is not None:
            return window.since
        if self._began.get(name, now) > now or name not in self._began:
            self._began[name] = self._windows.began(name, now)
        return self._began[name]

    def _load(self) -> None:
        version = connection_sets.version(self._ground.store, self._ground.topics)
        if version != self._version:
            stored = connection_sets.current(self._ground.store, self._ground.topics)
            self._version = stored.version
            self._files = {
                name: (account, connection)
                for name, (account, connection) in stored.set.by_name().items()
                if isinstance(connection, FileBase)
            }
            self._former = self._windows.connections() - self._files.keys()

    def _observe(self, states: Mapping[str, WindowState], now: datetime) -> None:
        under_way = {name: window for name, window in states.items() if window.state is not State.CLOSED}
        counts = Counter("HELD" if window.held else str(window.state) for window in under_way.values())
        for state in (*(state for state in State if state is not State.CLOSED), "HELD"):
            metrics.FLUSH_STATE.labels(state).set(counts[state])
        since = {name: since for name, (_, since) in self._busy.items()}
        since |= {name: window.since for name, window in under_way.items()}
        metrics.FLUSH_OVERDUE.set(sum(now - begun > OVERDUE for begun in since.values()))
        if time.monotonic() - self._observed >= OBSERVE_S:
            self._observed = time.monotonic()
            opened = self._windows.opened(list(self._files), self._ground.layout.partitions)
            metrics.OLDEST_UNSEALED.set(opened or 0)


def utc_now() -> datetime:
    return datetime.now(UTC)
