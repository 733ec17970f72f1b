"""One turn at a window, in a thread of the pool: claimed, kept by a heartbeat, taken as far as it goes.

Trouble leaves the window where it stands, for whoever has the next turn.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from batcher.again import Wish, Wishes
from batcher.deliver import Sending
from batcher.flush import Flush, definition
from batcher.full import FULL
from batcher.in_force import FileConnection, in_force, own
from batcher.resend import Resend
from batcher.window import State, WindowState
from batcher.windows import ASKED, LEASE_MS, Gone, Windows
from consumer import log, metrics
from consumer.kafka_out import NotAcknowledged
from consumer.run import Ground
from consumer.store import NotDurable, StoreRefused, StoreUnavailable
from consumer.stream import StreamFailed

#: A heartbeat three times within the lease: one may get lost.
BEAT_S = LEASE_MS / 1000 / 3
#: Pause after Redis or Kafka failed a window's step, and after a step met a defect of ours.
INTERRUPTED_S = 1.0
FAILED_S = 60.0
#: Slots of windows that are sent once more begin so.
RESEND = "resend:"
#: Behind a connection's name, which cannot end so: its turn at a window that is sent once more.
ONCE_MORE = " once more"


class Turn:
    """What a thread does. `owner`: who we are to other workers; `new_sending`: what a thread needs to send
    windows over the given connection to Redis; `pause`: told how long, in seconds, a connection is better
    left alone.
    """

    def __init__(
        self,
        ground: Ground,
        owner: str,
        new_sending: Callable[[Windows], Sending],
        pause: Callable[[str, float], None],
    ) -> None:
        self._ground, self._owner, self._new_sending, self._pause = ground, owner, new_sending, pause

    def flush(self, name: str, named: tuple[str, FileConnection] | None, slot: str, seen: int) -> None:
        """Open the window of `slot`, or with '' take up the one under way. `seen`: the newest's number."""
        scheduled = not slot.startswith((ASKED, FULL))
        with self._held(name, slot, seen, scheduled=scheduled, again=False) as held:
            if held is not None:
                self._advance(*held, named)

    def resend(self, wish: Wish, named: tuple[str, FileConnection] | None, slot: str, seen: int) -> None:
        """Send a window once more under `slot`, or with '' go on with it. `seen`: how many of the connection
        were.
        """
        with self._held(wish.connection, slot, seen, scheduled=False, again=True) as held:
            if held is None:
                return
            windows, window = held
            resend = Resend(self._ground, self._new_sending(windows), wish)
            if resend.go(window, named, time.time()).state is State.ENDED:
                Wishes(windows.store, windows.keys).done(wish)

    @contextmanager
    def _held(
        self, name: str, slot: str, seen: int, *, scheduled: bool, again: bool
    ) -> Iterator[tuple[Windows, WindowState] | None]:
        """The window, ours until the end; None where there is nothing to do or somebody else is at it."""
        turn = f"{name}{ONCE_MORE if again else ''}"
        store = self._ground.new_store()
        try:
            windows = Windows(store, self._ground.keys, again=again)
            window = windows.claim(name, self._owner, slot, seen, scheduled=scheduled)
            if window is None:
                yield None
                return
            # The number is durable before anything moves under it.
            store.barrier()
            with _Heartbeat(self._ground, window, again=again):
                yield windows, window
        except Gone as gone:
            metrics.FENCED.labels("token").inc()
            log.trouble("window.taken_over", window=str(gone))
        except (StoreUnavailable, StoreRefused, NotDurable, NotAcknowledged, StreamFailed) as error:
            log.trouble("window.interrupted", connection=name, reason=str(error))
            self._pause(turn, INTERRUPTED_S)
        except Exception as error:  # noqa: BLE001 - a defect met by one window must not stop the others
            log.trouble("window.failed", connection=name, error=type(error).__name__, at=log.where(error))
            self._pause(turn, FAILED_S)
        finally:
            store.close()

    def _advance(
        self, windows: Windows, window: WindowState, named: tuple[str, FileConnection] | None
    ) -> None:
        flush = Flush(self._new_sending(windows), self._ground.out, self._ground.topics)
        if window.state in {State.CLAIMED, State.SEALED}:
            window = flush.seal(window, named, time.time())
        # An uploaded file is looked for by what was sealed; before, what was mended once stays so.
        mended = window.fields.get("made_with") if window.state is not State.UPLOADED else None
        digest = mended or window.fields["digest"]
        frozen = definition(windows, self._ground.topics, window, digest)
        if window.state is not State.ENDED:
            way = in_force(frozen, own(named, window), window)
            window = flush.send(window, way, time.time())
        if window.state is State.ENDED:
            flush.close(window)


class _Heartbeat:
    """Keeps a window ours while a step blocks; once it is not, the next `advance` says so."""

    def __init__(self, ground: Ground, window: WindowState, *, again: bool) -> None:
        self._store, self._window = ground.new_store(), window
        self._windows = Windows(self._store, ground.keys, again=again)
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
