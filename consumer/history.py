"""Which set of connections each record was taken under, as Kafka remembers it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from consumer.keys import Role
from consumer.route import AnyConnection, Router
from schemas.connection import ConnectionSet, load_definition
from schemas.manifest import Manifest

_ORDER = tuple(Role)
#: Sets in memory at once: each may have thousands of connections. A log is gone through in their order.
LOADED = 8


@dataclass(frozen=True, slots=True)
class InForce:
    """A set and from which offsets on it was: `starts` by role and partition, as its manifest has them."""

    version: int
    at: datetime
    digest: str
    definition: str
    starts: tuple[int, ...]

    @property
    def set(self) -> ConnectionSet:
        """Raises ValueError for one of another release."""
        return _set(self.definition)

    @property
    def router(self) -> Router:
        return _router(self.definition)

    def start(self, role: Role, partition: int) -> int:
        """0 where an older release did not note it."""
        place = _ORDER.index(role) * (len(self.starts) // len(_ORDER)) + partition
        return self.starts[place] if self.starts else 0


@dataclass(frozen=True, slots=True)
class History:
    """All sets Kafka remembers, oldest first; at least one."""

    sets: Sequence[InForce]

    @property
    def now(self) -> InForce:
        return self.sets[-1]

    def at(self, role: Role, partition: int, offset: int) -> InForce:
        """The one the record was taken under; before the oldest that is remembered, that."""
        fitting = [one for one in self.sets if one.start(role, partition) <= offset]
        return fitting[-1] if fitting else self.sets[0]

    def cuts(self, role: Role, partition: int) -> set[int]:
        """Where the set changed."""
        return {one.start(role, partition) for one in self.sets}

    def unknown_before(self, begins: Sequence[int]) -> bool:
        """Whether some record from `begins` on was taken under a set that nobody remembers."""
        before = [0, *(one.version for one in self.sets)]
        return any(
            not one.starts or any(one.start(role, p) > at for role in Role for p, at in enumerate(begins))
            for one, version in zip(self.sets, before, strict=False)
            if one.version > version + 1
        )

    def definitions(self, name: str) -> list[tuple[str, AnyConnection]]:
        """The account and definition each set had for a connection, the newest last."""
        return [found for one in self.sets if (found := one.set.by_name().get(name)) is not None]

    def came(self, names: Collection[str]) -> Mapping[str, datetime]:
        """When these connections of today's set came, as far as is remembered."""
        found: dict[str, datetime] = {}
        there = set(names)
        for one in reversed(self.sets):
            there &= one.set.by_name().keys()
            found |= dict.fromkeys(there, one.at)
        return found


def history(told: Sequence[Manifest]) -> History | None:
    """From their manifests; None where there is none."""
    sets = [
        InForce(int(one.set_version or 0), one.at, str(one.set_digest), str(one.definition), one.starts or ())
        for one in told
    ]
    return History(sets) if sets else None


@lru_cache(LOADED)
def _set(definition: str) -> ConnectionSet:
    return load_definition(definition)


@lru_cache(LOADED)
def _router(definition: str) -> Router:
    return Router(_set(definition))
