"""A Google customer-match audience, beyond what every kind must do; Google's own SDK against the same server."""

from __future__ import annotations

import pytest
from google.ads import datamanager_v1 as sdk
from google.ads.datamanager_v1.services.ingestion_service.transports import IngestionServiceRestTransport
from google.api_core.exceptions import BadRequest, Forbidden
from google.oauth2.credentials import Credentials

from consumer.crm import google_customer_match as google
from consumer.crm.answers import Delivered, Pause, Rejected
from consumer.crm.port import Crm
from consumer.exchange import Request
from tests.support.vendors import google_customer_match as vendor
from tests.support.vendors.serving import frozen, person, serving, taken_back

CRM = Crm(google.render, google.request, google.classify, google.MAX_ROWS)
IN = Delivered(200, vendor.REQUEST_ID, by_request=True)


@pytest.fixture
def there():
    with serving(vendor, CRM) as (server, driver):
        yield server, driver


@pytest.fixture
def client(there):
    """Google's client over REST, as it is but for the address."""
    server, _ = there
    credentials = Credentials(token=vendor.AUTH[1].removeprefix("Bearer "))
    transport = IngestionServiceRestTransport(
        host=f"127.0.0.1:{server.port}", url_scheme="http", credentials=credentials
    )
    with sdk.IngestionServiceClient(transport=transport) as made:
        yield made


def account(number: str) -> sdk.ProductAccount:
    return sdk.ProductAccount(account_type="GOOGLE_ADS", account_id=number)


def destination(number: str = vendor.ACCOUNT) -> sdk.Destination:
    return sdk.Destination(
        operating_account=account(number),
        login_account=account(vendor.MANAGER),
        product_destination_id=vendor.AUDIENCE,
    )


def member(email_hash: str) -> sdk.AudienceMember:
    return sdk.AudienceMember(user_data={"user_identifiers": [{"email_address": email_hash}]})


def ingestion(
    *members: sdk.AudienceMember, to: sdk.Destination | None = None
) -> sdk.IngestAudienceMembersRequest:
    return sdk.IngestAudienceMembersRequest(
        destinations=[to or destination()],
        audience_members=members,
        encoding="HEX",
        terms_of_service={"customer_match_terms_of_service_status": "ACCEPTED"},
    )


def test_each_forgets_whom_the_other_added(there, client):
    server, driver = there
    assert driver.deliver(person(1)) == [IN]
    answer = client.ingest_audience_members(ingestion(member(vendor.key(person(2)))))
    assert answer.request_id == vendor.REQUEST_ID
    assert set(server.people) == {vendor.key(person(1)), vendor.key(person(2))}
    client.remove_audience_members(
        sdk.RemoveAudienceMembersRequest(
            destinations=[destination()], audience_members=[member(vendor.key(person(1)))], encoding="HEX"
        )
    )
    assert driver.remove(person(2)) == [IN]
    assert server.people == {}
    assert server.rejected_shapes == []


def test_our_requests_are_the_sdks_messages_to_the_last_member(there):
    _, driver = there
    fields = [
        {"name": "emailAddress", "from": "email"},
        *({"name": name, "constant": "CONSENT_GRANTED"} for name in google.CONSENT),
    ]
    driver.connection = vendor.connection(driver.connection.address, fields=fields)
    add = driver.request(frozen(driver.connection, person(1)), frozen(driver.connection, person(2)))
    remove = driver.request(taken_back(driver.connection, person(1)))
    assert isinstance(add, Request)
    assert isinstance(remove, Request)
    granted = sdk.Consent(ad_user_data="CONSENT_GRANTED", ad_personalization="CONSENT_GRANTED")
    members = [member(vendor.key(person(number))) for number in (1, 2)]
    for one in members:
        one.consent = granted
    # from_json refuses a name the message does not have.
    assert sdk.IngestAudienceMembersRequest.from_json(add.body) == ingestion(*members)
    assert sdk.RemoveAudienceMembersRequest.from_json(remove.body) == sdk.RemoveAudienceMembersRequest(
        destinations=[destination()], audience_members=[member(vendor.key(person(1)))], encoding="HEX"
    )


def test_the_sdk_and_we_read_the_same_errors(there, client):
    server, driver = there
    with pytest.raises(BadRequest) as raised:
        client.ingest_audience_members(ingestion(member("zoe@example.com")))
    assert (raised.value.reason, raised.value.domain) == ("INVALID_ARGUMENT", "datamanager.googleapis.com")
    assert raised.value.details[1]["fieldViolations"][0]["reason"] == "INVALID_HEX_ENCODING"
    assert driver.deliver(vendor.bad_row()) == [
        Rejected(400, "answered 400 INVALID_ARGUMENT, INVALID_POSTAL_CODE")
    ]
    with pytest.raises(BadRequest):
        client.ingest_audience_members(ingestion(member(vendor.key(person(1))), to=destination("2")))
    driver.connection = vendor.connection(server.base_url, account_id="2")
    (answer,) = driver.deliver(person(1))
    assert answer == Pause(
        "answered 400 INVALID_ARGUMENT, INVALID_DESTINATION: check account, audience and the terms accepted there",
        400,
    )
    other = sdk.Destination(
        operating_account=account(vendor.FORBIDDEN), product_destination_id=vendor.AUDIENCE
    )
    with pytest.raises(Forbidden):
        client.ingest_audience_members(ingestion(member(vendor.key(person(1))), to=other))
    driver.connection = vendor.connection(server.base_url, account_id=vendor.FORBIDDEN, login_account_id=None)
    (answer,) = driver.deliver(person(1))
    assert isinstance(answer, Pause)
    assert server.people == {}


def test_a_request_with_a_bad_member_is_taken_by_halves(there):
    server, driver = there
    answers = driver.deliver(person(1), person(2), vendor.bad_row(), person(3))
    assert [type(answer) for answer in answers] == [Delivered, Delivered, Rejected, Delivered]
    assert set(server.people) == {vendor.key(person(number)) for number in (1, 2, 3)}
    assert len(server.requests) == 5
