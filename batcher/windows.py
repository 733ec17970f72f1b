"""Windows: what waits for a file connection, sealed in steps that a crash can repeat.

A connection has one window under way. It is claimed (a number, durably, before anything moves),
sealed in every partition, told to `referral-manifests`, sent, told again with its outcome, closed.
Every state is written under the holder's token: a worker that was overtaken is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from batcher import removal
from batcher.window import WindowState, parsed
from consumer.keys import Keys
from consumer.store import Argument, Call, Reply, Script, Store, text
from schemas.manifest import Mark

SEAL = Script("batcher", "seal")
DROP = Script("batcher", "drop")
CLAIM = Script("batcher", "claim")
ADVANCE = Script("batcher", "advance")

#: A holder that says nothing for so long is taken over; a heartbeat renews it, whatever a step waits for.
LEASE_MS = 15_000
#: Windows an operator asked for are slots of their own; the schedule does not count them.
ASKED = "asked:"


class Gone(Exception):  # noqa: N818 - what happened to our claim
    """Another worker holds the window now: stop, and touch nothing."""


class Windows:
    """The windows of one deployment, over one Redis connection. Raises StoreUnavailable."""

    def __init__(self, store: Store, keys: Keys, *, again: bool = False) -> None:
        """`again`: those that are sent once more, each with a number and a state of its own."""
        self.store, self.keys = store, keys
        self._key = keys.resend if again else keys.window
        self._asked, self._began = f"{keys.topic}:asked", keys.windows_began

    def ask(self, connection: str, now: datetime) -> None:
        """Have the connection's window flushed now; asking twice before it happens is asking once."""
        stamp = now.astimezone(UTC).isoformat(timespec="milliseconds")
        self.store.command("HSETNX", self._asked, connection, stamp)

    def asked(self) -> dict[str, str]:
        """Connections asked for, with when."""
        return self.store.hash(self._asked)

    def give_up(self, window: WindowState, why: str) -> None:
        """Have a held window end undelivered, at its next try, which is at once."""
        self.store.command("HSET", self.keys.given_up, window.connection, f"{window.number} {why}")
        self.store.command("HSET", self._key(window.connection), "retry_at", 0)

    def let_go(self, window: WindowState) -> None:
        """Have a window sent that may have left before Redis was lost: a person has said so."""
        self.store.command("HSET", self._key(window.connection), "unsure", "", "retry_at", 0)

    def given_up(self, window: WindowState) -> str | None:
        """Why nobody waits for this window any more, or None."""
        told = self.store.command("HGET", self.keys.given_up, window.connection)
        number, _, why = text(told or b"").partition(" ")
        return why if number == str(window.number) and not window.again else None

    def paused(self) -> set[str]:
        """Connections an operator paused: their rows wait."""
        return {text(name) for name in self.store.command("HKEYS", self.keys.paused)}

    def kept_file(self, connection: str, token: int, number: int) -> str:
        """The key of a mail's file that is kept until the window is closed."""
        return f"{self._key(connection)}:file:{token}:{number}"

    def state(self, connection: str) -> WindowState | None:
        """The connection's newest window, or None before the first."""
        return self.states([connection]).get(connection)

    def claim(
        self, connection: str, owner: str, slot: str, seen: int, *, scheduled: bool
    ) -> WindowState | None:
        """Open the window for `slot` (or with '' take over an open one); None when there is nothing to do
        or somebody else is at it. `seen`: the number of the newest window the caller saw, 0 for none.
        """
        args = (owner, LEASE_MS, slot, seen, int(scheduled))
        reply = self.store.call(Call(CLAIM, self._key(connection), args))
        if text(reply[0]) != "OK":
            return None
        items = [text(item) for item in reply[1:]]
        window = parsed(connection, dict(zip(items[::2], items[1::2], strict=True)))
        if window.slot.startswith(ASKED):
            self._answered(window)
        return window

    def _answered(self, window: WindowState) -> None:
        """Forget the wish this window was opened for; one that came later stays."""
        wish = self.store.command("HGET", self._asked, window.connection)
        if wish is not None and window.slot == f"{ASKED}{text(wish)}":
            self.store.command("HDEL", self._asked, window.connection)

    def advance(self, window: WindowState, fields: Mapping[str, str | int], *, durable: bool) -> WindowState:
        """Write fields of a window we hold, and renew it. Raises Gone; NotDurable with `durable`."""
        return self._advance(window, fields, LEASE_MS, durable=durable)

    def beat(self, window: WindowState) -> None:
        """Renew a window we hold. Raises Gone."""
        self._advance(window, {}, LEASE_MS, durable=False)

    def release(self, window: WindowState, fields: Mapping[str, str | int]) -> None:
        """As `advance`, and let whoever comes next take it. Raises Gone."""
        self._advance(window, fields, 0, durable=False)

    def _advance(
        self, window: WindowState, fields: Mapping[str, str | int], lease_ms: int, *, durable: bool
    ) -> WindowState:
        args: list[Argument] = [window.number, window.token, lease_ms]
        for name, value in fields.items():
            args += [name, value]
        reply = self.store.call(Call(ADVANCE, self._key(window.connection), args))
        if text(reply[0]) != "OK":
            raise Gone(window.id)
        if durable:
            self.store.barrier()
        merged = {**window.fields, **{name: str(value) for name, value in fields.items()}}
        return parsed(window.connection, merged)

    def seal(self, window: WindowState, partitions: int) -> tuple[Mark, ...]:
        """Close the window's share in every partition; the same marks however often it is asked.

        Raises Gone where a later window was sealed already.
        """
        calls = [
            Call(SEAL, self.keys.head(p), (self.keys.prefix(p), window.connection, window.number))
            for p in range(partitions)
        ]
        replies = self.store.calls(calls)
        return tuple(_mark(p, reply, window) for p, reply in enumerate(replies))

    def rows(self, window: WindowState, partition: int, start: int, count: int) -> list[bytes]:
        """Sealed rows of one partition, `count` from `start` on."""
        key = f"{self.keys.prefix(partition)}sealed:{window.connection}:{window.number}"
        found: list[bytes] = self.store.command("LRANGE", key, start, start + count - 1)
        return found

    def has_corrections(self, window: WindowState, partition: int) -> bool:
        """Whether `latest` finds anything in this partition; a sealed window gets none, and loses them only
        with its rows.
        """
        return bool(self.store.command("EXISTS", self._latest(window, partition)))

    def latest(self, window: WindowState, partition: int, ids: Sequence[str]) -> dict[str, int]:
        """Of these referrals, the revision that supersedes all lower ones in the window."""
        return {i: int(v) for i, v in self._found(self._latest(window, partition), ids)}

    def removals(self, partition: int, ids: Sequence[str]) -> dict[str, removal.Removal]:
        """Of these referrals, those withdrawn or erased."""
        return {i: removal.parse(v) for i, v in self._found(f"{self.keys.prefix(partition)}removed", ids)}

    def drop(self, window: WindowState, partitions: int) -> None:
        """Forget its rows: the window has ended and Kafka knows."""
        args = [(self.keys.prefix(p), window.connection, window.number) for p in range(partitions)]
        self.store.calls([Call(DROP, self.keys.head(p), arg) for p, arg in enumerate(args)])

    def marks_now(self, partitions: int) -> dict[int, int]:
        """How many removal marks each partition has: what a first byte sent fixes."""
        found = self.store.commands([("HGET", self.keys.head(p), "marks") for p in range(partitions)])
        return {p: int(value or 0) for p, value in enumerate(found)}

    def began(self, connection: str, now: datetime) -> datetime:
        """Since when the connection has windows; `now` when it is asked for the first time, and where a clock
        that was ahead noted a time yet to come.
        """
        stamp = now.astimezone(UTC).isoformat()
        # A full Redis refuses what may need memory, even where the field is there: what has windows drains.
        found = self.store.command("HGET", self._began, connection)
        if found is None:
            _, found = self.store.commands(
                [("HSETNX", self._began, connection, stamp), ("HGET", self._began, connection)]
            )
        noted = datetime.fromisoformat(text(found))
        if noted <= now:
            return noted
        self.store.command("HSET", self._began, connection, stamp)
        return now

    def connections(self) -> set[str]:
        """All that ever had windows."""
        return {text(name) for name in self.store.command("HKEYS", self._began)}

    def states(self, connections: Sequence[str]) -> dict[str, WindowState]:
        """The newest windows of those that have one, in one round trip."""
        found = self.store.hashes([self._key(name) for name in connections])
        return {name: parsed(name, fields) for name, fields in zip(connections, found, strict=True) if fields}

    def opened(self, connections: Sequence[str], partitions: int) -> float | None:
        """When the oldest row that is not sealed yet came in, in seconds since the epoch."""
        asked = [
            ("HGET", f"{self.keys.prefix(p)}seals:{name}", "opened")
            for name in connections
            for p in range(partitions)
        ]
        if not asked:
            return None
        return min((int(found) / 1000 for found in self.store.commands(asked) if found), default=None)

    def _latest(self, window: WindowState, partition: int) -> str:
        return f"{self.keys.prefix(partition)}sealed-latest:{window.connection}:{window.number}"

    def _found(self, key: str, ids: Sequence[str]) -> list[tuple[str, str]]:
        if not ids:
            return []
        found = self.store.command("HMGET", key, *ids)
        return [(i, text(value)) for i, value in zip(ids, found, strict=True) if value is not None]


def _mark(partition: int, reply: Reply, window: WindowState) -> Mark:
    status = text(reply[0])
    if status != "OK":
        raise Gone(f"{window.id} in partition {partition}: {status}")
    _n, start, to, rows, digest, removals = (text(item) for item in reply[1:])
    figures = {"start": int(start), "to": int(to), "rows": int(rows), "removals": int(removals)}
    return Mark(partition=partition, digest=digest, **figures)
