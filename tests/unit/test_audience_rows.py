"""What stands in a row, and how the answers of Salesforce, Meta and Google are classed."""

from __future__ import annotations

import json
from dataclasses import replace
from urllib.parse import parse_qs

import pytest

from consumer.crm import google_customer_match as google
from consumer.crm import identifiers, salesforce
from consumer.crm import meta_custom_audience as meta
from consumer.crm.answers import Answer, Delivered, Duplicate, Pause, Rejected, Retry
from consumer.crm.port import Crm
from consumer.exchange import Request, Response
from schemas.delivery import Action
from tests.support.referral_events import PERSONAL_VALUES
from tests.support.vendors import google_customer_match as google_vendor
from tests.support.vendors import meta_custom_audience as meta_vendor
from tests.support.vendors import salesforce as salesforce_vendor
from tests.support.vendors.serving import NOW, Driver, frozen, person, sending, taken_back

HOST = "http://127.0.0.1:1"
VENDORS = {salesforce: salesforce_vendor, meta: meta_vendor, google: google_vendor}


def driver(module, **changes) -> Driver:
    crm = Crm(module.render, module.request, module.classify, module.MAX_ROWS)
    vendor = VENDORS[module]
    return Driver(crm, vendor.connection(HOST, **changes), vendor.AUTH)


def classed(module, response: Response, *referrals, action=Action.DELIVER):
    there = driver(module)
    make = frozen if action is Action.DELIVER else taken_back
    rows = [make(there.connection, referral) for referral in referrals or (person(1),)]
    return there.crm.classify(there.connection, sending(*rows), response, NOW)


def fields(**sources):
    return [{"name": name, "from": source} for name, source in sources.items()]


@pytest.mark.parametrize("module", [meta, google])
def test_the_stored_row_holds_no_identifier_in_clear(module):
    there = driver(module)
    row = frozen(there.connection, person(1)).freeze().decode()
    clear = (
        set(PERSONAL_VALUES) - {"02650", "F", "35"}
        if module is google
        else set(PERSONAL_VALUES) - {"F", "35"}
    )
    assert not [value for value in (*clear, "Zoe.1@Example.com") if value.lower() in row.lower()]


def test_meta_rows_of_different_keys_go_under_one_schema():
    older = driver(meta, fields=fields(EMAIL="email", GEN="gender"))
    newer = driver(meta, fields=fields(EMAIL="email", PHONE="phone_raw"))
    rows = [
        frozen(older.connection, person(1)),
        frozen(newer.connection, person(2, phone_raw="000")),
        frozen(newer.connection, person(3, phone_raw="0400 000 003")),
    ]
    request = newer.request(*rows)
    assert isinstance(request, Request)
    payload = json.loads(parse_qs(request.body.decode())["payload"][0])
    assert payload["schema"] == ["EMAIL", "GEN", "PHONE"]
    hashed = [identifiers.meta("EMAIL", f"zoe.{n}@example.com") for n in (1, 2, 3)]
    assert payload["data"] == [
        [hashed[0], identifiers.meta("GEN", "f"), ""],
        [hashed[1], "", ""],
        [hashed[2], "", identifiers.meta("PHONE", "400000003")],
    ]


@pytest.mark.parametrize(
    ("changes", "sent"),
    [
        pytest.param({"email": None}, True, id="a phone is enough"),
        pytest.param({"phone_e164": None, "email": None}, True, id="first and last name are enough"),
        pytest.param(
            {"phone_e164": None, "email": None, "last_name": None}, False, id="first name, zip and country"
        ),
        pytest.param({"campaign_type": "WEBSITE_TRAFFIC"}, False, id="a campaign that may tell nothing"),
    ],
)
def test_who_can_be_found_at_meta(changes, sent):
    rendered = meta.render(meta_vendor.connection(HOST), person(1, **changes))
    assert bool(rendered.body) is sent
    assert rendered.removal == (rendered.body if sent else None)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        pytest.param({}, ["emailAddress", "phoneNumber", "address"], id="everything"),
        pytest.param(
            {"country": "Australia"}, ["emailAddress", "phoneNumber"], id="an address without its country"
        ),
        pytest.param({"email": " ", "phone_e164": "0400 000 001"}, ["address"], id="a phone of no country"),
        pytest.param({"email": None, "phone_e164": None, "last_name": "."}, [], id="nobody"),
    ],
)
def test_who_can_be_found_at_google(changes, found):
    rendered = google.render(google_vendor.connection(HOST), person(1, **changes))
    told = json.loads(rendered.body)["userData"]["userIdentifiers"] if rendered.body else []
    assert [name for one in told for name in one] == found


