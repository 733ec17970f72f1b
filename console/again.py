"""`referrals resend`: a closed window's files once more, as the flush service makes them again from Kafka."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from batcher.again import Wish, Wishes
from batcher.resend import nowhere, told_of
from batcher.window import State, WindowState
from batcher.windows import Windows
from console.ground import standing
from console.show import one_line
from console.windows import parsed
from consumer import connection_sets
from consumer.keys import Keys, Role
from consumer.route import FILE_KINDS
from consumer.run import Ground
from consumer.service import Settings, Stop
from schemas.delivery import Outcome

#: A window takes seconds; Redis is asked this often meanwhile.
POLL_S = 0.2


def resend(settings: Settings, window: str, wait_s: float | None, *, same_name: bool) -> str:
    """Ask for it; what became of it, as far as `wait_s` seconds tell. Raises Stop."""
    name, number = parsed(window)
    with standing(settings) as ground:
        told = told_of(ground.remembered, name, number, datetime.now(UTC))
        if isinstance(told, str):
            raise Stop(f"{window} cannot be sent again: {told}")
        _require_way(ground, name, str(told.connection_digest))
        keys = Keys(ground.topics.referrals, Role.BATCH)
        wish = Wish(name, number, same_name, datetime.now(UTC))
        if not Wishes(ground.store, keys).make(wish):
            raise Stop(
                f"a window of {name} is being sent again already: wait for its end, which its receipt tells"
            )
        ground.store.barrier()
        if wait_s is None:
            return f"asked for {window} once more: its receipt tells how it ended"
        windows = Windows(ground.store, keys, again=True)
        return _awaited(windows, wish, time.monotonic() + wait_s, time.sleep)


def outcome(window: WindowState | None, wish: Wish) -> str | None:
    """How it ended, or None while it is under way. Raises Stop where it was not sent. Pure."""
    if window is None or window.asked_at != wish.at or window.state is not State.CLOSED:
        return None
    ended, reason = window.fields["outcome"], one_line(window.reason)
    if ended == Outcome.HELD:
        raise Stop(f"{wish.window} was not sent again: {reason}")
    return f"{wish.window} once more, as {window.id}: {ended}{f' ({reason})' if reason else ''}"


def _require_way(ground: Ground, name: str, digest: str) -> None:
    connections = connection_sets.current(ground.store, ground.topics).set.by_name()
    if name not in connections or connections[name][1].kind not in FILE_KINDS:
        raise Stop(nowhere(name))
    if connection_sets.definition(ground.store, ground.topics, digest) is None:
        raise Stop(f"the definition {name} had is no longer known: export the time range by hand")


def _awaited(windows: Windows, wish: Wish, deadline: float, sleep: Callable[[float], None]) -> str:
    while True:
        window = windows.state(wish.connection)
        ended = outcome(window, wish)
        if ended is not None:
            return ended
        if time.monotonic() > deadline:
            reason = f": {one_line(window.reason)}" if window is not None and window.reason else ""
            raise Stop(
                f"{wish.window} has not been sent again yet{reason}. Does `python -m batcher flush` run? "
                "The wish stays"
            )
        sleep(POLL_S)
