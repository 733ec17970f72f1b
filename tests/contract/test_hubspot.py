"""HubSpot's own rules, and its official client against the same server."""

from __future__ import annotations

import json

import pytest
from hubspot import HubSpot
from hubspot.crm.contacts import (
    ApiException,
    BatchInputSimplePublicObjectBatchInputUpsert,
    PublicGdprDeleteInput,
    SimplePublicObjectBatchInputUpsert,
)

from consumer.crm import hubspot as crm_module
from consumer.crm.answers import Delivered, Pause, Rejected, Retry
from consumer.crm.port import Crm
from consumer.exchange import Request
from schemas.delivery import delivery_id
from tests.support.vendors import hubspot as vendor
from tests.support.vendors.serving import Reply, frozen, person, serving, taken_back

CRM = Crm(crm_module.render, crm_module.request, crm_module.classify, crm_module.MAX_ROWS)


@pytest.fixture
def there():
    with serving(vendor, CRM) as pair:
        yield pair


def rows_of(driver, *referrals):
    return [frozen(driver.connection, referral) for referral in referrals]


def test_rows_are_named_by_their_deliveries(there):
    server, driver = there
    driver.deliver(vendor.good(1), vendor.good(2))
    (received,) = server.requests
    first = received.json()["inputs"][0]
    assert first["objectWriteTraceId"] == delivery_id("acme-hubspot", vendor.good(1).referral_id, 0)
    assert (first["id"], first["idProperty"]) == ("Zoe.1@Example.com", "email")
    assert first["properties"]["lastname"] == "Nguyễn"


@pytest.mark.parametrize("traces", [True, False], ids=["traces told", "unique properties alone"])
def test_each_row_gets_its_own_record_id_in_whatever_order(there, traces):
    server, driver = there
    rows = rows_of(driver, *(vendor.good(number) for number in range(5)))
    driver.send(*rows)
    reply = server.answer(server.requests[0])
    if not traces:
        reply.body["results"] = [{**one, "objectWriteTraceId": None} for one in reply.body["results"]]
    server.script = [reply]
    ids = [server.people[vendor.key(vendor.good(number))]["id"] for number in range(5)]
    assert len(set(ids)) == 5
    assert driver.send(*rows) == [Delivered(200, record_id) for record_id in ids]


def test_a_row_left_out_of_the_answer_is_not_delivered(there):
    server, driver = there
    rows = rows_of(driver, vendor.good(1), vendor.good(2))
    driver.send(*rows)
    reply = server.answer(server.requests[0])
    reply.body["results"].pop()
    server.script = [reply]
    first, second = driver.send(*rows)
    assert isinstance(first, Retry)
    assert first.unknown
    assert isinstance(second, Delivered)


@pytest.mark.parametrize("bad", [0, 3, 6])
def test_where_one_fails_all_the_batch_is_split_until_it_is_found(there, bad):
    server, driver = there
    server.multi_status = False
    referrals = [vendor.bad_row() if number == bad else vendor.good(number) for number in range(7)]
    answers = driver.deliver(*referrals)
    assert [type(answer) for answer in answers] == [
        Rejected if number == bad else Delivered for number in range(7)
    ]
    assert answers[bad] == Rejected(400, "answered 400: HubSpot does not take email")
    assert len(server.people) == 6


@pytest.mark.parametrize("context", [{}, {"objectWriteTraceId": ["another"]}, {"ids": 7}])
def test_an_error_that_names_no_row_splits_the_batch(there, context):
    server, driver = there
    rows = rows_of(driver, vendor.good(1), vendor.good(2))
    driver.send(*rows)
    reply = server.answer(server.requests[0])
    reply.body["errors"] = [
        {"category": "VALIDATION_ERROR", "message": "zoe@example.com", "context": context}
    ]
    server.script = [Reply(207, reply.body)]
    assert driver.once(*rows) == Rejected(207, "answered 207: HubSpot does not take a value")


def test_a_conflict_of_one_row_is_tried_again_alone(there):
    server, driver = there
    rows = rows_of(driver, vendor.good(1), vendor.good(2))
    driver.send(*rows)
    reply = server.answer(server.requests[0])
    (kept,) = [one for one in reply.body["results"] if one["objectWriteTraceId"] == rows[0].delivery_id]
    conflict = {
        "category": "CONFLICT",
        "message": "",
        "context": {"objectWriteTraceId": [rows[1].delivery_id]},
    }
    server.script = [Reply(207, {"results": [kept], "errors": [conflict]})]
    first, second = driver.send(*rows)
    assert isinstance(first, Delivered)
    assert isinstance(second, Retry)
    assert not second.unknown


@pytest.mark.parametrize("multi_status", [True, False])
def test_a_property_that_is_not_there_pauses(multi_status):
    fields = [{"name": "email", "from": "email"}, {"name": "shoe_size", "from": "age"}]
    with serving(vendor, CRM, fields=fields) as (server, driver):
        server.multi_status = multi_status
        answers = driver.deliver(vendor.good(1), vendor.good(2))
        assert {type(answer) for answer in answers} == {Pause}
        assert "shoe_size" in answers[0].reason
        assert server.people == {}


