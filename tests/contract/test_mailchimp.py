"""Mailchimp's own rules, and its official client against the same server."""

from __future__ import annotations

import pytest
from mailchimp_marketing import Client
from mailchimp_marketing.api_client import ApiClientError

from consumer.crm import mailchimp as crm_module
from consumer.crm.answers import Delivered, Duplicate, Pause, Rejected, Retry
from consumer.crm.port import Crm
from tests.support.vendors import mailchimp as vendor
from tests.support.vendors.serving import Reply, frozen, person, serving, taken_back

CRM = Crm(crm_module.render, crm_module.request, crm_module.classify, crm_module.MAX_ROWS)


@pytest.fixture
def there():
    with serving(vendor, CRM) as pair:
        yield pair


@pytest.mark.parametrize("status", ["unsubscribed", "cleaned", "archived", "pending", "subscribed"])
@pytest.mark.parametrize("if_new", ["subscribed", "pending"])
def test_nobody_is_ever_subscribed_again(status, if_new):
    with serving(vendor, CRM, status_if_new=if_new) as (server, driver):
        member = server.add("zoe.1@example.com", status)
        for revision in range(2):
            (answer,) = driver.deliver(vendor.good(1, revision=revision, first_name=f"Zoë {revision}"))
            assert isinstance(answer, Delivered if status in {"pending", "subscribed"} else Duplicate)
        assert server.members[member]["status"] == status
        assert server.members[member]["merge_fields"]["FNAME"] == "Zoë 1"
        assert all("status" not in received.json() for received in server.requests)


@pytest.mark.parametrize("if_new", ["subscribed", "pending"])
def test_somebody_new_gets_the_status_of_the_connection(if_new):
    with serving(vendor, CRM, status_if_new=if_new) as (server, driver):
        (answer,) = driver.deliver(vendor.good(1))
        (member,) = server.members.values()
        assert (member["status"], member["email_address"]) == (if_new, "Zoe.1@Example.com")
        assert isinstance(answer, Delivered)
        assert answer.record_id == member["contact_id"]
        assert answer.record_id != member["id"]


def test_a_missing_value_keeps_what_the_audience_has(there):
    server, driver = there
    driver.deliver(vendor.good(1, last_name="Nguyễn"))
    driver.deliver(vendor.good(1, revision=1, last_name=None, first_name=" "))
    (member,) = server.members.values()
    assert member["merge_fields"] == {"FNAME": "Zoë", "LNAME": "Nguyễn", "ZIP": "02650"}


SEVERAL = "has signed up to a lot of lists very recently; we're not allowing more signups for now."
LEFT = "is in a compliance state due to unsubscribe, bounce, or compliance review and cannot be subscribed."
GONE = "was permanently deleted and cannot be re-imported."
ANSWERS = [
    pytest.param(
        vendor.problem(400, "Member In Compliance State", f"zoe@example.com {LEFT}"),
        Rejected(400, "answered 400: the person left, bounced or is under review; only they can come back"),
        id="left by themselves",
    ),
    pytest.param(
        vendor.problem(400, "Forgotten Email Not Subscribed", f"zoe@example.com {GONE}"),
        Rejected(400, "answered 400: the person was deleted for good; only they can come back"),
        id="deleted for good",
    ),
    pytest.param(
        vendor.problem(400, "Invalid Resource", f"zoe@example.com {SEVERAL}"),
        Retry("answered 400: the person signed up for many audiences lately", False, 400, 3_600.0),
        id="too many audiences",
    ),
    pytest.param(
        vendor.problem(400, "Invalid Resource", "zoe@exmaple.con looks fake or invalid"),
        Rejected(400, "answered 400: Mailchimp does not take the email address or a merge field"),
        id="misspelt domain",
    ),
    pytest.param(
        vendor.problem(400, "Invalid Resource", "See errors.", errors=[{"field": "FNAME", "message": "Zoë?"}, {"field": "zoe@example.com"}, 1]),
        Rejected(400, "answered 400: Mailchimp does not take FNAME"),
        id="a merge field",
    ),
    pytest.param(
        Reply(403, b"<html>Access Denied</html>", {"Retry-After": "9"}, "text/html"),
        Retry("answered 403 without a reason: too many requests", False, 403, 9.0),
        id="a bare 403 is the throttle",
    ),
    pytest.param(
        vendor.problem(403, "User Disabled", "This account has been deactivated."),
        Pause("answered 403 Forbidden: check the credential and what it may do", 403),
        id="a 403 with a reason",
    ),
    pytest.param(
        Reply(404), Retry("answered 404, as for simultaneous calls for one member", False, 404), id="a bare 404"
    ),
    pytest.param(
        vendor.NOT_FOUND,
        Pause("answered 404: no such audience, check list_id and data_center", 404),
        id="no such audience",
    ),
    pytest.param(
        vendor.problem(429, "Too Many Requests", "You have exceeded the limit of 10 simultaneous connections."),
        Retry("answered 429 Too Many Requests", False, 429),
        id="more than 10 at once",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "expected"), ANSWERS)
