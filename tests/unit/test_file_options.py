"""`file:` of a connection: what may stand there, what is said of what may not, and what stays as it was."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from schemas.connection import Account, ConnectionSet, connection_digest
from schemas.connection_file import assemble, parse
from schemas.files import CsvFormat, FileFormat, JsonLinesFormat, XlsxFormat

FILE = """\
account: acme
connections:
  - name: weekly
    kind: email
    recipients: [leads@acme.example]
    schedule: {cron: "0 8 * * 1"}
    fields: [email]
    file: %s
"""
KEY = "${file:/run/secrets/acme.asc}"


@pytest.mark.parametrize(
    ("file", "where", "says"),
    [
        pytest.param("{format: pdf}", "format", "must be csv, json_lines or xlsx", id="format"),
        pytest.param("{format: xslx}", "format", "did you mean xlsx?", id="format misspelt"),
        pytest.param("{format: 5}", "format", "must be csv, json_lines or xlsx", id="format a number"),
        pytest.param("{format: xlsx, delimiter: ';'}", "delimiter", "only csv files have it", id="delimiter of a sheet"),
        pytest.param("{format: json_lines, header: true}", "header", "only csv and xlsx files", id="header of json"),
        pytest.param("{delimiter: '\"'}", "delimiter", "must be ','", id="the quote as delimiter"),
        pytest.param("{encoding: utf8}", "encoding", "must be 'utf-8'", id="encoding"),
        pytest.param("{encoding: latin-1, bom: true}", "bom", "latin-1 has no byte order mark", id="mark"),
        pytest.param("{quoting: none}", "quoting", "must be 'all' or 'minimal'", id="quoting"),
        pytest.param("{line_end: cr}", "line_end", "must be 'crlf' or 'lf'", id="line end"),
        pytest.param("{missing: 'µ'}", "missing", "use ASCII", id="text of nothing not everybody has"),
        pytest.param('{missing: "a\\nb"}', "missing", "one line", id="text of nothing of two lines"),
        pytest.param("{compression: rar}", "compression", "must be 'none', 'gzip' or 'zip'", id="compression"),
        pytest.param("{compression: zip, password: hunter2}", "password", "a secret is a reference", id="password in plain text"),
        pytest.param("{password: '${env:P}'}", "password", "only a zip has a password", id="password of no zip"),
        pytest.param("{compression: gzip, password: '${env:P}'}", "password", "add compression: zip", id="password of a gzip"),
        pytest.param("{openpgp: {recipients: []}}", "openpgp.recipients", "needs at least 1 entry", id="nobody can read it"),
        pytest.param("{openpgp: {}}", "openpgp.recipients", "is missing", id="no recipients"),
        pytest.param("{openpgp: {recipients: [acme.asc]}}", "openpgp.recipients[0]", "a secret is a reference", id="a key by name"),
        pytest.param(f"{{openpgp: {{recipients: ['{KEY}'], passphrase: '{KEY}'}}}}", "openpgp.passphrase", "there is no key for it", id="passphrase of nothing"),
        pytest.param(f"{{openpgp: {{recipient: ['{KEY}']}}}}", "openpgp.recipient", "did you mean recipients?", id="misspelt inside"),
        pytest.param("{name: leads}", "name", "two windows would get the same name", id="a name for all"),
        pytest.param("{name: '../{number}'}", "name", "without folders", id="a name elsewhere"),
        pytest.param("{name: '{campaign}-{number}'}", "name", "not exactly one is chosen", id="which campaign"),
        pytest.param("{nmae: '{number}'}", "nmae", "did you mean name?", id="misspelt"),
        pytest.param("[csv]", "", "a mapping (name: value) is wanted", id="a list"),
    ],
)  # fmt: skip
def test_one_slip_is_one_problem_in_its_place(file: str, where: str, says: str) -> None:
    found = parse(FILE % file, "acme.yaml")
    assert isinstance(found, list), found
    place = "connections[0].file" + (f".{where}" if where else "")
    [problem] = [problem for problem in found if problem.where == place]
    assert problem.line == 8
    assert says in f"{problem.what}; {problem.remedy}"
    assert {problem.where for problem in found} - {place} <= {f"{place}s"}, "one slip is not told as several"


@pytest.mark.parametrize(
    ("file", "kind", "endings"),
    [
        pytest.param("{}", CsvFormat, ".csv", id="nothing said"),
        pytest.param("{delimiter: ';', bom: true}", CsvFormat, ".csv", id="as before formats were told apart"),
        pytest.param("{format: json_lines, compression: gzip}", JsonLinesFormat, ".jsonl.gz", id="json lines"),
        pytest.param("{format: xlsx, compression: zip, password: '${env:P}'}", XlsxFormat, ".xlsx.zip", id="xlsx"),
        pytest.param(f"{{openpgp: {{recipients: ['{KEY}']}}}}", CsvFormat, ".csv.pgp", id="encrypted"),
        pytest.param(f"{{compression: gzip, openpgp: {{recipients: ['{KEY}'], armor: true}}}}", CsvFormat, ".csv.gz.asc", id="armored"),
    ],
)  # fmt: skip
def test_what_may_stand_there(file: str, kind: type, endings: str) -> None:
    found = parse(FILE % file, "acme.yaml")
    assert isinstance(found, Account), found
    told = found.connections[0].file
    assert isinstance(told, kind)
    assert "".join(told.endings) == endings


def test_a_column_the_encoding_does_not_have_is_told_before_there_is_a_file() -> None:
    text = (FILE % "{encoding: latin-1}").replace(
        "[email]", "[email, {name: 名, from: first_name}, last_name]"
    )
    [problem] = parse(text, "acme.yaml")
    assert (problem.line, problem.where) == (7, "connections[0].fields[1]")
    assert "latin-1 does not have all characters of its name; rename it" in str(problem)
    for fitting in ("utf-16", "utf-8"):
        assert isinstance(parse(text.replace("latin-1", fitting), "acme.yaml"), Account)
    assert isinstance(parse(text.replace("{encoding", "{header: false, encoding"), "acme.yaml"), Account)


UPLOADS = """\
account: %s
connections:
  - name: %s
    kind: sftp
    host: sftp.acme.example
    username: us
    password: ${env:P}
    host_keys: ["SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]
    directory: %s
    schedule: {cron: "0 8 * * 1"}
    fields: [email]
    file: {name: "%s"}
"""


@pytest.mark.parametrize(
    ("directory", "name", "same"),
    [
        pytest.param("in", "leads-{number}", True, id="one folder, one name"),
        pytest.param("out", "leads-{number}", False, id="another folder"),
        pytest.param("in", "leads-{number:06}", False, id="another name"),
    ],
)
def test_two_connections_that_would_put_files_of_one_name_into_one_folder(directory, name, same) -> None:
    first = ("a.yaml", UPLOADS % ("a", "one", "in", "leads-{number}"))
    found = assemble([first, ("b.yaml", UPLOADS % ("b", "two", directory, name))])
    if not same:
        assert isinstance(found, ConnectionSet), found
        return
    [problem] = found
    assert (problem.file, problem.line, problem.where) == ("b.yaml", 12, "connections[0].file.name")
    assert "another connection get the same names in this folder (a.yaml:12); add {connection}" in str(
        problem
    )
    for shared in ("{account}-{number}", "{campaign}-{number}"):
        one = UPLOADS % ("a", "one", "in", shared) + "    campaigns: [spring]\n"
        other = one.partition("connections:\n")[2].replace("name: one", "name: other")
        [problem] = assemble([("a.yaml", one + other)])
        assert "another connection get the same names in this folder (a.yaml:12)" in str(problem)
    for telling in ("{connection}-{number}", "{window}", "{account}-{number}"):
        texts = [UPLOADS % (account, account * 2, "in", telling) for account in "ab"]
        assert isinstance(assemble(list(zip(["a.yaml", "b.yaml"], texts, strict=True))), ConnectionSet)


def test_one_campaign_may_stand_in_the_name() -> None:
    text = FILE % "{name: '{campaign}-{number}'}"
    assert isinstance(parse(text + "    campaigns: [spring]\n", "acme.yaml"), Account)
    assert isinstance(parse(text + "    campaigns: [spring, summer]\n", "acme.yaml"), list)


BEFORE = {"delimiter": ";", "header": True, "bom": True, "formula_guard": None, "empty": "skip"}
FORMATS: TypeAdapter[Any] = TypeAdapter(FileFormat)


def test_a_definition_stored_before_keeps_its_bytes() -> None:
    found = FORMATS.validate_python(BEFORE)
    assert found == CsvFormat(delimiter=";", bom=True)
    assert found.model_dump(mode="json") == BEFORE


@pytest.mark.parametrize(
    "given",
    [
        {"format": "json_lines"},
        {"format": "xlsx", "header": False, "empty": "header"},
        {"quoting": "minimal", "line_end": "lf", "encoding": "utf-16", "missing": "NULL", "name": "{number}"},
        {"compression": "zip", "password": "${env:P}", "openpgp": {"recipients": [KEY], "signing_key": KEY}},
    ],
)
def test_what_is_stored_is_read_back_the_same(given: dict[str, Any]) -> None:
    found = FORMATS.validate_python(given)
    again = FORMATS.validate_json(FORMATS.dump_json(found))
    assert again == found
    assert connection_digest(again) == connection_digest(found) != connection_digest(CsvFormat())
