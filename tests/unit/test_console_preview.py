"""What a connection would send, shown without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from console.preview import Preview, preview, text, visible
from console.sample import invented, kept_back, sources_of
from consumer.exchange import Request
from consumer.service import Settings, Stop
from schemas.connection import Account
from schemas.referral import definition

FIELDS = "[referral_id, email, partner_id, {name: tier, from: attributes.tier}, campaign_name]"
KINDS = {
    "http": "url: https://crm.acme.example/leads, campaigns: [c-7, c-8]",
    "hubspot": "",
    "mailchimp": "data_center: us21, list_id: abc",
    "salesforce": "instance_url: https://acme.my.salesforce.example, external_id: email",
    "meta_custom_audience": "audience_id: '1'",
    "google_customer_match": "account_id: '1', audience_id: '2'",
}
KEYS = {
    "meta_custom_audience": "[{name: EMAIL, from: email}]",
    "google_customer_match": "[{name: emailAddress, from: email}]",
}
AUTH = "auth: {kind: bearer, token: '${env:NOT_SET}'}"


def shown(folder: Path, kind: str, more: str, fields: str, event: dict[str, Any] | None = None) -> Preview:
    members = ", ".join(filter(None, (f"name: c, kind: {kind}, fields: {fields}", more)))
    (folder / "acme.yaml").write_text(f"account: acme\nconnections:\n  - {{{members}}}\n")
    file = None
    if event is not None:
        file = str(folder / "event.json")
        Path(file).write_text(json.dumps(event, indent=1))
    return preview(Settings(), "c", file, str(folder))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_shows_one_request_and_no_secret_is_needed(tmp_path: Path, kind: str) -> None:
    more = ", ".join(filter(None, (KINDS[kind], AUTH)))
    found = shown(
        tmp_path,
        kind,
        more,
        KEYS.get(kind, "[email, {name: FNAME, from: first_name}]" if kind == "mailchimp" else "[email]"),
    )
    assert found.text is not None
    head, _, body = found.text.partition("\n\n")
    assert head.split(" ")[0] in {"POST", "PUT", "PATCH"}
    assert "Authorization: Bearer ${env:NOT_SET}" in head.splitlines()
    assert body
    assert not found.notes


FILES = {
    "email": "kind: email, recipients: [a@acme.example], schedule: {cron: '0 7 * * 1'}",
    "sftp": (
        "kind: sftp, host: h.example, username: u, password: '${env:P}', host_keys: ['SHA256:" + "A" * 43 + "'], "
        "schedule: {cron: '0 7 * * 1'}, file: {delimiter: ';'}"
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        pytest.param("email", '"email","phone"\n"alex.sample@example.com","\'+12025550143"', id="email guards people"),
        pytest.param("sftp", '"email";"phone"\n"alex.sample@example.com";"+12025550143"', id="sftp"),
    ],
)  # fmt: skip
def test_a_file_connection_shows_header_and_row(tmp_path: Path, kind: str, says: str) -> None:
    more = FILES[kind].partition(", ")[2]
    assert shown(tmp_path, kind, more, "[email, {name: phone, from: phone_e164}]").text == says


def as_json(**changes: Any) -> dict[str, Any]:
    return {
        "event_id": "e", "referral_id": "r-1", "event_type": "CREATED", "account_id": "acme", "campaign_id": "c-7",
        "campaign_type": "LEAD", "email": "zoe@example.com", "partner_id": "p-1", "attributes": {"tier": "gold"},
        "opted_in_at": "2026-03-01T00:00:00Z", "produced_at": "2026-03-01T00:00:00Z", **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "notes"),
    [
        pytest.param({}, ["partner_id is kept back: the connection does not say partner_data: true"], id="partner"),
        pytest.param(
            {"campaign_type": "WEBSITE_TRAFFIC"},
            [
                "email is kept back: WEBSITE_TRAFFIC campaigns give no personal data away",
                "partner_id is kept back: the connection does not say partner_data: true",
                "attributes.tier is kept back: WEBSITE_TRAFFIC campaigns give no personal data away",
            ],
            id="person",
        ),
        pytest.param({"campaign_type": "WEBSITE_TRAFFIC", "email": None, "partner_id": None, "attributes": {}}, [], id="nothing to keep back"),
        pytest.param({"partner_id": None, "campaign_id": "c-1"}, ["this referral would not be delivered: c gets referrals of account acme, campaigns: c-7, c-8"], id="campaign"),
        pytest.param({"partner_id": None, "account_id": "b"}, ["this referral would not be delivered: c gets referrals of account acme, campaigns: c-7, c-8"], id="account"),
        pytest.param({"partner_id": None, "is_test": True}, ["this referral would not be delivered: is_test is true"], id="test"),
    ],
)  # fmt: skip
def test_what_may_not_leave_is_noted_and_left_out(
    tmp_path: Path, changes: dict[str, Any], notes: list[str]
) -> None:
    found = shown(tmp_path, "http", KINDS["http"], FIELDS, as_json(**changes))
    assert list(found.notes) == notes
    assert found.text is not None
    body = json.loads(found.text.partition("\n\n")[2])
    for note in notes:
        if "kept back" in note:
            name = note.split(" ")[0]
            assert body["tier" if "." in name else name] is None


def test_a_referral_without_what_the_receiver_needs_says_so(tmp_path: Path) -> None:
    found = shown(tmp_path, "hubspot", AUTH, "[email]", as_json(email=None))
    assert found.text is None
    assert "no email" in (found.refused or "")


@pytest.mark.parametrize(
    ("event", "says"),
    [
        pytest.param(as_json(event_type="ERASED"), "a removal is no delivery", id="removal"),
        pytest.param({**as_json(), "emial": "x"}, "not one referral event: .*emial", id="member"),
        pytest.param([as_json(), as_json()], "not one referral event", id="two"),
    ],
)
def test_what_is_no_delivery_is_refused(tmp_path: Path, event: Any, says: str) -> None:
    with pytest.raises(Stop, match=says):
        shown(tmp_path, "http", KINDS["http"], FIELDS, event)


def test_the_invented_person_has_every_field_a_connection_can_ask_for() -> None:
    given = {
        "name": "c", "kind": "http", "url": "https://crm.acme.example/{attributes.way}", "partner_data": True,
        "fields": [
            {"name": field["name"], "from": field["name"]}
            for field in definition()["fields"]
            if field["name"] not in {"attributes", "answers", "consent"}
        ] + [{"name": "a", "from": "attributes.tier"}, {"name": "b", "from": "answers.q9"}, {"name": "c", "from": "consent.text"}],
    }  # fmt: skip
    connection = Account.model_validate({"account": "acme", "connections": [given]}).connections[0]
    referral = invented("acme", connection).referral()
    assert list(kept_back(connection, referral)) == []
    empty = [s for s in sources_of(connection) if referral.fields[s.partition(".")[0]] in (None, "", [], {})]
    assert empty == []
    assert set(referral.fields["attributes"]) == {"tier", "way"}


def test_a_test_cannot_be_taken_for_another() -> None:
    connection = Account.model_validate(
        {"account": "acme", "connections": [{"name": "c", "kind": "http", "url": "https://crm.acme.example", "fields": ["email"]}]}
    ).connections[0]  # fmt: skip
    sample = invented("acme", connection)
    ids = {sample.flagged().referral().referral_id for _ in range(3)} | {sample.referral().referral_id}
    assert len(ids) == 4
    assert sample.flagged().referral().is_test


def test_nothing_shown_moves_the_cursor() -> None:
    assert visible("a\x1b[2J\r\n\u202eb ö") == "a\\u001b[2J\\u000d\\u000a\\u202eb ö"
    request = Request("POST", "https://a.example", (), '{"n":"\x85"}'.encode(), 1.0)
    assert text(request) == 'POST https://a.example\n\n{"n":"\\u0085"}'
