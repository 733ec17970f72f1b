"""One attempt: a request for some deliveries, its answer, and what becomes of each. In the loop's thread."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import assert_never

from consumer import log, metrics
from consumer.asking import Asking
from consumer.auth.authenticator import Authenticator
from consumer.crm import BY_KIND
from consumer.crm.answers import Answer, Retry
from consumer.crm.port import Sending
from consumer.ending import Decision, Ended, Hold, Later, Stand, ended, health, label, too_late
from consumer.exchange import Exchanged, Request
from consumer.lane import Delivery
from consumer.lanes import Lanes
from consumer.limits import meter
from consumer.log import where
from consumer.pending import Fact, Reschedule
from consumer.secrets import Secrets
from consumer.settling import Outgoing
from consumer.tries import Tries
from consumer.verdicts import key, verdicts
from schemas.delivery import Outcome
from schemas.push import PushBase


class Attempts:
    """`clock`: seconds since the epoch."""

    def __init__(self, lanes: Lanes, outgoing: Callable[[int], Outgoing], clock: Callable[[], float]) -> None:
        self._lanes, self._outgoing, self._clock = lanes, outgoing, clock
        self._connections: Mapping[str, PushBase] = {}
        self._secrets = Secrets()
        #: Connections an answer paused, with the reason; the worker makes it durable.
        self.pauses: deque[tuple[str, str]] = deque()
        #: Credentials whose receiver asked for quiet, until when; the worker tells the others.
        self.quiets: deque[tuple[str, float]] = deque()

    def open(self, send: Callable[[Request], Awaitable[Exchanged]]) -> None:
        """Before the first attempt: how requests are sent."""
        self._asking = Asking(self._secrets, Authenticator(self._secrets, send), send, self._clock)

    def connections(self, connections: Mapping[str, PushBase]) -> None:
        """These are in force."""
        self._connections = connections
        self._lanes.configure(
            {
                name: (connection.max_in_flight, BY_KIND[connection.kind].max_rows, meter(connection))
                for name, connection in connections.items()
            }
        )

    async def attempt(self, deliveries: Sequence[Delivery]) -> None:
        """Send what the lanes started, in one request."""
        connection = self._connections.get(deliveries[0].connection)
        began = self._clock()
        holds: list[tuple[Delivery, Hold]] = []
        ready = deliveries
        if connection is not None:
            late = [too_late(one.frozen, connection, one.tries, began) for one in deliveries]
            holds = [(one, hold) for one, hold in zip(deliveries, late, strict=True) if hold]
            ready = [one for one, hold in zip(deliveries, late, strict=True) if not hold]
        rows = tuple(one.frozen for one in ready)
        found: Answer | Sequence[Answer] | None = None
        if connection is not None and rows:
            found = await self._answer(connection, Sending(key(rows), rows[0].action, rows), ready[0])
        self._lanes.landed(deliveries)
        now, jitter = self._clock(), random.random()  # noqa: S311 - jitter
        if connection is None or found is None:
            # Its file is gone, or the lease, since it was started: they stay pending.
            self._untried(ready, now)
        else:
            self._quiet(connection, found, now)
            told = verdicts(connection, rows, [one.tries for one in ready], found, now, jitter)
            for delivery, verdict in zip(ready, told, strict=True):
                if verdict.answer is not None:
                    self._tell(delivery, verdict.answer)
                delivery.tries = verdict.tries
                self._obey(delivery, verdict.decision, now)
        for delivery, hold in holds:
            self._obey(delivery, hold, now)

    def tell_put_off(self) -> None:
        """Those that wait for an earlier delivery of their referral."""
        for delivery in self._lanes.put_off():
            self._outgoing(delivery.partition).later.append(
                Reschedule(
                    delivery.connection, delivery.offset, delivery.due, delivery.tries, delivery.referral_id
                )
            )

    def withdraw(self, delivery: Delivery, now: float, *, perhaps_made: bool = False) -> None:
        """A removal ended it; Redis is told next. `perhaps_made`: an attempt of another owner is unaccounted
        for.
        """
        attempts = delivery.tries.attempts
        end = ended(delivery.frozen, delivery.connection, Outcome.WITHDRAWN, attempts, now)
        self._fact(delivery, end, now, removed=True, perhaps_made=perhaps_made)

    def _untried(self, deliveries: Sequence[Delivery], now: float) -> None:
        """They wait as before, but for those removed meanwhile."""
        for delivery in deliveries:
            if delivery.removed:
                self._lanes.ended(delivery)
                self.withdraw(delivery, now)
            else:
                self._lanes.back(delivery)

    async def _answer(
        self, connection: PushBase, sending: Sending, first: Delivery
    ) -> Answer | Sequence[Answer] | None:
        """What one request came to; None where it was not sent after all."""
        began = self._clock()
        try:
            found = await self._asking.ask(
                connection,
                sending,
                # Fetching a token may have taken longer than the lease.
                lambda: self._lanes.may_start(first.partition) and not first.removed,
            )
        except Exception as error:  # noqa: BLE001 - a defect met by one delivery must not stop the others
            log.trouble("delivery.failed", delivery_id=sending.rows[0].delivery_id, at=where(error))
            found = Retry(f"a defect here: {type(error).__name__}", unknown=True)
        if found is None:
            return None
        now = self._clock()
        signs = health(found[0] if isinstance(found, Sequence) else found)
        if signs is not None:
            self._lanes.answered(
                connection.name, alive=signs.alive, busy=signs.busy, latency=max(0.0, now - began), now=now
            )
        return found

    def _tell(self, delivery: Delivery, answer: Answer) -> None:
        what, frozen = label(answer), delivery.frozen
        metrics.ATTEMPTS.labels(what).inc()
        if what == "unknown":
            metrics.AMBIGUOUS.labels("crm").inc()
        log.event(
            "delivery.attempted",
            delivery_id=frozen.delivery_id,
            referral_id=frozen.referral_id,
            connection=delivery.connection,
            account=frozen.account_id,
            partition=delivery.partition,
            offset=delivery.offset,
            attempt=delivery.tries.attempts + 1,
            answer=what,
            status=getattr(answer, "status", None),
            reason=getattr(answer, "reason", None),
        )

    def _obey(self, delivery: Delivery, decision: Decision, now: float) -> None:
        match decision:
            case Later() | Hold() | Stand() if delivery.removed:
                self._lanes.ended(delivery)
                self.withdraw(delivery, now)
            case Ended(outcome):
                self._lanes.ended(delivery)
                self._fact(delivery, decision, now, removed=delivery.removed)
                if outcome is Outcome.DELIVERED:
                    metrics.LATENCY.observe(max(0.0, now - delivery.frozen.produced_at_us / 1e6))
            case Later(due, _, tries):
                if self._lanes.again(delivery, due, tries):
                    self._reschedule(delivery, due, tries)
            case Hold(tries, entry):
                if self._lanes.held(delivery):
                    self._reschedule(delivery, None, tries, entry)
                    metrics.UNCERTAIN.inc()
            case Stand(reason):
                self._stand(delivery.connection, reason)
                self._lanes.back(delivery)
            case _:
                assert_never(decision)

    def _quiet(self, connection: PushBase, found: Answer | Sequence[Answer], now: float) -> None:
        """All connections of the credential, here at once and at other workers soon."""
        answers = found if isinstance(found, Sequence) else (found,)
        wait = max((one.retry_after or 0.0 for one in answers if isinstance(one, Retry)), default=0.0)
        if wait:
            self.quiets.append((connection.shared_as, now + wait))
            for name, other in self._connections.items():
                if other.shared_as == connection.shared_as:
                    self._lanes.hold(name, now + wait)

    def _stand(self, connection: str, reason: str) -> None:
        self._lanes.stand(connection)
        # A copy: the worker takes some out meanwhile.
        if all(name != connection for name, _ in self.pauses.copy()):
            self.pauses.append((connection, reason))

    def _reschedule(self, delivery: Delivery, due: float | None, tries: Tries, entry: bytes = b"") -> None:
        item = Reschedule(delivery.connection, delivery.offset, due, tries, delivery.referral_id, entry)
        self._outgoing(delivery.partition).later.append(item)

    def _fact(
        self,
        delivery: Delivery,
        end: Ended,
        now: float,
        *,
        removed: bool,
        perhaps_made: bool = False,
    ) -> None:
        frozen = delivery.frozen
        reached = end.outcome in {Outcome.DELIVERED, Outcome.DUPLICATE_AT_DESTINATION}
        # What may have been applied counts as made.
        made = reached or perhaps_made or bool(delivery.tries.unknown_since)
        fact = Fact.of(frozen, delivery.connection, delivery.offset, end.entry, made=made, now=removed)
        self._outgoing(delivery.partition).facts.append(fact)
        metrics.ENDED.labels(end.outcome).inc()
        metrics.AGE.observe(max(0.0, now - frozen.produced_at_us / 1e6))
        if end.outcome in {Outcome.REJECTED, Outcome.EXHAUSTED}:
            metrics.DEAD_LETTERS.labels(end.outcome.lower()).inc()
