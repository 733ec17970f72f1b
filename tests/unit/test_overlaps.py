"""What is worth a look in files that are taken: connections that give an advertiser the same twice, and mails
that nobody approved.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from console.__main__ import app
from consumer import folder
from schemas import approval
from schemas.connection import Account, ConnectionSet, load_definition
from schemas.connection_file import Assembled, Problem, examine
from tests.support.deploy_files import DEPLOY

APPROVED = 'approved_recipients: ["@acme.example"]'
PLAIN = "fields: [email]"
KEY = '["SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]'
DAILY = f"{PLAIN}, schedule: {{cron: '0 8 * * *'}}"
LOGIN = f"username: us, password: '${{env:P}}', {DAILY}"
META = "kind: meta_custom_audience, fields: [{name: EMAIL, from: email}], auth: {kind: bearer, token: '${env:M}'}"
#: The members of a connection by the words the table has for them.
GIVEN = {
    "mail": f"kind: email, recipients: [leads@acme.example], {DAILY}",
    "mail to others": f"kind: email, recipients: [sales@acme.example, it@acme.example], {DAILY}",
    "mail to more": f"kind: email, recipients: [sales@acme.example, LEADS@acme.example], {DAILY}",
    "mail on Mondays": f"kind: email, recipients: [it@acme.example], {PLAIN}, schedule: {{cron: '0 8 * * 1'}}",
    "sftp": f"kind: sftp, host: h.example, {LOGIN}, host_keys: {KEY}, directory: in",
    "sftp beside": f"kind: sftp, host: H.example, {LOGIN}, host_keys: {KEY}, directory: in/",
    "sftp elsewhere": f"kind: sftp, host: h.example, {LOGIN}, host_keys: {KEY}, directory: out",
    "ftps": f"kind: ftps, host: f.example, {LOGIN}",
    "http": f"kind: http, url: 'https://crm.example/leads', {PLAIN}",
    "http elsewhere": f"kind: http, url: 'https://crm.example/calls', {PLAIN}",
    "http as another": f"kind: http, url: 'https://crm.example/leads', auth: {{kind: bearer, token: '${{env:T}}'}}, {PLAIN}",
    "hubspot": f"kind: hubspot, auth: {{kind: bearer, token: '${{env:H}}'}}, {PLAIN}",
    "hubspot of another": f"kind: hubspot, auth: {{kind: bearer, token: '${{env:I}}'}}, {PLAIN}",
    "meta": f"{META}, audience_id: '1'",
    "meta, another audience": f"{META}, audience_id: '2'",
}  # fmt: skip

OVERLAP = "choose other campaigns for one of them, or leave it so where both are wanted"
NOBODY = (
    "is missing, so that whoever stands among recipients gets personal data; list the mailboxes that may, "
    'at most 200, or domains as "@example.com"'
)


def text(*given: tuple[str, str], head: str = APPROVED, account: str = "acme", names: str = "abcd") -> str:
    """An account of connections, each by its word in GIVEN and its campaigns, a line each from line 4."""
    lines = [
        f"  - {{name: {name}, campaigns: {campaigns}, {GIVEN[word]}}}"
        for name, (word, campaigns) in zip(names, given, strict=False)
    ]
    return "\n".join([f"account: {account}", head, "connections:", *lines])


def warnings(*files: str) -> list[Problem]:
    found = examine([(f"{number}.yaml", file) for number, file in enumerate(files)])
    assert isinstance(found, Assembled), found
    return list(found.warnings)


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        pytest.param(("mail", "all"), ("mail to others", "all"), "both mail all campaigns", id="two mails"),
        pytest.param(("mail", "all"), ("mail on Mondays", "all"), "both mail all campaigns", id="at other times"),
        pytest.param(("mail", "all"), ("mail to more", "all"), "both mail all campaigns to the same mailbox (recipient 2)", id="to one mailbox"),
        pytest.param(("mail", "all"), ("mail to others", "[c-1]"), "both mail campaign c-1", id="one of all"),
        pytest.param(("mail", "[c-1]"), ("mail to others", "all"), "both mail campaign c-1", id="all and one"),
        pytest.param(("mail", "[c-1, c-2, c-3]"), ("mail to others", "[c-3, c-2]"), "both mail campaigns c-3, c-2", id="some of some"),
        pytest.param(("mail", "[a, b, c, d, e]"), ("mail to others", "all"), "both mail campaigns a, b, c and 2 more", id="many"),
        pytest.param(("mail", "[c-1]"), ("mail to others", "[c-2]"), None, id="other campaigns"),
        pytest.param(("sftp", "all"), ("sftp elsewhere", "all"), "both upload all campaigns", id="two folders"),
        pytest.param(("sftp", "all"), ("sftp beside", "[c-1]"), "both upload campaign c-1 into the same folder", id="one folder"),
        pytest.param(("sftp", "all"), ("ftps", "all"), "both upload all campaigns", id="SFTP and FTPS"),
        pytest.param(("sftp", "all"), ("mail", "all"), None, id="a file for machines and one for people"),
        pytest.param(("http", "all"), ("sftp", "all"), None, id="a CRM and a nightly file"),
        pytest.param(("http", "all"), ("mail", "all"), None, id="a CRM and a mail"),
        pytest.param(("http", "all"), ("hubspot", "all"), None, id="two CRMs"),
        pytest.param(("http", "all"), ("http", "[c-1]"), "both push campaign c-1 to the same receiver", id="one address"),
        pytest.param(("http", "all"), ("http elsewhere", "all"), None, id="two addresses"),
        pytest.param(("http", "all"), ("http as another", "all"), None, id="one address, two logins"),
        pytest.param(("hubspot", "all"), ("hubspot", "all"), "both push all campaigns to the same receiver", id="one HubSpot"),
        pytest.param(("hubspot", "all"), ("hubspot of another", "all"), None, id="two HubSpots"),
        pytest.param(("meta", "all"), ("meta", "all"), "both push all campaigns to the same receiver", id="one audience"),
        pytest.param(("meta", "all"), ("meta, another audience", "all"), None, id="two audiences"),
    ],
)  # fmt: skip
def test_two_connections_of_an_account(
    one: tuple[str, str], other: tuple[str, str], says: str | None
) -> None:
    told = [str(warning) for warning in warnings(text(one, other))]
    if says is None:
        assert told == []
        return
    assert told == [f"0.yaml:5: connections[1].campaigns: a (line 4) and b {says}; {OVERLAP}"]


def test_connections_of_two_accounts_never_overlap() -> None:
    assert not warnings(
        text(("mail", "all")), text(("mail", "all"), account="sister", names="z"), text(("sftp", "all"), account="third", names="y")
    )  # fmt: skip


def test_a_connection_is_told_once_however_many_it_overlaps_with() -> None:
    found = warnings(
        text(("mail to others", "[c-1]"), ("mail", "[c-2]"), ("http", "all"), ("mail to more", "all"))
    )
    assert [warning.what for warning in found] == [
        "a (line 4) and d both mail campaign c-1 to the same mailbox (recipient 1), and it overlaps with 1 more"
    ]


def test_campaigns_left_out_are_told_where_the_connection_begins() -> None:
    file = text(("mail", "all"), ("mail to others", "all")).replace("campaigns: all, ", "")
    [warning] = warnings(file)
    assert (warning.line, warning.where) == (5, "connections[1]")


def test_a_set_with_errors_tells_them_alone() -> None:
    file = text(("mail", "all"), ("mail", "all"), names="ab").replace("name: b", "name: B")
    found = examine([("a.yaml", file)])
    assert isinstance(found, list)
    assert [problem.where for problem in found] == ["connections[1].name"]


def test_mails_of_an_account_that_approved_nobody() -> None:
    bare = {"head": "# nobody"}
    told = warnings(text(("mail", "[c-1]"), ("mail to others", "[c-2]"), **bare))
    assert [str(warning) for warning in told] == [f"0.yaml:1: approved_recipients: {NOBODY}"]
    assert not warnings(text(("sftp", "all"), ("http", "all"), **bare)), "nothing is mailed"


@pytest.mark.parametrize(
    ("entry", "recipient", "covered"),
    [
        pytest.param("leads@acme.example", "leads@acme.example", True, id="the mailbox"),
        pytest.param("leads@acme.example", "Leads@ACME.example", True, id="in other letters"),
        pytest.param("@Acme.example", "leads@aCME.EXAMPLE", True, id="its domain"),
        pytest.param("@xn--bcher-kva.example", "a@XN--BCHER-KVA.example", True, id="international domain"),
        pytest.param("@acme.example", "leads+crm@acme.example", True, id="plus address of the domain"),
        pytest.param("leads@acme.example", "leads+crm@acme.example", False, id="plus address of the mailbox"),
        pytest.param("@acme.example", "leads@mail.acme.example", False, id="a domain below"),
        pytest.param("@mail.acme.example", "leads@acme.example", False, id="the domain above"),
        pytest.param("@acme.example", "leads@notacme.example", False, id="a domain that ends alike"),
        pytest.param("leads@acme.example", "x.leads@acme.example", False, id="a mailbox that ends alike"),
    ],
)
def test_an_entry_approves_what_it_says_and_no_more(entry: str, recipient: str, covered: bool) -> None:
    given = {"account": "acme", "approved_recipients": [entry]}
    mail = {"name": "m", "kind": "email", "recipients": [recipient], "fields": ["email"], "schedule": {"cron": "0 8 * * 1"}}  # fmt: skip
    assert approval.covers(approval.known([entry]), recipient) is covered
    if covered:
        account = Account.model_validate({**given, "connections": [mail]})
        whole = ConnectionSet(accounts=(account,))
        assert load_definition(whole.definition()) == whole
    else:
        with pytest.raises(ValidationError, match="approved_recipients"):
            Account.model_validate({**given, "connections": [mail]})


def test_a_set_stored_before_there_were_approvals_keeps_its_digest() -> None:
    found = examine([("a.yaml", text(("mail", "all"), head="# nobody"))])
    assert isinstance(found, Assembled)
    stored = json.loads(found.connections.definition())
    assert stored["accounts"][0].keys() == {"account", "connections"}
    assert load_definition(json.dumps(stored)).digest == found.connections.digest


def test_no_more_than_can_be_read_are_approved() -> None:
    entries = ", ".join(f"a{n}@acme.example" for n in range(201))
    found = examine([("a.yaml", text(("mail", "all"), head=f"approved_recipients: [{entries}]"))])
    assert isinstance(found, list)
    assert "a.yaml:2: approved_recipients: has more than 200 entries; leave some out" in map(str, found)


def test_warnings_are_told_apart_and_refuse_nothing(tmp_path: Path) -> None:
    (tmp_path / "acme.yaml").write_text(text(("mail", "all"), ("mail to others", "all")), "utf-8")
    said = CliRunner().invoke(app, ["connections", "check", str(tmp_path)])
    assert said.exit_code == 0
    warning, summary = said.stderr.splitlines()
    assert warning.startswith("warning: acme.yaml:5: connections[1].campaigns: a (line 4) and b both mail")
    assert summary == "1 account, 2 connections: no errors"
    assert len(said.stdout.splitlines()) == 3


def test_the_examples_leave_nothing_to_look_at() -> None:
    assert folder.look(str(DEPLOY / "connections.example")).warnings == ()


def test_the_largest_account_is_looked_through_in_a_bounded_time() -> None:
    campaigns = "[" + ", ".join(f"c{n}" for n in range(900)) + "]"
    first = (
        f"  - {{name: n0, campaigns: &all {campaigns}, recipients: [a@acme.example], kind: email, {DAILY}}}"
    )
    others = [first.replace("n0", f"n{n}").replace(f"&all {campaigns}", "*all") for n in range(1, 100)]
    started = time.perf_counter()
    found = warnings("\n".join(["account: acme", APPROVED, "connections:", first, *others]))
    assert len(found) == 99
    assert found[-1].what.endswith("and it overlaps with 98 more")
    assert time.perf_counter() - started < 20
