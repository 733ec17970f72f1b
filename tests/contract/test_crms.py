"""What every kind with an API of its own must do, on a server that enforces its vendor's published rules."""

from __future__ import annotations

import pytest

from consumer.crm import BY_KIND
from consumer.crm.answers import Delivered, Disable, Duplicate, KeyConflict, Pause, Rejected, Retry
from consumer.exchange import NotSent, Request, Response, Unknown, Unsendable
from schemas.referral import CampaignType
from tests.support.referral_events import PERSONAL_VALUES
from tests.support.vendors import (
    google_customer_match,
    hubspot,
    mailchimp,
    meta_custom_audience,
    salesforce,
)
from tests.support.vendors.serving import (
    MAX_BODY,
    NOW,
    Driver,
    Hangs,
    Reply,
    frozen,
    person,
    sending,
    serving,
    taken_back,
)

VENDORS = {
    "mailchimp": mailchimp,
    "salesforce": salesforce,
    "hubspot": hubspot,
    "meta_custom_audience": meta_custom_audience,
    "google_customer_match": google_customer_match,
}
CRMS = {kind: BY_KIND[kind] for kind in VENDORS}
UNIDENTIFIED = (CampaignType.WEBSITE_TRAFFIC, CampaignType.UNKNOWN)
#: Neither what it reads of an answer nor its own words may hold any of these.
PRIVATE = tuple(value for value in PERSONAL_VALUES if len(value) > 3)

every_kind = pytest.mark.parametrize("kind", sorted(VENDORS))


@pytest.fixture
def there(kind):
    with serving(VENDORS[kind], CRMS[kind]) as (server, driver):
        yield server, driver, VENDORS[kind]


def rows_of(driver: Driver, *referrals):
    return [frozen(driver.connection, referral) for referral in referrals]


def listed(answers):
    return answers if isinstance(answers, list | tuple) else [answers]


@every_kind
def test_the_same_referral_is_the_same_bytes(kind):
    vendor = VENDORS[kind]
    connection = vendor.connection("http://127.0.0.1:1")
    first, second = (CRMS[kind].render(connection, vendor.good(1)) for _ in range(2))
    assert (first.body, first.values, first.removal) == (second.body, second.values, second.removal)
    assert first.removal is not None
    assert (
        CRMS[kind].render(vendor.connection("http://127.0.0.1:1", remove=False), vendor.good(1)).removal
        is None
    )


@every_kind
@pytest.mark.parametrize("campaign_type", UNIDENTIFIED)
def test_what_a_campaign_may_not_tell_is_not_told(kind, campaign_type, there):
    server, driver, _ = there
    referral = person(campaign_type=campaign_type.value)
    rendered = CRMS[kind].render(driver.connection, referral)
    told = rendered.body.decode() + repr(dict(rendered.values)) + (rendered.removal or b"").decode()
    assert not [value for value in (*PRIVATE, str(referral.fields["email"])) if value.lower() in told.lower()]
    (answer,) = driver.deliver(referral)
    assert isinstance(answer, Rejected)
    assert server.requests == []


@every_kind
def test_one_without_an_identifier_is_refused_before_it_is_sent_and_holds_nobody_up(kind, there):
    server, driver, vendor = there
    blank, *others = vendor.blank_row(), vendor.good(1), vendor.good(2), vendor.good(3)
    answers = driver.deliver(others[0], blank, *others[1:])
    assert [type(answer) for answer in answers] == [Delivered, Rejected, Delivered, Delivered]
    assert answers[1].status is None
    assert len(answers[1].reason) > 20
    assert set(server.people) == {vendor.key(referral) for referral in others}
    assert server.rejected_shapes == []


@every_kind
def test_a_request_carries_no_credential_and_is_the_same_every_time(kind, there):
    server, driver, vendor = there
    row = frozen(driver.connection, vendor.good(1))
    first, second = driver.request(row), driver.request(row)
    assert isinstance(first, Request)
    assert (first.method, first.url, first.headers, first.body) == (
        second.method,
        second.url,
        second.headers,
        second.body,
    )
    assert vendor.AUTH[0].lower() not in {name.lower() for name, _ in first.headers}
    assert first.url.startswith(server.base_url)
    assert first.timeout == driver.connection.timeout
    shown = repr(first) + repr(row)
    assert not [value for value in (*PRIVATE, "Zoe.1@") if value in shown]


@every_kind
def test_a_person_is_there_once_however_often_the_request_is_repeated(kind, there):
    server, driver, vendor = there
    rows = rows_of(driver, vendor.good(1), vendor.good(2))
    for _ in range(3):
        assert all(isinstance(answer, Delivered) for answer in driver.send(*rows))
    assert set(server.people) == {vendor.key(vendor.good(1)), vendor.key(vendor.good(2))}
    assert server.rejected_shapes == []


