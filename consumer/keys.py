"""Where everything lives in Redis. Pure.

Keys of a partition carry it as hash tag, so that rows and offset stay in one slot of a cluster:

    {referrals:7}:push:head           epoch, owner, lease, barrier, next, prev, verdicts, set, marks, outbox
    {referrals:7}:push:lanes          names of the lanes that ever held something
    {referrals:7}:push:lane:N:body    offset -> frozen delivery      :due  offset by due time (ms)
    {referrals:7}:push:lane:N:attempts  offset -> attempts so far, of those tried
    {referrals:7}:push:seen:S:K       fingerprints of slot S, shard K
    {referrals:7}:push:removed        referral id -> removal mark    :removals  the same by sequence
    {referrals:7}:push:outbox         receipts on their way to Kafka
    {referrals:7}:batch:open:N        rows of the open window        :seals:N  its figures, and the marks
    {referrals:7}:batch:latest:N      referral id -> highest revision in the open window, of corrections
    {referrals:7}:batch:sealed:N:12   rows of a sealed window        :sealed-latest:N:12
    {referrals:window:N}              state of connection N's current window
    referrals:layout                  what init wrote                referrals:connections  the current set
    referrals:definitions             connection digest -> definition
    referrals:paused                  connection -> why
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

#: Version of all this. A service refuses another one.
LAYOUT = 1


class Role(StrEnum):
    """The two intakes: each has its own offset in every partition."""

    PUSH = "push"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names for one referral topic and role."""

    topic: str
    role: Role

    def prefix(self, partition: int) -> str:
        return f"{{{self.topic}:{partition}}}:{self.role}:"

    def head(self, partition: int) -> str:
        return f"{self.prefix(partition)}head"

    def window(self, connection: str) -> str:
        return f"{{{self.topic}:window:{connection}}}"

    @property
    def layout(self) -> str:
        return f"{self.topic}:layout"

    @property
    def connections(self) -> str:
        return f"{self.topic}:connections"

    @property
    def definitions(self) -> str:
        return f"{self.topic}:definitions"

    @property
    def paused(self) -> str:
        return f"{self.topic}:paused"
