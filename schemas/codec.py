"""Avro bytes in and out. The one owner of fastavro.

Two framings: Avro single-object encoding (C3 01, the schema's CRC-64-AVRO fingerprint, little
endian, then the datum) against the versions shipped here, and the Confluent wire format (00, a
four-byte big-endian schema id, then the datum) where a Schema Registry says what an id means.
fastavro decodes wrong bytes without complaint, so a datum counts only when every byte was used.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping
from importlib.resources import files
from typing import Any

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

from schemas.fit import troubles

SINGLE_OBJECT = b"\xc3\x01"
CONFLUENT = b"\x00"
SINGLE_OBJECT_HEADER = 10
CONFLUENT_HEADER = 5

Schema = dict[str, Any]


class Undecodable(Exception):  # noqa: N818 - a verdict on the bytes, named for what they are
    """These bytes are not what we agreed on; the message says which rule they break."""


def shipped(name: str) -> Schema:
    """The schema in `schemas/avro/<name>.avsc`, parsed."""
    text = (files("schemas") / "avro" / f"{name}.avsc").read_text("utf-8")
    return parse(text)


def parse(text: str) -> Schema:
    """Parse a schema's JSON text. Raises Undecodable when it is not an Avro schema."""
    try:
        parsed = fastavro.parse_schema(json.loads(text))
    except Exception as error:
        raise Undecodable(f"not an Avro schema: {type(error).__name__}") from error
    if not isinstance(parsed, dict):
        raise Undecodable("not a record's schema")
    return parsed


def projection(schema: Schema, names: Collection[str]) -> Schema:
    """A reader schema of some of a record's fields: fastavro skips over the others."""
    fields = [field for field in schema["fields"] if field["name"] in names]
    return parse(json.dumps({"type": "record", "name": schema["name"], "fields": fields}))


def crc64(schema: Schema) -> bytes:
    """The schema's CRC-64-AVRO fingerprint, little endian, as single-object encoding wants it."""
    return bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))


def encode(schema: Schema, header: bytes, datum: Mapping[str, Any]) -> bytes:
    """Frame `datum` behind `header`.

    Raises Undecodable when it does not fit the schema: names the members, never a value. fastavro
    writes some misfits without complaint (any object as a boolean); `schemas.fit` finds those too.
    """
    out = io.BytesIO()
    out.write(header)
    try:
        fastavro.schemaless_writer(out, schema, datum, strict_allow_default=True)
    except Exception as error:  # noqa: BLE001 - unchained: fastavro's messages repeat values
        found = "; ".join(troubles(schema, datum)) or type(error).__name__
        raise Undecodable(f"does not fit the schema: {found}") from None
    return out.getvalue()


def decode(payload: bytes, start: int, writer: Schema, reader: Schema | None) -> dict[str, Any]:
    """Decode the datum that starts at byte `start` and must end with `payload`.

    Bad bytes make fastavro raise almost anything (IndexError for a union index, EOFError,
    UnicodeDecodeError, OverflowError from a date), so everything is caught here and only here.
    """
    source = io.BytesIO(payload)
    source.seek(start)
    # fastavro compares the two member by member, for each datum.
    differs = reader is not None and reader is not writer
    try:
        datum = fastavro.schemaless_reader(source, writer, reader if differs else None)
    except Exception as error:  # noqa: BLE001 - unchained: the original may repeat values
        raise Undecodable(f"not an Avro datum of its schema: {type(error).__name__}") from None
    if source.tell() != len(payload):
        raise Undecodable(f"{len(payload) - source.tell()} bytes left over after the datum")
    if not isinstance(datum, dict):
        raise Undecodable("the datum is not a record")
    return datum


class SingleObject:
    """Reads and writes one record type in single-object encoding, all shipped versions of it."""

    def __init__(self, *names: str) -> None:
        """`names`: the shipped versions, oldest first; the last one is written and read into."""
        versions = [shipped(name) for name in names]
        self.schema = versions[-1]
        self._by_fingerprint = {crc64(version): version for version in versions}
        self._header = SINGLE_OBJECT + crc64(self.schema)

    def encode(self, datum: Mapping[str, Any]) -> bytes:
        return encode(self.schema, self._header, datum)

    def decode(self, payload: bytes) -> dict[str, Any]:
        """Raises Undecodable."""
        return decode(payload, SINGLE_OBJECT_HEADER, self.writer(payload), self.schema)

    def writer(self, payload: bytes) -> Schema:
        """The schema `payload` says it was written with. Raises Undecodable."""
        if payload[:2] != SINGLE_OBJECT or len(payload) < SINGLE_OBJECT_HEADER:
            raise Undecodable("no Avro single-object header (C3 01) in front")
        schema = self._by_fingerprint.get(payload[2:SINGLE_OBJECT_HEADER])
        if schema is None:
            raise Undecodable("written with a schema this version does not ship")
        return schema
