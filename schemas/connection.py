"""An advertiser's file: how an account gets its referrals, validated whole.

Secrets stand here only as references (`${env:NAME}`, `${file:/run/secrets/x}`); a definition is
stored, hashed and shown as it is written.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from schemas import grammar
from schemas.base import CROSSING, ConnectionBase, Model, crossing, doubled
from schemas.grammar import Filled, Flag, Line, Seconds, Secret, Whole
from schemas.push import RETRY_SECONDS, HttpConnection, Idempotency, Limits, PushBase, PushConnection

__all__ = [
    "CROSSING",
    "NAME",
    "REFERENCE",
    "RETRY_SECONDS",
    "Account",
    "AnyConnection",
    "Connection",
    "ConnectionSet",
    "CsvFormat",
    "EmailConnection",
    "FileConnection",
    "HttpConnection",
    "Idempotency",
    "PushBase",
    "PushConnection",
    "Schedule",
    "SftpConnection",
    "canonical",
    "connection_digest",
    "doubled",
    "load_definition",
    "sha256",
]

NAME = grammar.NAME
REFERENCE = grammar.REFERENCE

_Port = Annotated[Whole, Field(ge=1, le=65_535)]


class Schedule(Model):
    """When windows are sealed: a cron line in local time of an IANA zone."""

    cron: grammar.Cron
    zone: grammar.Zone = "UTC"


class CsvFormat(Model):
    delimiter: Literal[",", ";", "\t", "|"] = ","
    header: Flag = True
    bom: Flag = False
    #: Guards people's spreadsheets against formulas; corrupts +49… for machines. By default on for email.
    formula_guard: Flag | None = None
    #: A window without rows: no file, or one with only the header.
    empty: Literal["skip", "header"] = "skip"


class SftpConnection(ConnectionBase):
    """A CSV file to the advertiser's SFTP server, on schedule."""

    kind: Literal["sftp"]
    host: grammar.Host
    port: _Port = 22
    username: Filled
    password: Secret | None = None
    private_key: Secret | None = None
    passphrase: Secret | None = None
    host_keys: Annotated[tuple[grammar.HostKey, ...], Field(min_length=1, max_length=8)]
    directory: grammar.Directory = "."
    timeout: Seconds = 30.0
    schedule: Schedule
    file: CsvFormat = CsvFormat()

    @model_validator(mode="after")
    def _one_credential(self) -> SftpConnection:
        if (self.password is None) == (self.private_key is None):
            raise crossing("give either password or private_key, as a reference")
        return self


class EmailConnection(ConnectionBase):
    """A CSV file attached to a mail, on schedule, one transaction per recipient."""

    kind: Literal["email"]
    recipients: Annotated[tuple[grammar.Mailbox, ...], Field(min_length=1, max_length=50)]
    subject: Line = "Your new referrals"
    #: After an attempt whose outcome nobody can know: send again (at least once) or wait for a
    #: person (at most once).
    on_uncertain: Literal["resend", "hold"] = "hold"
    timeout: Seconds = 60.0
    schedule: Schedule
    file: CsvFormat = CsvFormat()

    @model_validator(mode="after")
    def _recipients_differ(self) -> EmailConnection:
        if doubled(recipient.lower() for recipient in self.recipients):
            raise crossing("the same recipient stands twice")
        return self


FileConnection = SftpConnection | EmailConnection
AnyConnection = PushConnection | FileConnection
Connection = Annotated[AnyConnection, Field(discriminator="kind")]


class Account(Model):
    """One file of the connections folder: an account and all its connections."""

    account: grammar.AccountId
    connections: Annotated[tuple[Connection, ...], Field(max_length=100)]


class ConnectionSet(Model):
    """All accounts, as they take effect together. A connection's name is its own across all of them."""

    accounts: tuple[Account, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> ConnectionSet:
        accounts = doubled(account.account for account in self.accounts)
        names = doubled(connection.name for account in self.accounts for connection in account.connections)
        if accounts or names:
            raise ValueError(f"given twice: {', '.join(accounts + names)}")
        return self

    @model_validator(mode="after")
    def _limits_agree(self) -> ConnectionSet:
        stated: dict[str, Limits] = {}
        for account in self.accounts:
            for connection in account.connections:
                if isinstance(connection, PushBase):
                    name = connection.shared_as
                    if stated.setdefault(name, connection.limits) != connection.limits:
                        raise ValueError(f"connections of one credential state other limits: {name}")
        return self

    def definition(self) -> str:
        """Canonical JSON: the same set has the same text, whatever files it came from."""
        ordered = sorted(self.accounts, key=lambda account: account.account)
        return canonical({"accounts": [account.model_dump(mode="json") for account in ordered]})

    @property
    def digest(self) -> str:
        return sha256(self.definition())

    def by_name(self) -> dict[str, tuple[str, AnyConnection]]:
        """Connection name to (account, connection)."""
        return {c.name: (a.account, c) for a in self.accounts for c in a.connections}


def load_definition(definition: str) -> ConnectionSet:
    """A set as `definition()` wrote it. Raises pydantic's ValidationError."""
    return ConnectionSet.model_validate_json(definition)


def connection_digest(connection: BaseModel) -> str:
    """SHA-256 of one connection's canonical definition.

    A window names it, so that an edit cannot move the columns of a file already sealed.
    """
    return sha256(canonical(connection.model_dump(mode="json")))


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
