"""Starts the real flush service, in which a named step ends or stops the process.

Law: production code holds no switch. `batcher.__main__.flush` runs as it is; only the `step` of what it
sends with is another one, and it looks for work more often.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.faults.storm import entry
from tests.faults.storm.entry import Service

#: A service that is told to end has ended.
END_WITHIN = 25.0
#: Of mails there are two that say more than their step.
_POINTS = {"": "", "sending durable": "flush.mail.sending-durable", "sent": "flush.mail.sent"}


class Flush(Service):
    """A running flush service."""

    def ended(self, within: float = END_WITHIN) -> int:
        """The exit code once it has ended, minus the signal's number when a signal ended it."""
        return self.wait(within)


class Parent(entry.Parent):
    """Forks services. Every one that still runs dies with it."""

    _count = 0

    def flush(
        self,
        environment: Mapping[str, str],
        step: str = "",
        occurrence: int = 1,
        number: int = signal.SIGKILL,
        join_s: float = 20.0,
    ) -> Flush:
        """Start one; at the n-th occurrence of `step` it sends itself the signal `number`."""
        self._count += 1
        made = self.start(
            "flush",
            f"flush-{self._count}",
            environment,
            point=_POINTS.get(step, f"flush.{step.replace(' ', '-')}"),
            occurrence=occurrence,
            signal=number,
            constants={
                "batcher.__main__:LOOK_S": 0.05,
                "batcher.turn:INTERRUPTED_S": 0.1,
                "batcher.desk:JOIN_S": join_s,
            },
        )
        return Flush(self, made.name, made.pid, made.log, 0)


@contextmanager
def parent(folder: Path) -> Iterator[Parent]:
    with entry.parent(folder, Parent) as running:
        yield running