def test_what_mailchimp_says(reply, expected, there):
    server, driver = there
    server.always = reply
    assert driver.deliver(vendor.good(1)) == [expected]


def test_another_audience_pauses(there):
    _, driver = there
    driver.connection = driver.connection.model_copy(update={"list_id": "another"})
    (answer,) = driver.deliver(vendor.good(1))
    assert isinstance(answer, Pause)


def test_a_removal_is_one_delete_without_a_body(there):
    server, driver = there
    driver.deliver(vendor.good(1))
    request = driver.request(taken_back(driver.connection, vendor.good(1)))
    hashed = vendor.key(vendor.good(1))
    assert (request.method, request.body) == ("DELETE", b"")
    assert request.url == f"{server.base_url}/lists/{vendor.LIST}/members/{hashed}"
    assert driver.remove(vendor.good(1)) == [Delivered(204)]
    assert driver.remove(vendor.good(1)) == [Delivered(405)]
    assert driver.remove(vendor.good(2)) == [Delivered(404)]


@pytest.mark.parametrize("status", ["pending", "cleaned"])
def test_who_is_not_mailed_anyway_need_not_be_archived(status, there):
    server, driver = there
    server.add("zoe.1@example.com", status)
    assert driver.remove(vendor.good(1)) == [Delivered(405)]


def test_an_answer_that_shows_no_member_is_no_proof(there):
    server, driver = there
    server.script = [Reply(200, {"id": 7, "status": "subscribed"})]
    (answer,) = driver.deliver(vendor.good(1))
    assert isinstance(answer, Retry)
    assert answer.unknown


@pytest.fixture
def official(there):
    server, _ = there
    client = Client({"api_key": vendor.KEY, "server": "us21", "timeout": 5})
    client.lists.api_client.host = server.base_url
    return client


def test_the_official_client_sees_the_same_audience(there, official):
    server, driver = there
    hashed = vendor.subscriber_hash("sdk@example.com")
    member = {
        "email_address": "sdk@example.com",
        "status_if_new": "subscribed",
        "merge_fields": {"FNAME": "Sam"},
    }
    made = official.lists.set_list_member(vendor.LIST, hashed, member, skip_merge_validation="true")
    assert (made["id"], made["status"]) == (hashed, "subscribed")
    driver.deliver(person(1, email="SDK@example.com", first_name="Zoë"))
    assert official.lists.get_list_member(vendor.LIST, hashed)["merge_fields"]["FNAME"] == "Zoë"
    assert official.lists.delete_list_member(vendor.LIST, hashed).status_code == 204
    assert server.people == {}
    for again, status in ((hashed, 405), (vendor.subscriber_hash("nobody@example.com"), 404)):
        with pytest.raises(ApiClientError) as failed:
            official.lists.delete_list_member(vendor.LIST, again)
        assert failed.value.status_code == status


def test_the_official_client_is_refused_what_we_are(there, official):
    server, driver = there
    for email, body in (
        ("zoe@fake.test", {"email_address": "zoe@fake.test", "status_if_new": "pending"}),
        (
            "left@example.com",
            {"email_address": "left@example.com", "status_if_new": "pending", "status": "subscribed"},
        ),
    ):
        server.add("left@example.com", "unsubscribed")
        with pytest.raises(ApiClientError) as failed:
            official.lists.set_list_member(
                vendor.LIST, vendor.subscriber_hash(email), body, skip_merge_validation="true"
            )
        assert failed.value.status_code == 400
    row = frozen(driver.connection, vendor.bad_row())
    assert isinstance(driver.once(row), Rejected)
