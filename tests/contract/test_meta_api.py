"""A Meta custom audience, beyond what every kind must do; Meta's own SDK against the same server."""

from __future__ import annotations

import pytest
from facebook_business.adobjects.customaudience import CustomAudience
from facebook_business.api import FacebookAdsApi
from facebook_business.exceptions import FacebookRequestError
from facebook_business.session import FacebookSession

from consumer.crm import meta_custom_audience as meta
from consumer.crm.answers import Delivered, Pause, Rejected, Retry
from consumer.crm.port import Crm
from tests.support.vendors import meta_custom_audience as vendor
from tests.support.vendors.serving import person, serving

CRM = Crm(meta.render, meta.request, meta.classify, meta.MAX_ROWS)
IN = Delivered(200, vendor.SESSION, by_request=True)


@pytest.fixture
def there():
    with serving(vendor, CRM) as (server, driver):
        yield server, driver


@pytest.fixture
def sdk(there):
    """Meta's SDK pointed at the server; it sends its token as a parameter and removals in the query."""
    server, _ = there
    session = FacebookSession(access_token=vendor.TOKEN, timeout=5)
    session.GRAPH = server.base_url
    with session.requests:
        yield FacebookAdsApi(session, api_version="v23.0")


def test_what_meta_holds_is_what_its_own_sdk_would_have_sent(there, sdk):
    server, driver = there
    assert driver.deliver(person(1)) == [IN]
    ours = server.people[vendor.key(person(1))]
    server.people.clear()
    keys = ["EMAIL", "PHONE", "GEN", "ZIP", "COUNTRY", "EXTERN_ID"]
    values = [" ZOE.1@example.com ", "+61400000001", "F", "02650", "AU", person(1).referral_id]
    answer = CustomAudience(vendor.AUDIENCE, api=sdk).add_users(keys, [values], is_raw=True)
    assert answer.json()["num_invalid_entries"] == 0
    (theirs,) = server.people.values()
    assert theirs == {key: ours[key] for key in keys}


def test_each_forgets_whom_the_other_added(there, sdk):
    server, driver = there
    audience = CustomAudience(vendor.AUDIENCE, api=sdk)
    driver.deliver(person(1))
    audience.add_users(["EMAIL"], [["zoe.2@example.com"]], is_raw=True)
    assert set(server.people) == {vendor.key(person(1)), vendor.key(person(2))}
    audience.remove_users(["EMAIL"], [["zoe.1@example.com"]], is_raw=True)
    assert driver.remove(person(2)) == [IN]
    assert server.people == {}
    assert server.rejected_shapes == []


def test_the_sdk_and_we_read_the_same_error(there, sdk):
    server, driver = there
    with pytest.raises(FacebookRequestError) as raised:
        CustomAudience("1", api=sdk).add_users(["EMAIL"], [["zoe@example.com"]], is_raw=True)
    assert (raised.value.api_error_code(), raised.value.api_error_subcode()) == (100, 33)
    driver.connection = vendor.connection(server.base_url, audience_id="1")
    (answer,) = driver.deliver(person(1))
    assert answer == Pause(
        "answered 400, error 100, subcode 33: check the audience's id and the token's right to it", 400
    )


def test_a_phone_of_nothing_does_not_fail_the_others(there):
    server, driver = there
    answers = driver.deliver(person(1, phone_e164="000"), person(2), person(3, phone_e164=None))
    assert answers == [IN] * 3
    assert len(server.requests) == 1
    assert [entry["PHONE"] for entry in server.people.values()].count("") == 2


def test_entries_meta_finds_invalid_are_those_of_the_request(there):
    server, driver = there
    fields = [{"name": "EMAIL", "from": "email"}, {"name": "MADID", "from": "tracking_id"}]
    driver.connection = vendor.connection(server.base_url, fields=fields)
    answers = driver.deliver(person(1), person(2, email=None, tracking_id="no device"))
    assert answers == [IN, IN]
    alone = driver.deliver(person(2, email=None, tracking_id="no device"))
    assert alone == [Rejected(200, "none of the request's entries is valid")]
    assert set(server.people) == {vendor.key(person(1))}


def test_an_entry_meta_cannot_read_is_found_by_halves(there):
    server, driver = there
    server.script = [vendor.error(400, 100)] * 3
    answers = driver.deliver(*(person(number) for number in range(1, 5)))
    assert answers == [Rejected(400, "answered 400, error 100"), IN, IN, IN]


def test_a_throttled_audience_is_left_alone(there):
    server, driver = there
    server.always = vendor.error(400, 80003, 2446079)
    wanted = Retry(
        "answered 400, error 80003, subcode 2446079", unknown=False, status=400, retry_after=meta.THROTTLED_S
    )
    assert driver.deliver(person(1), person(2)) == [wanted] * 2
    assert driver.remove(person(1)) == [wanted]
