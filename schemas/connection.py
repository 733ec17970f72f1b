"""An advertiser's file: how an account gets its referrals, validated whole.

Secrets stand here only as references (`${env:NAME}`, `${file:/run/secrets/x}`); a definition is
stored, hashed and shown as it is written.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from schemas import grammar
from schemas.grammar import Filled, Flag, Line, Seconds, Secret, Whole
from schemas.mapping import FieldRule

NAME = grammar.NAME
REFERENCE = grammar.REFERENCE

#: Attempts at 0, then 5 s, 5 min, 30 min, 2, 5, 10, 14, 20 and 24 h after the one before: about
#: three days, the Standard Webhooks schedule.
RETRY_SECONDS = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)

#: pydantic's name for an error between members that are each right.
CROSSING = "crossing"

#: One wait between two attempts: a week, what a Kafka topic keeps by default.
_Wait = Annotated[Whole, Field(ge=1, le=604_800)]
_Port = Annotated[Whole, Field(ge=1, le=65_535)]


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=False)


class Idempotency(Model):
    """The header that carries the delivery's key. Quoted: the draft's Structured-Field String."""

    header: grammar.HeaderName = "Idempotency-Key"
    quoted: Flag = True


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


def _all_or_listed(value: Any) -> str:
    return "all" if isinstance(value, str) else "listed"


_Campaigns = Annotated[
    Annotated[Literal["all"], Tag("all")]
    | Annotated[tuple[Filled, ...], Field(min_length=1, max_length=1_000), Tag("listed")],
    Discriminator(_all_or_listed),
]


class _Connection(Model):
    name: grammar.Name
    #: Campaign ids, or "all": those of the account, new ones included.
    campaigns: _Campaigns = "all"
    fields: Annotated[tuple[FieldRule, ...], Field(min_length=1, max_length=200)]
    #: Partner identity (partner_id, source, confirmation_ref) leaves only where this is true.
    partner_data: Flag = False

    @model_validator(mode="after")
    def _columns_differ(self) -> _Connection:
        if doubled(rule.name for rule in self.fields):
            raise PydanticCustomError(CROSSING, "two fields have the same name: rename one")
        return self


class HttpConnection(_Connection):
    """Pushed at once: one JSON request per referral."""

    kind: Literal["http"]
    url: grammar.Url
    method: Literal["POST", "PUT", "PATCH"] = "POST"
    headers: Annotated[dict[grammar.HeaderName, grammar.HeaderValue], Field(max_length=32)] = Field(
        default_factory=dict
    )
    idempotency: Idempotency = Idempotency()
    timeout: Seconds = 20.0
    retry_seconds: Annotated[tuple[_Wait, ...], Field(max_length=50)] = RETRY_SECONDS
    max_in_flight: Annotated[Whole, Field(ge=1, le=1_000)] = 16

    @model_validator(mode="after")
    def _headers_differ(self) -> HttpConnection:
        if doubled(name.lower() for name in (*self.headers, self.idempotency.header)):
            raise PydanticCustomError(CROSSING, "a header is given twice: keep one")
        return self

    @property
    def horizon(self) -> timedelta:
        """From the first attempt to the last."""
        return timedelta(seconds=sum(self.retry_seconds))


class SftpConnection(_Connection):
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
            raise PydanticCustomError(CROSSING, "give either password or private_key, as a reference")
        return self


class EmailConnection(_Connection):
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
            raise PydanticCustomError(CROSSING, "the same recipient stands twice")
        return self


FileConnection = SftpConnection | EmailConnection
Connection = Annotated[HttpConnection | SftpConnection | EmailConnection, Field(discriminator="kind")]


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

    def definition(self) -> str:
        """Canonical JSON: the same set has the same text, whatever files it came from."""
        ordered = sorted(self.accounts, key=lambda account: account.account)
        return canonical({"accounts": [account.model_dump(mode="json") for account in ordered]})

    @property
    def digest(self) -> str:
        return sha256(self.definition())

    def by_name(self) -> dict[str, tuple[str, HttpConnection | SftpConnection | EmailConnection]]:
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


def doubled(names: Iterable[str]) -> list[str]:
    """The names given more than once, sorted."""
    return sorted(name for name, times in Counter(names).items() if times > 1)
