"""`referrals connections preview`: what a connection would send for one referral. Nothing is sent."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never
from urllib.parse import urlsplit

from batcher.files import csv_file, json_lines
from console.connections import require
from console.ground import redis_alone
from console.sample import Sample, invented, kept_back, read
from consumer import connection_sets
from consumer import folder as folders
from consumer.auth.static import with_headers, with_query
from consumer.crm import BY_KIND
from consumer.crm.port import Sending
from consumer.exchange import Request
from consumer.frozen import Frozen, thaw
from consumer.push import frozen
from consumer.route import AnyConnection, Router
from consumer.secrets import Secrets
from consumer.service import Settings, Stop
from consumer.topics import Topics
from schemas.auth import (
    Basic,
    Bearer,
    ClientCredentials,
    HeaderKey,
    NoAuth,
    QueryKey,
    SignedAssertion,
    headers_of,
)
from schemas.connection import ConnectionSet, FileConnection, HttpConnection
from schemas.delivery import Action
from schemas.files import CsvFormat
from schemas.push import PushBase
from schemas.referral import Referral

#: What stands for a value that depends on the moment or is made of a secret.
WHEN_SENT = "<made when sent>"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A connection, and the referral to show or try it with. `unrouted`: why it would not get this one."""

    connection: AnyConnection
    sample: Sample
    referral: Referral
    unrouted: str | None


@dataclass(frozen=True, slots=True)
class Preview:
    """`text`: what would be sent; None where nothing would, as `refused` says. `notes`: for the reader."""

    text: str | None
    refused: str | None
    notes: Sequence[str]


class References(Secrets):
    """Secrets that nobody may see: every reference stands for itself."""

    def resolve(self, text: str, now: float) -> str:  # noqa: ARG002 - nothing is looked up
        return text


def choose(settings: Settings, name: str, file: str | None, folder: str | None, *, test: bool) -> Chosen:
    """From the folder, which needs no server, or from the set in force. Raises Stop."""
    found = _in_force(settings) if folder is None else folders.read(folder)
    by_name = found.by_name()
    require(name, by_name)
    account, connection = by_name[name]
    sample = invented(account, connection) if file is None else read(file)
    if test:
        sample = sample.flagged()
    referral = sample.referral()
    wanted = any(one.name == name for one in Router(found).connections(referral))
    unrouted = f"{name} gets referrals of account {account}, campaigns: {_campaigns(connection)}"
    return Chosen(connection, sample, referral, None if wanted else unrouted)


def preview(settings: Settings, name: str, file: str | None, folder: str | None) -> Preview:
    """What would be sent. Raises Stop."""
    chosen = choose(settings, name, file, folder, test=False)
    notes = [*kept_back(chosen.connection, chosen.referral)]
    if chosen.unrouted is not None:
        notes.append(f"this referral would not be delivered: {chosen.unrouted}")
    if chosen.referral.is_test:
        notes.append("this referral would not be delivered: is_test is true")
    if not isinstance(chosen.connection, PushBase):
        return Preview(_rows(chosen.connection, chosen.referral), None, notes)
    shown = request(chosen.connection, sending(chosen.connection, chosen.referral))
    if isinstance(shown, str):
        return Preview(None, shown, notes)
    return Preview(text(shown), None, [*notes, *_certificate(chosen.connection)])


def sending(connection: PushBase, referral: Referral) -> Sending:
    """The delivery of one referral, as Redis would give it back."""
    row: Frozen = thaw(frozen(connection, referral).freeze())
    return Sending(row.delivery_id, Action.DELIVER, (row,))


def request(connection: PushBase, sending: Sending) -> Request | str:
    """The request with references in place of secrets, or why there is none. Pure."""
    made = BY_KIND[connection.kind].request(connection, References({}), sending, 0.0)
    if not isinstance(made, Request):
        return made.reason
    shown = _authenticated(connection, made)
    if isinstance(connection, HttpConnection):
        proofs = [
            (name, sending.key if name == "webhook-id" else WHEN_SENT)
            for name in headers_of(connection.signature)
        ]
        shown = with_headers(shown, tuple(proofs))
    return shown


def text(shown: Request) -> str:
    """Line by line, as HTTP has it; what no terminal shows is escaped as JSON escapes it. Pure."""
    head = [f"{shown.method} {shown.url}", *(f"{name}: {value}" for name, value in shown.headers)]
    body = shown.body.decode("utf-8", "replace")
    return "\n".join(map(visible, [*head, "", body] if body else head))


def visible(line: str) -> str:
    """Nothing in it moves the cursor. Pure."""
    return "".join(one if one.isprintable() else f"\\u{ord(one):04x}" for one in line)


def _authenticated(connection: PushBase, made: Request) -> Request:
    auth = connection.auth
    match auth:
        case NoAuth():
            return made
        case HeaderKey():
            return with_headers(made, ((auth.name, auth.value),))
        case QueryKey():
            return with_query(made, f"{auth.name}={auth.value}")
        case Basic():
            value = f"Basic <base64 of {auth.username}:{auth.password}>"
        case Bearer():
            value = f"Bearer {auth.token}"
        case ClientCredentials() | SignedAssertion():
            value = f"Bearer <token from {urlsplit(auth.token_url).hostname}>"
        case _:
            assert_never(auth)
    return with_headers(made, (("Authorization", value),))


def _certificate(connection: PushBase) -> list[str]:
    own = connection.client_certificate
    return [] if own is None else [f"shown to the server (mutual TLS): {own.certificate}"]


def _rows(connection: FileConnection, referral: Referral) -> str:
    """What a file of this one referral would hold; a sheet's cells are shown as a JSON object. Pure."""
    pairs = connection.columns.pairs(referral)
    columns, cells = [name for name, _ in pairs], [[value for _, value in pairs]]
    out = io.BytesIO()
    if not isinstance(connection.file, CsvFormat):
        json_lines.write(out, columns, cells)
        return visible(out.getvalue().decode("utf-8").removesuffix("\n"))
    shown = {"encoding": "utf-8", "bom": False, "line_end": "crlf"}
    csv_file.write(out, connection.file.model_copy(update=shown), columns, cells, guard=connection.guarded)
    lines = out.getvalue().decode("utf-8").removesuffix("\r\n").split("\r\n")
    return "\n".join(line if connection.file.delimiter == "\t" else visible(line) for line in lines)


def _campaigns(connection: AnyConnection) -> str:
    return "all" if connection.campaigns == "all" else ", ".join(connection.campaigns)


def _in_force(settings: Settings) -> ConnectionSet:
    with redis_alone(settings) as (store, _):
        found = connection_sets.current(store, Topics(settings.prefix)).set
    if not found.accounts:
        raise Stop("no connections are in force: name their folder, or run `referrals connections apply DIR`")
    return found
