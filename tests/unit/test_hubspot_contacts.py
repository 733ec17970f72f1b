"""A referral as a HubSpot contact, batches of them, and what kinds with an API of their own read of answers."""

from __future__ import annotations

import json

import pytest

from consumer.crm import hubspot, rows
from consumer.crm.answers import Delivered, Pause, Rejected, Retry
from consumer.crm.port import Crm
from consumer.exchange import Response
from tests.support.vendors import hubspot as vendor
from tests.support.vendors.serving import NOW, Driver, frozen, person, sending, taken_back

URL = "https://api.hubapi.com"
CRM = Crm(hubspot.render, hubspot.request, hubspot.classify, hubspot.MAX_ROWS)
EMAIL = {"name": "email", "from": "email"}


@pytest.mark.parametrize(
    ("field", "changes", "expected"),
    [
        pytest.param({"name": "firstname", "from": "first_name"}, {}, {"firstname": "Zoë"}, id="text"),
        pytest.param({"name": "age", "from": "age"}, {}, {"age": "35"}, id="a number is text"),
        pytest.param({"name": "zip", "from": "postal_code"}, {}, {"zip": "02650"}, id="a leading zero stays"),
        pytest.param({"name": "firstname", "from": "first_name"}, {"first_name": None}, {}, id="missing"),
        pytest.param({"name": "firstname", "from": "first_name"}, {"first_name": " "}, {}, id="blank"),
        pytest.param({"name": "partner", "from": "partner_id"}, {}, {}, id="the partner stays unknown"),
    ],
)
def test_properties(field, changes, expected):
    rendered = hubspot.render(vendor.connection(URL, fields=[EMAIL, field]), person(1, **changes))
    assert json.loads(rendered.body) == {
        "id": "Zoe.1@Example.com",
        "idProperty": "email",
        "properties": {"email": "Zoe.1@Example.com", **expected},
    }


@pytest.mark.parametrize(
    ("changes", "email", "removal"),
    [
        pytest.param(
            {}, "zoe@example.com", {"objectId": "zoe@example.com", "idProperty": "email"}, id="by email"
        ),
        pytest.param({"remove": False}, "zoe@example.com", None, id="not asked for"),
        pytest.param(
            {"id_property": "referral_id"},
            "zoe@example.com",
            {"objectId": "zoe@example.com", "idProperty": "email"},
            id="by email even where another property is the key",
        ),
        pytest.param({"id_property": "referral_id"}, None, None, id="no email to delete by"),
    ],
)
def test_what_takes_a_contact_back(changes, email, removal):
    rendered = hubspot.render(vendor.connection(URL, **changes), person(1, email=email))
    assert (None if rendered.removal is None else json.loads(rendered.removal)) == removal


@pytest.mark.parametrize(
    ("emails", "reason"),
    [
        pytest.param(["a@example.com", None], "no email", id="one without an id"),
        pytest.param([None], "no email", id="alone without an id"),
        pytest.param(
            ["a@example.com", "b@example.com", "A@EXAMPLE.com"],
            "two referrals of one contact",
            id="one twice",
        ),
        pytest.param(
            ["x" * 13_000 + "@example.com", "y" * 13_000 + "@example.com"],
            "the batch is too large",
            id="bytes",
        ),
    ],
)
def test_what_cannot_go_together_is_refused_before_it_is_sent(emails, reason):
    driver = Driver(CRM, vendor.connection(URL, fields=[EMAIL]), vendor.AUTH)
    made = [frozen(driver.connection, person(number, email=email)) for number, email in enumerate(emails)]
    refusal = driver.request(*made)
    assert isinstance(refusal, Rejected)
    assert reason in refusal.reason
    assert refusal.status is None


def test_a_single_row_goes_however_large():
    driver = Driver(CRM, vendor.connection(URL), vendor.AUTH)
    request = driver.request(frozen(driver.connection, person(1, last_name="x" * hubspot.MAX_BYTES)))
    assert len(request.body) > hubspot.MAX_BYTES


def answers(told, *, status=200, referrals=2):
    connection = vendor.connection(URL)
    made = [frozen(connection, person(number)) for number in range(referrals)]
    text = json.dumps(told).replace("TRACE-0", made[0].delivery_id).replace("TRACE-1", made[-1].delivery_id)
    return hubspot.classify(connection, sending(*made), Response(status, {}, text.encode()), NOW)


def taken(number, record_id="7"):
    return {"id": record_id, "objectWriteTraceId": f"TRACE-{number}", "properties": {}}


def fault(*names, category="VALIDATION_ERROR", message=""):
    return {"category": category, "message": message, "context": {"objectWriteTraceId": list(names)}}