def test_an_id_property_that_is_not_unique_pauses():
    with serving(vendor, CRM, id_property="zip") as (_, driver):
        (answer,) = driver.deliver(vendor.good(1))
        assert isinstance(answer, Pause)


def test_another_unique_property_finds_the_contact():
    with serving(vendor, CRM, id_property="referral_id") as (server, driver):
        for email in ("zoe@old.example.com", "zoe@new.example.com"):
            assert isinstance(driver.deliver(person(1, email=email))[0], Delivered)
        (contact,) = server.people.values()
        assert contact["properties"]["email"] == "zoe@new.example.com"


ANSWERS = [
    pytest.param(
        vendor.error(429, "RATE_LIMITS", "You have reached your daily limit.", policyName="DAILY"),
        Retry("answered 429: the day's quota is used up", False, 429, 3_600.0),
        id="the day's quota",
    ),
    pytest.param(
        vendor.error(429, "RATE_LIMITS", "Ten second limit.", policyName="TEN_SECONDLY_ROLLING"),
        Retry("answered 429 Too Many Requests", False, 429),
        id="the limit of ten seconds",
    ),
    pytest.param(
        vendor.error(409, "CONFLICT", "Contact already exists. Existing ID: 51"),
        Retry("answered 409: another change of the contact is under way", True, 409),
        id="conflict",
    ),
    pytest.param(Reply(423), Retry("answered 423 Locked", True, 423), id="locked"),
    pytest.param(
        Reply(477, None, {"Retry-After": "120"}),
        Retry("answered 477: HubSpot is moving the account", False, 477, 120.0),
        id="migration",
    ),
    pytest.param(
        Reply(477),
        Retry("answered 477: HubSpot is moving the account", False, 477, 3_600.0),
        id="migration, no date",
    ),
    pytest.param(
        vendor.error(403, "MISSING_SCOPES", "This app lacks scopes."),
        Pause("answered 403 Forbidden: check the credential and what it may do", 403),
        id="missing scopes",
    ),
]


@pytest.mark.parametrize(("reply", "expected"), ANSWERS)
def test_what_hubspot_says(reply, expected, there):
    server, driver = there
    server.always = reply
    assert driver.once(*rows_of(driver, vendor.good(1), vendor.good(2))) == expected
    assert driver.remove(vendor.good(1)) == [expected]


def test_full_requests_have_answers_that_are_read_to_their_end(there):
    """As many rows, as many bytes, and a single row with more of them. What is cut is not delivered."""
    server, driver = there
    for wide in (0, 450, 3_000):
        referrals = [vendor.good(number, last_name="x" * wide) for number in range(CRM.max_rows)]
        assert {type(answer) for answer in driver.deliver(*referrals)} == {Delivered}
    assert max(len(received.json()["inputs"]) for received in server.requests) == CRM.max_rows


def test_a_removal_is_by_email_and_goes_alone(there):
    server, driver = there
    request = driver.request(taken_back(driver.connection, vendor.good(1)))
    assert isinstance(request, Request)
    assert request.url == f"{server.base_url}/crm/v3/objects/contacts/gdpr-delete"
    assert json.loads(request.body) == {"objectId": "Zoe.1@Example.com", "idProperty": "email"}


@pytest.fixture
def official(there):
    server, _ = there
    return HubSpot(access_token=vendor.TOKEN, host=server.base_url).crm.contacts


def upsert(official, *rows):
    inputs = [
        SimplePublicObjectBatchInputUpsert(
            id_property="email", id=email, properties=properties, object_write_trace_id=trace
        )
        for email, properties, trace in rows
    ]
    return official.batch_api.upsert(BatchInputSimplePublicObjectBatchInputUpsert(inputs=inputs))


def test_the_official_client_sees_the_same_contacts(there, official):
    server, driver = there
    made = upsert(official, ("Zoe.1@Example.com", {"email": "Zoe.1@Example.com", "firstname": "Sam"}, "1"))
    assert (made.status, made.results[0].new, made.results[0].object_write_trace_id) == (
        "COMPLETE",
        True,
        "1",
    )
    (answer,) = driver.deliver(vendor.good(1))
    assert answer.record_id == made.results[0].id
    assert server.people[vendor.key(vendor.good(1))]["properties"]["firstname"] == "Zoë"
    official.basic_api.purge(PublicGdprDeleteInput(id_property="email", object_id="zoe.1@example.com"))
    assert server.people == {}


def test_the_official_client_is_told_of_a_bad_row_as_we_are(there, official):
    server, _ = there
    bad = ("nobody", {"email": "nobody"}, "2")
    partly = upsert(official, ("zoe@example.com", {"email": "zoe@example.com"}, "1"), bad)
    assert (partly.num_errors, partly.errors[0].context) == (1, {"objectWriteTraceId": ["2"]})
    assert [one.object_write_trace_id for one in partly.results] == ["1"]
    server.multi_status = False
    with pytest.raises(ApiException) as failed:
        upsert(official, bad)
    assert failed.value.status == 400
    twice = ("zoe@example.com", {"email": "zoe@example.com"}, None)
    with pytest.raises(ApiException) as failed:
        upsert(official, twice, twice)
    assert failed.value.status == 400
