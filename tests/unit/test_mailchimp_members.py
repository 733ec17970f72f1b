"""A referral as a Mailchimp member, and who it is found by."""

from __future__ import annotations

import hashlib
import json

import pytest

from consumer.crm import mailchimp
from consumer.crm.answers import Delivered, Duplicate, Pause, Rejected, Retry
from consumer.crm.port import Crm
from consumer.exchange import Response
from tests.support.vendors import mailchimp as vendor
from tests.support.vendors.serving import NOW, Driver, frozen, person, sending, taken_back

URL = "https://us21.api.mailchimp.com/3.0"
CRM = Crm(mailchimp.render, mailchimp.request, mailchimp.classify, mailchimp.MAX_ROWS)


def body_of(fields, referral, **changes):
    rendered = mailchimp.render(vendor.connection(URL, fields=fields, **changes), referral)
    return json.loads(rendered.body) if rendered.body else None


@pytest.mark.parametrize("name", ["email", "EMAIL", "Email", "email_address"])
def test_the_email_field_is_the_address_and_no_merge_field(name):
    member = body_of([{"name": name, "from": "email"}], person(1))
    assert member == {"email_address": "Zoe.1@Example.com", "status_if_new": "subscribed", "merge_fields": {}}


@pytest.mark.parametrize(
    ("field", "changes", "expected"),
    [
        pytest.param({"name": "FNAME", "from": "first_name"}, {}, {"FNAME": "Zoë"}, id="text"),
        pytest.param({"name": "fname", "from": "first_name"}, {}, {"FNAME": "Zoë"}, id="tags are upper case"),
        pytest.param({"name": "AGE", "from": "age"}, {}, {"AGE": "35"}, id="a number is text"),
        pytest.param({"name": "ZIP", "from": "postal_code"}, {}, {"ZIP": "02650"}, id="a leading zero stays"),
        pytest.param({"name": "FNAME", "from": "first_name"}, {"first_name": None}, {}, id="missing"),
        pytest.param({"name": "FNAME", "from": "first_name"}, {"first_name": " "}, {}, id="blank"),
        pytest.param(
            {"name": "FNAME", "from": "first_name", "empty": "-"},
            {"first_name": None},
            {"FNAME": "-"},
            id="empty",
        ),
        pytest.param(
            {"name": "SOURCE", "constant": "marketplace"}, {}, {"SOURCE": "marketplace"}, id="constant"
        ),
        pytest.param({"name": "PARTNER", "from": "partner_id"}, {}, {}, id="the partner stays unknown"),
    ],
)
def test_merge_fields(field, changes, expected):
    member = body_of([{"name": "email", "from": "email"}, field], person(1, **changes))
    assert member["merge_fields"] == expected


@pytest.mark.parametrize(
    ("email", "hashed"),
    [
        pytest.param("zoe@example.com", "zoe@example.com", id="as it is"),
        pytest.param("  Zoe@Example.COM ", "zoe@example.com", id="case and blanks"),
        pytest.param("ZOË@example.com", "zoë@example.com", id="beyond ASCII"),
    ],
)
def test_a_member_is_found_by_the_hash_of_the_lower_case_address(email, hashed):
    driver = Driver(CRM, vendor.connection(URL), vendor.AUTH)
    digest = hashlib.md5(hashed.encode(), usedforsecurity=False).hexdigest()
    request = driver.request(frozen(driver.connection, person(1, email=email)))
    assert request.url == f"{URL}/lists/{vendor.LIST}/members/{digest}?skip_merge_validation=true"
    assert json.loads(request.body)["email_address"] == email.strip()
    removal = driver.request(taken_back(driver.connection, person(1, email=email)))
    assert (removal.method, removal.url) == ("DELETE", f"{URL}/lists/{vendor.LIST}/members/{digest}")


@pytest.mark.parametrize("email", [None, "", " \t"])
def test_without_an_address_nothing_is_kept_or_sent(email):
    driver = Driver(CRM, vendor.connection(URL), vendor.AUTH)
    row = frozen(driver.connection, person(1, email=email))
    assert (row.body, row.values, row.removal) == (b"", {}, None)
    refusal = driver.request(row)
    assert isinstance(refusal, Rejected)
    assert "no email address" in refusal.reason


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        pytest.param(200, b'{"id": "m", "status": "pending"}', Delivered(200), id="no contact id"),
        pytest.param(
            200,
            b'{"id": "m", "status": "pending", "contact_id": "c1"}',
            Delivered(200, "c1"),
            id="a contact id",
        ),
        pytest.param(
            200,
            b'{"id": "m", "status": "pending", "contact_id": "zoe@example.com"}',
            Delivered(200),
            id="an address is no record id",
        ),
        pytest.param(200, b'{"id": "m", "status": "cleaned"}', Duplicate(200), id="somebody who left"),
        pytest.param(204, b"", Retry("answered 204, but not as Mailchimp does", True, 204), id="nothing"),
        pytest.param(
            400,
            b"",
            Rejected(400, "answered 400: Mailchimp does not take the email address or a merge field"),
            id="400",
        ),
        pytest.param(
            403,
            b'{"title": "Forbidden", "status": 403}',
            Pause("answered 403 Forbidden: check the credential and what it may do", 403),
            id="403 in words",
        ),
    ],
)
def test_answers_to_a_member(status, body, expected):
    connection = vendor.connection(URL)
    row = frozen(connection, person(1))
    assert mailchimp.classify(connection, sending(row), Response(status, {}, body), NOW) == expected


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        pytest.param(204, b"", Delivered(204), id="archived"),
        pytest.param(
            200, b"{}", Retry("answered 200, but not as Mailchimp does", True, 200), id="not Mailchimp's"
        ),
        pytest.param(404, b'{"title": "Resource Not Found"}', Delivered(404), id="not there"),
        pytest.param(405, b'{"title": "Method Not Allowed"}', Delivered(405), id="archived before"),
        pytest.param(
            404,
            b'{"title": "Not Found", "detail": "no route"}',
            Retry("answered 404, as for simultaneous calls for one member", False, 404),
            id="somebody else's 404",
        ),
        pytest.param(
            404,
            b"",
            Retry("answered 404, as for simultaneous calls for one member", False, 404),
            id="a bare 404",
        ),
        pytest.param(
            405,
            b"",
            Pause("answered 405 Method Not Allowed: check address, method and headers", 405),
            id="a bare 405",
        ),
    ],
)
def test_answers_to_a_removal(status, body, expected):
    connection = vendor.connection(URL)
    row = taken_back(connection, person(1))
    assert mailchimp.classify(connection, sending(row), Response(status, {}, body), NOW) == expected