@pytest.mark.parametrize(
    ("rule", "changes", "consent"),
    [
        pytest.param(None, {}, "none", id="not stated"),
        pytest.param(
            {"constant": "CONSENT_GRANTED"}, {}, {"adUserData": "CONSENT_GRANTED"}, id="of everybody"
        ),
        pytest.param(
            {"from": "consent.method", "values": {"tick-box": "CONSENT_GRANTED"}},
            {},
            {"adUserData": "CONSENT_GRANTED"},
            id="by the referral's own record",
        ),
        pytest.param(
            {"from": "consent.method", "values": {"tick-box": "CONSENT_GRANTED"}, "empty": "CONSENT_DENIED"},
            {"consent": None},
            None,
            id="denied",
        ),
        pytest.param({"from": "consent.method"}, {"consent": None}, None, id="no record"),
        pytest.param({"from": "consent.method"}, {}, None, id="a word that is not Google's"),
    ],
)
def test_only_whose_consent_is_stated_goes_to_google(rule, changes, consent):
    named = [*fields(emailAddress="email"), *([{"name": "adUserData", **rule}] if rule else [])]
    rendered = google.render(google_vendor.connection(HOST, fields=named), person(1, **changes))
    assert (json.loads(rendered.body).get("consent", "none") if rendered.body else None) == consent
    assert (rendered.removal is None) is (consent is None)
    assert rendered.removal is None or "consent" not in json.loads(rendered.removal)


def test_a_salesforce_row_leaves_out_what_the_referral_does_not_have():
    rendered = salesforce.render(salesforce_vendor.connection(HOST), person(1, first_name=None))
    assert "FirstName" not in json.loads(rendered.body)


SALESFORCE_CODES = [
    ("UNABLE_TO_LOCK_ROW", Retry),
    ("REQUEST_LIMIT_EXCEEDED", Retry),
    ("SERVER_UNAVAILABLE", Retry),
    ("QUERY_TIMEOUT", Retry),
    ("REQUIRED_FIELD_MISSING", Rejected),
    ("INVALID_EMAIL_ADDRESS", Rejected),
    ("STRING_TOO_LONG", Rejected),
    ("FIELD_CUSTOM_VALIDATION_EXCEPTION", Rejected),
    ("INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", Rejected),
    ("A_CODE_OF_NEXT_YEAR", Rejected),
    ("DUPLICATES_DETECTED", Duplicate),
    ("DUPLICATE_VALUE", Duplicate),
    ("INVALID_FIELD_FOR_INSERT_UPDATE", Pause),
    ("STORAGE_LIMIT_EXCEEDED", Pause),
]


@pytest.mark.parametrize(("code", "kind"), SALESFORCE_CODES)
def test_a_salesforce_row_is_classed_by_its_code(code, kind):
    error = {"statusCode": code, "message": "zoe@example.com is wrong", "fields": ["Email"]}
    results = [{"success": False, "errors": [error]}, {"id": "00Q1", "success": True, "errors": []}]
    first, second = classed(salesforce, Response(200, {}, json.dumps(results).encode()), person(1), person(2))
    assert type(first) is kind
    assert second == Delivered(200, "00Q1")
    if isinstance(first, Retry | Rejected | Pause):
        assert code in first.reason
        assert "zoe" not in first.reason
    if isinstance(first, Retry):
        assert not first.unknown


