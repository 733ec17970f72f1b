"""What manifests say of windows, as Redis has to know it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from batcher.full import FULL
from batcher.window import State
from batcher.windows import ASKED
from consumer.manifests import Remembered
from schemas.manifest import Manifest, Mark

#: Its state when its fate is unknown, for a person.
UNSURE = (
    "Redis was lost while it was under way, so nobody knows whether it left: look whether the advertiser has "
    "it, then `referrals release` sends it, or `referrals give-up` ends it"
)
DAMAGED = (
    "Redis was lost while it was under way, and Kafka no longer has all of its rows, or not what it is made "
    "with: look whether the advertiser has it, `referrals export` what is missing, and `referrals give-up` it"
)


@dataclass(frozen=True, slots=True)
class Newest:
    """A connection's newest window. `last`: the newest slot of its schedule, "" before the first."""

    told: Manifest
    last: str

    @property
    def name(self) -> str:
        return str(self.told.connection)

    @property
    def number(self) -> int:
        return int(self.told.window or 0)

    @property
    def open(self) -> bool:
        return self.told.outcome is None

    @property
    def floors(self) -> Mapping[int, int]:
        """By partition, from which offset on its rows are to be found."""
        return {mark.partition: mark.start if self.open else mark.to for mark in self.told.marks}

    def seals(self, partition: int) -> dict[str, str | int]:
        """The connection's seals in a partition before the replay; one that is open is sealed by it."""
        return {"last": self.number - self.open, "to": self.floors[partition]}

    def same(self, sealed: Sequence[Mark]) -> bool:
        """Whether the rows sealed anew are those that were."""
        then = {mark.partition: (mark.rows, mark.digest) for mark in self.told.marks}
        return then == {mark.partition: (mark.rows, mark.digest) for mark in sealed}

    def fields(self, sealed: Sequence[Mark], digest: str, *, whole: bool) -> dict[str, str | int]:
        """The window's hash. `sealed`: what the replay sealed; `digest`: of a definition Redis knows;
        `whole`: the rows and the definition are those it was sealed with.
        """
        told = self.told
        sealed_ms = int((told.sealed_at or told.at).timestamp() * 1000)
        found: dict[str, str | int] = {
            "n": self.number,
            "state": State.SEALED if self.open else State.CLOSED,
            "slot": str(told.slot or ""),
            "last": self.last,
            "since": sealed_ms,
            "token": 0,
            "owner": "",
            "until": 0,
            "digest": digest,
            "account": str(told.account_id or ""),
            "sealed_at": sealed_ms,
        }
        if not self.open:
            rows = sum(file.rows for file in told.artefacts)
            return found | {"outcome": str(told.outcome), "rows": rows}
        reason = UNSURE if whole else DAMAGED
        marks = json.dumps([asdict(mark) for mark in sealed])
        found |= {"marks": marks, "held": 1, "reason": reason, "unsure": reason}
        return found if whole else found | {"damaged": 1}


def newest(remembered: Remembered) -> list[Newest]:
    """Of each connection that ever had a window."""
    found = []
    for told in remembered.windows.values():
        slots = [str(told[n].slot or "") for n in sorted(told, reverse=True)]
        scheduled = (slot for slot in slots if slot and not slot.startswith((ASKED, FULL)))
        found.append(Newest(told[max(told)], next(scheduled, "")))
    return found
