"""The models of an advertiser's file: what each member may hold."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from schemas.connection import (
    Account,
    ConnectionSet,
    EmailConnection,
    HttpConnection,
    SftpConnection,
    connection_digest,
    load_definition,
)

HTTP: dict[str, Any] = {
    "kind": "http",
    "name": "crm",
    "url": "https://crm.example.com/leads",
    "fields": ["email"],
}
SFTP: dict[str, Any] = {
    "kind": "sftp",
    "name": "nightly",
    "host": "sftp.example.com",
    "username": "us",
    "password": "${env:SFTP_PASSWORD}",
    "host_keys": ["SHA256:" + "A" * 43],
    "schedule": {"cron": "0 8 * * *", "zone": "Australia/Sydney"},
    "fields": ["email"],
}
EMAIL: dict[str, Any] = {
    "kind": "email",
    "name": "weekly",
    "recipients": ["leads@example.com"],
    "schedule": {"cron": "0 8 * * 1"},
    "fields": ["email"],
}


def account(*connections: dict[str, Any], name: str = "acme") -> Account:
    return Account.model_validate({"account": name, "connections": list(connections)})


def refused(connection: dict[str, Any], **changes: Any) -> bool:
    given = {name: value for name, value in (connection | changes).items() if value is not ...}
    try:
        account(given)
    except ValidationError:
        return True
    return False


def test_the_kinds_are_told_apart() -> None:
    http, sftp, email = account(HTTP, SFTP, EMAIL).connections
    assert (type(http), type(sftp), type(email)) == (HttpConnection, SftpConnection, EmailConnection)
    assert http.horizon == timedelta(
        seconds=5 + 300 + 1_800 + 7_200 + 18_000 + 36_000 + 50_400 + 72_000 + 86_400
    )
    assert http.idempotency.quoted


URLS_REFUSED = [
    "", "crm.example.com", "//crm.example.com", "ftp://x.example", "file:///etc/passwd", "gopher://x.example",
    "https://", "https:///x", "https://user@x.example", "https://user:pw@x.example", "https://@x.example",
    "https://x.example/#f", "https://x.example#", "https://x.example:0", "https://x.example:99999",
    "https://x.example:a", "https://x.example/a b", "https://x.example/\r\nX: y", "https://x.example/\x00",
    "https://x.example/\x7f", "https://x.example\\@evil.example", "http://[", "https://[::1", " https://x.example",
    "https://x.example/\n", "https://x.example/" + "a" * 8192, "javascript:alert(1)",
]  # fmt: skip
URLS_TAKEN = [
    "https://x.example", "http://127.0.0.1:8080/leads?x=1", "https://[::1]:8443/", "https://xn--bcher-kva.example/",
    "https://bücher.example/", "https://x.example:/", "HTTPS://X.EXAMPLE/",
]  # fmt: skip


@pytest.mark.parametrize("url", URLS_REFUSED)
def test_urls_refused(url: str) -> None:
    assert refused(HTTP, url=url)


@pytest.mark.parametrize("url", URLS_TAKEN)
def test_urls_taken(url: str) -> None:
    assert not refused(HTTP, url=url)


MAILBOXES_REFUSED = [
    "", "a", "a@", "@b.example", "a@b", "a@@b.example", "a b@c.example", " a@b.example", "a@b.example ", "a@b.example\n",
    "a\r\nBcc: x@y.example@b.example", "Bob <a@b.example>", "<a@b.example>", "a@b.example,c@d.example", "a@b..example",
    ".a@b.example", "a.@b.example", "a..b@c.example", "(x)a@b.example", '"a b"@c.example', "a@[1.2.3.4]", "zoë@b.example",
    "a@bücher.example", "a\t@b.example", "a\x00@b.example", "a@-b.example", "a@b_c.example", "a" * 65 + "@b.example",
    "a@" + "b" * 250 + ".example", "a@b.example.", "mailto:a@b.example",
]  # fmt: skip


@pytest.mark.parametrize("mailbox", MAILBOXES_REFUSED)
def test_mailboxes_refused(mailbox: str) -> None:
    assert refused(EMAIL, recipients=[mailbox])


@pytest.mark.parametrize(
    "mailbox", ["a@b.example", "a.b+c_d-e@sub.b-c.example", "O'Brien@example.com", "1@2.co"]
)
def test_mailboxes_taken(mailbox: str) -> None:
    assert not refused(EMAIL, recipients=[mailbox])


BEARER = {"kind": "bearer", "token": "${env:T}"}
HMAC = {"kind": "hmac", "secret": "${env:S}", "header": "X-Sig", "timestamp_header": "X-Time"}
WEBHOOKS = {"kind": "standard_webhooks", "secrets": ["${env:A}", "${env:B}"]}
MAILCHIMP: dict[str, Any] = {
    "kind": "mailchimp",
    "name": "mc",
    "data_center": "us21",
    "list_id": "abc",
    "fields": ["email"],
}
SALESFORCE: dict[str, Any] = {
    "kind": "salesforce",
    "name": "sf",
    "instance_url": "https://x.my.salesforce.com",
    "external_id": "Ref__c",
    "fields": [{"name": "Ref__c", "from": "referral_id"}],
}
HUBSPOT: dict[str, Any] = {"kind": "hubspot", "name": "hs", "fields": ["email"]}
META: dict[str, Any] = {
    "kind": "meta_custom_audience",
    "name": "meta",
    "audience_id": "1",
    "fields": [{"name": "EMAIL", "from": "email"}],
}
GOOGLE: dict[str, Any] = {
    "kind": "google_customer_match",
    "name": "google",
    "account_id": "1",
    "audience_id": "2",
    "fields": [{"name": "emailAddress", "from": "email"}],
}


def named(*names: str) -> list[dict[str, str]]:
    return [{"name": name, "constant": "x"} for name in names]


@pytest.mark.parametrize(
    ("connection", "changes"),
    [
        pytest.param(HTTP, {"auth": {"kind": "bearer", "token": "abc"}}, id="a literal token"),
        pytest.param(HTTP, {"auth": {"kind": "basic", "username": "u", "password": "p"}}, id="a literal password in auth"),
        pytest.param(HTTP, {"auth": {"kind": "digest"}}, id="another auth"),
        pytest.param(HTTP, {"auth": {"kind": "header", "name": "Host", "value": "${env:K}"}}, id="a key as Host"),
        pytest.param(HTTP, {"auth": {"kind": "header", "name": "idempotency-key", "value": "${env:K}"}}, id="a key where the delivery's key is"),
        pytest.param(HTTP, {"auth": {"kind": "query", "name": "a&b", "value": "${env:K}"}}, id="a query name that ends itself"),
        pytest.param(HTTP, {"auth": {"kind": "query", "name": "k", "value": "${env:K}"}, "url": "http://x.example/"}, id="a key in the query without TLS"),
        pytest.param(HTTP, {"auth": BEARER, "headers": {"authorization": "x"}}, id="auth's header twice"),
        pytest.param(HTTP, {"signature": HMAC, "headers": {"x-time": "1"}}, id="the signature's time twice"),
        pytest.param(HTTP, {"signature": HMAC | {"timestamp_header": "x-sig"}}, id="signature and time in one header"),
        pytest.param(HTTP, {"signature": WEBHOOKS, "headers": {"Webhook-Id": "1"}}, id="the signature's id twice"),
        pytest.param(HTTP, {"signature": WEBHOOKS, "idempotency": {"header": "webhook-id"}}, id="the key where the signature's id is"),
        pytest.param(HTTP, {"signature": WEBHOOKS | {"secrets": []}}, id="no signing secret"),
        pytest.param(HTTP, {"signature": WEBHOOKS | {"secrets": ["${env:A}"] * 3}}, id="three signing secrets"),
        pytest.param(HTTP, {"client_certificate": {"certificate": "${env:C}"}}, id="a certificate without its key"),
        pytest.param(HTTP, {"limits": {"per_second": 0.5}}, id="half a request a second"),
        pytest.param(HTTP, {"key_ttl": 59}, id="a key forgotten at once"),
        pytest.param(HTTP, {"on_uncertain": "resend"}, id="on_uncertain of a mail"),
        pytest.param(HTTP, {"credential": "A B"}, id="a credential's name"),
        pytest.param(HTTP, {"body": "xml"}, id="another body"),
        pytest.param(HTTP, {"nested": True, "fields": named("a", "a.b")}, id="a value and an object"),
        pytest.param(HTTP, {"nested": True, "fields": named("a.b.c", "a.b")}, id="an object and a value"),
        pytest.param(HTTP, {"nested": True, "fields": named(".a")}, id="a part without a name"),
        pytest.param(HTTP, {"responses": [{"is": "delivered"}]}, id="a rule for everything"),
        pytest.param(HTTP, {"responses": [{"status": "6xx", "is": "retry"}]}, id="no such status"),
        pytest.param(HTTP, {"responses": [{"status": "2xx", "is": "retry"}] * 51}, id="too many response rules"),
        pytest.param(HTTP, {"responses": [{"json": "a" * 201, "is": "retry"}]}, id="an endless path"),
        pytest.param(HTTP, {"responses": [{"json": "(" * 100, "is": "retry"}]}, id="brackets without end"),
        pytest.param(HTTP, {"record_id": ""}, id="an empty path"),
        pytest.param(HTTP, {"removal": {"url": "https://{country}.example/"}}, id="a removal's host"),
        pytest.param(HTTP, {"removal": {"url": "https://x.example/", "method": "GET"}}, id="a removal's method"),
        pytest.param(MAILCHIMP, {"data_center": "us21.evil.example/"}, id="a data centre that leads elsewhere"),
        pytest.param(MAILCHIMP, {"list_id": "../x"}, id="a list that leads elsewhere"),
        pytest.param(MAILCHIMP, {"fields": ["referral_id"]}, id="mailchimp without email"),
        pytest.param(SALESFORCE, {"object": "Lead/x"}, id="an object that leads elsewhere"),
        pytest.param(SALESFORCE, {"fields": ["email"]}, id="salesforce without its key"),
        pytest.param(HUBSPOT, {"id_property": "ref"}, id="hubspot without its key"),
        pytest.param(META, {"fields": named("EMAIL", "email")}, id="meta's names are in capitals"),
        pytest.param(META, {"fields": named("FN", "CT")}, id="meta without a person"),
        pytest.param(META, {"audience_id": "1/users"}, id="an audience that leads elsewhere"),
        pytest.param(GOOGLE, {"fields": named("givenName", "familyName", "postalCode")}, id="google with half an address"),
        pytest.param(HTTP, {"name": "CRM"}, id="name in capitals"),
        pytest.param(HTTP, {"name": "-crm"}, id="name with outer hyphen"),
        pytest.param(HTTP, {"name": "crm\n"}, id="name with line break"),
        pytest.param(HTTP, {"name": "a{b}"}, id="name with a hash tag"),
        pytest.param(HTTP, {"name": "../x"}, id="name as a path"),
        pytest.param(HTTP, {"name": "a" * 64}, id="name too long"),
        pytest.param(HTTP, {"name": 5}, id="name a number"),
        pytest.param(HTTP, {"url": ...}, id="no url"),
        pytest.param(HTTP, {"extra": 1}, id="unknown member"),
        pytest.param(HTTP, {"kind": "fax"}, id="unknown kind"),
        pytest.param(HTTP, {"method": "GET"}, id="method"),
        pytest.param(HTTP, {"timeout": 0}, id="timeout zero"),
        pytest.param(HTTP, {"timeout": 121}, id="timeout above its bound"),
        pytest.param(HTTP, {"timeout": float("nan")}, id="timeout not a number"),
        pytest.param(HTTP, {"timeout": float("inf")}, id="timeout for ever"),
        pytest.param(HTTP, {"timeout": "20"}, id="timeout as text"),
        pytest.param(HTTP, {"timeout": True}, id="timeout yes"),
        pytest.param(HTTP, {"max_in_flight": True}, id="in flight yes"),
        pytest.param(HTTP, {"max_in_flight": 0}, id="none in flight"),
        pytest.param(HTTP, {"max_in_flight": 2.0}, id="a fraction in flight"),
        pytest.param(HTTP, {"retry_seconds": [0]}, id="no pause before a retry"),
        pytest.param(HTTP, {"retry_seconds": [604_801]}, id="a pause over a week"),
        pytest.param(HTTP, {"retry_seconds": [1] * 51}, id="too many retries"),
        pytest.param(HTTP, {"headers": {"X Y": "v"}}, id="header name with a blank"),
        pytest.param(HTTP, {"headers": {"X:": "v"}}, id="header name with a colon"),
        pytest.param(HTTP, {"headers": {"": "v"}}, id="header without a name"),
        pytest.param(HTTP, {"headers": {"X": "a\r\nY: b"}}, id="header with a line break"),
        pytest.param(HTTP, {"headers": {"X": "Zoë"}}, id="header beyond ASCII"),
        pytest.param(HTTP, {"headers": {"X": "${env:}"}}, id="reference without a name"),
        pytest.param(HTTP, {"headers": {"X": "${ENV:A}"}}, id="reference of no kind"),
        pytest.param(HTTP, {"headers": {"X": "${env:A"}}, id="reference left open"),
        pytest.param(HTTP, {"headers": {"X": "${file:run/x}"}}, id="reference to a relative path"),
        pytest.param(HTTP, {"headers": {"Content-Length": "5"}}, id="header of the client's own"),
        pytest.param(HTTP, {"headers": {"host": "x"}}, id="Host"),
        pytest.param(HTTP, {"headers": {"X-A": "1", "x-a": "2"}}, id="header twice"),
        pytest.param(HTTP, {"headers": {"idempotency-key": "1"}}, id="header that carries the key"),
        pytest.param(HTTP, {"headers": {f"X-{n}": "v" for n in range(33)}}, id="too many headers"),
        pytest.param(HTTP, {"fields": []}, id="no fields"),
        pytest.param(HTTP, {"fields": ["email", "email"]}, id="a field twice"),
        pytest.param(HTTP, {"fields": "email"}, id="fields not a list"),
        pytest.param(HTTP, {"fields": ["emial"]}, id="a field referrals do not have"),
        pytest.param(HTTP, {"campaigns": "some"}, id="campaigns neither all nor a list"),
        pytest.param(HTTP, {"campaigns": []}, id="no campaign"),
        pytest.param(HTTP, {"campaigns": [7]}, id="a campaign as a number"),
        pytest.param(HTTP, {"campaigns": ["a\nb"]}, id="a campaign with a line break"),
        pytest.param(HTTP, {"partner_data": "yes"}, id="a flag as text"),
        pytest.param(SFTP, {"host": ""}, id="no host"),
        pytest.param(SFTP, {"host": "sftp://x.example"}, id="host as a URL"),
        pytest.param(SFTP, {"host": "us@x.example"}, id="host with a user"),
        pytest.param(SFTP, {"host": "x.example:22"}, id="host with a port"),
        pytest.param(SFTP, {"host": "x.example\n"}, id="host with a line break"),
        pytest.param(SFTP, {"port": 0}, id="port 0"),
        pytest.param(SFTP, {"port": 65_536}, id="port too high"),
        pytest.param(SFTP, {"username": "  "}, id="blank user"),
        pytest.param(SFTP, {"password": "hunter2"}, id="a literal password"),
        pytest.param(SFTP, {"password": "x${env:A}"}, id="a password not wholly a reference"),
        pytest.param(SFTP, {"password": ...}, id="no credential"),
        pytest.param(SFTP, {"private_key": "${env:KEY}"}, id="two credentials"),
        pytest.param(SFTP, {"host_keys": []}, id="no host key"),
        pytest.param(SFTP, {"host_keys": ["MD5:00"]}, id="host key of another kind"),
        pytest.param(SFTP, {"directory": ""}, id="no folder"),
        pytest.param(SFTP, {"directory": "in/../../etc"}, id="folder that climbs"),
        pytest.param(SFTP, {"directory": "in\x00"}, id="folder with NUL"),
        pytest.param(SFTP, {"schedule": {"cron": "0 8 * *"}}, id="four cron fields"),
        pytest.param(SFTP, {"schedule": {"cron": "0 0 8 * * *"}}, id="six cron fields: seconds"),
        pytest.param(SFTP, {"schedule": {"cron": "@daily"}}, id="@daily"),
        pytest.param(SFTP, {"schedule": {"cron": "0 0 30 2 *"}}, id="30 February"),
        pytest.param(SFTP, {"schedule": {"cron": "61 * * * *"}}, id="minute 61"),
        pytest.param(SFTP, {"schedule": {"cron": "1," * 300 + "1 * * * *"}}, id="endless cron line"),
        pytest.param(SFTP, {"schedule": {"cron": "0 8 * * *", "zone": "Sydney"}}, id="no such zone"),
        pytest.param(SFTP, {"schedule": {"cron": "0 8 * * *", "zone": "../etc/passwd"}}, id="zone as a path"),
        pytest.param(SFTP, {"schedule": {"cron": "0 8 * * *", "zone": ""}}, id="empty zone"),
        pytest.param(SFTP, {"schedule": ["0 8 * * *", "0 9 * * *"]}, id="two schedules"),
        pytest.param(SFTP, {"file": {"delimiter": '"'}}, id="delimiter that is the quote"),
        pytest.param(SFTP, {"file": {"delimiter": "\n"}}, id="delimiter that ends lines"),
        pytest.param(SFTP, {"url": "https://x.example"}, id="a member of another kind"),
        pytest.param(EMAIL, {"recipients": []}, id="no recipient"),
        pytest.param(EMAIL, {"recipients": [f"a{n}@b.example" for n in range(500)]}, id="500 recipients"),
        pytest.param(EMAIL, {"recipients": ["a@b.example", "A@B.example"]}, id="a recipient twice"),
        pytest.param(EMAIL, {"recipients": "a@b.example"}, id="recipients not a list"),
        pytest.param(EMAIL, {"subject": "x\r\nBcc: a@b.example"}, id="subject that injects a header"),
        pytest.param(EMAIL, {"subject": "x" * 513}, id="endless subject"),
        pytest.param(EMAIL, {"on_uncertain": "ignore"}, id="on_uncertain"),
    ],
)  # fmt: skip
def test_refused(connection: dict[str, Any], changes: dict[str, Any]) -> None:
    assert not refused(connection)
    assert refused(connection, **changes)


@pytest.mark.parametrize(
    ("connection", "changes"),
    [
        pytest.param(HTTP, {"headers": {"Authorization": "Bearer ${env:TOKEN}"}}, id="a reference inside a header"),
        pytest.param(HTTP, {"headers": {"X": "${file:/run/secrets/x}"}}, id="a reference to a file"),
        pytest.param(HTTP, {"retry_seconds": []}, id="no retry"),
        pytest.param(HTTP, {"campaigns": ["7", "Spring sale"]}, id="listed campaigns"),
        pytest.param(HTTP, {"timeout": 5}, id="a whole timeout"),
        pytest.param(SFTP, {"password": ..., "private_key": "${file:/run/secrets/key}"}, id="a key"),
        pytest.param(HTTP, {"auth": BEARER, "signature": WEBHOOKS}, id="auth and signature"),
        pytest.param(HTTP, {"signature": HMAC, "headers": {"X-Other": "{{}}"}}, id="braces in a header"),
        pytest.param(HTTP, {"on_uncertain": "hold", "upsert": True}, id="hold where nothing is uncertain"),
        pytest.param(HTTP, {"nested": True, "fields": named("a.b", "a.c", "ab")}, id="nested"),
        pytest.param(HTTP, {"fields": named("a", "a.b")}, id="a dot is a dot where nothing is nested"),
        pytest.param(HTTP, {"responses": [{"status": "302", "is": "delivered"}]}, id="a redirect that says thank you"),
        pytest.param(META, {"fields": named("FN", "LN")}, id="meta by name"),
        pytest.param(GOOGLE, {"fields": named("givenName", "familyName", "postalCode", "regionCode")}, id="google by address"),
        pytest.param(SFTP, {"host": "2001:db8::1"}, id="an IPv6 host"),
        pytest.param(SFTP, {"directory": "/in/leads/"}, id="a folder with a slash behind"),
        pytest.param(SFTP, {"schedule": {"cron": "0 8 L * *"}}, id="the last day of the month"),
        pytest.param(EMAIL, {"subject": "Nuevos contactos: señal ✓"}, id="subject beyond ASCII"),
    ],
)  # fmt: skip
def test_taken(connection: dict[str, Any], changes: dict[str, Any]) -> None:
    assert not refused(connection, **changes)


def test_who_recognises_repeats_and_whose_limits_are_shared() -> None:
    given = (HTTP, HTTP | {"upsert": True, "credential": "one"}, MAILCHIMP, SALESFORCE, HUBSPOT, META, GOOGLE)
    made = [account(connection).connections[0] for connection in given]
    assert [connection.recognises_repeats for connection in made] == [False] + [True] * 6
    assert [connection.shared_as for connection in made[:2]] == ["crm", "one"]
    for connection in made:
        assert connection.address.startswith("https://")


@pytest.mark.parametrize("name", ["a b", "", "a/b", "é", "a\n", "{a}", "..", "x" * 65, ".a"])
def test_account_names_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        account(HTTP, name=name)


def test_a_folder_of_slashes_is_the_root_and_a_trailing_one_is_dropped() -> None:
    roots = [
        account(SFTP | {"directory": given}).connections[0].directory for given in ("/", "//", "/in/", ".")
    ]
    assert roots == ["/", "/", "/in", "."]


class TestSet:
    one = account(HTTP, SFTP)
    two = account(EMAIL, name="beta")

    def test_the_same_set_has_the_same_definition_whatever_the_order(self) -> None:
        forward, backward = (
            ConnectionSet(accounts=(self.one, self.two)),
            ConnectionSet(accounts=(self.two, self.one)),
        )
        assert forward.definition() == backward.definition()
        assert forward.digest == backward.digest
        assert load_definition(forward.definition()).digest == forward.digest

    def test_what_is_loaded_is_what_was_stored(self) -> None:
        rules = [
            {"name": "sex", "from": "gender", "values": {"M": "Male"}, "empty": "?"},
            {"name": "x", "constant": "é"},
            {"name": "y", "from": "opted_in_at", "format": "%Y", "zone": "UTC"},
        ]
        more = {
            "auth": BEARER,
            "signature": WEBHOOKS,
            "responses": [{"json": "ok", "equal": True, "is": "delivered"}],
            "removal": {"url": "https://x.example/{email}", "fields": ["email"]},
        }
        crms = (MAILCHIMP, SALESFORCE, HUBSPOT, META, GOOGLE)
        given = ConnectionSet(accounts=(account(HTTP | {"fields": rules} | more, *crms),))
        assert load_definition(given.definition()) == given

    def test_any_change_changes_the_digest(self) -> None:
        digests = {
            connection_digest(account(HTTP | changes).connections[0])
            for changes in (
                {},
                {"timeout": 5},
                {"fields": ["gender"]},
                {"campaigns": ["1"]},
                {"name": "other"},
            )
        }
        assert len(digests) == 5

    def test_a_definition_holds_references_as_written(self) -> None:
        assert (
            "${env:SFTP_PASSWORD}"
            in json.loads(ConnectionSet(accounts=(self.one,)).definition())["accounts"][0]["connections"][1][
                "password"
            ]
        )

    def test_names_are_unique_over_all_accounts(self) -> None:
        for twice in ((self.one, self.one), (self.one, account(HTTP, name="beta"))):
            with pytest.raises(ValidationError, match="given twice"):
                ConnectionSet(accounts=twice)

    def test_connections_of_one_credential_state_the_same_limits(self) -> None:
        shared = {"credential": "one", "limits": {"per_second": 5}}
        one, same = account(HTTP | shared), account(MAILCHIMP | shared, name="beta")
        assert ConnectionSet(accounts=(one, same))
        other = account(MAILCHIMP | {"credential": "one"}, name="beta")
        with pytest.raises(ValidationError, match="other limits: one"):
            ConnectionSet(accounts=(one, other))

    def test_a_connection_is_found_with_its_account(self) -> None:
        found = ConnectionSet(accounts=(self.one, self.two)).by_name()
        assert {name: owner for name, (owner, _) in found.items()} == {
            "crm": "acme",
            "nightly": "acme",
            "weekly": "beta",
        }
