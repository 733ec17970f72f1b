"""Avro bytes: what is not ours is refused, whatever the damage, and no message repeats a value."""

from __future__ import annotations

import json
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec, referral
from schemas.codec import SingleObject, Undecodable
from tests.support.referral_events import event

WHOLE = SingleObject("referral_event.v1")
ENCODED = referral.encode(event())


def record(*fields: dict[str, object], name: str = "R") -> codec.Schema:
    return codec.parse(json.dumps({"type": "record", "name": name, "fields": list(fields)}))


def test_the_fingerprint_is_crc_64_avro_little_endian() -> None:
    # Computed here from the algorithm in the Avro specification, bit by bit.
    schema = record({"name": "a", "type": "long"})
    canonical = b'{"name":"R","type":"record","fields":[{"name":"a","type":"long"}]}'
    empty = 0xC15D213AA4D7A795
    table = []
    for index in range(256):
        value = index
        for _ in range(8):
            value = (value >> 1) ^ (empty & -(value & 1))
        table.append(value)
    crc = empty
    for byte in canonical:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    assert codec.crc64(schema) == crc.to_bytes(8, "little")


def test_an_event_survives_the_way_there_and_back() -> None:
    assert ENCODED[:2] == b"\xc3\x01"
    decoded = WHOLE.decode(ENCODED)
    assert {name: decoded[name] for name in event()} == event()


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xc3", id="one byte"),
        pytest.param(b"\xc3\x01\x00\x00\x00", id="cut off in the header"),
        pytest.param(b"\x00\x00\x00\x00\x01" + ENCODED[10:], id="confluent framing where none is known"),
        pytest.param(b"\xc3\x02" + ENCODED[2:], id="wrong magic"),
        pytest.param(b"\xc3\x01" + bytes(8) + ENCODED[10:], id="unknown fingerprint"),
        pytest.param(ENCODED[:10], id="no datum"),
        pytest.param(ENCODED[:-1], id="truncated"),
        pytest.param(ENCODED + b"\x00", id="trailing byte"),
        pytest.param(ENCODED + ENCODED, id="twice"),
        pytest.param(json.dumps({"referral_id": "r"}).encode(), id="JSON"),
        pytest.param(ENCODED[:10] + b"\x80" * 40, id="endless varint"),
        pytest.param(ENCODED[:10] + b"\xfe\xff\xff\xff\x0f", id="text of 2 GiB"),
        pytest.param(ENCODED[:10] + b"\x01", id="text of negative length"),
        pytest.param(ENCODED[:10] + b"\x04\xff\xfe", id="text that is not UTF-8"),
    ],
)
def test_foreign_bytes_are_undecodable(payload: bytes) -> None:
    with pytest.raises(Undecodable):
        WHOLE.decode(payload)


def test_a_union_index_out_of_range_is_undecodable() -> None:
    schema = record({"name": "a", "type": ["null", "string"]})
    with pytest.raises(Undecodable):
        codec.decode(b"\x0a", 0, schema, None)


@given(cut=st.integers(0, len(ENCODED) - 1))
def test_every_truncation_is_undecodable(cut: int) -> None:
    with pytest.raises(Undecodable):
        WHOLE.decode(ENCODED[:cut])


@given(tail=st.binary(min_size=1, max_size=64))
def test_every_extension_is_undecodable(tail: bytes) -> None:
    with pytest.raises(Undecodable):
        WHOLE.decode(ENCODED + tail)


@given(position=st.integers(10, len(ENCODED) - 1), byte=st.integers(0, 255))
def test_a_damaged_byte_is_undecodable_or_another_whole_event(position: int, byte: int) -> None:
    damaged = ENCODED[:position] + bytes([byte]) + ENCODED[position + 1 :]
    try:
        found = referral.decode(damaged)
    except Undecodable:
        return
    referral.check(found.fields)


@given(position=st.integers(10, len(ENCODED) - 1), byte=st.integers(0, 255))
def test_routing_refuses_what_the_whole_decoding_refuses_about_routing(position: int, byte: int) -> None:
    damaged = ENCODED[:position] + bytes([byte]) + ENCODED[position + 1 :]
    try:
        whole = referral.decode(damaged)
    except Undecodable:
        return
    routed = referral.decode(damaged, routing_only=True)
    assert (routed.referral_id, routed.revision, routed.account_id, routed.produced_at_us) == (
        whole.referral_id,
        whole.revision,
        whole.account_id,
        whole.produced_at_us,
    )


SECRET = st.text(st.characters(codec="ascii", categories=["L"]), min_size=12, max_size=30)


@given(name=st.sampled_from(sorted(event())), value=SECRET)
def test_the_message_never_holds_a_value(name: str, value: str) -> None:
    misfits = (
        event(**{name: {"deep": [value]}}),
        event(**{name: [value, 1.5]}),
        event(email=f"{value} on {value}", revision=value, is_test=value, bid_price=value, opted_in_at=value),
    )
    for misfit in misfits:
        with pytest.raises(Undecodable) as caught:
            referral.encode(misfit)
        assert value not in "".join(traceback.format_exception(caught.value))


@given(st.binary(max_size=40))
def test_damage_is_told_without_its_content(tail: bytes) -> None:
    with pytest.raises(Undecodable) as caught:
        WHOLE.decode(ENCODED[:200] + b"\xff\xff" + tail)
    assert "zoe" not in "".join(traceback.format_exception(caught.value))


class TestEvolution:
    """What a registry's writer schema may differ in."""

    reader = record(
        {
            "name": "kind",
            "type": {"type": "enum", "name": "K", "symbols": ["A", "UNKNOWN"], "default": "UNKNOWN"},
        },
        {"name": "count", "type": "long"},
        {"name": "note", "type": ["null", "string"], "default": None},
    )

    def decode(self, writer: codec.Schema, datum: dict[str, object]) -> dict[str, object]:
        return codec.decode(codec.encode(writer, b"", datum), 0, writer, self.reader)

    def test_a_newer_symbol_is_the_default_a_narrower_number_widens_a_missing_field_is_filled(self) -> None:
        writer = record(
            {"name": "kind", "type": {"type": "enum", "name": "K", "symbols": ["A", "B"]}},
            {"name": "count", "type": "int"},
            {"name": "added", "type": "string"},
        )
        found = self.decode(writer, {"kind": "B", "count": 3, "added": "x"})
        assert found == {"kind": "UNKNOWN", "count": 3, "note": None}

    def test_a_missing_field_without_default_is_undecodable(self) -> None:
        writer = record({"name": "kind", "type": {"type": "enum", "name": "K", "symbols": ["A"]}})
        with pytest.raises(Undecodable):
            self.decode(writer, {"kind": "A"})

    def test_another_type_is_undecodable(self) -> None:
        writer = record(
            {"name": "kind", "type": {"type": "enum", "name": "K", "symbols": ["A"]}},
            {"name": "count", "type": "string"},
        )
        with pytest.raises(Undecodable):
            self.decode(writer, {"kind": "A", "count": "3"})


@pytest.mark.parametrize("text", ["", "{", "[]", '"string"', '{"type": "nonsense"}', "null"])
def test_what_is_no_record_schema_is_refused(text: str) -> None:
    with pytest.raises(Undecodable):
        codec.parse(text)