@every_kind
def test_a_later_revision_replaces_the_earlier_one(kind, there):
    server, driver, vendor = there
    for revision in (0, 1):
        (answer,) = driver.deliver(vendor.good(1, revision=revision, first_name=f"Zoë {revision}"))
        assert isinstance(answer, Delivered)
    assert set(server.people) == {vendor.key(vendor.good(1))}


@every_kind
def test_two_referrals_of_one_person_can_go_in_one_batch(kind, there):
    server, driver, vendor = there
    same = {name: vendor.good(1).fields[name] for name in ("email", "phone_e164")}
    answers = driver.deliver(vendor.good(1), vendor.good(2), vendor.good(3, **same))
    assert [type(answer) for answer in answers] == [Delivered] * 3
    assert {vendor.key(vendor.good(1)), vendor.key(vendor.good(2))} <= set(server.people)
    assert server.rejected_shapes == []


@every_kind
def test_full_requests_stay_within_the_vendors_limit(kind, there):
    server, driver, vendor = there
    most = min(driver.crm.max_rows, 250)
    answers = driver.deliver(*(vendor.good(number) for number in range(most + 1)))
    assert all(isinstance(answer, Delivered) for answer in answers)
    assert len(server.people) == most + 1
    assert server.rejected_shapes == []


@every_kind
def test_answers_are_in_the_order_of_the_rows(kind, there):
    server, driver, vendor = there
    referrals = [vendor.good(number) for number in range(min(driver.crm.max_rows, 5))]
    answers = driver.deliver(*referrals)
    record_ids = [answer.record_id for answer in answers]
    for referral, record_id in zip(referrals, record_ids, strict=True):
        (alone,) = driver.deliver(referral)
        assert alone.record_id == record_id
    assert set(server.people) == {vendor.key(referral) for referral in referrals}


@every_kind
def test_one_bad_row_is_rejected_alone_without_telling_who_it_is(kind, there):
    server, driver, vendor = there
    if vendor.bad_row() is None:
        pytest.skip("this vendor takes any row that has an identifier, and drops what it cannot match")
    goods = [vendor.good(number) for number in (1, 2, 3, 4)]
    bad = vendor.bad_row()
    answers = driver.deliver(*goods[:3], bad, goods[3])
    assert [type(answer) for answer in answers] == [Delivered] * 3 + [Rejected, Delivered]
    assert set(server.people) == {vendor.key(referral) for referral in goods}
    personal = {
        str(bad.fields[name]).lower() for name in ("email", "first_name", "phone_e164") if bad.fields[name]
    }
    assert not [value for value in personal if value in answers[3].reason.lower()]
    if driver.crm.max_rows >= 5 and vendor.NAMES_ROWS:
        assert len(server.requests) == 1
        assert not any(answer.by_request for answer in answers if isinstance(answer, Delivered))


TRANSIENT = [
    pytest.param(429, False, id="429"),
    pytest.param(500, True, id="500"),
    pytest.param(502, True, id="502"),
    pytest.param(503, False, id="503"),
    pytest.param(504, True, id="504"),
]


@every_kind
@pytest.mark.parametrize(("status", "unknown"), TRANSIENT)
def test_what_passes_is_tried_again(kind, status, unknown, there):
    server, driver, vendor = there
    bodies = (b"", b"<html>oops</html>", b'{"message": "oops"}', b"[]", b'["oops"]')
    server.script = [Reply(status, body, {"Retry-After": "7"}) for body in bodies * 2]
    row, gone = rows_of(driver, vendor.good(1))[0], taken_back(driver.connection, vendor.good(1))
    for answer in [driver.once(one) for one in (row, gone) for _ in bodies]:
        assert isinstance(answer, Retry)
        assert (answer.unknown, answer.status) == (unknown, status)
        assert answer.retry_after is not None
        assert answer.retry_after >= 7.0


@every_kind
@pytest.mark.parametrize(
    ("exchanged", "unknown"),
    [
        pytest.param(NotSent("connection refused"), False, id="not sent"),
        pytest.param(Unknown("no answer in 20 s"), True, id="no answer"),
    ],
)
def test_no_answer_is_tried_again(kind, exchanged, unknown):
    vendor, crm = VENDORS[kind], CRMS[kind]
    connection = vendor.connection("http://127.0.0.1:1")
    row = frozen(connection, vendor.good(1))
    answer = crm.classify(connection, sending(row), exchanged, NOW)
    assert isinstance(answer, Retry)
    assert answer.unknown is unknown
    assert isinstance(crm.classify(connection, sending(row), Unsendable("x"), NOW), Pause)


