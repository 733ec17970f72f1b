"""A delivery as it stands in Redis: a line of ids, then the body, never changed again. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from schemas.delivery import Action, delivery_id

#: Made once: `json.dumps` makes one for each document.
_JSON = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Frozen:
    """What a retry needs days later, whatever became of the connection's file meanwhile.

    `produced_at_us`: microseconds since the epoch, for latencies. `body`: the bytes every attempt sends.
    `values`: fields of the referral that templates of the request need. `removal`: the body that takes
    the delivery back, where the connection asks for it. Holds personal data: its repr shows ids alone.
    """

    delivery_id: str
    referral_id: str
    revision: int
    account_id: str
    campaign_id: str
    produced_at_us: int
    body: bytes = field(repr=False)
    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    removal: bytes | None = field(default=None, repr=False)
    action: Action = Action.DELIVER
    #: Seconds since the epoch since when an attempt that nobody remembers may have been made; 0 for none.
    doubt: float = 0.0

    def freeze(self) -> bytes:
        ids: list[object] = [
            self.delivery_id,
            self.referral_id,
            self.revision,
            self.account_id,
            self.campaign_id,
            self.produced_at_us,
        ]
        more: dict[str, object] = {}
        if self.values:
            more["values"] = self.values
        if self.removal is not None:
            more["removal"] = self.removal.decode("utf-8")
        if self.action is not Action.DELIVER:
            more["action"] = self.action
        if self.doubt:
            more["doubt"] = self.doubt
        if more:
            ids.append(more)
        return _JSON.encode(ids).encode("utf-8") + b"\n" + self.body

    def taken_back(self, connection: str) -> Frozen | None:
        """The delivery that has the receiver forget this one; None where it cannot."""
        if self.removal is None:
            return None
        return replace(
            self,
            delivery_id=delivery_id(connection, self.referral_id, self.revision, Action.REMOVE),
            body=self.removal,
            removal=None,
            action=Action.REMOVE,
            doubt=0.0,
        )


def thaw(raw: bytes) -> Frozen:
    """What `freeze` wrote."""
    ids, _, body = raw.partition(b"\n")
    delivery, referral_id, revision, account_id, campaign_id, produced_at_us, *rest = json.loads(ids)
    frozen = Frozen(delivery, referral_id, revision, account_id, campaign_id, produced_at_us, body)
    if not rest:
        return frozen
    more = rest[0]
    removal = more.get("removal")
    return replace(
        frozen,
        values=more.get("values", {}),
        removal=None if removal is None else removal.encode("utf-8"),
        action=Action(more.get("action", Action.DELIVER)),
        doubt=more.get("doubt", 0.0),
    )
