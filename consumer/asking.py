"""One exchange with a receiver: request, credential, sending, and what the answer means."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

from consumer.auth.authenticator import Authenticator
from consumer.crm import BY_KIND
from consumer.crm.answers import Answer, Pause, Retry
from consumer.crm.port import Sending
from consumer.exchange import Exchanged, Request
from consumer.secrets import Secrets
from schemas.push import PushBase


class Asking:
    """Used from one event loop. `clock`: seconds since the epoch."""

    def __init__(
        self,
        secrets: Secrets,
        authenticator: Authenticator,
        send: Callable[[Request], Awaitable[Exchanged]],
        clock: Callable[[], float],
    ) -> None:
        self._secrets, self._authenticator, self._send, self._clock = secrets, authenticator, send, clock

    async def ask(
        self, connection: PushBase, sending: Sending, may_send: Callable[[], bool]
    ) -> Answer | Sequence[Answer] | None:
        """What one attempt came to. `may_send` is asked last of all, since a token may take long to fetch;
        None where it said no.
        """
        crm = BY_KIND[connection.kind]
        request = crm.request(connection, self._secrets, sending, time.monotonic())
        if not isinstance(request, Request):
            return request
        signed = await self._authenticator.authenticate(
            connection, request, sending.key, self._clock(), time.monotonic()
        )
        if not isinstance(signed, Request):
            return signed
        if not may_send():
            return None
        exchanged = await self._send(signed)
        found: Answer | Sequence[Answer] = crm.classify(connection, sending, exchanged, self._clock())
        if (
            isinstance(found, Pause)
            and found.status == 401
            and self._authenticator.refused(connection, signed, time.monotonic())
        ):
            return Retry("answered 401: the token is fetched anew", unknown=False, status=401)
        return found