@pytest.mark.parametrize("code", ["zoe@example.com", "", None, 7, ["A"], "A" * 65])
def test_a_salesforce_code_that_is_none_is_not_shown(code):
    results = [{"success": False, "errors": [{"statusCode": code, "message": "zoe"}]}]
    assert classed(salesforce, Response(200, {}, json.dumps(results).encode())) == [
        Rejected(200, "refused without a code")
    ]


@pytest.mark.parametrize(
    ("message", "fields_named", "kind"),
    [
        ("Duplicate external id specified: zoe", [], Retry),
        ("duplicate value found: <unknown> duplicates value on record with id: <unknown>", [], Retry),
        ("duplicate value found: Person__c duplicates value on record with id: 00Q1", [], Retry),
        ("duplicate value found", ["Person__c"], Retry),
        ("duplicate value found: Phone duplicates value on record with id: 00Q1", ["Phone"], Duplicate),
    ],
)
def test_a_duplicate_of_the_external_id_is_no_success(message, fields_named, kind):
    error = {"statusCode": "DUPLICATE_VALUE", "message": message, "fields": fields_named}
    body = json.dumps([{"success": False, "errors": [error]}]).encode()
    (answer,) = classed(salesforce, Response(200, {}, body))
    assert type(answer) is kind
    assert isinstance(answer, Duplicate) or not answer.unknown


@pytest.mark.parametrize(
    ("status", "code", "kind", "unknown"),
    [
        (401, "INVALID_SESSION_ID", Pause, None),
        (403, "REQUEST_LIMIT_EXCEEDED", Retry, False),
        (403, "API_DISABLED_FOR_ORG", Pause, None),
        (400, "INVALID_FIELD", Pause, None),
        (400, "JSON_PARSER_ERROR", Rejected, None),
        (500, "UNKNOWN_EXCEPTION", Retry, True),
        (500, "QUERY_TIMEOUT", Retry, True),
        (503, "SERVER_UNAVAILABLE", Retry, False),
    ],
)
def test_a_salesforce_request_refused_whole(status, code, kind, unknown):
    reply = salesforce_vendor.refusal(status, code, "zoe@example.com")
    answer = classed(salesforce, Response(status, {}, reply.content), person(1), person(2))
    assert type(answer) is kind
    rejection(answer)
    assert unknown is None or answer.unknown is unknown


def rejection(answer: Answer) -> str:
    assert isinstance(answer, Rejected | Retry | Pause)
    assert "zoe" not in answer.reason
    return answer.reason


@pytest.mark.parametrize(
    ("status", "code", "subcode", "kind", "unknown"),
    [
        *((400, code, None, Retry, False) for code in (4, 17, 32, 613, 80003, 80014)),
        (403, 4, 2446079, Retry, False),
        (500, 1, None, Retry, True),
        (400, 2, None, Retry, True),
        (400, -3, None, Retry, True),
        (401, 190, 463, Pause, None),
        (400, 190, None, Pause, None),
        (400, 10, None, Pause, None),
        (403, 200, None, Pause, None),
        (400, 294, None, Pause, None),
        (400, 368, None, Pause, None),
        (400, 2655, None, Pause, None),
        (400, 100, 1713230, Pause, None),
        (400, 100, 33, Pause, None),
        (400, 100, None, Rejected, None),
        (400, 100, 1870034, Rejected, None),
        (400, 99_999, None, Rejected, None),
        (500, 99_999, None, Retry, True),
    ],
)
@pytest.mark.parametrize("action", list(Action))
def test_a_meta_error_is_classed_by_its_code(status, code, subcode, kind, unknown, action):
    reply = meta_vendor.error(status, code, subcode)
    answer = classed(meta, Response(status, {}, reply.content), person(1), action=action)
    assert type(answer) is kind
    rejection(answer)
    if kind is Retry:
        assert answer.unknown is unknown
        assert unknown or answer.retry_after >= meta.THROTTLED_S


