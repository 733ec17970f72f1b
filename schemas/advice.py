"""What a file may say and is still worth a look, told as warnings of a set that is taken. Pure.

Its rule of overlaps: two connections of one account that get the same campaigns, new ones included, overlap
where a referral would reach the advertiser twice in the same way: both mail it, both upload it (SFTP and
FTPS are one way), or both push it to one receiver with one login. Different ways side by side are how
advertisers want it, a CRM and a nightly file for one, and nothing is said. Nor is an overlap refused: two
departments may want a file each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from schemas import approval
from schemas.connection import (
    Account,
    AnyConnection,
    EmailConnection,
    FtpsConnection,
    PushBase,
    SftpConnection,
)
from schemas.problem import MAX_SHOWN, Problem
from schemas.yaml_lines import Node

#: Named in a sentence; the others are counted.
MAX_CAMPAIGNS = 3
#: What tells receivers of one kind, address and login apart.
_PARTS = ("list_id", "object", "audience_id", "account_id")
_REMEDY = "choose other campaigns for one of them, or leave it so where both are wanted"


@dataclass(frozen=True, slots=True)
class _Task:
    """A connection where it stands."""

    index: int
    node: Node
    connection: AnyConnection


def of(account: Account, root: Node, file: str) -> list[Problem]:
    """The warnings of one file, in the order of their lines. `root` is what `account` was read from."""
    listed = root.member("connections")
    nodes = (listed.items if listed else None) or []
    tasks = [_Task(i, node, c) for i, (node, c) in enumerate(zip(nodes, account.connections, strict=True))]
    return sorted([*_approvals(account, root, file), *_overlaps(tasks, file)])


def _approvals(account: Account, root: Node, file: str) -> Iterator[Problem]:
    mails = any(isinstance(connection, EmailConnection) for connection in account.connections)
    if mails and not account.approved_recipients:
        what = "is missing, so that whoever stands among recipients gets personal data"
        remedy = f'list the mailboxes that may, at most {approval.MAX_APPROVED}, or domains as "@example.com"'
        yield Problem(file, root.line, "approved_recipients", what, remedy)


def _overlaps(tasks: Sequence[_Task], file: str) -> Iterator[Problem]:
    """One for each connection that overlaps with earlier ones; named is one it meets, or else the first."""
    for number, task in enumerate(tasks):
        overlaps = [
            (other, what, _meet(other.connection, task.connection))
            for other in tasks[:number]
            if (what := _both(other.connection, task.connection)) is not None
        ]
        if overlaps:
            other, what, where = max(overlaps, key=lambda one: bool(one[2]))
            names = f"{other.connection.name} (line {other.node.line}) and {task.connection.name}"
            more = f", and it overlaps with {len(overlaps) - 1} more" if len(overlaps) > 1 else ""
            yield Problem(file, *_place(task), f"{names} both {what}{where}{more}", _REMEDY)


def _place(task: _Task) -> tuple[int, str]:
    where = f"connections[{task.index}]"
    chosen = (task.node.members or {}).get("campaigns")
    return (task.node.line, where) if chosen is None else (chosen[0], f"{where}.campaigns")


def _both(one: AnyConnection, other: AnyConnection) -> str | None:
    """What both do with the campaigns they share; None where they do not overlap."""
    shared = _shared(one, other)
    if shared is None:
        return None
    match one, other:
        case EmailConnection(), EmailConnection():
            return f"mail {shared}"
        case ((SftpConnection() | FtpsConnection()), (SftpConnection() | FtpsConnection())):
            return f"upload {shared}"
        case PushBase(), PushBase() if _receiver(one) == _receiver(other):
            return f"push {shared} to the same receiver"
        case _:
            return None


def _shared(one: AnyConnection, other: AnyConnection) -> str | None:
    if one.campaigns == "all" and other.campaigns == "all":
        return "all campaigns"
    lists = [connection.campaigns for connection in (other, one) if connection.campaigns != "all"]
    within = [frozenset(campaigns) for campaigns in lists[1:]]
    both = [name for name in dict.fromkeys(lists[0]) if all(name in campaigns for campaigns in within)]
    if not both:
        return None
    shown = ", ".join(name[:MAX_SHOWN] for name in both[:MAX_CAMPAIGNS])
    more = f" and {len(both) - MAX_CAMPAIGNS} more" if len(both) > MAX_CAMPAIGNS else ""
    return f"{'campaign' if len(both) == 1 else 'campaigns'} {shown}{more}"


def _meet(one: AnyConnection, other: AnyConnection) -> str:
    """Where they even meet, as the sentence goes on; addresses of people stay out of it."""
    match one, other:
        case EmailConnection(), EmailConnection():
            known = {recipient.lower() for recipient in one.recipients}
            met = [str(n) for n, to in enumerate(other.recipients, 1) if to.lower() in known]
            return f" to the same mailbox (recipient {met[0]})" if met else ""
        case ((SftpConnection() | FtpsConnection()), (SftpConnection() | FtpsConnection())):
            return " into the same folder" if _folder(one) == _folder(other) else ""
        case _:
            return ""


def _folder(connection: SftpConnection | FtpsConnection) -> tuple[str, str, str]:
    return connection.host.lower(), connection.username, connection.directory


def _receiver(connection: PushBase) -> tuple[object, ...]:
    parts = (getattr(connection, part, None) for part in _PARTS)
    return connection.kind, connection.address, connection.auth, *parts