@every_kind
def test_a_server_that_says_nothing_may_have_it(kind, there):
    server, driver, vendor = there
    server.always = Hangs()
    (answer,) = driver.deliver(vendor.good(1))
    assert isinstance(answer, Retry)
    assert answer.unknown


@every_kind
@pytest.mark.parametrize("status", [401, 301, 302, 307, 308])
def test_what_a_person_must_change_pauses(kind, status, there):
    server, driver, vendor = there
    server.always = Reply(status, {"message": "no"}, {"Location": server.base_url})
    for answers in (driver.deliver(vendor.good(1)), driver.remove(vendor.good(1))):
        assert isinstance(answers[0], Pause)
        assert answers[0].status == status


@every_kind
def test_a_wrong_credential_pauses(kind, there):
    _, driver, vendor = there
    driver.auth = (vendor.AUTH[0], "Bearer wrong")
    (answer,) = driver.deliver(vendor.good(1))
    assert isinstance(answer, Pause)


#: Answers of 2xx that are not what the vendor says when it took something.
NONSENSE = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"<html><title>Sign in to the hotel's network</title></html>", id="a page"),
    pytest.param(b"null", id="null"),
    pytest.param(b"[]", id="empty list"),
    pytest.param(b"{}", id="empty object"),
    pytest.param(
        b'{"id": 1, "results": 1, "errors": 1, "num_received": "1", "requestId": 1, "status": 1}',
        id="numbers",
    ),
    pytest.param(
        b'{"results": [1, null, "x", []], "errors": [1, null], "numErrors": "x"}', id="lists of anything"
    ),
    pytest.param(b'[1, null, "x", []]', id="a list of anything"),
    pytest.param(b'{"id": "a', id="cut in the middle"),
    pytest.param(b"\xff\xfe\x00", id="no text"),
    pytest.param(b"[" * 60_000, id="deep"),
    pytest.param(b'{"id": ' + b"9" * 60_000 + b"}", id="a long number"),
    pytest.param(b'{"id": "' + b"x" * 200_000 + b'"}', id="huge"),
]


@every_kind
@pytest.mark.parametrize("body", NONSENSE)
def test_nonsense_is_never_taken_for_delivered(kind, body, there):
    server, driver, vendor = there
    most = min(driver.crm.max_rows, 3)
    rows = rows_of(driver, *(vendor.good(number) for number in range(most)))
    for status in (200, 201, 202, 207):
        server.always = Reply(status, body)
        for answer in listed(driver.once(*rows)):
            assert isinstance(answer, Retry)
            assert answer.unknown


@every_kind
@pytest.mark.parametrize("body", NONSENSE)
def test_nonsense_with_an_error_never_raises(kind, body):
    vendor, crm = VENDORS[kind], CRMS[kind]
    connection = vendor.connection("http://127.0.0.1:1")
    driver = Driver(crm, connection, vendor.AUTH)
    rows = rows_of(driver, *(vendor.good(number) for number in range(min(crm.max_rows, 3))))
    removal = taken_back(connection, vendor.good(1))
    for status in (400, 403, 404, 405, 409, 410, 422, 423, 460, 500, 599):
        response = Response(status, {}, body[:MAX_BODY], len(body) <= MAX_BODY)
        for sent in (sending(*rows), sending(removal)):
            for answer in listed(crm.classify(connection, sent, response, NOW)):
                assert isinstance(answer, Rejected | Retry | Pause | Disable | KeyConflict)


@every_kind
def test_a_good_answer_cut_short_is_unknown(kind, there):
    server, driver, vendor = there
    (row,) = rows_of(driver, vendor.good(1))
    assert isinstance(driver.send(row)[0], Delivered)
    whole = server.answer(server.requests[-1])
    server.script = [Reply(whole.status, whole.content[:-1], cut=True)]
    (answer,) = driver.send(row)
    assert isinstance(answer, Retry)
    assert answer.unknown


@every_kind
def test_a_person_taken_back_is_forgotten_however_often(kind, there):
    server, driver, vendor = there
    driver.deliver(vendor.good(1), vendor.good(2))
    for _ in range(3):
        (answer,) = driver.remove(vendor.good(1))
        assert isinstance(answer, Delivered | Duplicate)
    assert set(server.people) == {vendor.key(vendor.good(2))}
    assert server.rejected_shapes == []


@every_kind
def test_somebody_who_was_never_there_can_be_taken_back(kind, there):
    server, driver, vendor = there
    (answer,) = driver.remove(vendor.good(1))
    assert isinstance(answer, Delivered | Duplicate)
    assert server.people == {}
    assert server.rejected_shapes == []


@every_kind
def test_one_without_an_identifier_has_nothing_to_take_back(kind):
    vendor = VENDORS[kind]
    rendered = CRMS[kind].render(vendor.connection("http://127.0.0.1:1"), vendor.blank_row())
    assert rendered.removal is None