def test_meta_says_itself_what_passes():
    reply = meta_vendor.error(400, 2650, None, is_transient=True)
    answer = classed(meta, Response(400, {"retry-after": "30"}, reply.content))
    assert answer == Retry("answered 400, error 2650", unknown=True, status=400, retry_after=30.0)


@pytest.mark.parametrize(
    ("invalid", "answer"),
    [
        (0, Delivered(200, "s1", by_request=True)),
        (1, Delivered(200, "s1", by_request=True)),
        (2, [Rejected(200, "none of the request's entries is valid")] * 2),
    ],
)
def test_meta_tells_totals(invalid, answer):
    told = {"audience_id": "1", "session_id": "s1", "num_received": 2, "num_invalid_entries": invalid}
    assert classed(meta, Response(200, {}, json.dumps(told).encode()), person(1), person(2)) == answer


@pytest.mark.parametrize("module", [meta, google])
@pytest.mark.parametrize(
    "body", [b'{"EMAIL":"zoe@example.com"}', b'{"email":"zoe@example.com"}', b"email=zoe", b"[]", b"{}"]
)
def test_what_waits_from_another_kind_of_connection_never_leaves(module, body):
    there = driver(module)
    row = replace(frozen(there.connection, person(1)), body=body)
    assert there.request(row) == Rejected(None, "rendered when the connection was of another kind")


def test_meta_that_counts_fewer_than_were_sent_said_nothing_of_them():
    told = {"session_id": "s1", "num_received": 1, "num_invalid_entries": 0}
    answer = classed(meta, Response(200, {}, json.dumps(told).encode()), person(1), person(2))
    assert isinstance(answer, Retry)
    assert answer.unknown


@pytest.mark.parametrize(
    ("status", "violations", "kind", "reason"),
    [
        pytest.param(
            400,
            [("audience_members.audience_members[3].user_data", "INVALID_SHA256_FORMAT")],
            Rejected,
            "INVALID_SHA256_FORMAT",
            id="a member",
        ),
        pytest.param(
            400,
            [("audienceMembers[3]", "INVALID_AUDIENCE_MEMBER")],
            Rejected,
            "MEMBER",
            id="by its JSON name",
        ),
        pytest.param(
            400,
            [("destinations.destinations[0]", "INVALID_DESTINATION")],
            Pause,
            "INVALID_DESTINATION",
            id="destination",
        ),
        pytest.param(
            400,
            [("terms_of_service", "TERMS_AND_CONDITIONS_NOT_SIGNED")],
            Pause,
            "TERMS_AND_CONDITIONS",
            id="terms",
        ),
        pytest.param(400, [], Pause, "INVALID_ARGUMENT", id="nothing named"),
        pytest.param(401, [], Pause, "401", id="credential"),
        pytest.param(403, [], Pause, "403", id="permission"),
        pytest.param(404, [], Pause, "404", id="not found"),
    ],
)
@pytest.mark.parametrize("action", list(Action))
def test_a_google_error_is_classed_by_what_it_is_about(status, violations, kind, reason, action):
    reply = google_vendor.refusal(status, "INVALID_ARGUMENT", *violations)
    answer = classed(google, Response(status, {}, reply.content), person(1), action=action)
    assert type(answer) is kind
    assert reason in rejection(answer)


@pytest.mark.parametrize(("status", "unknown"), [(429, False), (500, True), (503, False), (504, True)])
def test_google_is_asked_again(status, unknown):
    reply = google_vendor.refusal(status, "RESOURCE_EXHAUSTED", code="RESOURCE_EXHAUSTED")
    answer = classed(google, Response(status, {"retry-after": "9"}, reply.content), person(1), person(2))
    assert isinstance(answer, Retry)
    assert (answer.unknown, answer.retry_after) == (unknown, 9.0)
