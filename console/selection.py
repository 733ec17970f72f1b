"""Which records of a range an export holds. Pure.

The rules are those of a file window: one row per referral, its latest revision in the range; WITHDRAWN
takes out its own and every lower revision, ERASED takes out all; tests and other campaigns stay out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from consumer.service import Stop
from schemas.referral import Referral

#: Referrals and removals held at once, about 0.3 kB each; more is several exports.
MAX_HELD = 1_000_000


class Reason(StrEnum):
    """Why a record of the account is not in the file."""

    OTHER_CAMPAIGN = "of campaigns the connection does not get"
    TEST = "tests"
    SUPERSEDED = "earlier or repeated revisions"
    WITHDRAWN = "withdrawn"
    ERASED = "erased"


@dataclass(frozen=True, slots=True)
class Removed:
    """The highest revision WITHDRAWN reaches up to, -1 for never, and whether ERASED came."""

    revision: int = -1
    erased: bool = False

    def joined(self, other: Removed) -> Removed:
        return Removed(max(self.revision, other.revision), self.erased or other.erased)


NOTHING = Removed()


@dataclass(frozen=True, slots=True)
class _Latest:
    revision: int
    partition: int
    offset: int


class Selection:
    """Is shown every event once, then says where the wanted ones are. `left_out` counts the others."""

    def __init__(self, account: str, wanted: Callable[[Referral], bool]) -> None:
        self._account, self._wanted = account, wanted
        self._latest: dict[str, _Latest] = {}
        self._removed: dict[str, Removed] = {}
        self.left_out: Counter[Reason] = Counter()

    @property
    def ids(self) -> list[str]:
        """Of the referrals that are in, unless they were removed."""
        return list(self._latest)

    def show(self, referral: Referral, partition: int, offset: int, *, in_range: bool) -> None:
        """An event at its place, in the order of its partition. Raises Stop over MAX_HELD."""
        if referral.event_type.removes:
            if not referral.is_test:
                erased = referral.event_type.value == "ERASED"
                self.remove(referral.referral_id, Removed(-1 if erased else referral.revision, erased))
        elif in_range and referral.account_id == self._account:
            self._offer(referral, partition, offset)
        if len(self._latest) + len(self._removed) > MAX_HELD:
            raise Stop(f"the range holds over {MAX_HELD:,} referrals: export it in several shorter ones")

    def remove(self, referral_id: str, removed: Removed) -> None:
        """What is known of a removal, from whatever source."""
        self._removed[referral_id] = self._removed.get(referral_id, NOTHING).joined(removed)

    def _offer(self, referral: Referral, partition: int, offset: int) -> None:
        if referral.is_test:
            self.left_out[Reason.TEST] += 1
        elif not self._wanted(referral):
            self.left_out[Reason.OTHER_CAMPAIGN] += 1
        else:
            known = self._latest.get(referral.referral_id)
            self.left_out[Reason.SUPERSEDED] += known is not None
            # Of one revision published twice the first counts, as it does at intake.
            if known is None or referral.revision > known.revision:
                self._latest[referral.referral_id] = _Latest(referral.revision, partition, offset)

    def places(self) -> Mapping[int, list[int]]:
        """The offsets of what is exported, by partition, both in order. To be asked once."""
        found: dict[int, list[int]] = {}
        for referral_id, latest in self._latest.items():
            removed = self._removed.get(referral_id, NOTHING)
            if removed.erased:
                self.left_out[Reason.ERASED] += 1
            elif latest.revision <= removed.revision:
                self.left_out[Reason.WITHDRAWN] += 1
            else:
                found.setdefault(latest.partition, []).append(latest.offset)
        return {partition: sorted(found[partition]) for partition in sorted(found)}
