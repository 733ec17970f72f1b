"""The connections in force: stored in Redis and told to `referral-manifests` under a version and a digest.

A set takes effect when it is stored. Every intake names the version it routed with, and an older one
is refused, so that after an edit no worker goes on with yesterday's files.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import TypeAdapter

from consumer import manifests
from consumer.kafka_out import KafkaOut
from consumer.keys import Keys, Role
from consumer.service import Stop
from consumer.store import Call, Script, Store, text
from consumer.topics import Topics
from schemas.connection import (
    AnyConnection,
    Connection,
    ConnectionSet,
    canonical,
    connection_digest,
    load_definition,
)
from schemas.manifest import Kind, Manifest

_APPLY = Script("consumer", "apply_set")
_RAISE = Script("consumer", "raise_set")
_CONNECTION: TypeAdapter[AnyConnection] = TypeAdapter(Connection)


@dataclass(frozen=True, slots=True)
class StoredSet:
    """A set and the version it is in force under; version 0 is the empty set before the first."""

    version: int
    set: ConnectionSet


def version(store: Store, topics: Topics) -> int:
    """The version in force, cheaply."""
    found = store.command("HGET", Keys(topics.referrals, Role.PUSH).connections, "version")
    return int(found or 0)


def current(store: Store, topics: Topics) -> StoredSet:
    """The set in force."""
    found = store.hash(Keys(topics.referrals, Role.PUSH).connections)
    if not found:
        return StoredSet(0, ConnectionSet())
    try:
        return StoredSet(int(found["version"]), load_definition(found["definition"]))
    except ValueError as error:
        raise Stop(
            f"the stored set of connections (version {found['version']}) was written by another release: "
            "run that one, or put a set in force that this one knows with `referrals connections apply`"
        ) from error


def known(store: Store, topics: Topics, digest: str) -> bool:
    """Whether the set was ever in force: a worker started with yesterday's files must not bring it back."""
    return bool(store.command("HEXISTS", Keys(topics.referrals, Role.PUSH).connections, f"known:{digest}"))


def apply(store: Store, out: KafkaOut, topics: Topics, wanted: ConnectionSet, partitions: int) -> int:
    """Put `wanted` in force and return its version. Raises Stop when another set came in between, and where
    a name would change hands with what waits under it.
    """
    keys = Keys(topics.referrals, Role.PUSH)
    connections = [connection for account in wanted.accounts for connection in account.connections]
    if connections:
        _require_own(store, topics, partitions, wanted)
        definitions = {connection_digest(c): canonical(c.model_dump(mode="json")) for c in connections}
        store.command("HSET", keys.definitions, *(item for pair in definitions.items() for item in pair))
    before = version(store, topics)
    reply = store.call(Call(_APPLY, keys.connections, (before, wanted.digest, wanted.definition())))
    if text(reply[0]) != "OK":
        raise Stop("another set of connections was applied at the same moment: look at it, then apply again")
    number = int(reply[1])
    heads = [Keys(topics.referrals, role).head(p) for role in Role for p in range(partitions)]
    raised = store.calls([Call(_RAISE, head, (number,)) for head in heads])
    store.barrier()
    statement = Manifest(
        kind=Kind.CONNECTIONS,
        at=datetime.now(UTC),
        set_version=number,
        set_digest=wanted.digest,
        definition=wanted.definition(),
        starts=tuple(int(reply[1]) for reply in raised),
    )
    manifests.tell(out, topics, statement)
    return number


def _require_own(store: Store, topics: Topics, partitions: int, wanted: ConnectionSet) -> None:
    """What waits under a name came for one account. Raises Stop."""
    key, accounts = Keys(topics.referrals, Role.PUSH).owners, wanted.by_name()
    for name, owner in store.hash(key).items():
        account = accounts[name][0] if name in accounts else owner
        left = waiting(store, topics, partitions, name) if account != owner else 0
        if left:
            raise Stop(
                f"{name} has {left:,} rows or deliveries waiting for account {owner}, so account {account} "
                "cannot have that name yet: let them end first, or give the new connection a name of its own"
            )
    store.command("HSET", key, *(item for name, (account, _) in accounts.items() for item in (name, account)))


def waiting(store: Store, topics: Topics, partitions: int, name: str) -> int:
    """Deliveries that have not ended and rows that are not sealed of a connection."""
    push, batch = Keys(topics.referrals, Role.PUSH), Keys(topics.referrals, Role.BATCH)
    asked: list[tuple[str, str]] = []
    for p in range(partitions):
        asked.append(("HLEN", f"{push.prefix(p)}lane:{name}:body"))
        asked.append(("LLEN", f"{batch.prefix(p)}open:{name}"))
    return sum(int(found) for found in store.commands(asked))


def remember(store: Store, topics: Topics, connection: AnyConnection) -> bool:
    """Keep a definition that was never in force as it stands. False where no file could say it."""
    given = connection.model_dump(mode="json")
    try:
        _CONNECTION.validate_python(given)
    except ValueError:
        return False
    keys = Keys(topics.referrals, Role.PUSH)
    store.command("HSET", keys.definitions, connection_digest(connection), canonical(given))
    return True


def definition(store: Store, topics: Topics, digest: str) -> AnyConnection | None:
    """The connection as it stood under `digest`."""
    found = store.command("HGET", Keys(topics.referrals, Role.PUSH).definitions, digest)
    return None if found is None else _CONNECTION.validate_json(found)