REFUSED = Rejected(207, "answered 207: HubSpot does not take a value")
ANSWERS = [
    pytest.param(
        {"results": [taken(1, "8"), taken(0)]}, [Delivered(200, "7"), Delivered(200, "8")], id="any order"
    ),
    pytest.param(
        {"results": [{"id": "7", "properties": {"email": "zoe.0@example.com"}}, taken(1)]},
        [Delivered(200, "7"), Delivered(200, "7")],
        id="by the unique property",
    ),
    pytest.param(
        {"results": [taken(0)]},
        [Delivered(200, "7"), Retry("answered 200 without naming this contact", True, 200)],
        id="one is missing",
    ),
    pytest.param(
        {"results": [taken(0, "zoe@example.com"), taken(1, None)]},
        [Delivered(200), Delivered(200)],
        id="ids that are none",
    ),
    pytest.param(
        {"results": [], "errors": []}, Retry("answered 200, but not as HubSpot does", True, 200), id="nobody"
    ),
]


@pytest.mark.parametrize(("told", "expected"), ANSWERS)
def test_results_go_to_their_rows(told, expected):
    assert answers(told) == expected


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        pytest.param({"results": [taken(0)], "errors": [fault("TRACE-1")]}, [Delivered(207, "7"), REFUSED], id="one"),
        pytest.param({"errors": [fault("TRACE-1", "TRACE-0")]}, [REFUSED, REFUSED], id="one error for two"),
        pytest.param(
            {"results": [taken(0)], "errors": [fault("zoe.1@example.com")]}, [Delivered(207, "7"), REFUSED], id="by its id"
        ),
        pytest.param({"results": [taken(0), taken(1)], "errors": [fault("TRACE-1")]}, [Delivered(207, "7"), REFUSED], id="both"),
        pytest.param({"results": [taken(0)], "errors": [fault()]}, REFUSED, id="no name: split"),
        pytest.param({"results": [taken(0)], "errors": [fault("TRACE-1"), fault()]}, REFUSED, id="one without a name"),
        pytest.param(
            {"errors": [fault("TRACE-0", message='zoe@example.com: {"name":"zip"}'), fault("TRACE-1", category="CONFLICT")]},
            [
                Rejected(207, "answered 207: HubSpot does not take zip"),
                Retry("answered 207: HubSpot could not take this contact now", False, 207),
            ],
            id="what is wrong, in names of ours",
        ),
        pytest.param(
            {"results": [taken(0)], "errors": [fault("TRACE-1", message=vendor.not_valid("zip", "It does not exist", "PROPERTY_DOESNT_EXIST"))]},
            Pause("answered 207: HubSpot has no such property to write: zip", 207),
            id="the fields are wrong",
        ),
    ],
)  # fmt: skip
def test_errors_go_to_their_rows(told, expected):
    assert answers(told, status=207) == expected


@pytest.mark.parametrize(
    "name", ["non-unique", 'x","error":"PROPERTY_DOESNT_EXIST","name":"', "READ_ONLY_VALUE"]
)
def test_no_value_of_a_person_can_pause_a_connection(name):
    message = vendor.not_valid("email", f"Email address {name} is invalid", "INVALID_EMAIL")
    (answer,) = answers({"errors": [fault(message=message)]}, status=207, referrals=1)
    assert answer == Rejected(207, "answered 207: HubSpot does not take email")


def test_an_error_without_a_name_is_of_the_only_row():
    assert answers({"results": [taken(0)], "errors": [fault()]}, status=207, referrals=1) == [REFUSED]


@pytest.mark.parametrize(
    ("status", "told", "expected"),
    [
        pytest.param(204, b"", Delivered(204), id="deleted"),
        pytest.param(
            200, b"{}", Retry("answered 200, but not as HubSpot does", True, 200), id="not HubSpot's"
        ),
        pytest.param(404, b'{"category": "OBJECT_NOT_FOUND"}', Delivered(404), id="not there"),
        pytest.param(
            404,
            b"",
            Pause("answered 404 Not Found: check address, method and headers", 404),
            id="no such address",
        ),
        pytest.param(400, b"", Rejected(400, "answered 400: HubSpot does not take a value"), id="400"),
    ],
)
def test_answers_to_a_removal(status, told, expected):
    connection = vendor.connection(URL)
    row = taken_back(connection, person(1))
    assert hubspot.classify(connection, sending(row), Response(status, {}, told), NOW) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("00Q1x000003", "00Q1x000003", id="an id"),
        pytest.param("x" * 128, "x" * 128, id="as long as allowed"),
        pytest.param("x" * 129, None, id="too long"),
        pytest.param("", None, id="empty"),
        pytest.param("zoe@example.com", None, id="an address"),
        pytest.param("Zoë", None, id="beyond ASCII"),
        pytest.param("\ud800", None, id="half a character"),
        pytest.param("a\nb", None, id="two lines"),
        pytest.param(7, None, id="a number"),
        pytest.param(None, None, id="nothing"),
    ],
)
def test_record_ids(value, expected):
    assert rows.record_id(value) == expected


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b'{"a":', b"\xff", b"[" * 60_000, b'{"a":' * 60_000])
def test_an_answer_that_is_no_object_says_nothing(body):
    assert rows.decoded(Response(200, {}, body)) == {}
    assert rows.decoded(Response(200, {}, b'{"a": 1}')) == {"a": 1}
    assert rows.decoded(Response(200, {}, b'{"a": 1}', read_fully=False)) == {}
