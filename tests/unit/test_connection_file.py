"""Connections files as people write them: every error at once, in its line, without a value."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas import yaml_lines
from schemas.connection import Account, ConnectionSet, load_definition
from schemas.connection_file import Problem, assemble, parse

GOOD = """\
# Acme's connections
account: acme
connections:
  - name: crm
    kind: http
    url: https://crm.example.com/leads
    headers:
      Authorization: Bearer ${env:CRM_TOKEN}
    fields: &fields
      - email
      - {name: sex, from: gender, values: {M: Male, F: Female}, empty: Unknown}
      - name: origin
        constant: marketplace
  - name: nightly
    kind: sftp
    host: sftp.example.com
    username: us
    password: ${file:/run/secrets/sftp}
    host_keys: ["SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]
    schedule: {cron: "0 8 * * *", zone: Australia/Sydney}
    fields: *fields
  - name: weekly
    kind: email
    recipients: [leads@acme.example]
    schedule:
      cron: 0 8 * * 1
    file:
      delimiter: ";"
      header: yes
    fields: [email, postal_code]
"""


def problems(text: str, file: str = "acme.yaml") -> list[Problem]:
    found = parse(text, file)
    assert isinstance(found, list), "the text was taken"
    assert found == sorted(found)
    assert all(problem.file == file and problem.what and problem.remedy for problem in found)
    assert all(1 <= problem.line <= text.count("\n") + 1 for problem in found)
    return found


def edited(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_a_good_file_is_an_account() -> None:
    found = parse(GOOD, "acme.yaml")
    assert isinstance(found, Account)
    crm, nightly, weekly = found.connections
    assert crm.fields == nightly.fields
    assert weekly.file.header is True
    assert weekly.schedule.cron == "0 8 * * 1"


@pytest.mark.parametrize(
    ("old", "new", "line", "where", "says"),
    [
        pytest.param("account: acme\n", "", 2, "account", "is missing; add account", id="account missing"),
        pytest.param("account: acme", "account: a/b", 2, "account", "use 1 to 64 letters", id="account name"),
        pytest.param("account: acme", "acount: acme", 2, "acount", "did you mean account?", id="member misspelt"),
        pytest.param("account: acme", "account: 08", 2, "", "", id="08 is text and stays it"),
        pytest.param("account: acme", "account: 010", 2, "account", "put it in quotes", id="010 is 8"),
        pytest.param("account: acme", "account: NO", 2, "account", "put it in quotes", id="NO is false"),
        pytest.param("account: acme", "account: 1.5e+3", 2, "account", "put it in quotes", id="1.5e+3 is 1500"),
        pytest.param("account: acme", "account: 2026-01-01", 2, "account", "YAML reads this as a date", id="a date"),
        pytest.param("account: acme", "account: 12:30", 2, "account", "put it in quotes", id="12:30 is 750"),
        pytest.param("account: acme", "account:", 2, "account", "here stands nothing", id="nothing"),
        pytest.param("account: acme", "account: [acme]", 2, "account", "here stands a list", id="a list"),
        pytest.param("name: crm", "name: CRM", 4, "connections[0].name", "lower-case", id="name"),
        pytest.param("    kind: http\n", "", 4, "connections[0].kind", "is missing", id="kind missing"),
        pytest.param("kind: http", "kind: htpp", 5, "connections[0].kind", "did you mean http?", id="kind misspelt"),
        pytest.param("kind: http", "kind: [http]", 5, "connections[0].kind", "must be http, mailchimp", id="kind a list"),
        pytest.param("url: https://crm.example.com/leads", "uri: x", 4, "connections[0].url", "is missing", id="missing: parent's line"),
        pytest.param("https://crm.example.com/leads", "crm.example.com", 6, "connections[0].url", "whole https://", id="url"),
        pytest.param("https://crm.example.com/leads", "https://a:b@crm.example", 6, "connections[0].url", "header as a", id="url with password"),
        pytest.param("https://crm.example.com/leads", "https://x.example/?Access_Token=abc", 6, "connections[0].url", "holds a secret", id="url with token"),
        pytest.param("Bearer ${env:CRM_TOKEN}", "Bearer abc", 8, "connections[0].headers.Authorization", "secret in plain text", id="literal bearer"),
        pytest.param("Authorization: Bearer ${env:CRM_TOKEN}", "X-Api-Key: abc", 8, "connections[0].headers.X-Api-Key", "secret in plain text", id="literal key"),
        pytest.param("Authorization: Bearer ${env:CRM_TOKEN}", "my_secret: abc", 8, "connections[0].headers.my_secret", "secret in plain text", id="literal secret"),
        pytest.param("Authorization: Bearer ${env:CRM_TOKEN}", "X-Other: basic YWJj", 8, "connections[0].headers.X-Other", "secret in plain text", id="basic by value"),
        pytest.param("Bearer ${env:CRM_TOKEN}", "Bearer ${CRM_TOKEN}", 8, "connections[0].headers.Authorization", "secret in plain text", id="reference of no kind"),
        pytest.param("Authorization: Bearer ${env:CRM_TOKEN}", "X-Note: ${CRM_TOKEN}", 8, "connections[0].headers.X-Note", "a reference is written", id="reference elsewhere"),
        pytest.param("Bearer ${env:CRM_TOKEN}", "Bearer ${env:A}\n      authorization: ${env:B}", 9, "connections[0].headers.authorization", "given twice (line 8)", id="header twice"),
        pytest.param("Authorization: Bearer ${env:CRM_TOKEN}", "Idempotency-Key: x", 8, "connections[0].headers.Idempotency-Key", "given twice", id="header of the key"),
        pytest.param("Bearer ${env:CRM_TOKEN}", "Bearer ${env:A}\n      Authorization: ${env:B}", 9, "connections[0].headers.Authorization", "given twice, first in line 8", id="key twice"),
        pytest.param("      - email\n", "      - emial\n", 10, "connections[0].fields[0]", "did you mean email?", id="field misspelt"),
        pytest.param("from: gender", "from: attributes", 11, "connections[0].fields[1]", "attributes.<name>", id="nested field whole"),
        pytest.param("empty: Unknown", "emtpy: Unknown", 11, "connections[0].fields[1].emtpy", "did you mean empty?", id="rule misspelt"),
        pytest.param("{M: Male, F: Female}", "{M: Male, NO: Female}", 11, "connections[0].fields[1].values", "name in quotes", id="NO as a name"),
        pytest.param("{M: Male, F: Female}", "{M: Male, F: on}", 11, "connections[0].fields[1]", "in quotes", id="on as a value"),
        pytest.param("name: origin", "name: email", 12, "connections[0].fields[2].name", "has this name (line 10)", id="column twice"),
        pytest.param("name: origin", 'name: "or\\udc80igin"', 12, "connections[0].fields[2].name", "half a surrogate pair", id="half a surrogate pair"),
        pytest.param("name: origin", "name: api_key", 13, "connections[0].fields[2].constant", "secret in plain text", id="secret in the body"),
        pytest.param("    password: ${file:/run/secrets/sftp}\n", "", 14, "connections[1]", "no password or private_key", id="no credential"),
        pytest.param("${file:/run/secrets/sftp}", "hunter2", 18, "connections[1].password", "a secret is a reference", id="literal password"),
        pytest.param("username: us", "username: us\n    private_key: ${env:K}", 14, "connections[1]", "both password and private_key", id="two credentials"),
        pytest.param('"0 8 * * *"', '"0 8 30 2 *"', 20, "connections[1].schedule.cron", "cron line", id="30 February"),
        pytest.param("Australia/Sydney", "Sydney", 20, "connections[1].schedule.zone", "IANA", id="zone"),
        pytest.param("username: us", "username: us\n    url: https://x.example", 18, "connections[1].url", "only http connections have it", id="a member of another kind"),
        pytest.param("username: us", 'username: us\n    port: "22"', 18, "connections[1].port", "without quotes", id="number in quotes"),
        pytest.param("username: us", "username: us\n    port: 022", 18, "connections[1].port", "plain number", id="octal number"),
        pytest.param("username: us", "username: us\n    port: 22.5", 18, "connections[1].port", "whole number", id="fraction"),
        pytest.param("username: us", "username: us\n    port: 1e3", 18, "connections[1].port", "without quotes, leading zeros or exponent", id="1e3 is text"),
        pytest.param("username: us", "username: us\n    port: 70000", 18, "connections[1].port", "at most 65,535", id="over its bound"),
        pytest.param("username: us", "username: us\n    timeout: .inf", 18, "connections[1].timeout", "plain number", id="for ever"),
        pytest.param("[leads@acme.example]", "[]", 24, "connections[2].recipients", "at least 1", id="no recipient"),
        pytest.param("[leads@acme.example]", "[a@b.example, A@b.example]", 24, "connections[2].recipients[1]", "stands twice", id="recipient twice"),
        pytest.param("[leads@acme.example]", "[Bob <a@b.example>]", 24, "connections[2].recipients[0]", "plain email", id="recipient"),
        pytest.param("[leads@acme.example]", "a@b.example", 24, "connections[2].recipients", "a list is wanted", id="recipients no list"),
        pytest.param("[leads@acme.example]", f"[{', '.join(f'a{n}@b.example' for n in range(500))}]", 24, "connections[2].recipients", "has more than 50 entries; leave some out", id="500 recipients"),
        pytest.param("[leads@acme.example]", '["a@b.example\\r\\nBcc: x@y.example"]', 24, "connections[2].recipients[0]", "a plain email address such as leads@example.com (ASCII", id="recipient that injects a header"),
        pytest.param("[leads@acme.example]", "[zoë@b.example]", 24, "connections[2].recipients[0]", "a plain email address such as leads@example.com (ASCII", id="recipient beyond ASCII"),
        pytest.param("[leads@acme.example]", "[a@bücher.example]", 24, "connections[2].recipients[0]", "a plain email address such as leads@example.com (ASCII", id="domain beyond ASCII"),
        pytest.param("[leads@acme.example]", "[a+b@xn--bcher-kva.example]", 24, "", "", id="plus address in an international domain"),
        pytest.param("[leads@acme.example]", '["boss@acme.example <x@evil.example>"]', 24, "connections[2].recipients[0]", "a plain email address such as leads@example.com (ASCII", id="an address as the name of another"),
        pytest.param("[leads@acme.example]", '["a@b.example, c@d.example"]', 24, "connections[2].recipients[0]", "a plain email address such as leads@example.com (ASCII", id="two recipients in one"),
        pytest.param("[leads@acme.example]", "[a@b.example, a@B.EXAMPLE]", 24, "connections[2].recipients[1]", "stands twice (line 24); keep one", id="recipient twice by domain"),
        pytest.param("[leads@acme.example]", '[a@b.example]\n    subject: "x\\r\\nBcc: a@b.example"', 25, "connections[2].subject", "one line of printable text only", id="subject that injects a header"),
        pytest.param('      delimiter: ";"', "      name: '/tmp/{number}'", 28, "connections[2].file.name", "without folders", id="file by an absolute path"),
        pytest.param('      delimiter: ";"', "      name: 'con.{number}'", 28, "connections[2].file.name", "a device: begin it otherwise", id="file named as a device"),
        pytest.param('      delimiter: ";"', "      name: 'leads-{date:%Y%m%d}'", 28, "connections[2].file.name", "the same name: add {number:06} or {window}", id="file of one name for all windows"),
        pytest.param('      delimiter: ";"', "      name: '{email}-{number}'", 28, "connections[2].file.name", "the parts of a file's name are {account}", id="a person in the name of a file"),
        pytest.param('      delimiter: ";"', "      name: {number}", 28, "connections[2].file.name", "a text is wanted, here stands a mapping", id="name without its quotes"),
        pytest.param("[email, postal_code]", "[email, phone]", 30, "connections[2].fields[1]", "referrals have no field of this name: did you mean phone_raw?", id="column of a field that is not there"),
        pytest.param("[email, postal_code]", "[{name: zip}]", 30, "connections[2].fields[0]", "give either from or constant", id="column of nothing"),
        pytest.param("[email, postal_code]", "[{name: x, from: attributes.}]", 30, "connections[2].fields[0]", "attributes.<name>", id="column of no attribute"),
        pytest.param("[email, postal_code]", '[{name: "a\\nb", from: email}]', 30, "connections[2].fields[0]", "one line of printable text", id="column named over two lines"),
        pytest.param("[email, postal_code]", f"[{', '.join(f'{{name: c{n}, from: email}}' for n in range(201))}]", 30, "connections[2].fields", "has more than 200 entries", id="201 columns"),
        pytest.param("[email, postal_code]", "[email]\n    campaigns: []", 31, "connections[2].campaigns", "needs at least 1 entry; add one", id="no campaign"),
        pytest.param("username: us", "username: us\n    directory: ../in", 18, "connections[1].directory", "without '..'", id="folder that climbs"),
        pytest.param("account: acme", 'account: acme\napproved_recipients: ["@ACME.example"]', 0, "", "", id="approved by domain"),
        pytest.param("account: acme", "account: acme\napproved_recipients: [x@acme.example, Leads@Acme.Example]", 0, "", "", id="approved by mailbox"),
        pytest.param("account: acme", 'account: acme\napproved_recipients: ["@other.example", lead@acme.example]', 25, "connections[2].recipients[0]", "recipient 1 of weekly is not among the account's approved_recipients; add it there, or leave it out here", id="not approved"),
        pytest.param("zone: Australia/Sydney", "zone: GMT+2", 20, "connections[1].schedule.zone", "give an IANA time zone such as Australia/Sydney", id="a zone whose like lies the other way"),
        pytest.param("account: acme", 'account: acme\napproved_recipients: ["@example"]', 3, "approved_recipients[0]", "a whole domain as", id="approved top domain"),
        pytest.param("account: acme", 'account: acme\napproved_recipients: ["*@acme.example"]', 3, "approved_recipients[0]", "a whole domain as", id="approved by a star"),
        pytest.param("account: acme", 'account: acme\napproved_recipients: ["@bücher.example"]', 3, "approved_recipients[0]", "xn-- form", id="approved domain beyond ASCII"),
        pytest.param("account: acme", "account: acme\napproved_recipients: [Leads <leads@acme.example>]", 3, "approved_recipients[0]", "give a plain email address", id="approved by a name"),
        pytest.param("account: acme", "account: acme\napproved_recipients: []", 3, "approved_recipients", "needs at least 1 entry; add one", id="nobody approved"),
        pytest.param("account: acme", "account: acme\napproved_recipients:", 3, "approved_recipients", "here stands nothing", id="approved list left empty"),
        pytest.param("account: acme", "account: acme\napproved_recipents: []", 3, "approved_recipents", "did you mean approved_recipients?", id="approved misspelt"),
        pytest.param('";"', '":"', 28, "connections[2].file.delimiter", "must be ','", id="delimiter"),
        pytest.param("header: yes", 'header: "yes"', 29, "connections[2].file.header", "true or false is wanted", id="flag in quotes"),
        pytest.param("[email, postal_code]", "[email, 5]", 30, "connections[2].fields[1]", "mapping (name: value)", id="field a number"),
        pytest.param("[email, postal_code]", "[]", 30, "connections[2].fields", "at least 1", id="no field"),
        pytest.param("[email, postal_code]", "[email, postal_code]\n    campaigns: some", 31, "connections[2].campaigns", "must be 'all'", id="campaigns"),
        pytest.param("[email, postal_code]", "[email, postal_code]\n    campaigns: [12]", 31, "connections[2].campaigns[0]", "put it in quotes", id="campaign a number"),
        pytest.param("name: weekly", "name: crm", 22, "connections[2].name", "already stands in acme.yaml:4", id="connection twice"),
        pytest.param("[email, postal_code]", "[email, !secret x]", 30, "connections[2].fields[1]", "a tag (!)", id="tag"),
        pytest.param("[email, postal_code]", "[email, !!python/name:os.system x]", 30, "connections[2].fields[1]", "a tag (!)", id="tag that runs code"),
        pytest.param("*fields", "*feilds", 21, "connections[1].fields", "no finished anchor", id="alias"),
    ],
)  # fmt: skip
def test_one_error_is_one_problem_in_its_line(old: str, new: str, line: int, where: str, says: str) -> None:
    text = edited(old, new)
    if not where:
        assert isinstance(parse(text, "acme.yaml"), Account)
        return
    found = assemble([("acme.yaml", text)])
    assert isinstance(found, list)
    [problem] = [problem for problem in found if problem.where == where]
    assert (problem.line, problem.file) == (line, "acme.yaml")
    assert says in f"{problem.what}; {problem.remedy}"
    extra = {problem.where for problem in found} - {where}
    assert extra <= {"account", "connections[0].uri"}, "one slip is not told as several"


PUSHED = """\
account: acme
connections:
  - name: crm
    kind: http
    url: https://crm.example.com/leads/{referral_id}
    auth: {kind: bearer, token: "${env:TOKEN}"}
    signature:
      kind: hmac
      secret: ${env:SIGNING}
      header: X-Signature
    headers:
      X-Campaign: "{campaign_id}"
    nested: true
    responses:
      - {status: 2xx, json: ok, equal: true, is: delivered}
      - status: "409"
        text: exists
        is: duplicate
    record_id: result.id
    removal:
      url: https://crm.example.com/leads/{referral_id}
      fields: [referral_id]
    limits: {per_second: 5}
    fields:
      - {name: person.mail, from: email}
      - {name: at, from: opted_in_at, format: "%Y", zone: UTC}
      - {name: tier, from: attributes.tier, rules: [{regex: "^gold", value: G}]}
  - name: list
    kind: mailchimp
    data_center: us21
    list_id: abc
    auth: {kind: basic, username: us, password: "${env:MC}"}
    credential: chimp
    limits: {connections: 10}
    fields: [email, {name: FNAME, from: first_name}]
  - name: leads
    kind: salesforce
    instance_url: https://acme.my.salesforce.com
    external_id: Ref__c
    auth: {kind: oauth2, token_url: "https://login.salesforce.com/services/oauth2/token", client_id: x, client_secret: "${env:SF}"}
    fields:
      - {name: Ref__c, from: referral_id}
  - name: contacts
    kind: hubspot
    auth: {kind: bearer, token: "${env:HS}"}
    fields:
      - email
  - name: meta
    kind: meta_custom_audience
    audience_id: "12"
    auth: {kind: bearer, token: "${env:META}"}
    fields:
      - {name: EMAIL, from: email}
  - name: google
    kind: google_customer_match
    account_id: "1"
    audience_id: "2"
    auth: {kind: oauth2_assertion, token_url: "https://oauth2.googleapis.com/token", issuer: i@x.example, private_key: "${env:G}"}
    fields:
      - {name: phoneNumber, from: phone_e164}
"""


def test_every_pushed_kind_is_taken_as_written() -> None:
    found = parse(PUSHED, "acme.yaml")
    assert isinstance(found, Account), found
    assert [connection.kind for connection in found.connections] == [
        "http", "mailchimp", "salesforce", "hubspot", "meta_custom_audience", "google_customer_match",
    ]  # fmt: skip
    assert [connection.recognises_repeats for connection in found.connections] == [False] + [True] * 5
    assert load_definition(ConnectionSet(accounts=(found,)).definition()).accounts == (found,)


@pytest.mark.parametrize("recipient", ['"Leads <leads@acme.example>"', '"leads@\u0430cme.example"'])
def test_what_is_no_address_is_told_as_that_and_not_as_one_nobody_approved(recipient: str) -> None:
    approved = edited("account: acme", 'account: acme\napproved_recipients: ["@acme.example"]')
    (problem,) = problems(approved.replace("[leads@acme.example]", f"[{recipient}]"))
    assert problem.where == "connections[2].recipients[0]"
    assert "give a plain email address" in problem.remedy


@pytest.mark.parametrize(
    ("old", "new", "line", "where", "says"),
    [
        pytest.param("leads/{referral_id}\n    auth", "leads/{refferal_id}\n    auth", 5, "connections[0].url", "did you mean referral_id?", id="field of an address"),
        pytest.param("crm.example.com/leads/{referral_id}\n    auth", "{campaign_id}.example.com\n    auth", 5, "connections[0].url", "never in scheme, host or port", id="field in the host"),
        pytest.param("crm.example.com/leads/{referral_id}\n    auth", "crm.example.com:{age}/\n    auth", 5, "connections[0].url", "cannot be used", id="field in the port"),
        pytest.param("https://crm.example.com/leads/{referral_id}\n    auth", "'{attributes.url}'\n    auth", 5, "connections[0].url", "whole https://", id="field as the address"),
        pytest.param("leads/{referral_id}\n    auth", "leads/${env:PATH}\n    auth", 5, "connections[0].url", "use auth", id="secret in the address"),
        pytest.param("leads/{referral_id}\n    auth", "leads/{referral_id\n    auth", 5, "connections[0].url", "a brace by itself", id="brace left open"),
        pytest.param("leads/{referral_id}\n    auth", "leads?api_key=abc\n    auth", 5, "connections[0].url", "holds a secret", id="secret in the query"),
        pytest.param('token: "${env:TOKEN}"', "token: abc", 6, "connections[0].auth.token", "a secret is a reference", id="literal token"),
        pytest.param('kind: bearer, token: "${env:TOKEN}', 'kind: baerer, token: "${env:TOKEN}', 6, "connections[0].auth.kind", "did you mean bearer?", id="auth misspelt"),
        pytest.param('{kind: bearer, token: "${env:TOKEN}"}', '{token: "${env:TOKEN}"}', 6, "connections[0].auth.kind", "add kind: none, header", id="auth of no kind"),
        pytest.param('{kind: bearer, token: "${env:TOKEN}"}', '{kind: bearer, token: "${env:T}", tokn: x}', 6, "connections[0].auth.tokn", "did you mean token?", id="auth's member misspelt"),
        pytest.param('{kind: bearer, token: "${env:TOKEN}"}', '{kind: query, name: k, value: "${env:K}"}\n    base: 1', 7, "connections[0].base", "is unknown here", id="unknown member"),
        pytest.param("kind: hmac", "kind: hmca", 8, "connections[0].signature.kind", "must be hmac or standard_webhooks", id="signature misspelt"),
        pytest.param("header: X-Signature", "header: Authorization", 7, "connections[0].signature", "auth and signature write the same header", id="signature where auth is"),
        pytest.param("header: X-Signature", "header: x-campaign", 12, "connections[0].headers.X-Campaign", "signature writes this header", id="header of the signature"),
        pytest.param('X-Campaign: "{campaign_id}"', "authorization: ${env:A}", 12, "connections[0].headers.authorization", "auth writes this header", id="header of auth"),
        pytest.param("    headers:\n", "    idempotency: {header: x-signature}\n    headers:\n", 11, "connections[0].idempotency", "the header of the key", id="signature where the key is"),
        pytest.param('"{campaign_id}"', '"{campain_id}"', 12, "connections[0].headers.X-Campaign", "did you mean campaign_id?", id="field of a header"),
        pytest.param('"{campaign_id}"', '"{"', 12, "connections[0].headers.X-Campaign", "a brace by itself", id="brace in a header"),
        pytest.param("nested: true", "nested: true\n    body: form", 13, "connections[0].nested", "a form has no objects", id="a nested form"),
        pytest.param("{status: 2xx, json: ok, equal: true, is: delivered}", "{status: 2xx, json: ok, equal: true}", 15, "connections[0].responses[0].is", "is missing", id="rule without verdict"),
        pytest.param("{status: 2xx, json: ok, equal: true, is: delivered}", "{is: delivered}", 15, "connections[0].responses[0]", "say when the rule applies", id="rule without condition"),
        pytest.param("equal: true, is", "equal: true, contains: x, is", 15, "connections[0].responses[0]", "either equal or contains", id="two comparisons"),
        pytest.param("status: 2xx, json: ok, equal", "status: 2xx, equal", 15, "connections[0].responses[0]", "add json", id="comparison with nothing"),
        pytest.param("json: ok", "json: 'ok['", 15, "connections[0].responses[0].json", "no JMESPath", id="broken path"),
        pytest.param("json: ok", "json: '[a, b]'", 15, "connections[0].responses[0].json", "leads to one value", id="path to several"),
        pytest.param("json: ok", "json: 'upper(a)'", 15, "connections[0].responses[0].json", "no function of this name", id="unknown function"),
        pytest.param("is: delivered", "is: done", 15, "connections[0].responses[0].is", "'delivered', 'duplicate'", id="verdict"),
        pytest.param('status: "409"', "status: 409", 16, "connections[0].responses[1].status", "put it in quotes", id="status a number"),
        pytest.param('status: "409"', 'status: "4x9"', 16, "connections[0].responses[1].status", "400-499", id="status"),
        pytest.param('status: "409"', 'status: "499-400"', 16, "connections[0].responses[1].status", "400-499", id="statuses backwards"),
        pytest.param("record_id: result.id", "record_id: result..id", 19, "connections[0].record_id", "no JMESPath", id="record_id"),
        pytest.param("fields: [referral_id]", "fields: [referral_id, referral_id]", 22, "connections[0].removal.fields", "the same name", id="removal's field twice"),
        pytest.param("fields: [referral_id]", "fields: [referral_id]\n      methd: POST", 23, "connections[0].removal.methd", "did you mean method?", id="removal's member misspelt"),
        pytest.param("fields: [referral_id]", "fields: [{name: a..b, from: email}]", 22, "connections[0].removal.fields[0]", "a part of the name is empty", id="part without a name"),
        pytest.param("fields: [referral_id]", "fields: [{name: token, constant: abc}]", 22, "connections[0].removal.fields[0].constant", "secret in plain text", id="secret in the removal"),
        pytest.param("limits: {per_second: 5}", "limits: {per_second: 0}", 23, "connections[0].limits.per_second", "at least 1", id="no request a second"),
        pytest.param("limits: {per_second: 5}", "limits: {per_secnd: 5}", 23, "connections[0].limits.per_secnd", "did you mean per_second?", id="limit misspelt"),
        pytest.param("limits: {per_second: 5}", "limits: {connections: 0}", 23, "connections[0].limits.connections", "at least 1", id="no connection"),
        pytest.param("name: at,", "name: person,", 25, "connections[0].fields[0]", "wants an object", id="a value and an object"),
        pytest.param('"%Y"', '"%B"', 26, "connections[0].fields[1]", "the directives here are", id="format"),
        pytest.param('"^gold"', '"(a+)+$"', 27, "connections[0].fields[2].rules[0].regex", "could run for ever", id="regex"),
        pytest.param("data_center: us21", "data_center: us21\n    external_id: x", 31, "connections[1].external_id", "only salesforce connections have it", id="a member of another kind"),
        pytest.param("data_center: us21", "data_center: us21\n    url: https://x.example", 31, "connections[1].url", "only http connections have it", id="a url of its own"),
        pytest.param("    auth: {kind: basic, username: us", '    client_certificate: {certificate: "${env:C}", private_key: "${env:K}"}\n    auth: {kind: basic, username: us', 32, "", "", id="a client certificate beside a login"),
        pytest.param('    auth: {kind: basic, username: us, password: "${env:MC}"}\n', "", 28, "connections[1].auth", "add auth: {kind: basic", id="mailchimp without a login"),
        pytest.param('{kind: basic, username: us, password: "${env:MC}"}', "{kind: none}", 28, "connections[1].auth", "add auth: {kind: basic", id="mailchimp with no login"),
        pytest.param("data_center: us21", "data_center: US-21", 30, "connections[1].data_center", "the end of the API key", id="data centre"),
        pytest.param("data_center: us21", "data_center: us21\n    base_url: 'https://x.example/{email}#x'", 31, "connections[1].base_url", "no fragment", id="a base with a fragment"),
        pytest.param("data_center: us21", "data_center: us21\n    base_url: 'https://x.example/${env:MC}'", 31, "connections[1].base_url", "without braces", id="a base with a reference"),
        pytest.param("data_center: us21", "data_center: us21\n    base_url: 'https://x.example/?a=b'", 31, "connections[1].base_url", "leave its query", id="a base with a query"),
        pytest.param("oauth2/token", "oauth2/{country}", 40, "connections[2].auth.token_url", "without braces", id="a field in the token's address"),
        pytest.param("external_id: Ref__c", "external_id: Ref c", 39, "connections[2].external_id", "give the API name", id="external id"),
        pytest.param('audience_id: "12"', "audience_id: 12", 50, "connections[4].audience_id", "put it in quotes", id="audience a number"),
        pytest.param('account_id: "1"', 'account_id: "123-456"', 56, "connections[5].account_id", "digits alone", id="account with hyphens"),
        pytest.param("username: us", "username: '${US}'", 32, "connections[1].auth.username", "a reference is written", id="username by reference"),
        pytest.param("leads/{referral_id}\n    auth", "leads?key={referral_id}\n    auth", 5, "", "", id="a field called key is no secret"),
        pytest.param('X-Campaign: "{campaign_id}"', 'X-Session-Token: "{attributes.token}"', 12, "", "", id="a token of the referral's is no secret"),
        pytest.param('X-Campaign: "{campaign_id}"', 'X-Session-Token: "abc{attributes.token}"', 12, "connections[0].headers.X-Session-Token", "secret in plain text", id="a secret beside a field"),
        pytest.param("[email, {name: FNAME, from: first_name}]", "[referral_id]", 35, "connections[1].fields", "by the email address; add {name: email, from: email}", id="mailchimp without email"),
        pytest.param("name: FNAME", "name: First name", 35, "connections[1].fields[1]", "tag has at most 10 letters", id="mailchimp's tag"),
        pytest.param("{name: Ref__c, from: referral_id}", "{name: Email, from: email}", 41, "connections[2].fields", "no field is named Ref__c", id="salesforce without its key"),
        pytest.param("oauth2/token", "oauth2/token?client_secret=abc", 40, "connections[2].auth.token_url", "holds a secret", id="secret in the token's address"),
        pytest.param("      - email\n", "      - {name: mail, from: email}\n", 46, "connections[3].fields", "no field is named email", id="hubspot without its key"),
        pytest.param("{name: EMAIL, from: email}", "{name: email, from: email}", 53, "connections[4].fields[0]", "Meta has no identifier of this name; name it one of COUNTRY, CT", id="meta's identifier"),
        pytest.param("{name: EMAIL, from: email}", "{name: CT, from: city}", 52, "connections[4].fields", "Meta finds nobody by these fields alone", id="meta without a person"),
        pytest.param("{name: phoneNumber, from: phone_e164}", "{name: givenName, from: first_name}", 59, "connections[5].fields", "add {name: emailAddress, from: email}", id="google without a person"),
    ],
)  # fmt: skip
def test_one_slip_in_a_pushed_kind_is_one_problem(
    old: str, new: str, line: int, where: str, says: str
) -> None:
    assert PUSHED.count(old) == 1
    if not where:
        assert isinstance(parse(PUSHED.replace(old, new), "acme.yaml"), Account)
        return
    found = problems(PUSHED.replace(old, new))
    assert [(problem.line, problem.where) for problem in found] == [(line, where)]
    assert says in f"{found[0].what}; {found[0].remedy}"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        pytest.param("http://crm.example.com/", "could be read on the way; use https", id="without TLS"),
        pytest.param("https://crm.example.com/?k=1", "has this name in its query already", id="name taken"),
        pytest.param("https://crm.example.com/?x=1", None, id="with TLS"),
        pytest.param("http://127.0.0.1:8080/", None, id="on this machine"),
        pytest.param("http://127.0.0.1.example.com/", "could be read on the way", id="not on this machine"),
    ],
)
def test_a_key_in_the_query(url: str, says: str | None) -> None:
    auth = '\n    auth: {kind: query, name: k, value: "${env:K}"}'
    text = edited("    url: https://crm.example.com/leads", f"    url: {url}{auth}")
    if says is None:
        assert isinstance(parse(text, "acme.yaml"), Account)
        return
    [problem] = problems(text)
    assert problem.line == 7
    assert says in str(problem)


SHARED = """\
account: {account}
connections:
  - name: {name}
    kind: mailchimp
    data_center: us21
    list_id: abc
    credential: {credential}
    auth: {{kind: bearer, token: "${{env:T}}"}}
    limits: {limits}
    fields: [email]
"""


@pytest.mark.parametrize(
    ("credential", "limits", "told"),
    [
        pytest.param("chimp", "{connections: 10}", False, id="the same"),
        pytest.param("chimp", "{connections: 9}", True, id="another number"),
        pytest.param("chimp", "{}", True, id="none"),
        pytest.param("other", "{}", False, id="another credential"),
    ],
)
def test_connections_of_one_credential_state_the_same_limits(
    credential: str, limits: str, told: bool
) -> None:
    one = SHARED.format(account="a", name="one", credential="chimp", limits="{connections: 10}")
    two = SHARED.format(account="b", name="two", credential=credential, limits=limits)
    found = assemble([("a.yaml", one), ("b.yaml", two)])
    assert isinstance(found, list) is told
    if isinstance(found, list):
        [problem] = found
        assert str(problem) == (
            "b.yaml:9: connections[0].limits: other limits stand in a.yaml:9 for the same credential; "
            "state the same limits wherever it is used"
        )


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        pytest.param("", 1, "empty", id="empty"),
        pytest.param("\n# nothing\n", 1, "empty", id="only a comment"),
        pytest.param("---\n", 1, "empty", id="an empty document"),
        pytest.param("acme", 1, "a mapping", id="a text"),
        pytest.param("- account: a", 1, "a mapping", id="a list"),
        pytest.param(
            "account: a\nconnections: []\n---\naccount: b\n", 3, "second document", id="two documents"
        ),
        pytest.param("account: a\nconnections: [\n", 3, "not YAML", id="bracket left open"),
        pytest.param('account: "a\nconnections: []\n\n', 1, "quote is opened here", id="quote left open"),
        pytest.param("account: a\n\tconnections: []", 2, "indent with spaces", id="tab before a member"),
        pytest.param(
            "account: a\nconnections:\n\t- name: x", 3, "indent with spaces", id="tab before an item"
        ),
        pytest.param("account: a: b\n", 1, "colon", id="two colons"),
        pytest.param("account: @a\n", 1, "quote it", id="a reserved character"),
        pytest.param("account: a\nx: \x00", 2, "character that YAML does not allow", id="NUL"),
        pytest.param("account: \ud800", 1, "character that YAML does not allow", id="half a surrogate pair"),
        pytest.param("%YAML 9.9\n---\na: 1", 1, "another version", id="another YAML"),
        pytest.param("? [a]\n: b\n", 1, "must be a text", id="a list as a name"),
        pytest.param("a: &a [*a]\n", 1, "no finished anchor", id="a list that holds itself"),
        pytest.param("a:\n " + "[" * 5000 + "]" * 5000, 2, "nested over", id="nested without end"),
        pytest.param("a" * 500_001, 1, "over 500,000 characters", id="too long"),
        pytest.param("account: " + "9" * 5000, 1, "quotes", id="an endless number"),
        pytest.param("<<: {account: a}\n", 1, "merges", id="merge"),
    ],
)
def test_what_is_no_such_file(text: str, line: int, says: str) -> None:
    found = problems(text)
    assert found[0].line == line
    assert says in str(found[0])


def test_a_billion_laughs_stay_small() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 15)]
    started = time.perf_counter()
    found = problems("\n".join(lines))
    assert "once every alias is written out" in found[0].what
    assert time.perf_counter() - started < 5

    deep = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 40)]
    assert "nested over" in problems("\n".join(deep))[0].what


def test_the_largest_file_is_read_in_a_bounded_time() -> None:
    rows = "\n".join(f"      - {{name: f{n}, from: email, empty: x}}" for n in range(20))
    connection = "  - name: c{}\n    kind: http\n    url: https://x.example\n    fields:\n" + rows.replace(
        "{", "{{"
    ).replace("}", "}}")
    text = "account: a\nconnections:\n" + "\n".join(connection.format(n) for n in range(100))
    assert len(text) < yaml_lines.MAX_CHARS
    started = time.perf_counter()
    assert isinstance(parse(text, "a.yaml"), Account)
    assert time.perf_counter() - started < 20


BAD = """\
account: 010
conections: []
connections:
  - name: Crm
    kind: http
    url: https://crm.example.com/leads?api_key=hunter2
    metod: PUT
    headers:
      Authorization: Bearer hunter2
    idempotency: {headr: x}
    fields: [emial, email, email]
  - name: b
    kind: sftp
    password: hunter2
    passphrase: [hunter2]
    private_key: *hunter2x
"""


def test_every_error_is_told_at_once_over_all_files() -> None:
    bad = BAD.replace("*hunter2x", "!hunter2x hunter2")
    found = assemble(
        [("a.yaml", GOOD), ("b.yaml", bad), ("c.yaml", GOOD.replace("account: acme", "account: other"))]
    )
    assert isinstance(found, list)
    assert {(problem.file, problem.line, problem.where) for problem in found} == {
        ("b.yaml", 1, "account"),
        ("b.yaml", 2, "conections"),
        ("b.yaml", 4, "connections[0].name"),
        ("b.yaml", 6, "connections[0].url"),
        ("b.yaml", 7, "connections[0].metod"),
        ("b.yaml", 9, "connections[0].headers.Authorization"),
        ("b.yaml", 10, "connections[0].idempotency.headr"),
        ("b.yaml", 11, "connections[0].fields[0]"),
        ("b.yaml", 11, "connections[0].fields[2]"),
        ("b.yaml", 12, "connections[1]"),
        ("b.yaml", 12, "connections[1].host"),
        ("b.yaml", 12, "connections[1].username"),
        ("b.yaml", 12, "connections[1].host_keys"),
        ("b.yaml", 12, "connections[1].schedule"),
        ("b.yaml", 12, "connections[1].fields"),
        ("b.yaml", 14, "connections[1].password"),
        ("b.yaml", 15, "connections[1].passphrase"),
        ("b.yaml", 16, "connections[1].private_key"),
        ("c.yaml", 4, "connections[0].name"),
        ("c.yaml", 14, "connections[1].name"),
        ("c.yaml", 22, "connections[2].name"),
    }
    assert "hunter2" not in "\n".join(map(str, found))


def test_an_account_or_a_name_twice_names_both_places() -> None:
    found = assemble([("a.yaml", GOOD), ("z.yaml", "account: acme\nconnections: []\n")])
    assert [str(problem) for problem in found] == [
        "z.yaml:1: account: this account already stands in a.yaml:2; rename or remove one"
    ]


def test_good_files_make_a_set() -> None:
    other = (
        GOOD.replace("acme", "other")
        .replace("name: crm", "name: crm2")
        .replace("nightly", "n2")
        .replace("weekly", "w2")
    )
    found = assemble([("a.yaml", GOOD), ("b.yaml", other)])
    assert isinstance(found, ConnectionSet)
    assert set(found.by_name()) == {"crm", "nightly", "weekly", "crm2", "n2", "w2"}


def test_columns_keep_their_order_in_what_is_stored() -> None:
    text = edited(
        "[email, postal_code]", "[postal_code, {name: b, constant: x}, email, {name: a, from: age}]"
    )
    found = assemble([("acme.yaml", text)])
    assert isinstance(found, ConnectionSet)
    for whole in (found, load_definition(found.definition())):
        _, weekly = whole.by_name()["weekly"]
        assert [rule.name for rule in weekly.fields] == ["postal_code", "b", "email", "a"]


def test_no_file_at_all_is_a_problem_but_an_account_without_connections_is_not() -> None:
    assert isinstance(assemble([]), list)
    found = assemble([("a.yaml", "account: acme\nconnections: []\n")])
    assert isinstance(found, ConnectionSet)


def test_a_problem_reads_as_one_line() -> None:
    [problem] = problems(edited("kind: http", "kind: htpp"))
    assert str(problem) == (
        "acme.yaml:5: connections[0].kind: must be http, mailchimp, salesforce, hubspot, meta_custom_audience, "
        "google_customer_match, sftp, ftps or email; did you mean http?"
    )


SECRET = "s3cr3tXYZZY"


@settings(deadline=None)
@given(
    st.sampled_from(re.findall(r"(?<=[:-] )[^\n]+", GOOD)),
    st.sampled_from(
        [
            "{}",
            "'{}",
            '"{}',
            "[{}]",
            "{{{}: 1}}",
            "!{} x",
            "*{}",
            "&{} x",
            "@{}",
            "{}: {}",
            "`{}`",
            "| \n  {}",
            "%{}",
            "12{}",
            "{}\n{}",
        ]
    ),
)
@example("Bearer ${env:CRM_TOKEN}", "*{}")
def test_no_problem_repeats_a_value(old: str, form: str) -> None:
    text = GOOD.replace(old, form.format(SECRET, SECRET), 1)
    found = assemble([("a.yaml", text)])
    if isinstance(found, list):
        shown = "\n".join(f"{problem.what} {problem.remedy}" for problem in found)
        assert SECRET not in shown


@settings(deadline=None)
@given(
    st.integers(0, len(GOOD)),
    st.integers(0, 40),
    st.sampled_from(
        ["", "\n", ":", "- ", "'", '"', "{", "]", "\t", "&a ", "*a", "! ", "#", "0", "~", "\x00", "|"]
    ),
)
def test_any_damage_is_a_set_or_problems_in_their_lines(start: int, length: int, put: str) -> None:
    text = GOOD[:start] + put + GOOD[start + length :]
    found = parse(text, "acme.yaml")
    if isinstance(found, list):
        assert problems(text)
