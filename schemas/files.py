"""The files advertisers get: format, compression, encryption and name, as `file:` of a connection says.

Members that came after the first release are left out of a stored definition where they say nothing
new, so that a definition keeps its digest.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from schemas import file_name
from schemas.base import Model, misfit, unless
from schemas.grammar import Flag, Line, Secret, Whole

Compression = Literal["none", "gzip", "zip"]
Encoding = Literal["utf-8", "utf-16", "latin-1", "windows-1252"]
Empty = Literal["skip", "header", "note"]

_ENDINGS = {"none": (), "gzip": (".gz",), "zip": (".zip",)}


class OpenPgp(Model):
    """Encrypted to each of the recipients' keys; signed where a key is given. All by reference: a public
    key is no secret, but changes by itself, and then no connection needs an edit.
    """

    #: Armored public keys.
    recipients: Annotated[tuple[Secret, ...], Field(min_length=1, max_length=8)]
    #: Our armored secret key, and what unlocks it.
    signing_key: Secret | None = None
    passphrase: Secret | None = None
    #: ASCII armor: a third larger, and fit for old gateways.
    armor: Flag = False

    @model_validator(mode="after")
    def _passphrase_has_its_key(self) -> OpenPgp:
        if self.passphrase is not None and self.signing_key is None:
            raise misfit("there is no key for it", "give signing_key, or leave it out", "passphrase")
        return self


class Split(Model):
    """The most one file takes; a window with more comes as several files, numbered in their names."""

    rows: Annotated[Whole | None, Field(ge=1, le=10_000_000)] = None
    #: Of the content, before compression and encryption. A row larger than it has a file of its own.
    bytes: Annotated[Whole | None, Field(ge=1_000, le=100_000_000_000)] = None

    @model_validator(mode="after")
    def _says_something(self) -> Split:
        if self.rows is None and self.bytes is None:
            raise misfit("nothing is said where to split", "give rows, bytes or both")
        return self


class _File(Model):
    """What every file has."""

    #: Without its ending, which follows from format, compression and encryption.
    name: Annotated[
        str,
        Field(max_length=200, exclude_if=unless(file_name.DEFAULT)),
        AfterValidator(file_name.check),
    ] = file_name.DEFAULT
    compression: Annotated[Compression, Field(exclude_if=unless("none"))] = "none"
    #: Of a zip: AES-256. It reaches the advertiser by another way than the file.
    password: Annotated[Secret | None, Field(exclude_if=unless(None))] = None
    openpgp: Annotated[OpenPgp | None, Field(exclude_if=unless(None))] = None
    split: Annotated[Split | None, Field(exclude_if=unless(None))] = None
    #: A document beside the files that lists them: by it the advertiser can tell that all are there, whole.
    sidecar: Annotated[Flag, Field(exclude_if=unless(False))] = False
    #: A window without rows: nothing, a file without rows, or word that there was nothing: a mail without a
    #: file, or the document that lists none.
    empty: Empty = "skip"

    @model_validator(mode="after")
    def _only_zips_have_passwords(self) -> _File:
        if self.password is not None and self.compression != "zip":
            raise misfit(
                "only a zip has a password", "add compression: zip, or encrypt with openpgp", "password"
            )
        return self

    @property
    def repeatable(self) -> bool:
        """Whether the same rows always give the same bytes."""
        return self.password is None and self.openpgp is None

    def called(self, name: str) -> str:
        """The name with its endings."""
        return file_name.ended(name, self.endings)

    @property
    def endings(self) -> tuple[str, ...]:
        sealed = () if self.openpgp is None else (".asc" if self.openpgp.armor else ".pgp",)
        return (self.ending, *_ENDINGS[self.compression], *sealed)

    @property
    @abstractmethod
    def ending(self) -> str:
        """Of the content itself."""


class CsvFormat(_File):
    format: Annotated[Literal["csv"], Field(exclude_if=unless("csv"))] = "csv"
    delimiter: Literal[",", ";", "\t", "|"] = ","
    header: Flag = True
    #: UTF-8's byte order mark; UTF-16 always begins with its own.
    bom: Flag = False
    #: Guards people's spreadsheets against formulas; corrupts +49… for machines. By default on for email.
    formula_guard: Flag | None = None
    #: `minimal`: only cells that need it.
    quoting: Annotated[Literal["all", "minimal"], Field(exclude_if=unless("all"))] = "all"
    line_end: Annotated[Literal["crlf", "lf"], Field(exclude_if=unless("crlf"))] = "crlf"
    #: A row that does not fit holds the window: nothing is replaced behind the advertiser's back.
    encoding: Annotated[Encoding, Field(exclude_if=unless("utf-8"))] = "utf-8"
    #: What stands for a missing value.
    missing: Annotated[Line, Field(max_length=32, exclude_if=unless(""))] = ""

    @model_validator(mode="after")
    def _fits(self) -> CsvFormat:
        if self.bom and not self.encoding.startswith("utf"):
            raise misfit(f"{self.encoding} has no byte order mark", "leave it out, or use utf-8", "bom")
        if not self.missing.isascii():
            raise misfit("not every encoding has it", "use ASCII, such as NULL", "missing")
        return self

    @property
    def ending(self) -> str:
        return ".csv"


class JsonLinesFormat(_File):
    """One JSON object per line, UTF-8."""

    format: Literal["json_lines"]

    @property
    def ending(self) -> str:
        return ".jsonl"


class XlsxFormat(_File):
    """One sheet. Every text is a cell of text, so that no formula runs and no digit is lost."""

    format: Literal["xlsx"]
    header: Flag = True

    @model_validator(mode="after")
    def _splits_at_rows(self) -> XlsxFormat:
        if self.split is not None and self.split.bytes is not None:
            raise misfit("how large a sheet gets is known at its end only", "split at rows", "split", "bytes")
        return self

    @property
    def ending(self) -> str:
        return ".xlsx"


def _format(value: Any) -> Any:
    """Which format: CSV where nothing is said."""
    given = value.get("format", "csv") if isinstance(value, dict) else getattr(value, "format", "csv")
    return given if isinstance(given, str) else ""


FileFormat = Annotated[
    Annotated[CsvFormat, Tag("csv")]
    | Annotated[JsonLinesFormat, Tag("json_lines")]
    | Annotated[XlsxFormat, Tag("xlsx")],
    Discriminator(_format),
]
AnyFile = CsvFormat | JsonLinesFormat | XlsxFormat
