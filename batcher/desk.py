"""Which windows to work on, and the threads that do. Blocking libraries live in plain threads here.

Every half second the desk looks at all file connections: a window under way that nobody holds is
taken over, a due slot or an operator's wish opens the next one. Its own timer: no new data is needed.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from pathlib import Path

from batcher import schedule
from batcher.deliver import Sending
from batcher.flush import Flush
from batcher.in_force import FileConnection, in_force
from batcher.windows import ASKED, LEASE_MS, Gone, State, Windows, WindowState
from consumer import connection_sets, log, metrics
from consumer.kafka_out import NotAcknowledged
from consumer.run import Ground
from consumer.store import NotDurable, Store, StoreRefused, StoreUnavailable
from schemas.connection import FileBase

#: Windows flushed at once by one process: each holds a connection and a page of rows.
WORKERS = 4
LOOK_S = 0.5
#: A window later than this after its slot counts as overdue.
OVERDUE = timedelta(minutes=15)
#: A heartbeat three times within the lease: one may get lost.
BEAT_S = LEASE_MS / 1000 / 3
#: The age of the oldest open row takes a look into every partition of every connection.
OBSERVE_S = 5.0
#: Pause after Redis or Kafka failed a window's step, and after a step met a defect of ours.
INTERRUPTED_S = 1.0
FAILED_S = 60.0
#: Threads end within this when the service stops; a transfer cut off is taken up again later.
JOIN_S = 20.0


def wanted(
    named: tuple[str, FileConnection] | None,
    window: WindowState | None,
    asked: str | None,
    began: datetime,
    now: datetime,
) -> str | None:
    """The slot to claim, '' to take up the window under way, None for nothing. Pure.

    `named`: account and connection, None where the connection is no longer in force: then only what was
    sealed already goes out. A wish ends the pause before the next try, too.
    """
    if window is not None and window.state is not State.CLOSED:
        ready = window.retry_at <= now.timestamp() or _wished_since(window, asked)
        return "" if ready and (named is not None or window.state is not State.CLAIMED) else None
    if named is None:
        return None
    if asked is not None:
        return f"{ASKED}{asked}"
    slot = schedule.due(named[1].schedule, last_slot(window), began, now)
    return None if slot is None else slot.text


def _wished_since(window: WindowState, asked: str | None) -> bool:
    """Whether somebody asked after the last try."""
    tried = int(window.fields.get("tried_at", "0"))
    return asked is not None and datetime.fromisoformat(asked).timestamp() >= tried


def last_slot(window: WindowState | None) -> str | None:
    return (window.fields.get("last") or None) if window is not None else None


class Desk:
    """The flush service's work. `look` is called in a loop by the main thread."""

    def __init__(
        self, ground: Ground, owner: str, new_sending: Callable[[Windows], Sending], pool: ThreadPoolExecutor
    ) -> None:
        """`new_sending`: what a thread needs to send windows over the given connection to Redis."""
        self._ground, self._owner, self._new_sending, self._pool = ground, owner, new_sending, pool
        self._windows = Windows(ground.store, ground.keys)
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
        for name in [*self._files, *self._former]:
            if name in self._busy or name in paused or time.monotonic() < self._not_before.get(name, 0.0):
                continue
            connection, window = self._files.get(name), states.get(name)
            slot = wanted(connection, window, asked.get(name), self._since(name, window, now), now)
            if slot is not None:
                seen = window.number if window is not None else 0
                self._busy[name] = (self._pool.submit(self._work, name, connection, slot, seen), now)
        self._observe(states, now)

    def finish(self) -> bool:
        """Let what is under way end; False where it takes too long: whoever comes next takes it up."""
        under_way = [future for future, _ in self._busy.values() if not future.cancel()]
        return not wait(under_way, timeout=JOIN_S).not_done

    def _since(self, name: str, window: WindowState | None, now: datetime) -> datetime:
        """When the schedule began to count: at our first look, until a scheduled window was claimed."""
        if last_slot(window) is not None:
            return now
        if name not in self._began:
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

    def _work(self, name: str, named: tuple[str, FileConnection] | None, slot: str, seen: int) -> None:
        """In a pool thread: one window, as far as it goes. Trouble leaves it for the next look."""
        store = self._ground.new_store()
        try:
            windows = Windows(store, self._ground.keys)
            window = windows.claim(name, self._owner, slot, seen, scheduled=not slot.startswith(ASKED))
            if window is None:
                return
            # The number is durable before anything moves under it.
            store.barrier()
            with Heartbeat(self._ground.new_store(), self._ground, window):
                self._advance(windows, window, named)
        except Gone as gone:
            metrics.FENCED.labels("token").inc()
            log.trouble("window.taken_over", window=str(gone))
        except (StoreUnavailable, StoreRefused, NotDurable, NotAcknowledged) as error:
            log.trouble("window.interrupted", connection=name, reason=str(error))
            self._not_before[name] = time.monotonic() + INTERRUPTED_S
        except Exception as error:  # noqa: BLE001 - a defect met by one window must not stop the others
            log.trouble("window.failed", connection=name, error=type(error).__name__, at=_where(error))
            self._not_before[name] = time.monotonic() + FAILED_S
        finally:
            store.close()

    def _advance(
        self, windows: Windows, window: WindowState, named: tuple[str, FileConnection] | None
    ) -> None:
        flush = Flush(self._new_sending(windows), self._ground.out, self._ground.topics)
        if window.state in {State.CLAIMED, State.SEALED}:
            window = flush.seal(window, named, time.time())
        frozen = connection_sets.definition(windows.store, self._ground.topics, window.fields["digest"])
        if not isinstance(frozen, FileBase):
            raise LookupError(f"{window.id}: its definition is not in Redis")  # noqa: TRY004 - it is missing
        if window.state is not State.ENDED:
            current = named[1] if named is not None else None
            window = flush.send(window, in_force(frozen, current, window), time.time())
        if window.state is State.ENDED:
            flush.close(window)

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


class Heartbeat:
    """Keeps a window ours while a step blocks; once it is not, the next `advance` says so."""

    def __init__(self, store: Store, ground: Ground, window: WindowState) -> None:
        self._store, self._window = store, window
        self._windows = Windows(store, ground.keys)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._store.close()

    def _run(self) -> None:
        while not self._over.wait(BEAT_S):
            try:
                self._windows.beat(self._window)
            except (StoreUnavailable, StoreRefused):
                continue
            except Gone:
                return


def _where(error: Exception) -> str:
    """File and line, without the message: it may repeat a row."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"


def utc_now() -> datetime:
    return datetime.now(UTC)
