"""Carries out the steps of a model on the real scripts and compares what Redis then holds.

Law: after every step the keys say what the model's state says, and every answer is the model's answer.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from consumer.keys import Keys, Role
from consumer.layout import Layout, write
from consumer.store import Call, Reply, Script, Store
from consumer.topics import Topics
from tests.invariants.explore import Step


class Diverged(AssertionError):
    """A script does not do what its model does."""


@dataclass(frozen=True, slots=True)
class Altered(Script):
    """A script with some of its lines replaced."""

    changes: tuple[tuple[str, str], ...] = ()

    def source(self) -> str:
        lua = Script(self.package, self.name).source()
        for old, new in self.changes:
            assert lua.count(old) == 1, f"{self.name}.lua has changed: {old!r} occurs {lua.count(old)} times"
            lua = lua.replace(old, new)
        return lua


class Driver(Protocol):
    def step(self, label: Any, before: Any, after: Any) -> None:
        """Carry the step out and compare. Raises Diverged."""


class Bench:
    """Partitions as `init` leaves them, with some scripts altered, and a disk to fall back to."""

    def __init__(self, store: Store, role: Role, partitions: int, altered: Iterable[Altered] = ()) -> None:
        self.keys = Keys(Topics().referrals, role)
        self._store = store
        self._altered = {(script.package, script.name): script for script in altered}
        store.command("FLUSHDB")
        write(store, Topics(), Layout("topic", partitions, (0,) * partitions, b"key"))
        self._disk: list[tuple[bytes, int, bytes]] = []
        self.fsync()

    def altered(self, call: Call) -> Call:
        return replace(call, script=self._altered.get((call.script.package, call.script.name), call.script))

    def call(self, call: Call) -> Reply:
        return self._store.call(self.altered(call))

    def read(self, *command: str | int) -> Any:
        return self._store.command(*command)

    def head(self, partition: int = 0) -> dict[str, str]:
        return self._store.hash(self.keys.head(partition))

    def fsync(self) -> None:
        names = self.read("KEYS", "*")
        found = self._store.commands([(told, name) for name in names for told in ("PTTL", "DUMP")])
        left = [max(0, int(ms)) for ms in found[::2]]
        self._disk = list(zip(names, left, found[1::2], strict=True))

    def crash(self) -> None:
        """Everything is as it was at the last fsync."""
        restores = [("RESTORE", *kept) for kept in self._disk]
        self._store.commands([("FLUSHDB",), *restores])


def drive(driver: Driver, history: Iterable[Step[Any]]) -> int:
    """How many steps were carried out. Raises Diverged, telling the way there."""
    labels = []
    for label, before, after in history:
        labels.append(label)
        try:
            driver.step(label, before, after)
        except Diverged as error:
            raise Diverged(
                f"{error}\nafter " + "; ".join(" ".join(map(str, step)) for step in labels)
            ) from error
    return len(labels)


def same(what: str, real: object, model: object) -> None:
    if real != model:
        raise Diverged(f"{what}: Redis has {real!r}, the model {model!r}")
