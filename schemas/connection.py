"""An advertiser's file: how an account gets its referrals, validated whole.

Secrets stand here only as references (`${env:NAME}`, `${file:/run/secrets/x}`); a definition is
stored, hashed and shown as it is written.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from schemas import approval, file_name, grammar
from schemas.base import CROSSING, ConnectionBase, Model, crossing, doubled, misfit, unless
from schemas.files import AnyFile, CsvFormat, FileFormat, JsonLinesFormat, XlsxFormat
from schemas.grammar import Filled, Line, Seconds, Secret, Whole
from schemas.push import RETRY_SECONDS, HttpConnection, Idempotency, Limits, PushBase, PushConnection
from schemas.schedule import Schedule

__all__ = [
    "CROSSING",
    "FILE_KINDS",
    "NAME",
    "REFERENCE",
    "RETRY_SECONDS",
    "Account",
    "AnyConnection",
    "AnyFile",
    "Connection",
    "ConnectionSet",
    "CsvFormat",
    "EmailConnection",
    "FileBase",
    "FileConnection",
    "FtpsConnection",
    "HttpConnection",
    "Idempotency",
    "JsonLinesFormat",
    "PushBase",
    "PushConnection",
    "Schedule",
    "SftpConnection",
    "UploadConnection",
    "XlsxFormat",
    "canonical",
    "connection_digest",
    "doubled",
    "load_definition",
    "sha256",
]

NAME = grammar.NAME
REFERENCE = grammar.REFERENCE

#: How a reader knows that a file is whole: it gets its name by a rename, or, from servers that have none, an
#: empty file `<name>.done` beside it. Then a file may be written again under its name: at least once.
_Completion = Annotated[Literal["rename", "done_file"], Field(exclude_if=unless("rename"))]
_Port = Annotated[Whole, Field(ge=1, le=65_535)]


class FileBase(ConnectionBase):
    """What every connection that gets files has."""

    schedule: Schedule
    file: FileFormat = CsvFormat()

    @model_validator(mode="after")
    def _names_one_campaign(self) -> FileBase:
        chosen = 0 if self.campaigns == "all" else len(self.campaigns)
        if chosen != 1 and file_name.wants_campaign(self.file.name):
            raise misfit(
                "{campaign} stands for one campaign, and not exactly one is chosen",
                "choose one in campaigns, or leave it out of the name",
                "file",
                "name",
            )
        return self

    @model_validator(mode="after")
    def _header_fits(self) -> FileBase:
        if isinstance(self.file, CsvFormat) and self.file.header:
            for index, rule in enumerate(self.fields):
                if rule.name.encode(self.file.encoding, "replace").decode(self.file.encoding) != rule.name:
                    what = f"{self.file.encoding} does not have all characters of its name"
                    raise misfit(what, "rename it, or choose encoding: utf-8 for the file", "fields", index)
        return self

    @property
    def guarded(self) -> bool:
        """Whether formulas are disarmed: as the file says; unsaid, where a person opens it."""
        told = self.file.formula_guard if isinstance(self.file, CsvFormat) else None
        return isinstance(self, EmailConnection) if told is None else told


class SftpConnection(FileBase):
    """A file to the advertiser's SFTP server, on schedule."""

    kind: Literal["sftp"]
    host: grammar.Host
    port: _Port = 22
    username: Filled
    password: Secret | None = None
    private_key: Secret | None = None
    passphrase: Secret | None = None
    host_keys: Annotated[tuple[grammar.HostKey, ...], Field(min_length=1, max_length=8)]
    directory: grammar.Directory = "."
    completion: _Completion = "rename"
    timeout: Seconds = 30.0

    @model_validator(mode="after")
    def _one_credential(self) -> SftpConnection:
        if (self.password is None) == (self.private_key is None):
            raise crossing("give either password or private_key, as a reference")
        return self


class FtpsConnection(FileBase):
    """A file to the advertiser's FTP server over TLS, on schedule."""

    kind: Literal["ftps"]
    host: grammar.Host
    #: TLS asked for after the greeting, or from the first byte.
    tls: Literal["explicit", "implicit"] = "explicit"
    port: _Port
    username: Filled
    password: Secret
    #: The server's certificates, where they are pinned: then nothing else of them counts.
    certificates: Annotated[tuple[grammar.Fingerprint, ...], Field(max_length=8)] = ()
    #: PEM certificates of the authority that stands in for the public ones.
    ca: Secret | None = None
    directory: grammar.Directory = "."
    completion: _Completion = "rename"
    timeout: Seconds = 30.0

    @model_validator(mode="before")
    @classmethod
    def _usual_port(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "port" in given:
            return given
        return {**given, "port": 990 if given.get("tls") == "implicit" else 21}

    @model_validator(mode="after")
    def _one_trust(self) -> FtpsConnection:
        if self.certificates and self.ca is not None:
            raise misfit("pinned certificates need no authority", "give either ca or certificates", "ca")
        return self


class EmailConnection(FileBase):
    """A file attached to a mail, on schedule, one transaction per recipient."""

    kind: Literal["email"]
    recipients: Annotated[tuple[grammar.Mailbox, ...], Field(min_length=1, max_length=50)]
    subject: Line = "Your new referrals"
    #: After an attempt whose outcome nobody can know: send again (at least once) or wait for a
    #: person (at most once).
    on_uncertain: Literal["resend", "hold"] = "hold"
    timeout: Seconds = 60.0

    @model_validator(mode="after")
    def _recipients_differ(self) -> EmailConnection:
        if doubled(recipient.lower() for recipient in self.recipients):
            raise crossing("the same recipient stands twice")
        return self


UploadConnection = SftpConnection | FtpsConnection
FileConnection = UploadConnection | EmailConnection
AnyConnection = PushConnection | FileConnection
Connection = Annotated[AnyConnection, Field(discriminator="kind")]
#: The kinds the batcher delivers to; the others are pushed.
FILE_KINDS = frozenset({"sftp", "ftps", "email"})


class Account(Model):
    """One file of the connections folder: an account and all its connections."""

    account: grammar.AccountId
    #: Whom its connections may mail; where nothing is said, whoever they name.
    approved_recipients: Annotated[
        tuple[approval.Approved, ...],
        Field(min_length=1, max_length=approval.MAX_APPROVED, exclude_if=unless(())),
    ] = ()
    connections: Annotated[tuple[Connection, ...], Field(max_length=100)]

    @model_validator(mode="after")
    def _recipients_are_approved(self) -> Account:
        mails = [one.recipients for one in self.connections if isinstance(one, EmailConnection)]
        approved = approval.known(self.approved_recipients)
        if approved and not all(approval.covers(approved, one) for recipients in mails for one in recipients):
            raise crossing("a recipient is not among approved_recipients")
        return self


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
