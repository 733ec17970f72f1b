"""What names stand for just now: looked up aside, every address judged before one is called.

Its law: an address is used for RESOLVE_S after its name was looked up, then the name is asked again, and
an answer that may not be called ends the use of the one before. Nothing here waits for a name server but
the request that needs its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consumer.addresses import Policy, Refused, Target, pick
from consumer.exchange import NotSent

#: `getaddrinfo` tells no TTL. A minute is what most load balancers' names live.
RESOLVE_S = 60.0
#: From this age on a used name is looked up beside the requests, so that busy ones never wait for it,
REFRESH_S = 45.0
#: and so often, while the name servers fail.
REFRESH_AGAIN_S = 5.0
#: A request waits so long for a name: the system's own first try at a name server.
LOOKUP_S = 5.0
#: Lookups at the same time, each in a thread; one name has one at most. Hanging ones keep theirs for the
#: system's own limit, often 10 to 30 s.
MAX_LOOKUPS = 32
#: Names remembered; more connections than any worker serves at once.
MAX_NAMES = 4_096

#: The addresses of a host, as text. May block; raises OSError where there are none.
Resolver = Callable[[str], Sequence[str]]


def system(host: str) -> list[str]:
    """What this machine's resolver says, best first (RFC 6724)."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


@dataclass(slots=True)
class _Known:
    #: Judged; the first is called.
    addresses: tuple[str, ...]
    refresh_at: float
    until: float


class Names:
    """Use from one event loop. `clock`: monotonic seconds."""

    def __init__(self, policy: Policy, resolver: Resolver, clock: Callable[[], float]) -> None:
        self._policy, self._resolver, self._clock = policy, resolver, clock
        self._known: dict[Target, _Known] = {}
        self._looking: dict[Target, asyncio.Task[str | NotSent]] = {}
        self._free = asyncio.Semaphore(MAX_LOOKUPS)

    def known(self, target: Target) -> str | None:
        """The address to call, where it is known; never waits."""
        if target.literal is not None:
            return target.literal
        known = self._known.get(target)
        now = self._clock()
        if known is None or now >= known.until:
            return None
        if now >= known.refresh_at:
            known.refresh_at = now + REFRESH_AGAIN_S
            self._look(target)
        return known.addresses[0]

    async def find(self, target: Target) -> str | NotSent:
        """The address to call, asked for if need be."""
        looking = self._look(target)
        await asyncio.wait({looking}, timeout=LOOKUP_S)
        if looking.cancelled():
            return NotSent("the client is closed")
        return looking.result() if looking.done() else NotSent(f"the name did not resolve in {LOOKUP_S:g} s")

    def failed(self, target: Target, address: str) -> None:
        """No connection to `address`: the next attempt takes the name's next one."""
        known = self._known.get(target)
        if known is not None and known.addresses[0] == address:
            known.addresses = (*known.addresses[1:], address)

    async def aclose(self) -> None:
        """Whoever waits for an answer is told that none comes."""
        looking = tuple(self._looking.values())
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)

    def _look(self, target: Target) -> asyncio.Task[str | NotSent]:
        looking = self._looking.get(target)
        if looking is None:
            looking = self._looking[target] = asyncio.ensure_future(self._asked(target))
            looking.add_done_callback(lambda _: self._looking.pop(target))
        return looking

    async def _asked(self, target: Target) -> str | NotSent:
        try:
            async with self._free:
                answer = await _in_thread(self._resolver, target.host)
        except (OSError, UnicodeError):  # UnicodeError: a name that the resolver cannot encode
            return NotSent("the name does not resolve")
        known = self._known.pop(target, None)
        picked = pick(target, answer, self._policy)
        if isinstance(picked, Refused):
            return NotSent(picked.reason)
        if known is not None and known.addresses[0] in picked:
            # Its connections stand; a balancer that turns its answers round must not end them.
            picked = tuple(sorted(picked, key=lambda address: address != known.addresses[0]))
        now = self._clock()
        self._known[target] = _Known(picked, now + REFRESH_S, now + RESOLVE_S)
        if len(self._known) > MAX_NAMES:
            self._known.pop(next(iter(self._known)))
        return picked[0]


async def _in_thread(resolver: Resolver, host: str) -> Sequence[str]:
    """A daemon thread: a pool's would keep the process from ending while a name server is silent."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Sequence[str]] = loop.create_future()

    def tell(answer: Sequence[str], error: Exception | None) -> None:
        if answered.done():
            return
        if error is None:
            answered.set_result(answer)
        else:
            answered.set_exception(error)

    def ask() -> None:
        answer: Sequence[str] = ()
        error: Exception | None = None
        try:
            answer = resolver(host)
        except Exception as found:  # noqa: BLE001 - raised where it is awaited
            error = found
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(tell, answer, error)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    return await answered
