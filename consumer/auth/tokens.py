"""Tokens, in memory only: one for each credential, fetched once however many ask.

Its law: a token is asked for anew while the old one still holds, by one delivery, and the others go
on with the old one; a token server that fails is left alone for a while, and everyone is told so
without asking it. Tasks may be cancelled at any time: whoever waits next then asks.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace

from consumer.auth.token_answer import Token
from consumer.crm.answers import Pause, Retry
from schemas.auth import ClientCredentials, SignedAssertion

TokenAuth = ClientCredentials | SignedAssertion
Fetch = Callable[[TokenAuth, float, float], Awaitable[Token | Pause | Retry]]

#: Credentials kept, the least used dropped first: 16 MB at most, with the longest tokens.
MAX_KEPT = 1_024
#: Seconds before its end a token is asked for anew: one slow token server and two failures fit in.
#: A quarter of the lifetime where that is less.
REFRESH_S = 60.0
#: Seconds before its end a token is used no more, so that it does not end on the way. An eighth of
#: the lifetime where that is less.
SPARE_S = 15.0
#: Seconds a token is used, however short its server says it lives: bounds how often it is asked.
MIN_USE_S = 10.0
#: Seconds a failing token server is left alone: thousands of deliveries must not ask it one by one.
QUIET_S = 5.0
#: Seconds in which only one refused token is replaced: if the next is refused too, it is not the token.
REPLACED_S = 300.0


class _Held:
    """What is known of one credential. Times are monotonic seconds."""

    __slots__ = (
        "authorization",
        "failure",
        "fetching",
        "quiet_until",
        "refresh_at",
        "replaced_at",
        "usable_until",
    )

    def __init__(self) -> None:
        self.fetching = asyncio.Lock()
        self.authorization: str | None = None
        self.refresh_at = self.usable_until = self.quiet_until = 0.0
        self.failure: Pause | Retry | None = None
        self.replaced_at: float | None = None

    def known(self, now: float) -> str | Pause | Retry | None:
        """What to go on with, or None: then the token server is to be asked."""
        quiet = now < self.quiet_until
        if self.authorization is not None and now < self.usable_until:
            if now < self.refresh_at or quiet:
                return self.authorization
            return None
        if not quiet:
            return None
        if isinstance(self.failure, Retry):
            return replace(self.failure, retry_after=self.quiet_until - now)
        return self.failure

    def keep(self, got: Token | Pause | Retry, asked_at: float, now: float) -> None:
        if isinstance(got, Token):
            lifetime = got.lifetime_s
            self.authorization = got.authorization
            self.refresh_at = max(asked_at + lifetime - min(REFRESH_S, lifetime / 4), now + MIN_USE_S)
            self.usable_until = max(asked_at + lifetime - min(SPARE_S, lifetime / 8), self.refresh_at)
            self.failure, self.quiet_until = None, 0.0
        else:
            asked_for = got.retry_after if isinstance(got, Retry) else None
            self.failure, self.quiet_until = got, now + max(QUIET_S, asked_for or 0.0)


class Tokens:
    """Use from one event loop."""

    def __init__(self, fetch: Fetch) -> None:
        """`fetch`: (credential, Unix seconds, monotonic seconds); asks the token server, in bounded time."""
        self._fetch = fetch
        self._kept: OrderedDict[TokenAuth, _Held] = OrderedDict()

    async def authorization(self, auth: TokenAuth, now_s: float, monotonic_s: float) -> str | Pause | Retry:
        """The `Authorization` header's value. Suspends only to wait for the token server."""
        held = self._held(auth)
        known = held.known(monotonic_s)
        if known is not None:
            return known
        if held.fetching.locked() and held.authorization is not None and monotonic_s < held.usable_until:
            return held.authorization
        clock = asyncio.get_running_loop().time
        begun = clock()
        async with held.fetching:
            waited = clock() - begun
            known = held.known(monotonic_s + waited)
            if known is None:
                got = await self._fetch(auth, now_s + waited, monotonic_s + waited)
                now = monotonic_s + clock() - begun
                held.keep(got, monotonic_s + waited, now)
                known = held.known(now)
            assert known is not None, "a token is used, and a failure remembered, for a while"
            return known

    def refused(self, auth: TokenAuth, authorization: str, monotonic_s: float) -> bool:
        """A receiver answered 401 to `authorization`: whether another token may help."""
        held = self._kept.get(auth)
        if held is None or held.authorization != authorization:
            return True
        held.authorization = None
        if held.replaced_at is not None and monotonic_s - held.replaced_at < REPLACED_S:
            return False
        held.replaced_at = monotonic_s
        return True

    def _held(self, auth: TokenAuth) -> _Held:
        held = self._kept.get(auth)
        if held is None:
            held = self._kept[auth] = _Held()
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(auth)
        return held
