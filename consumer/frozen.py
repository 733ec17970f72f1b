"""A delivery as it stands in Redis: a line of ids, then the body, never changed again. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Frozen:
    """What a retry needs days later, whatever became of the connection's file meanwhile.

    `produced_at_us`: microseconds since the epoch, for latencies. `body`: the bytes every attempt sends.
    """

    delivery_id: str
    referral_id: str
    revision: int
    account_id: str
    campaign_id: str
    produced_at_us: int
    body: bytes

    def freeze(self) -> bytes:
        ids = (
            self.delivery_id,
            self.referral_id,
            self.revision,
            self.account_id,
            self.campaign_id,
            self.produced_at_us,
        )
        return json.dumps(ids, separators=(",", ":")).encode() + b"\n" + self.body


def thaw(raw: bytes) -> Frozen:
    """What `freeze` wrote."""
    ids, _, body = raw.partition(b"\n")
    delivery_id, referral_id, revision, account_id, campaign_id, produced_at_us = json.loads(ids)
    return Frozen(delivery_id, referral_id, revision, account_id, campaign_id, produced_at_us, body)
