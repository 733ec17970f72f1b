"""The only Redis client: connection, scripts, durability barrier.

redis-py repeats commands by default, which doubles whatever is not repeatable; here nothing is
repeated below the caller. Scripts are compare-and-set, so their callers may repeat them. A Store
belongs to one thread: WAITAOF speaks for the connection that wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

#: A healthy Redis answers in milliseconds; longer, and the caller should know.
SOCKET_TIMEOUT_S = 5.0
#: WAITAOF takes about a millisecond under `appendfsync always`, an honest one about a second under
#: `everysec`; over this, durability is in doubt. Below SOCKET_TIMEOUT_S, so that Redis gets to say so.
BARRIER_TIMEOUT_MS = 4_000

#: Disk trouble, and fewer replicas than a write must reach: both before the write.
_REFUSALS = ("MISCONF", "NOREPLICAS")
#: Refusals that redis-py has a class for; it takes their code off the message.
_REFUSED = (redis.exceptions.OutOfMemoryError, redis.exceptions.NoPermissionError)
_NOT_READY = (
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterDownError,
)
#: Somebody's script has run for long; redis-py has no class for it.
_BUSY = "BUSY "

Argument = str | bytes | int | float
Reply = list[bytes]


class StoreUnavailable(Exception):  # noqa: N818 - a state of the other side, named for what it is
    """Redis did not answer, is loading, or is not the master. Nothing is known of the call's effect."""


class StoreRefused(Exception):  # noqa: N818
    """Redis answered with a refusal (out of memory, disk trouble); the call had no effect."""


class NotDurable(StoreUnavailable):
    """The barrier was not reached: what was written may be lost with Redis, so write it again."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script shipped as package data."""

    package: str
    name: str

    def source(self) -> str:
        return (files(self.package) / "lua" / f"{self.name}.lua").read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Call:
    """One script call: its head key decides the slot."""

    script: Script
    key: str
    args: Sequence[Argument]


@dataclass(frozen=True, slots=True)
class Durability:
    """What the server says about keeping what it is given."""

    append_only: bool
    eviction: str


class Store:
    """One connection to Redis or Valkey. Not thread-safe. Every method raises StoreUnavailable."""

    def __init__(self, url: str, *, append_only: bool = True, replicas: int = 0) -> None:
        """`append_only`: the barrier waits for the local append-only file; `replicas`: and for so many."""
        self.url = url
        self._append_only = append_only
        self._replicas = replicas
        self._hashes: dict[Script, str] = {}
        #: The connection in use by number, and the one everything before the last barrier went over.
        self._connection, self._connection_then = 0, 1
        self._redis = redis.Redis.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
            socket_keepalive=True,
            redis_connect_func=self._connected,
        )

    def _connected(self, connection: Any) -> None:
        self._connection += 1
        connection.on_connect()

    @property
    def connection(self) -> int:
        """The connection in use, by number. Before a new one, Redis may have died and lost what came last."""
        return self._connection

    def close(self) -> None:
        self._redis.close()

    def call(self, call: Call) -> Reply:
        """Run one script. Raises StoreRefused as well."""
        return self.calls([call])[0]

    def calls(self, calls: Sequence[Call]) -> list[Reply]:
        """Run scripts in one round trip, in order, each atomic by itself. Raises StoreRefused as well:
        then some of them may have been applied, which a repeat finds out.
        """
        return _unrefused(self.each(calls))

    def each(
        self, calls: Sequence[Call], meanwhile: Callable[[], None] = lambda: None
    ) -> list[Reply | StoreRefused]:
        """As `calls`, for callers that go on with those that were not refused. `meanwhile`: work of theirs
        that needs no Redis, done while Redis has this.
        """
        replies = self._evalsha(calls, meanwhile)
        if any(isinstance(reply, redis.exceptions.NoScriptError) for reply in replies):
            # The cache is volatile. The other calls are applied; repeats are harmless.
            self._hashes.clear()
            replies = self._evalsha(calls, lambda: None)
        return [_reply(reply) for reply in replies]

    def _evalsha(self, calls: Sequence[Call], meanwhile: Callable[[], None]) -> list[Any]:
        unknown = list({call.script for call in calls} - self._hashes.keys())
        loaded = self.commands([("SCRIPT", "LOAD", script.source()) for script in unknown])
        self._hashes.update(zip(unknown, map(text, loaded), strict=True))
        commands = [("EVALSHA", self._hashes[c.script], 1, c.key, *c.args) for c in calls]
        pool = self._redis.connection_pool
        try:
            connection = pool.get_connection()
            try:
                return _exchanged(connection, commands, meanwhile)
            finally:
                pool.release(connection)
        except redis.RedisError as error:
            raise _translated(error) from error

    def commands(self, commands: Iterable[Sequence[Argument]]) -> list[Any]:
        """Plain commands in one round trip: reads, and writes whose repetition changes nothing.

        Raises StoreRefused as well, with some of them carried out.
        """
        return _unrefused([_reply(reply) for reply in self._replies(commands)])

    def _replies(self, commands: Iterable[Sequence[Argument]]) -> list[Any]:
        """One round trip; errors that Redis answered stand among the replies."""
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
        try:
            return pipeline.execute(raise_on_error=False)
        except redis.RedisError as error:
            raise _translated(error) from error

    def command(self, *command: Argument) -> Any:
        return self.commands([command])[0]

    def hash(self, key: str) -> dict[str, str]:
        """A small hash of text, whole."""
        return self.hashes([key])[0]

    def hashes(self, keys: Sequence[str]) -> list[dict[str, str]]:
        """Small hashes of text, in one round trip; a missing one is empty."""
        return [_texts(reply) for reply in self.commands([("HGETALL", key) for key in keys])]

    def barrier(self) -> None:
        """Return once everything written since the last barrier is on disk. Raises NotDurable.

        A connection made anew since then knows nothing of what was written before: Redis may have died in
        between, and lost it.
        """
        local = 1 if self._append_only else 0
        if not local and not self._replicas:
            return
        reply = self.command("WAITAOF", local, self._replicas, BARRIER_TIMEOUT_MS)
        then, self._connection_then = self._connection_then, self._connection
        if then != self._connection:
            raise NotDurable("the connection to Redis broke after something was written")
        if int(reply[0]) < local or int(reply[1]) < self._replicas:
            raise NotDurable(f"Redis did not confirm the write to disk within {BARRIER_TIMEOUT_MS} ms")

    def fsync(self) -> str | None:
        """`appendfsync` of the server, or None where we may not ask."""
        try:
            found = self._redis.config_get("appendfsync")
        except redis.RedisError as error:
            if isinstance(_translated(error), StoreUnavailable):
                raise _translated(error) from error
            return None
        return str(found.get("appendfsync")) if found else None

    def durability(self) -> Durability:
        """What INFO says; needs no CONFIG permission."""
        try:
            info = self._redis.info("persistence") | self._redis.info("memory")
        except redis.RedisError as error:
            raise _translated(error) from error
        return Durability(bool(info.get("aof_enabled")), str(info.get("maxmemory_policy", "noeviction")))


