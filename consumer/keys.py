"""Where everything lives in Redis. Pure.

Keys of a partition carry it as hash tag, so that rows and offset stay in one slot of a cluster:

    {referrals:7}:push:head           epoch, owner, lease, barrier, next, prev, verdicts, parked, set,
                                      set-from, marks, followed, taken-back, outbox
    {referrals:7}:push:lanes          names of the lanes that ever held something
    {referrals:7}:push:lane:N:body    offset -> frozen delivery; -offset-1 is the one that takes it back
                             :due     offset by due time (ms), of those never put off
                             :again   the same of those put off
                             :held    those that wait for a person, by since when (ms)
                             :behind  those that wait for one of their referral that is held
                             :tries   offset -> what its attempts left behind
                             :late    referral id -> offsets put off or held
                             :bytes   of all bodies              :parked  offsets whose rows Kafka holds
                             :made    referral id -> deliveries that take back what was made  :made-at
    {referrals:7}:push:seen:S:K       fingerprints of slot S, shard K
    {referrals:7}:push:removed        referral id -> removal mark    :removals  the same by sequence
    {referrals:7}:push:released       connections of which a person let something go that was held
    {referrals:7}:push:outbox         receipts on their way to Kafka
    {referrals:7}:batch:open:N        rows of the open window        :seals:N  its figures, and the marks
    {referrals:7}:batch:latest:N      referral id -> highest revision in the open window, of corrections
    {referrals:7}:batch:sealed:N:12   rows of a sealed window        :sealed-latest:N:12
    {referrals:window:N}              state of connection N's current window
                        :file:T   what token T's holder mails of it, where no second making gives the same
    referrals:layout                  what init wrote                referrals:connections  the current set
    referrals:definitions             connection digest -> definition
    referrals:paused                  connection -> why
    referrals:quiet                   credential by when its quiet ends (ms)
    {referrals:limit:C}               what workers have leased of credential C's limits
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

    @property
    def service(self) -> str:
        """What reads for it, as receipts and consumer groups name it."""
        return "push" if self is Role.PUSH else "collect"


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
    def given_up(self) -> str:
        """By connection, the number of a window that is not to be delivered, and why."""
        return f"{self.topic}:given-up"

    @property
    def windows_began(self) -> str:
        """Since when each connection has windows."""
        return f"{self.topic}:windows-began"

    @property
    def resends(self) -> str:
        """What operators want sent once more, by connection."""
        return f"{self.topic}:resends"

    def resend(self, connection: str) -> str:
        """The window that is sent once more."""
        return f"{{{self.topic}:resend:{connection}}}"

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
    def owners(self) -> str:
        """Which account had a connection's name last, in force or not."""
        return f"{self.topic}:owners"

    @property
    def paused(self) -> str:
        return f"{self.topic}:paused"

    @property
    def quiet(self) -> str:
        return f"{self.topic}:quiet"

    def limits(self, credential: str) -> str:
        return f"{{{self.topic}:limit:{credential}}}"
