"""What operators want sent once more: at most one window of a connection at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from consumer.keys import Keys
from consumer.store import Store, text
from schemas.delivery import window_id


@dataclass(frozen=True, slots=True)
class Wish:
    """`number`: of the window. `same_name`: its files get the names they had."""

    connection: str
    number: int
    same_name: bool
    at: datetime

    @property
    def window(self) -> str:
        return window_id(self.connection, self.number)


class Wishes:
    """In Redis, until the window has been sent again or it is known that it cannot be. Raises
    StoreUnavailable.
    """

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store, self._key = store, keys.resends

    def make(self, wish: Wish) -> bool:
        """False where the connection has one already. Durable with the next barrier."""
        told = {"number": wish.number, "same_name": wish.same_name, "at": wish.at.astimezone(UTC).isoformat()}
        return bool(self._store.command("HSETNX", self._key, wish.connection, json.dumps(told)))

    def all(self) -> Mapping[str, Wish]:
        """By connection."""
        return {name: _parsed(name, told) for name, told in self._store.hash(self._key).items()}

    def done(self, wish: Wish) -> None:
        """Forget it."""
        found = self._store.command("HGET", self._key, wish.connection)
        if found is not None and _parsed(wish.connection, text(found)) == wish:
            self._store.command("HDEL", self._key, wish.connection)


def _parsed(connection: str, told: str) -> Wish:
    found = json.loads(told)
    return Wish(connection, found["number"], found["same_name"], datetime.fromisoformat(found["at"]))
