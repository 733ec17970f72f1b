"""Which connections want a referral. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.connection import FILE_KINDS, AnyConnection, ConnectionSet
from schemas.referral import Referral

__all__ = ["FILE_KINDS", "AnyConnection", "Router"]


@dataclass(frozen=True, slots=True)
class _Wanted:
    connection: AnyConnection
    campaigns: frozenset[str] | None


class Router:
    """A set of connections, indexed by account."""

    def __init__(self, connections: ConnectionSet) -> None:
        self._by_account: dict[str, list[_Wanted]] = {
            account.account: [
                _Wanted(c, None if c.campaigns == "all" else frozenset(c.campaigns))
                for c in account.connections
            ]
            for account in connections.accounts
        }
        self.by_name = {name: connection for name, (_, connection) in connections.by_name().items()}

    def connections(self, referral: Referral) -> Sequence[AnyConnection]:
        """All that want it, of every kind; none means the record is UNROUTED."""
        wanted = self._by_account.get(referral.account_id, ())
        return [w.connection for w in wanted if w.campaigns is None or referral.campaign_id in w.campaigns]
