"""Manifests: statements in the compacted topic `referral-manifests` that outlive Redis."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from schemas.codec import SingleObject, Undecodable
from schemas.delivery import window_id

#: Sets of connections the compacted topic remembers: a rebuilding routes each record as it was routed then.
SETS_KEPT = 256

_CODEC = SingleObject("manifest.v1", "manifest.v2")


class Kind(StrEnum):
    INIT = "INIT"
    CONNECTIONS = "CONNECTIONS"
    WINDOW = "WINDOW"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One partition's share of a window: offsets `start` (inclusive) to `to` (exclusive)."""

    partition: int
    start: int
    to: int
    rows: int
    digest: str
    removals: int

    def as_avro(self) -> dict[str, Any]:
        datum = asdict(self)
        datum["from"] = datum.pop("start")
        return datum


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """One file of a window: rows without a header, bytes and SHA-256 in hex as it was sent, and `plain`, the
    SHA-256 of its content before compression and encryption.
    """

    name: str
    rows: int
    bytes: int
    sha256: str
    plain: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The fields are described in `avro/manifest.v2.avsc`."""

    kind: Kind
    at: datetime
    layout: int | None = None
    topic: str | None = None
    topic_id: str | None = None
    starts: tuple[int, ...] | None = None
    set_version: int | None = None
    set_digest: str | None = None
    definition: str | None = None
    connection: str | None = None
    connection_digest: str | None = None
    window: int | None = None
    slot: str | None = None
    marks: tuple[Mark, ...] = ()
    outcome: str | None = None
    account_id: str | None = None
    sealed_at: datetime | None = None
    first_byte: tuple[int, ...] = ()
    artefacts: tuple[Artefact, ...] = ()

    @property
    def kept_as(self) -> str | None:
        """A second Kafka key, under which a set of connections outlives the next ones."""
        sets = self.kind is Kind.CONNECTIONS and self.set_version is not None
        return f"connections:{int(self.set_version or 0) % SETS_KEPT}" if sets else None

    @property
    def key(self) -> str:
        """The Kafka key: compaction keeps the newest manifest of each."""
        if self.kind is Kind.INIT:
            return f"init:{self.topic}"
        if self.kind is Kind.CONNECTIONS:
            return "connections"
        return f"window:{window_id(str(self.connection), int(self.window or 0))}"

    def encode(self) -> bytes:
        datum = {name: getattr(self, name) for name in self.__slots__}
        datum["marks"] = [mark.as_avro() for mark in self.marks]
        datum["starts"] = None if self.starts is None else list(self.starts)
        datum["first_byte"] = list(self.first_byte)
        datum["artefacts"] = [asdict(artefact) for artefact in self.artefacts]
        return _CODEC.encode(datum)


def decode(value: bytes) -> Manifest:
    """Raises `schemas.codec.Undecodable`."""
    datum = _CODEC.decode(value)
    marks = tuple(
        Mark(**{("start" if name == "from" else name): item for name, item in mark.items()})
        for mark in datum.pop("marks")
    )
    starts = datum.pop("starts")
    try:
        kind = Kind(datum.pop("kind"))
    except ValueError as error:
        raise Undecodable("a kind of manifest newer than this version") from error
    return Manifest(
        kind=kind,
        marks=marks,
        starts=None if starts is None else tuple(starts),
        first_byte=tuple(datum.pop("first_byte")),
        artefacts=tuple(Artefact(**artefact) for artefact in datum.pop("artefacts")),
        **datum,
    )
