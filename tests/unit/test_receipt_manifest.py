"""Receipts and manifests: there and back, and what a later version may have written."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from schemas import codec, fit, manifest, receipt
from schemas.codec import Undecodable
from schemas.delivery import Action, Outcome, delivery_id, window_id
from schemas.manifest import Kind, Manifest, Mark
from schemas.receipt import Receipt, Subject

AT = datetime(2026, 3, 8, 2, 30, 0, 5, tzinfo=UTC)
RECEIPT = Receipt(
    subject=Subject.DELIVERY,
    subject_id="d-1",
    outcome=Outcome.DELIVERED,
    service="push",
    at=AT,
    account_id="acme",
    connection="crm",
    referral_id="r-1",
    revision=0,
    topic="referrals",
    partition=3,
    offset=2**40,
    digest="00ff",
    attempts=2,
    status=201,
)
MARKS = (
    Mark(partition=0, start=0, to=7, rows=3, digest="ab", removals=1),
    Mark(partition=1, start=5, to=5, rows=0, digest="", removals=0),
)
WINDOW = Manifest(
    kind=Kind.WINDOW,
    at=AT,
    connection="nightly",
    connection_digest="cd",
    window=12,
    slot="2026-03-08T08:00[Australia/Sydney]",
    marks=MARKS,
)
INIT = Manifest(kind=Kind.INIT, at=AT, layout=1, topic="referrals", topic_id="x", starts=(0, 5, 2**40))
CONNECTIONS = Manifest(kind=Kind.CONNECTIONS, at=AT, set_version=3, set_digest="ef", definition="{}")


@pytest.mark.parametrize("subject", list(Subject))
@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_receipt_survives(subject: Subject, outcome: Outcome) -> None:
    given = replace(RECEIPT, subject=subject, outcome=outcome)
    found = receipt.decode(given.encode())
    assert found == given
    assert isinstance(found.subject, Subject)
    assert isinstance(found.outcome, Outcome)


@pytest.mark.parametrize("given", [WINDOW, INIT, CONNECTIONS, replace(WINDOW, outcome="DELIVERED", marks=())])
def test_every_manifest_survives(given: Manifest) -> None:
    assert manifest.decode(given.encode()) == given


@pytest.mark.parametrize(
    ("given", "key"),
    [(WINDOW, "window:nightly-000012"), (INIT, "init:referrals"), (CONNECTIONS, "connections")],
)
def test_compaction_keeps_the_newest_of_each_key(given: Manifest, key: str) -> None:
    assert given.key == key


@pytest.mark.parametrize("decode", [receipt.decode, manifest.decode])
@pytest.mark.parametrize("value", [b"", b"\xc3\x01", RECEIPT.encode()[:-1], WINDOW.encode() + b"\x00", b"{}"])
def test_foreign_bytes_are_undecodable(decode, value: bytes) -> None:
    with pytest.raises(Undecodable):
        decode(value)


def test_a_receipt_is_no_manifest() -> None:
    with pytest.raises(Undecodable, match="schema"):
        manifest.decode(RECEIPT.encode())


@pytest.mark.parametrize(
    ("name", "encoded", "decode", "symbol"),
    [
        ("receipt.v1", RECEIPT.encode(), receipt.decode, "outcome"),
        ("manifest.v2", WINDOW.encode(), manifest.decode, "kind"),
    ],
)
def test_a_symbol_newer_than_this_version_is_undecodable_not_a_crash(name, encoded, decode, symbol) -> None:
    schema = codec.shipped(name)
    datum = codec.decode(encoded, 10, schema, None) | {symbol: "UNKNOWN"}
    with pytest.raises(Undecodable, match="newer"):
        decode(codec.encode(schema, encoded[:10], datum))


def test_a_manifest_of_the_first_version_is_still_read() -> None:
    first = codec.SingleObject("manifest.v1")
    fields = [field["name"] for field in codec.shipped("manifest.v1")["fields"]]
    datum = codec.SingleObject("manifest.v1", "manifest.v2").decode(WINDOW.encode())
    assert manifest.decode(first.encode({name: datum[name] for name in fields})) == WINDOW


@pytest.mark.parametrize(
    "changes",
    [{"offset": 2**63}, {"attempts": 2**31}, {"at": datetime(2026, 1, 1)}, {"reason": 5}, {"service": None}],
)
def test_a_receipt_that_does_not_fit_is_named_by_its_member(changes) -> None:
    schema = codec.shipped("receipt.v1")
    datum = codec.decode(RECEIPT.encode(), 10, schema, None) | changes
    found = fit.troubles(schema, datum)
    assert [trouble.split()[0] for trouble in found] == list(changes)


class TestDeliveryId:
    def test_it_is_a_uuid_5_and_stays_the_same_for_ever(self) -> None:
        found = UUID(delivery_id("crm", "r-1", 0))
        assert found.version == 5
        assert str(found) == "bc8b4a61-de4b-5221-9524-d0957623668d"

    def test_each_part_counts(self) -> None:
        ids = {
            delivery_id(connection, referral, revision, action)
            for connection in ("a", "b")
            for referral in ("r", "s")
            for revision in (0, 1)
            for action in Action
        }
        assert len(ids) == 16

    def test_windows_sort_by_number(self) -> None:
        assert window_id("nightly", 9) < window_id("nightly", 10) < window_id("nightly", 999_999)
