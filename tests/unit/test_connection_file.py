"""Connections files as people write them: every error at once, in its line, without a value."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas import yaml_lines
from schemas.connection import Account, ConnectionSet
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
        pytest.param("kind: http", "kind: [http]", 5, "connections[0].kind", "must be http, sftp", id="kind a list"),
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


def test_no_file_at_all_is_a_problem_but_an_account_without_connections_is_not() -> None:
    assert isinstance(assemble([]), list)
    found = assemble([("a.yaml", "account: acme\nconnections: []\n")])
    assert isinstance(found, ConnectionSet)


def test_a_problem_reads_as_one_line() -> None:
    [problem] = problems(edited("kind: http", "kind: htpp"))
    assert str(problem) == "acme.yaml:5: connections[0].kind: must be http, sftp or email; did you mean http?"


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
