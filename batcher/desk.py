"""Which windows to work on, and the threads that do. Blocking libraries live in plain threads here.

Every half second the desk looks at all file connections: a window under way that nobody holds is
taken over, a due slot or an operator's wish opens the next one. Its own timer: no new data is needed.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from pathlib import Path

from batcher import schedule
from batcher.deliver import Sending
from batcher.flush import FileConnection, Flush
from batcher.windows import ASKED, LEASE_MS, Gone, State, Windows, WindowState
from consumer import connection_sets, log, metrics
from consumer.kafka_out import NotAcknowledged
from consumer.run import Ground
from consumer.store import NotDurable, Store, StoreRefused, StoreUnavailable
from schemas.connection import EmailConnection, SftpConnection

#: Windows flushed at once by one process: each holds a connection and a page of rows.
WORKERS = 4
LOOK_S = 0.5
#: A window later than this after its slot counts as overdue.
OVERDUE = timedelta(minutes=15)
#: A heartbeat three times within the lease: one may get lost.
BEAT_S = LEASE_MS / 1000 / 3
#: Pause after Redis or Kafka failed a window's step, and after a step met a defect of ours.
INTERRUPTED_S = 1.0
FAILED_S = 60.0
#: Threads end within this when the service stops; a transfer cut off is taken up again later.
JOIN_S = 20.0


def wanted(
    connection: FileConnection, window: WindowState | None, asked: str | None, began: datetime, now: datetime
) -> str | None:
    """The slot to claim, '' to take up the window under way, None for nothing. Pure."""
    if window is not None and window.state is not State.CLOSED:
        return "" if window.retry_at <= now.timestamp() else None
    if asked is not None:
        return f"{ASKED}{asked}"
    slot = schedule.due(connection.schedule, last_slot(window), began, now)
    return None if slot is None else slot.text


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
        self._busy: dict[str, Future[None]] = {}
        self._not_before: dict[str, float] = {}
        self._version = -1
        self._files: Mapping[str, tuple[str, FileConnection]] = {}

    def look(self, now: datetime) -> None:
        """Start whatever is to be done. Raises StoreUnavailable."""
        self._load()
        names = list(self._files)
        states = self._windows.states(names)
        asked = self._windows.asked()
        for name in [name for name, future in self._busy.items() if future.done()]:
            del self._busy[name]
        for name, (account, connection) in self._files.items():
            if name in self._busy or time.monotonic() < self._not_before.get(name, 0.0):
                continue
            window = states.get(name)
            began = self._windows.began(name, now) if window is None else now
            slot = wanted(connection, window, asked.get(name), began, now)
            if slot is not None:
                self._busy[name] = self._pool.submit(self._work, name, account, connection, slot, last_slot(window))
        self._observe(states, now)

    def finish(self) -> None:
        """Let what is under way end, within a bound; the rest is taken up by whoever comes next."""
        wait(self._busy.values(), timeout=JOIN_S)

    def _load(self) -> None:
        version = connection_sets.version(self._ground.store, self._ground.topics)
        if version != self._version:
            stored = connection_sets.current(self._ground.store, self._ground.topics)
            self._version = stored.version
            self._files = {
                name: (account, connection)
                for name, (account, connection) in stored.set.by_name().items()
                if isinstance(connection, SftpConnection | EmailConnection)
            }

    def _work(self, name: str, account: str, connection: FileConnection, slot: str, last: str | None) -> None:
        """In a pool thread: one window, as far as it goes. Trouble leaves it for the next look."""
        store = self._ground.new_store()
        try:
            windows = Windows(store, self._ground.keys)
            window = windows.claim(name, self._owner, slot, last or "", scheduled=not slot.startswith(ASKED))
            if window is None:
                return
            # The number is durable before anything moves under it.
            store.barrier()
            with Heartbeat(self._ground.new_store(), self._ground, window):
                self._advance(windows, window, connection, account)
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
        self, windows: Windows, window: WindowState, connection: FileConnection, account: str
    ) -> None:
        flush = Flush(self._new_sending(windows), self._ground.out, self._ground.topics)
        if window.state is State.CLAIMED:
            window = flush.seal(window, connection, account, time.time())
        frozen = connection_sets.definition(windows.store, self._ground.topics, window.fields["digest"])
        if not isinstance(frozen, SftpConnection | EmailConnection):
            raise Gone(f"{window.id}: its definition is not in Redis")
        if window.state is not State.ENDED:
            window = flush.send(window, frozen, time.time())
        if window.state is State.ENDED:
            flush.close(window)

    def _observe(self, states: Mapping[str, WindowState], now: datetime) -> None:
        counts = dict.fromkeys(metrics.WINDOW_STATES, 0)
        overdue = 0
        for window in states.values():
            if window.state is State.CLOSED:
                continue
            counts["HELD" if window.held else str(window.state)] += 1
            overdue += now - window.since > OVERDUE
        for state, count in counts.items():
            metrics.FLUSH_STATE.labels(state).set(count)
        metrics.FLUSH_OVERDUE.set(overdue)
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
