"""What the loop has to tell Redis: gathered by partition, kept until it is written."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from math import inf

from consumer.keys import Keys
from consumer.pending import Fact, Reschedule, settle
from consumer.store import Call

#: Facts and reschedules in one script call: some ten milliseconds of Redis at most.
MAX_SETTLE = 2_000
#: No owner's epoch: facts are written, nothing else.
NOBODY = -1


class Outgoing:
    """Of one partition; appended to in the loop, taken by the worker."""

    def __init__(self) -> None:
        self.facts: deque[Fact] = deque()
        self.later: deque[Reschedule] = deque()


class Settling:
    """Called from the worker's thread, but for `outgoing`."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._out: dict[int, Outgoing] = {}
        self._unwritten: dict[int, tuple[list[Fact], list[Reschedule]]] = {}

    def outgoing(self, partition: int) -> Outgoing:
        return self._out.setdefault(partition, Outgoing())

    def call(self, partition: int, epoch: int, *, renew: bool) -> Call | None:
        """What to write next, with the lease's renewal; None where there is neither."""
        facts, later = self._taken(partition)
        if not (facts or later or renew):
            return None
        return settle(self._keys, partition, epoch, facts, later)

    def orphans(self, owned: Collection[int]) -> Iterable[tuple[int, Call | None]]:
        """Facts of partitions that are not ours any more: still true. What was to be put off is void."""
        for partition in [p for p in self._out if p not in owned]:
            facts, later = self._taken(partition)
            if facts:
                yield partition, settle(self._keys, partition, NOBODY, facts, [])
            elif later:
                yield partition, None

    def written(self, partition: int) -> Mapping[str, Mapping[int, float]]:
        """The last call was carried out: by connection and offset, until when Redis knows it is put off,
        inf for what ended or is held.
        """
        facts, later = self._unwritten.pop(partition, ([], []))
        told: dict[str, dict[int, float]] = {}
        for item in later:
            told.setdefault(item.connection, {})[item.offset] = inf if item.due is None else item.due
        for fact in facts:
            told.setdefault(fact.connection, {})[fact.offset] = inf
        return told

    def _taken(self, partition: int) -> tuple[list[Fact], list[Reschedule]]:
        facts, later = self._unwritten.setdefault(partition, ([], []))
        out = self.outgoing(partition)
        while out.facts and len(facts) < MAX_SETTLE:
            facts.append(out.facts.popleft())
        while out.later and len(later) < MAX_SETTLE:
            later.append(out.later.popleft())
        return facts, later
