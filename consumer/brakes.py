"""What holds connections back, shared with the other workers through Redis.

Pauses are durable and last until an operator resumes. Quiet is what a receiver asked for, by credential.
Limits are leased in blocks. What another worker learned takes effect here within LOOK_VALID_S: without a
look as fresh as that, nothing starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from math import inf

from consumer import limits, metrics
from consumer.attempts import Attempts
from consumer.keys import Keys
from consumer.lanes import Lanes
from consumer.limits import Meter
from consumer.sender import Sender
from consumer.store import Store, StoreRefused, StoreUnavailable, pairs, text
from schemas.push import PushBase

#: How often pauses and quiet times are looked up, and how long a look holds: together below the second
#: within which every worker must know.
LOOK_EVERY_S = 0.4
LOOK_VALID_S = 0.9
#: A look is obeyed within this; a resume takes so long at most.
JUST_S = 2.0
#: Grants asked for in one round trip.
MAX_LEASES = 500


class Brakes:
    """Called from the worker's thread, but for `fresh`, which the loop asks before each request."""

    def __init__(
        self, keys: Keys, lanes: Lanes, sender: Sender, worker: str, clock: Callable[[], float]
    ) -> None:
        self._keys, self._lanes, self._sender, self._worker, self._clock = keys, lanes, sender, worker, clock
        self._by_credential: dict[str, list[str]] = {}
        #: Paused by an answer: a look from before that may still be on its way to the loop.
        self._just_paused: dict[str, float] = {}
        self._look_at = 0.0
        self._valid_until = 0.0

    def fresh(self) -> bool:
        return time.monotonic() < self._valid_until

    def connections(self, connections: Mapping[str, PushBase]) -> None:
        by_credential: dict[str, list[str]] = {}
        for name, connection in connections.items():
            by_credential.setdefault(connection.shared_as, []).append(name)
        self._by_credential = by_credential

    def after(self, store: Store) -> bool:
        """Once a round; whether it was time to look. Raises StoreUnavailable."""
        self._lease(store)
        if not self._sender.attempts.quiets and time.monotonic() < self._look_at:
            return False
        asked = time.monotonic()
        self._tell(store)
        self._look(store)
        self._look_at = asked + LOOK_EVERY_S
        return True

    def _tell(self, store: Store) -> None:
        """Make what answers said known to the others."""
        attempts: Attempts = self._sender.attempts
        quiet: dict[str, float] = {}
        while attempts.quiets:
            credential, until = attempts.quiets.popleft()
            quiet[credential] = max(until, quiet.get(credential, 0.0))
        try:
            if quiet:
                pairs_of = [item for name, until in quiet.items() for item in (round(until * 1000), name)]
                store.command("ZADD", self._keys.quiet, "GT", *pairs_of)
            while attempts.pauses:
                connection, reason = attempts.pauses[0]
                store.command("HSETNX", self._keys.paused, connection, reason)
                self._just_paused[connection] = time.monotonic() + JUST_S
                attempts.pauses.popleft()
        except (StoreRefused, StoreUnavailable) as error:
            # It holds in this worker's memory until it can be written.
            attempts.quiets.extend(quiet.items())
            if isinstance(error, StoreUnavailable):
                raise

    def _look(self, store: Store) -> None:
        valid_until, now_ms = time.monotonic() + LOOK_VALID_S, round(self._clock() * 1000)
        _, paused, quiet = store.commands(
            [
                ("ZREMRANGEBYSCORE", self._keys.quiet, "-inf", now_ms),
                ("HKEYS", self._keys.paused),
                ("ZRANGE", self._keys.quiet, 0, -1, "WITHSCORES"),
            ]
        )
        now = time.monotonic()
        self._just_paused = {name: until for name, until in self._just_paused.items() if now < until}
        names = [text(name) for name in paused]
        metrics.PAUSED.set(len(names))
        found = [(text(name), until) for name, until in pairs(quiet)]
        self._sender.call(self._obey, names, found, valid_until)

    def _obey(self, paused: list[str], quiet: list[tuple[str, float]], valid_until: float) -> None:
        """In the loop: a look counts from when it is obeyed, not from when it is on its way there."""
        now = time.monotonic()
        just = [name for name, until in list(self._just_paused.items()) if now < until]
        self._lanes.pause([*paused, *just, *(name for name, _ in self._sender.attempts.pauses.copy())])
        for credential, until_ms in quiet:
            for name in self._by_credential.get(credential, ()):
                self._lanes.hold(name, until_ms / 1000)
        self._valid_until = valid_until
        self._lanes.give_up_shares(self._clock())

    def _lease(self, store: Store) -> None:
        asking: list[tuple[Meter, int]] = []
        while len(asking) < MAX_LEASES and (found := self._lanes.asking()) is not None:
            asking.append(found)
        if not asking:
            return
        asked_at = self._clock()
        try:
            replies = store.each(
                [
                    limits.lease(
                        self._keys,
                        meter.credential,
                        self._worker,
                        meter.limits,
                        wanted,
                        meter.under_way,
                        meter.timeout_s,
                    )
                    for meter, wanted in asking
                ]
            )
        except StoreUnavailable:
            for meter, _ in asking:
                self._sender.call(self._lanes.granted, meter, None, inf)
            raise
        for (meter, _), reply in zip(asking, replies, strict=True):
            grant = None if isinstance(reply, StoreRefused) else limits.granted(reply)
            self._sender.call(self._lanes.granted, meter, grant, asked_at)
