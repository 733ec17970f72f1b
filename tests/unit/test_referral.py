"""The referral event: what upstream may send, as Avro and as JSON."""

from __future__ import annotations

import struct
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec, referral
from schemas.codec import Schema, Undecodable
from schemas.referral import CampaignType, EventType
from schemas.referral_json import from_json
from tests.support.referral_events import decoded, event

JSON: dict[str, Any] = {
    "event_id": "e-1",
    "referral_id": "r-1",
    "event_type": "CREATED",
    "account_id": "acme",
    "campaign_id": "c-1",
    "campaign_type": "LEAD",
    "opted_in_at": "2026-03-08T12:30:00+10:00",
    "produced_at": "2026-03-08T02:30:00.123457Z",
}


def test_an_event_is_typed() -> None:
    found = decoded()
    assert found.event_type is EventType.CREATED
    assert found.campaign_type is CampaignType.LEAD
    assert (found.revision, found.is_test, found.account_id, found.campaign_id) == (2, False, "acme", "c-1")
    assert found.fields["bid_price"] == Decimal("1.2500")
    assert found.fields["birth_date"] == date(1990, 12, 31)


@given(st.integers(-(10**15), 253_402_300_799_999_999))
def test_produced_at_keeps_every_microsecond(micros: int) -> None:
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
    assert decoded(produced_at=at).produced_at_us == micros


@pytest.mark.parametrize("kind", list(EventType))
def test_only_withdrawn_and_erased_remove(kind: EventType) -> None:
    assert decoded(event_type=str(kind)).event_type.removes == (str(kind) in {"WITHDRAWN", "ERASED"})


def test_routing_decodes_only_what_it_needs() -> None:
    found = referral.decode(referral.encode(event()), routing_only=True)
    assert set(found.fields) == set(referral.ROUTING_FIELDS)
    assert found.produced_at_us == decoded().produced_at_us


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(None, id="tombstone"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\xc3\x01" + bytes(referral.MAX_BYTES), id="too large"),
        pytest.param(b"\x00\x00\x00\x00\x07abc", id="confluent without a registry"),
        pytest.param("é".encode("latin-1"), id="stray byte"),
    ],
)
def test_such_records_are_undecodable(value: bytes | None) -> None:
    with pytest.raises(Undecodable):
        referral.decode(value)


def registry(schemas: dict[int, Schema]) -> referral.SchemaById:
    def by_id(number: int) -> Schema:
        if number not in schemas:
            raise Undecodable(f"the registry has no schema {number}")
        return schemas[number]

    return by_id


class TestConfluent:
    by_id = staticmethod(registry({7: referral.definition()}))

    def test_both_framings_are_read(self) -> None:
        framed = referral.encode_confluent(event(), 7)
        assert framed[:5] == struct.pack(">bI", 0, 7)
        assert referral.decode(framed, self.by_id) == decoded()
        assert referral.decode(referral.encode(event()), self.by_id) == decoded()

    @pytest.mark.parametrize(
        "value", [b"\x00", b"\x00\x00\x00\x00\x07", b"\x00\x00\x00\x00\x08abc", b"\x01abcdef"]
    )
    def test_damage_is_undecodable(self, value: bytes) -> None:
        with pytest.raises(Undecodable):
            referral.decode(value, self.by_id)

    def test_a_writer_without_the_logical_type_is_undecodable_not_a_crash(self) -> None:
        plain = [
            {"name": f["name"], "type": "long" if f["name"] == "produced_at" else f["type"]}
            for f in referral.definition()["fields"]
            if f["name"] in referral.ROUTING_FIELDS
        ]
        writer = codec.parse(
            codec.json.dumps(
                {"type": "record", "name": "ReferralEvent", "namespace": "referrals", "fields": plain}
            )
        )
        datum = {f["name"]: event()[f["name"]] for f in plain} | {"produced_at": 5}
        value = codec.encode(writer, b"\x00\x00\x00\x00\x09", datum)
        with pytest.raises(Undecodable, match="produced_at is not a timestamp"):
            referral.decode(value, registry({9: writer}), routing_only=True)


IDS = [
    pytest.param("", id="empty"),
    pytest.param("a" * 65, id="long"),
    pytest.param("a b", id="blank"),
    pytest.param("a\nb", id="line break"),
    pytest.param("а", id="Cyrillic look-alike"),
    pytest.param("\x00", id="NUL"),
]


@pytest.mark.parametrize("name", ["referral_id", "account_id"])
@pytest.mark.parametrize("value", IDS)
def test_ids_that_reach_keys_are_plain(name: str, value: str) -> None:
    bytes_ = codec.encode(
        referral.definition(),
        codec.SINGLE_OBJECT + codec.crc64(referral.definition()),
        event(**{name: value}),
    )
    for attempt in (lambda: referral.encode(event(**{name: value})), lambda: referral.decode(bytes_)):
        with pytest.raises(Undecodable, match=name):
            attempt()


@pytest.mark.parametrize("revision", [-1, 2**31 - 1 + 1, -(2**31)])
def test_a_revision_is_a_natural_number_of_31_bits(revision: int) -> None:
    with pytest.raises(Undecodable, match="revision"):
        referral.encode(event(revision=revision))


