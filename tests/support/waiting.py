"""Deliveries whose content does not matter."""

from __future__ import annotations

from consumer.frozen import Frozen


def frozen(referral_id: str, revision: int = 0) -> Frozen:
    return Frozen("d", referral_id, revision, "acme", "c", 0, b"")
