"""What connections share, and whose turn it is. Pure state; the time is an argument.

A Gate is what a connection's lanes share, a Meter what the connections of one credential do. One heap
orders all lanes by when it is their turn, so that ten thousand lanes cost no more than the ones that have
work; of those whose turn it is at one moment, who started longest ago goes first. A lane before a shut gate
or a spent meter stands in its queue, not in the heap; one that cannot use its turn passes it on.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Mapping

from consumer.lane import Gate, Lane
from consumer.limits import Grant, Meter

#: Before every due time.
NOW = 0.0


class Gates:
    """`max_unsettled`: deliveries in flight, and answered ones Redis has not been told of yet."""

    def __init__(self, max_unsettled: int) -> None:
        self._max_unsettled = max_unsettled
        self.gates: dict[str, Gate] = {}
        self._meters: dict[str, Meter] = {}
        #: Meters that want a grant.
        self._asking: deque[Meter] = deque()
        self._heap: list[tuple[float, int, int, Lane]] = []
        self._sequence = 0
        self._starts = 0
        self._in_force = 0
        #: Gates with a request in flight.
        self._active = 0
        #: Deliveries, over all gates.
        self.in_flight = 0

    def configure(self, gates: Mapping[str, tuple[int, int, Meter | None]]) -> None:
        """The connections in force: requests at once, deliveries a request, and limits, if any. One that is
        gone starts nothing more; its deliveries stay pending.
        """
        self._in_force = len(gates)
        for name in self.gates.keys() | gates.keys():
            gate = self._gate(name)
            gate.max_in_flight, gate.rows, meter = gates.get(name, (0, 1, None))
            gate.concurrency.cap = gate.max_in_flight
            kept = self._meters.setdefault(meter.credential, meter) if meter else None
            if meter and kept:
                kept.limits, kept.timeout_s = meter.limits, max(meter.timeout_s, kept.timeout_s)
            if gate.meter is not kept:
                self._exchange(gate, kept)
            self._call_up(gate, len(gate.blocked))
        # What a meter that is gone still holds, Redis forgets by itself.
        self._meters = {gate.meter.credential: gate.meter for gate in self.gates.values() if gate.meter}

    def pause(self, paused: Iterable[str]) -> None:
        """Exactly these connections are paused."""
        names = set(paused)
        for name in names:
            self._gate(name).paused = True
        for name, gate in self.gates.items():
            if gate.paused and name not in names:
                gate.paused = False
                self._call_up(gate, len(gate.blocked))

    def stand(self, connection: str) -> None:
        """Start nothing more of it: an answer said that nothing can succeed."""
        self._gate(connection).paused = True

    def hold(self, connection: str, until: float) -> None:
        """The receiver asked for quiet: no request of any lane of it before `until`."""
        gate = self._gate(connection)
        gate.not_before = max(gate.not_before, until)

    def answered(self, connection: str, *, alive: bool, busy: bool, latency: float, now: float) -> None:
        """Of one request, before it lands. `alive`: the receiver works; `busy`: it has too much to do."""
        gate = self._gate(connection)
        if alive and not busy:
            gate.concurrency.good(latency, gate.in_flight, now)
        elif busy:
            gate.concurrency.bad(latency, now)
        was = gate.breaker.closed
        if alive:
            gate.breaker.succeeded()
        else:
            gate.breaker.failed(now)
        if not was and gate.breaker.closed:
            self._call_up(gate, len(gate.blocked))

    def asking(self) -> tuple[Meter, int] | None:
        """The next meter that wants a grant, and how many requests. It is not told again until `granted`. Any
        thread may ask.
        """
        if not self._asking:
            return None
        meter = self._asking.popleft()
        return meter, meter.wanted

    def granted(self, meter: Meter, grant: Grant | None, asked_at: float) -> None:
        """What it got; None where it could not be asked for."""
        if grant is None:
            meter.refused()
        else:
            meter.grant(grant, asked_at)
        self._call_up_before(meter, len(meter.blocked))

    def give_up_shares(self, now: float) -> None:
        """Now and then: have meters return what they hold and do not use of the requests at once, and ask for
        those that wait for more of it.
        """
        for meter in self._meters.values():
            if meter.idle(now) or (meter.blocked and meter.wants(now)):
                self._ask_for(meter, now)

    def _gate(self, name: str) -> Gate:
        return self.gates.setdefault(name, Gate(0))

    def _exchange(self, gate: Gate, meter: Meter | None) -> None:
        """Other limits: what is in flight counts against them."""
        if gate.meter is not None:
            gate.meter.in_flight -= gate.in_flight
            self._call_up_before(gate.meter, len(gate.meter.blocked))
        if meter is not None:
            meter.in_flight += gate.in_flight
        gate.meter = meter

    def _crowded(self, gate: Gate) -> bool:
        """Over half of what may be in flight is: from then on nobody gets more than a fair share, and room is
        kept for a first request of everybody else.
        """
        if 2 * self.in_flight < self._max_unsettled or gate.in_flight == 0:
            return False
        fair = max(1, self._max_unsettled // (2 * max(1, self._active)))
        return gate.flying >= fair or self.in_flight + self._idle(gate) >= self._max_unsettled

    def _request_size(self, gate: Gate) -> int:
        """Deliveries that its next request may carry and leave room for others."""
        half = self._max_unsettled // 2
        room = half if self.in_flight < half else self._max_unsettled - self._idle(gate)
        return min(gate.rows, max(1, room - self.in_flight))

    def _idle(self, gate: Gate) -> int:
        """Connections in force without a request, but for this one."""
        return max(0, self._in_force - self._active - (gate.in_flight == 0))

    def _took_off(self, lane: Lane, deliveries: int) -> None:
        """A request of the lane starts."""
        gate = lane.gate
        self._starts += 1
        lane.started = self._starts
        self._active += gate.in_flight == 0
        gate.in_flight += 1
        gate.flying += deliveries
        gate.breaker.started()
        if gate.meter is not None:
            gate.meter.take()

    def _landed(self, gate: Gate, deliveries: int) -> None:
        """A request has its answer: whoever waited for that gets a turn."""
        gate.in_flight -= 1
        gate.flying -= deliveries
        self._active -= gate.in_flight == 0
        if gate.meter is not None:
            gate.meter.in_flight -= 1
            self._call_up_before(gate.meter, 1)
        if not gate.paused:
            self._call_up(gate, max(1, gate.concurrency.requests - gate.in_flight))

    def _stand(self, lane: Lane) -> None:
        """Before its shut gate. Its turn at the meter is somebody else's."""
        lane.gate.blocked.append(lane)
        lane.blocked = True
        if lane.gate.meter is not None:
            self._call_up_before(lane.gate.meter, 1)

    def _stand_before(self, meter: Meter, lane: Lane, now: float) -> None:
        meter.stand(lane, lane.gate.usable(len(lane.waiting)))
        if meter.wants(now):
            self._ask_for(meter, now)

    def _ask_for(self, meter: Meter, now: float) -> None:
        meter.ask(now)
        self._asking.append(meter)

    def _pass_on(self, gate: Gate) -> None:
        """A turn that was not used is somebody else's."""
        self._call_up(gate, 1)
        if gate.meter is not None:
            self._call_up_before(gate.meter, 1)

    def _call_up(self, gate: Gate, lanes: int) -> None:
        """Give so many lanes before the gate their turn now, in the order they were blocked."""
        for _ in range(min(lanes, len(gate.blocked))):
            lane = gate.blocked.popleft()
            lane.blocked = False
            self._push(lane, NOW)

    def _call_up_before(self, meter: Meter, lanes: int) -> None:
        for _ in range(min(lanes, len(meter.blocked))):
            self._push(meter.call(), NOW)

    def _push(self, lane: Lane, at: float) -> None:
        """Give the lane its turn at `at`, unless it has one before. Later ones stay and count."""
        if not lane.places or at < lane.places[-1]:
            self._sequence += 1
            lane.places.append(at)
            heapq.heappush(self._heap, (at, lane.started, self._sequence, lane))