def test_an_overlong_revision_in_the_bytes_is_undecodable() -> None:
    long = [dict(f, type="long") if f["name"] == "revision" else f for f in referral.definition()["fields"]]
    writer = codec.parse(codec.json.dumps(dict(referral.definition(), fields=long), default=str))
    header = codec.SINGLE_OBJECT + codec.crc64(referral.definition())
    with pytest.raises(Undecodable, match="revision"):
        referral.decode(codec.encode(writer, header, event(revision=2**40)))


def test_an_event_too_large_for_the_topic_is_refused_before_it_is_sent() -> None:
    with pytest.raises(Undecodable, match="bytes"):
        referral.encode(event(ad_text="x" * referral.MAX_BYTES))


class TestJson:
    def test_text_becomes_times_dates_and_money_and_defaults_are_filled(self) -> None:
        given = JSON | {
            "birth_date": "1990-12-31",
            "bid_price": "-1.25",
            "consent": {"granted_at": "2026-03-01T00:00:00z", "text": "I agree"},
            "answers": [{"question_id": "q1"}],
        }
        found = from_json(given)
        assert found["opted_in_at"] == datetime(2026, 3, 8, 2, 30, tzinfo=UTC)
        assert found["produced_at"].microsecond == 123457
        assert found["birth_date"] == date(1990, 12, 31)
        assert found["bid_price"] == Decimal("-1.25")
        assert found["revision"] == 0
        assert found["email"] is None
        assert found["consent"]["channels"] == []
        assert found["answers"] == [
            {"question_id": "q1", "question_text": None, "answer_code": None, "answer_label": None}
        ]
        assert referral.decode(referral.encode(found)).fields == found

    def test_defaults_are_not_shared(self) -> None:
        from_json(JSON)["answers"].append("x")
        assert from_json(JSON)["answers"] == []

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"email": 5}, "email must be text"),
            ({"emial": "x"}, "emial is unknown"),
            ({"EMAIL": "x"}, "EMAIL is unknown"),
            ({"email": "\ud800"}, "email holds half a surrogate pair"),
            ({"is_test": "no"}, "is_test must be true or false"),
            ({"is_test": 0}, "is_test must be true or false"),
            ({"is_test": None}, "is_test is missing a value"),
            ({"revision": "1"}, "revision must be a whole number"),
            ({"revision": 1.0}, "revision must be a whole number"),
            ({"revision": True}, "revision must be a whole number"),
            ({"revision": 2**31}, "revision must be a whole number"),
            ({"age": float("nan")}, "age must be a whole number"),
            ({"event_type": "created"}, "event_type must be one of CREATED, "),
            ({"event_type": ["CREATED"]}, "event_type must be one of CREATED, "),
            ({"campaign_type": None}, "campaign_type is missing a value"),
            ({"bid_price": 1.25}, "bid_price must be a decimal number, in JSON as text"),
            ({"bid_price": "NaN"}, "bid_price must be a decimal"),
            ({"bid_price": "1,25"}, "bid_price must be a decimal"),
            ({"bid_price": "٣"}, "bid_price must be a decimal"),
            ({"bid_price": "1.23456"}, "bid_price has more than 4 decimals or 8 digits"),
            ({"bid_price": "123456789"}, "bid_price has more than 4 decimals or 8 digits"),
            ({"produced_at": "2026-01-01T00:00:00"}, "produced_at must be a time with its offset"),
            ({"produced_at": "2026-W01-1T00:00:00Z"}, "produced_at must be a time with its offset"),
            ({"produced_at": "0001-01-01T00:00:00+23:59"}, "produced_at must be a time with its offset"),
            ({"produced_at": 1772937000}, "produced_at must be a time with its offset"),
            ({"birth_date": "1990-02-30"}, "birth_date must be a date"),
            ({"birth_date": "31/12/1990"}, "birth_date must be a date"),
            ({"consent": {}}, "consent.granted_at is missing; consent.text is missing"),
            ({"consent": []}, "consent must be an object"),
            ({"answers": {}}, "answers must be a list"),
            ({"answers": [{"question_id": "q"}, {}]}, "answers[1].question_id is missing"),
            ({"answers": [5]}, "answers[0] must be an object"),
            ({"attributes": {"tier": 1}}, "attributes.tier must be text"),
            ({"attributes": {"\ud800": "x"}}, "attributes has a member whose name is not valid text"),
            ({"attributes": []}, "attributes must be an object"),
            ({"referral_id": "a b"}, "referral_id is empty, longer than 64"),
        ],
    )
    def test_trouble_names_the_member(self, changes: dict[str, Any], says: str) -> None:
        with pytest.raises(Undecodable) as caught:
            from_json(JSON | changes)
        assert says in str(caught.value)

    def test_every_trouble_is_told_up_to_ten(self) -> None:
        with pytest.raises(Undecodable) as caught:
            from_json({f"x{n}": 1 for n in range(20)} | {"answers": 1})
        assert str(caught.value).count(";") == referral.MAX_TROUBLES
        assert str(caught.value).endswith("and 19 more")

    @pytest.mark.parametrize("value", [None, 5, "x", [], [JSON], True])
    def test_only_an_object_is_an_event(self, value: object) -> None:
        with pytest.raises(Undecodable):
            from_json(value)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
            ),
        ),
        st.sampled_from(sorted(event())),
    )
    def test_any_json_is_an_event_that_decodes_or_undecodable(self, value: object, name: str) -> None:
        try:
            found = from_json(JSON | {name: value})
        except Undecodable:
            return
        assert referral.decode(referral.encode(found)).fields == found
