"""`referrals connections`: the advertisers' files checked and put in force, single connections paused."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, assert_never
from urllib.parse import urlsplit

from console.ground import redis_alone, standing
from console.show import count, note, one_line
from consumer import connection_sets
from consumer import folder as folders
from consumer.connection_sets import StoredSet
from consumer.keys import Keys
from consumer.route import AnyConnection
from consumer.run import Ground
from consumer.service import Settings, Stop
from consumer.store import Store
from consumer.topics import Topics
from schemas.connection import (
    ConnectionSet,
    EmailConnection,
    FtpsConnection,
    HttpConnection,
    PushBase,
    SftpConnection,
)

COLUMNS = ("account", "connection", "kind", "to", "campaigns", "fields", "when")
#: A reason is a cell of a table, not a report.
MAX_REASON = 200
#: Named in a cell; the others are counted.
MAX_CAMPAIGNS = 5


@dataclass(frozen=True, slots=True)
class Difference:
    """What a new set changes, by connection name; `changed` says in which members."""

    added: tuple[str, ...]
    changed: Mapping[str, tuple[str, ...]]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Applied:
    """`before` is the version in force until now; the same as `version` when nothing changed."""

    before: int
    version: int
    accounts: int
    connections: int
    difference: Difference
    #: What still waits for each connection that was removed.
    stranded: Mapping[str, int]


def read(settings: Settings, folder: str | None) -> ConnectionSet:
    """The set that a folder describes, its warnings told. Raises Stop with every error of every file."""
    found = folder or settings.connections
    if found is None:
        raise Stop("which folder? name it, or set REFERRALS_CONNECTIONS")
    taken = folders.look(found)
    for warning in taken.warnings:
        note(f"warning: {warning}")
    return taken.connections


def apply(settings: Settings, wanted: ConnectionSet) -> Applied:
    """Put `wanted` in force. Raises Stop."""
    with standing(settings) as ground:
        try:
            before = connection_sets.current(ground.store, ground.topics)
        except Stop:  # another release's, which this one replaces whole
            before = StoredSet(connection_sets.version(ground.store, ground.topics), ConnectionSet())
        changes = difference(before.set, wanted)
        for name in (name for name, members in changes.changed.items() if "kind" in members):
            _require_ended(ground, before.set, name)
        version = connection_sets.apply(
            ground.store, ground.out, ground.topics, wanted, ground.layout.partitions
        )
        stranded = {
            name: connection_sets.waiting(ground.store, ground.topics, ground.layout.partitions, name)
            for name in changes.removed
        }
    return Applied(
        before.version,
        version,
        len(wanted.accounts),
        len(wanted.by_name()),
        changes,
        stranded,
    )


def _require_ended(ground: Ground, before: ConnectionSet, name: str) -> None:
    """A body is frozen for the kind it was made for: another kind must not send it. Raises Stop."""
    if not isinstance(before.by_name()[name][1], PushBase):
        return
    left = connection_sets.waiting(ground.store, ground.topics, ground.layout.partitions, name)
    if left:
        raise Stop(
            f"{name} has {count(left, 'delivery', 'deliveries')} waiting, made for its present kind, and "
            "another kind cannot send them: let them end first, or give the new connection a name of its own"
        )


def pause(settings: Settings, name: str, reason: str) -> bool:
    """Start nothing more of it; False where it was paused already, with a new reason now. Raises Stop."""
    if not reason.isprintable() or not 0 < len(reason) <= MAX_REASON:
        raise Stop(f"--reason: give one line of at most {MAX_REASON} characters")
    with redis_alone(settings) as (store, keys):
        require_known(store, keys, settings, name)
        added = store.command("HSET", keys.paused, name, reason)
        store.barrier()
    return bool(added)


def resume(settings: Settings, name: str) -> bool:
    """Go on with it; False where it was not paused. Raises Stop."""
    with redis_alone(settings) as (store, keys):
        require_known(store, keys, settings, name)
        removed = store.command("HDEL", keys.paused, name)
        store.barrier()
    return bool(removed)


def require_known(store: Store, keys: Keys, settings: Settings, name: str) -> None:
    """Raises Stop where no connection has that name or is paused under it."""
    names = connection_sets.current(store, Topics(settings.prefix)).set.by_name().keys()
    # One that was removed may still be paused, and has deliveries to end.
    require(name, {*names, *store.hash(keys.paused)})


def require(name: str, names: Iterable[str], complaint: str = "there is no connection") -> None:
    """Raises Stop with a guess where `name` is not among `names`. Pure."""
    known = sorted(names)
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        hint = f"did you mean {near[0]}?"
    elif known:
        hint = "`referrals connections list` shows them"
    else:
        hint = "no connections are in force; run `referrals connections apply DIR`"
    raise Stop(f"{complaint} {one_line(name)!r}: {hint}")


def difference(before: ConnectionSet, after: ConnectionSet) -> Difference:
    """Pure."""
    old, new = _members(before), _members(after)
    changed = {name: _changed(old[name], new[name]) for name in sorted(old.keys() & new.keys())}
    return Difference(
        tuple(sorted(new.keys() - old.keys())),
        {name: members for name, members in changed.items() if members},
        tuple(sorted(old.keys() - new.keys())),
    )


def _members(connections: ConnectionSet) -> dict[str, dict[str, Any]]:
    """By connection name; what an account approved shows in the connections it holds for."""
    found = {}
    for account in connections.accounts:
        approved = {"approved_recipients": account.approved_recipients} if account.approved_recipients else {}
        for one in account.connections:
            shared = approved if isinstance(one, EmailConnection) else {}
            found[one.name] = {"account": account.account, **shared, **one.model_dump(mode="json")}
    return found


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(
        member for member in {**after, **before} if before.get(member, ...) != after.get(member, ...)
    )


def row(account: str, connection: AnyConnection) -> tuple[str, ...]:
    """What the account gets, a cell per column of COLUMNS. No secret, no address of a person. Pure."""
    return (
        account,
        connection.name,
        connection.kind,
        _to(connection),
        _campaigns(connection),
        str(len(connection.fields)),
        "at once" if isinstance(connection, PushBase) else connection.schedule.told,
    )


def _campaigns(connection: AnyConnection) -> str:
    if connection.campaigns == "all":
        return "all"
    shown = ", ".join(connection.campaigns[:MAX_CAMPAIGNS])
    more = len(connection.campaigns) - MAX_CAMPAIGNS
    return f"{shown} and {more} more" if more > 0 else shown


def _to(connection: AnyConnection) -> str:
    match connection:
        case PushBase():
            # The path and the query may hold a token.
            url = urlsplit(connection.address)
            method = f"{connection.method} " if isinstance(connection, HttpConnection) else ""
            return f"{method}{url.scheme}://{url.hostname}{f':{url.port}' if url.port else ''}"
        case SftpConnection() | FtpsConnection():
            return f"{connection.host}:{connection.port}"
        case EmailConnection():
            return count(len(connection.recipients), "recipient")
        case _:
            assert_never(connection)


def rows(connections: ConnectionSet) -> list[tuple[str, ...]]:
    """A row per connection, accounts in order. Pure."""
    return [row(account, connection) for account, connection in connections.by_name().values()]