def _exchanged(
    connection: Any, commands: Sequence[Sequence[Argument]], meanwhile: Callable[[], None]
) -> list[Any]:
    """One round trip with something done before its replies are read, which redis-py's pipeline has no place
    for; errors that Redis answered stand among the replies.
    """
    connection.send_packed_command(connection.pack_commands(commands))
    replies: list[Any] = []
    try:
        meanwhile()
        for _ in commands:
            try:
                replies.append(connection.read_response())
            except redis.ResponseError as error:
                replies.append(error)
    except BaseException:
        # Nobody may take what is still to come for replies of theirs.
        connection.disconnect()
        raise
    return replies


def text(reply: bytes | str | int) -> str:
    """A reply's element as text."""
    return reply.decode() if isinstance(reply, bytes) else str(reply)


def pairs(reply: Sequence[Any]) -> list[tuple[bytes, float]]:
    """A reply WITHSCORES: members and scores, nested (RESP3) or flat (RESP2)."""
    if reply and isinstance(reply[0], list | tuple):
        return [(member, float(score)) for member, score in reply]
    return [(member, float(score)) for member, score in zip(reply[::2], reply[1::2], strict=True)]


def _texts(reply: Any) -> dict[str, str]:
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {name.decode(): value.decode() for name, value in pairs}


def _reply(reply: Any) -> Any:
    """A reply, or the refusal that stands for it. Raises what is no answer to this call."""
    error = _translated(reply) if isinstance(reply, redis.RedisError) else None
    if error is not None and not isinstance(error, StoreRefused):
        raise error from reply
    return reply if error is None else error


def _unrefused(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, StoreRefused):
            raise reply
    return replies


def _translated(error: redis.RedisError) -> Exception:
    why = str(error).partition("\n")[0][:120]
    if isinstance(error, _REFUSED) or why.startswith(_REFUSALS):
        return StoreRefused(f"Redis refused the write: {why}")
    if isinstance(error, _NOT_READY) or why.startswith(_BUSY):
        return StoreUnavailable(f"Redis is not ready: {why}")
    if isinstance(error, redis.AuthenticationError) or "authentication" in why.lower():
        return StoreUnavailable("Redis wants another user or password: check REFERRALS_REDIS")
    if "DB index is out of range" in why:
        return StoreUnavailable("Redis has no database of that number: check REFERRALS_REDIS")
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return StoreUnavailable(f"Redis did not answer: {type(error).__name__}")
    return error
