"""Salesforce, beyond what every kind must do: an answer a row, its own refusals, its removals."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import requests
from simple_salesforce import Salesforce
from simple_salesforce.exceptions import SalesforceMalformedRequest, SalesforceResourceNotFound

from consumer.crm import salesforce
from consumer.crm.answers import Delivered, Duplicate, Pause, Rejected, Retry
from consumer.crm.port import Crm
from consumer.exchange import Request
from tests.support.vendors import salesforce as vendor
from tests.support.vendors.serving import Reply, frozen, person, serving, taken_back

CRM = Crm(salesforce.render, salesforce.request, salesforce.classify, salesforce.MAX_ROWS)


@pytest.fixture
def there():
    with serving(vendor, CRM) as (server, driver):
        yield server, driver


def test_each_row_of_a_request_has_its_own_answer(there):
    server, driver = there
    driver.deliver(person(9))
    server.locked = {vendor.key(person(5))}
    answers = driver.deliver(
        person(1),
        person(2, last_name=None),
        person(3, email="zoe at example"),
        person(4, last_name="x" * 81),
        person(5),
        person(6, phone_e164=person(9).fields["phone_e164"]),
        person(7),
    )
    assert answers == [
        Delivered(200, vendor.record_id(vendor.key(person(1)))),
        Rejected(200, "REQUIRED_FIELD_MISSING"),
        Rejected(200, "INVALID_EMAIL_ADDRESS"),
        Rejected(200, "STRING_TOO_LONG"),
        Retry("UNABLE_TO_LOCK_ROW", unknown=False, status=200),
        Duplicate(200),
        Delivered(200, vendor.record_id(vendor.key(person(7)))),
    ]
    assert len(server.requests) == 2
    assert server.rejected_shapes == []


def test_the_last_of_two_referrals_of_one_person_is_what_salesforce_holds(there):
    server, driver = there
    answers = driver.deliver(person(1), person(2), person(1, first_name="Zoé"))
    assert answers[0] == answers[2] == Delivered(200, vendor.record_id(vendor.key(person(1))))
    assert server.people[vendor.key(person(1))]["FirstName"] == "Zoé"
    assert len(server.requests) == 1


def test_two_spellings_of_one_external_id_end_once_they_go_apart(there):
    server, driver = there
    first, second = person(1), person(1, email=person(1).fields["email"].upper())
    answers = driver.deliver(first, second)
    assert [(type(answer), answer.unknown) for answer in answers] == [(Retry, False)] * 2
    assert server.people == {}
    assert [type(driver.deliver(one)[0]) for one in (first, second)] == [Delivered, Delivered]
    assert len(server.people) == 1


def test_of_an_answer_longer_than_is_read_the_rows_read_are_settled(there):
    server, driver = there
    rows = [frozen(driver.connection, person(number, last_name="x" * 900)) for number in range(200)]
    times = 0
    while rows:
        answers = driver.send(*rows)
        settled = [answer for answer in answers if answer == Rejected(200, "STRING_TOO_LONG")]
        assert settled == answers[: len(settled)]
        assert all(isinstance(answer, Retry) and answer.unknown for answer in answers[len(settled) :])
        assert len(settled) >= min(len(rows), 50)
        rows, times = rows[len(settled) :], times + 1
    assert len(server.requests) == times


def test_used_up_requests_are_waited_for(there):
    server, driver = there
    server.always = vendor.refusal(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
    wanted = Retry("REQUEST_LIMIT_EXCEEDED", unknown=False, status=403, retry_after=salesforce.LIMIT_S)
    assert driver.deliver(person(1), person(2)) == [wanted] * 2
    assert driver.remove(person(1)) == [wanted]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"object": "Leed"}, "NOT_FOUND", id="no such object"),
        pytest.param(
            {"external_id": "Nobody__c", "fields": [{"name": "Nobody__c", "from": "email"}]},
            "NOT_FOUND",
            id="no such external id",
        ),
        pytest.param(
            {"fields": [{"name": vendor.KEY_FIELD, "from": "email"}, {"name": "Shoes__c", "constant": "9"}]},
            "INVALID_FIELD",
            id="no such field",
        ),
    ],
)
def test_a_wrong_name_pauses(changes, code):
    with serving(vendor, CRM, **changes) as (server, driver):
        answer = driver.deliver(person(1), person(2))[0]
        assert isinstance(answer, Pause)
        assert code in answer.reason
        assert server.people == {}


def test_a_record_that_cannot_be_read_is_found_by_halves(there):
    server, driver = there
    server.script = [vendor.refusal(400, "JSON_PARSER_ERROR", "Cannot deserialize zoe@example.com")] * 2
    answers = driver.deliver(*(person(number) for number in range(1, 4)))
    assert answers[0] == Rejected(400, "JSON_PARSER_ERROR")
    assert [type(answer) for answer in answers[1:]] == [Delivered, Delivered]


def test_a_person_is_taken_back_by_an_id_of_any_spelling(there):
    server, driver = there
    odd = person(1, email="a/b+c%20?d=é@example.com")
    driver.deliver(odd)
    assert driver.remove(odd) == [Delivered(204)]
    assert driver.remove(odd) == [Delivered(404)]
    assert server.people == {}
    assert server.rejected_shapes == []


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        pytest.param(
            Reply(300, ["/sobjects/Lead/00Q1", "/sobjects/Lead/00Q2"]), Rejected, id="several records"
        ),
        pytest.param(
            vendor.refusal(404, "ENTITY_IS_DELETED", "entity is deleted"), Delivered, id="gone before"
        ),
        pytest.param(
            vendor.refusal(
                404, "NOT_FOUND", "Provided external ID field does not exist or is not accessible: X"
            ),
            Pause,
            id="no such field",
        ),
        pytest.param(
            vendor.refusal(400, "DELETE_FAILED", "zoe has cases"), Rejected, id="held by other records"
        ),
        pytest.param(Reply(200, b"<html>Sign in</html>"), Retry, id="a page"),
        pytest.param(Reply(404, b"<html>No such site</html>"), Pause, id="a page of another host"),
    ],
)
def test_a_removal_is_classed(reply, kind, there):
    server, driver = there
    server.always = reply
    (answer,) = driver.remove(person(1))
    assert type(answer) is kind
    assert "zoe" not in repr(answer)


def test_removals_go_one_by_one(there):
    _, driver = there
    rows = [taken_back(driver.connection, person(number)) for number in (1, 2)]
    assert isinstance(driver.request(*rows), Rejected)
    assert isinstance(driver.request(rows[0]), Request)


@pytest.mark.parametrize("dots", [".", ".."])
def test_a_removal_reaches_no_other_address(dots, there):
    _, driver = there
    row = replace(
        taken_back(driver.connection, person(1)), body=json.dumps({vendor.KEY_FIELD: dots}).encode()
    )
    assert isinstance(driver.request(row), Rejected)


def test_a_row_of_another_external_id_is_refused_before_it_is_sent(there):
    server, driver = there
    row = frozen(driver.connection, person(1))
    driver.connection = vendor.connection(
        server.base_url, external_id="Other__c", fields=[{"name": "Other__c", "from": "email"}]
    )
    assert isinstance(driver.request(row), Rejected)


def test_the_communitys_client_works_against_the_same_server(there):
    """Salesforce publishes no client for Python; this one is the community's."""
    server, driver = there
    driver.deliver(person(1))
    with requests.Session() as session:
        client = Salesforce(
            instance_url=server.base_url,
            session_id=vendor.AUTH[1].removeprefix("Bearer "),
            version="62.0",
            session=session,
        )
        # It knows https alone.
        client.base_url = f"{server.base_url}/services/data/v62.0/"
        records = [
            {
                "attributes": {"type": "Lead"},
                vendor.KEY_FIELD: name,
                "LastName": "Ng",
                "Company": "none",
                "Email": name,
            }
            for name in ("a@example.com", "b at example")
        ]
        path = f"composite/sobjects/Lead/{vendor.KEY_FIELD}"
        results = client.restful(path, method="PATCH", json={"allOrNone": False, "records": records})
        assert [result["success"] for result in results] == [True, False]
        assert results[1]["errors"][0]["statusCode"] == "INVALID_EMAIL_ADDRESS"
        with pytest.raises(SalesforceMalformedRequest):
            client.restful(
                path, method="PATCH", json={"records": [{"attributes": {"type": "Lead"}, "Shoes__c": 1}]}
            )
        lead = client.Lead
        lead.base_url = f"{server.base_url}/services/data/v62.0/sobjects/Lead/"
        assert lead.upsert(f"{vendor.KEY_FIELD}/c@example.com", {"LastName": "Ng", "Company": "none"}) == 201
        assert lead.delete(f"{vendor.KEY_FIELD}/{vendor.key(person(1))}") == 204
        with pytest.raises(SalesforceResourceNotFound):
            lead.delete(f"{vendor.KEY_FIELD}/{vendor.key(person(1))}")
    assert set(server.people) == {"a@example.com", "c@example.com"}
    assert server.rejected_shapes == []
