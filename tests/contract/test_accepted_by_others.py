"""What we send, taken by the software advertisers have: each reads back what was written.

Uploads to OpenSSH and to vsftpd that demands TLS session reuse: test_channel_files.py, every test of it.
"""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import duckdb
import openpyxl
import pysequoia
import pytest

from batcher.channels import Hold, Retry
from batcher.channels.mail import Refused, Relay, Sent, send
from batcher.channels.mime import Attachment, build
from batcher.files.artefact import write
from batcher.files.feed import Feed
from batcher.files.openpgp import usable
from batcher.files.packing import Envelope, Packing
from schemas.files import AnyFile, CsvFormat, JsonLinesFormat, OpenPgp, XlsxFormat
from schemas.mapping import Value
from tests.support import pandas_reader, postfix
from tests.support.certificates import Authority
from tests.support.receivers import eventually

AT = datetime(2026, 6, 1, 8, 30, 2, tzinfo=UTC)
NAME = "leads-000001.csv"
COLUMNS = ["id", "name", "phone", "postcode", "price", "count", "approved", "note"]
#: What a spreadsheet or a hasty reader bends: digits that are text, quotes, delimiters, a missing value.
ROWS: list[list[Value]] = [
    ["00000000000000000017", 'Zoë "Z" Müller', "+61400111222", "0800", 12.5, 3, True, "a,b;c|d\te"],
    ["12345678901234567890", "O'Brien", "+4930123456", "SW1A 1AA", 0.1, 9007199254740993, False, None],
    ["1e5", "=1+1", "007", "TRUE", 1234567.89, 0, True, "2026-06-01"],
    ["NaN", "N/A", "-", "null", 1e-7, -1, False, " blanks "],
]
#: Beyond latin-1, for the encodings that have it.
EURO: list[Value] = ["€ 5", "Žofie – “x”", "š", "œ", 5.0, 5, True, "…"]
WORLD: list[Value] = ["5", "陳大文", "+85291234567", "-", 1.0, 1, True, "ünïcödé"]
ROCKET: list[Value] = ["6", "👩‍🚀", "", "", 0.0, 0, False, "👍"]
TEXT_COLUMNS = ("id", "name", "phone", "postcode", "note")


PACKING = Packing(NAME, AT)
REFERENCE = "${env:X}"


def made(folder: Path, file: AnyFile, rows: list[list[Value]] = ROWS, packing: Packing = PACKING) -> Path:
    """As an advertiser gets it."""
    path = folder / file.called("leads-000001")
    with path.open("wb") as out:
        assert write(out, file, COLUMNS, Feed.of(rows), packing, guard=False).rows == len(rows)
    return path


def content() -> bytes:
    """What is inside every archive and envelope."""
    out = io.BytesIO()
    write(out, CsvFormat(), COLUMNS, Feed.of(ROWS), PACKING, guard=False)
    return out.getvalue()


def ran(*argv: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        argv, capture_output=True, timeout=60, stdin=subprocess.DEVNULL, check=False, **options
    )


# Files that readers take.


@dataclass(frozen=True)
class Variant:
    file: CsvFormat
    rows: list[list[Value]]
    #: Python's and pandas' word for the encoding; DuckDB's, or None where it has none of its own.
    pandas: str
    duckdb: str | None


MORE = [*ROWS, EURO, WORLD, ROCKET]
VARIANTS = [
    pytest.param(Variant(CsvFormat(), MORE, "utf-8", "utf-8"), id="as it comes"),
    pytest.param(Variant(CsvFormat(delimiter=";"), MORE, "utf-8", "utf-8"), id="semicolons"),
    pytest.param(Variant(CsvFormat(delimiter="\t"), MORE, "utf-8", "utf-8"), id="tabs"),
    pytest.param(Variant(CsvFormat(delimiter="|"), MORE, "utf-8", "utf-8"), id="bars"),
    pytest.param(Variant(CsvFormat(quoting="minimal", line_end="lf"), MORE, "utf-8", "utf-8"), id="minimal"),
    pytest.param(Variant(CsvFormat(bom=True), MORE, "utf-8-sig", "utf-8"), id="byte order mark"),
    pytest.param(Variant(CsvFormat(compression="gzip"), MORE, "utf-8", "utf-8"), id="gzip"),
    pytest.param(Variant(CsvFormat(compression="zip"), MORE, "utf-8", None), id="zip"),
    pytest.param(Variant(CsvFormat(encoding="utf-16"), [*ROWS, EURO, WORLD], "utf-16", "utf-16"), id="utf-16"),
    pytest.param(Variant(CsvFormat(encoding="latin-1"), ROWS, "latin-1", "latin-1"), id="latin-1"),
    pytest.param(
        Variant(CsvFormat(encoding="windows-1252"), [*ROWS, EURO], "windows-1252", None), id="windows-1252"
    ),
    pytest.param(
        Variant(
            CsvFormat(missing="NULL", delimiter=";", encoding="utf-16", compression="gzip", quoting="minimal"),
            MORE, "utf-16", None,
        ),
        id="all at once",
    ),
    pytest.param(Variant(CsvFormat(missing="NULL"), MORE, "utf-8", "utf-8"), id="NULL"),
]  # fmt: skip


def expected(variant: Variant) -> list[list[Value]]:
    """Where nothing stands for a missing value, readers cannot tell it from an empty text."""
    return [["" if v is None and not variant.file.missing else v for v in row] for row in variant.rows]


@pytest.fixture(scope="module")
def pandas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pandas_reader.Pandas]:
    found = pandas_reader.find()
    if isinstance(found, str):
        pytest.skip(found)
    with pandas_reader.pandas(found, tmp_path_factory.mktemp("pandas") / "errors") as reader:
        yield reader


@pytest.mark.parametrize("variant", VARIANTS)
def test_pandas_reads_the_same_values(tmp_path: Path, pandas: pandas_reader.Pandas, variant: Variant) -> None:
    types = dict.fromkeys(TEXT_COLUMNS, "str") | {"price": "float64", "count": "int64", "approved": "bool"}
    missing = [variant.file.missing] if variant.file.missing else []
    found = pandas.read_csv(
        made(tmp_path, variant.file, variant.rows),
        sep=variant.file.delimiter,
        encoding=variant.pandas,
        dtype=types,
        keep_default_na=False,
        na_values=missing,
        float_precision="round_trip",
    )
    assert found == (COLUMNS, expected(variant))


@pytest.mark.parametrize("variant", [each for each in VARIANTS if each.values[0].duckdb])
def test_duckdb_reads_the_same_values(tmp_path: Path, variant: Variant) -> None:
    types = dict.fromkeys(TEXT_COLUMNS, "VARCHAR") | {"price": "DOUBLE", "count": "BIGINT"}
    columns = {name: types.get(name, "BOOLEAN") for name in COLUMNS}
    found = duckdb.execute(
        "select * from read_csv(?, header=true, delim=?, quote='\"', escape='\"', encoding=?, nullstr=?,"
        " auto_detect=false, columns=" + repr(columns) + ")",
        [
            str(made(tmp_path, variant.file, variant.rows)),
            variant.file.delimiter,
            variant.duckdb,
            # What no cell holds, where nothing stands for a missing value.
            variant.file.missing or "\x01",
        ],
    ).fetchall()
    assert [list(row) for row in found] == expected(variant)


def test_duckdb_reads_the_same_values_from_json_lines(tmp_path: Path) -> None:
    path = made(tmp_path, JsonLinesFormat(format="json_lines", compression="gzip"), MORE)
    types = dict.fromkeys(TEXT_COLUMNS, "VARCHAR") | {"price": "DOUBLE", "count": "BIGINT"}
    columns = {name: types.get(name, "BOOLEAN") for name in COLUMNS}
    found = duckdb.execute(f"select * from read_json(?, columns={columns!r})", [str(path)])
    assert [list(row) for row in found.fetchall()] == MORE


def as_in_a_sheet(rows: list[list[Value]]) -> list[list[Value]]:
    """Whole numbers of more than 15 digits are text there."""
    return [[str(v) if type(v) is int and len(str(abs(v))) > 15 else v for v in row] for row in rows]


def test_openpyxl_reads_the_same_values(tmp_path: Path) -> None:
    book = openpyxl.load_workbook(made(tmp_path, XlsxFormat(format="xlsx"), MORE))
    header, *rows = book.worksheets[0].iter_rows(values_only=True)
    assert list(header) == COLUMNS
    assert [list(row) for row in rows] == as_in_a_sheet(MORE)


@pytest.mark.skipif(shutil.which("soffice") is None, reason="LibreOffice is not installed here")
def test_libreoffice_reads_the_same_texts(tmp_path: Path) -> None:
    path = made(tmp_path, XlsxFormat(format="xlsx"), MORE)
    # UTF-8, a comma, every text quoted, cells as they are stored and not as they are shown.
    filtered = "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,true,false"
    home = f"-env:UserInstallation=file://{tmp_path}/home"
    done = ran("soffice", home, "--headless", "--convert-to", filtered, "--outdir", tmp_path, path)
    assert done.returncode == 0, done.stderr
    with path.with_suffix(".csv").open(newline="", encoding="utf-8") as text:
        found = list(csv.DictReader(text))
    texts = [dict(zip(COLUMNS, row, strict=True)) for row in MORE]
    assert [[row[name] for name in TEXT_COLUMNS] for row in found] == [
        [row[name] or "" for name in TEXT_COLUMNS] for row in texts
    ]


# Files that tools unpack.


def test_gunzip_gives_the_file_with_its_name(tmp_path: Path) -> None:
    path = made(tmp_path, CsvFormat(compression="gzip"))
    done = ran("gunzip", path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / NAME).read_bytes() == content()


@pytest.mark.skipif(shutil.which("unzip") is None, reason="unzip is not installed: Debian's unzip")
def test_unzip_gives_the_file_with_its_name(tmp_path: Path) -> None:
    path = made(tmp_path, CsvFormat(compression="zip"))
    done = ran("unzip", "-q", path, "-d", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, b"")
    assert [each.name for each in (tmp_path / "out").iterdir()] == [NAME]
    assert (tmp_path / "out" / NAME).read_bytes() == content()


@pytest.mark.skipif(shutil.which("7z") is None, reason="7z is not installed: Debian's p7zip-full")
@pytest.mark.parametrize(("given", "opens"), [("sesame", True), ("Sesame", False)])
def test_7z_opens_it_with_its_password_alone(tmp_path: Path, given: str, opens: bool) -> None:
    packing = Packing(NAME, AT, "sesame")
    path = made(tmp_path, CsvFormat(compression="zip", password=REFERENCE), packing=packing)
    done = ran("7z", "x", "-y", f"-p{given}", f"-o{tmp_path}", path)
    assert (done.returncode == 0) is opens
    assert not opens or (tmp_path / NAME).read_bytes() == content()


@pytest.fixture
def gpg_home() -> Iterator[Path]:
    # Its agent's socket has little room for a path.
    home = Path(tempfile.mkdtemp(prefix="referrals-gpg-"))
    try:
        yield home
    finally:
        ran("gpgconf", "--homedir", home, "--kill", "all")
        shutil.rmtree(home)


@pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg is not installed: Debian's gnupg")
def test_gpg_decrypts_it_and_knows_who_signed(tmp_path: Path, gpg_home: Path) -> None:
    def gpg(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
        fixed = ("--batch", "--trust-model", "always", "--status-fd", "2", "--pinentry-mode", "loopback")
        done = ran("gpg", "--homedir", gpg_home, *fixed, "--passphrase", "", *arguments)
        assert done.returncode == 0, done.stderr
        return done

    ours, theirs = pysequoia.Tsk.generate("us <us@x.example>"), "theirs@x.example"
    (tmp_path / "ours").write_text(str(ours.extract_certificate()))
    gpg("--import", tmp_path / "ours")
    created = gpg("--quick-gen-key", theirs, "ed25519", "sign", "1d").stderr.split(b"KEY_CREATED P ")[1]
    gpg("--quick-add-key", created.split()[0].decode(), "cv25519", "encr", "1d")
    key = usable(gpg("--armor", "--export", theirs).stdout.decode(), datetime.now(UTC))
    assert isinstance(key, bytes)
    for armor, ending in ((False, ".csv.pgp"), (True, ".csv.asc")):
        file = CsvFormat(openpgp=OpenPgp(recipients=(REFERENCE,), signing_key=REFERENCE, armor=armor))
        packing = Packing(NAME, AT, envelope=Envelope((key,), str(ours), armor=armor))
        path = made(tmp_path, file, packing=packing)
        assert path.name.endswith(ending)
        opened = gpg("--decrypt", path)
        assert opened.stdout == content()
        assert b"GOODSIG" in opened.stderr


# Mail that a relay takes.

SENDER = "referrals@marketplace.example"
MOST = 1_000_000


@dataclass(frozen=True)
class House:
    server: postfix.Postfix
    relay: Relay
    #: PEM of an authority that the server's certificate is not of.
    stranger: Path


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    tree = postfix.find()
    if isinstance(tree, str):
        pytest.skip(tree)
    folder, elsewhere = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("stranger")
    authority = Authority(folder)
    for place, each in ((folder, authority), (elsewhere, Authority(elsewhere))):
        (place / "ca.pem").write_bytes(each.pem)
    login = {"username": "batcher", "password": "correct horse"}
    with postfix.postfix(tree, authority.issue("localhost"), {"batcher": "correct horse"}, MOST) as server:
        relay = Relay("localhost", server.port, 20.0, **login, ca=folder / "ca.pem", final_reply=20.0)
        yield House(server, relay, elsewhere / "ca.pem")


def mail(
    number: int, attachment: bytes = b"x", recipient: str = "ok", subject: str = "Leads für März"
) -> bytes:
    return build(
        message_id=f"<acme-mail-{number:06}.0@marketplace.example>",
        date=AT,
        sender=SENDER,
        recipient=f"{recipient}@{postfix.DOMAIN}",
        subject=subject,
        text=".\r\n.hello\r\n..\r\nFrom Über " + "x" * 3_000,
        html="<p>.</p>\r\n.\r\nFrom <p>" + "y" * 3_000,
        attachments=[
            Attachment("Übersicht “März”.csv", attachment),
            Attachment("sums.json", b"{}", "application/json"),
        ],
    )


def given(house: House, raw: bytes, recipient: str = "ok", relay: Relay | None = None) -> object:
    return send(relay or house.relay, SENDER, f"{recipient}@{postfix.DOMAIN}", raw, lambda: True)


def test_postfix_delivers_every_byte(house: House) -> None:
    rows = b"id,name\r\n.1,\xc3\x96zg\xc3\xbcr\r\n.\r\n..\r\n" + content() * 500
    raw = mail(1, rows)
    sent = given(house, raw)
    assert isinstance(sent, Sent)
    assert "queued as" in sent.reply

    def arrived() -> list[bytes]:
        return [each for each in house.server.delivered("ok") if b"acme-mail-000001.0@" in each]

    eventually(lambda: len(arrived()) == 1, "one mail")
    [whole] = arrived()
    assert whole.endswith(b"\n" + raw.replace(b"\r\n", b"\n")), "only its own lines above ours"
    read = message_from_bytes(whole, policy=policy.default)
    assert "with ESMTPSA" in str(read["Received"]), "with TLS and a login"
    assert read["Delivered-To"] == f"ok@{postfix.DOMAIN}"
    assert [read["Message-ID"], read["Date"].datetime] == ["<acme-mail-000001.0@marketplace.example>", AT]
    assert read["Subject"] == "Leads für März"
    files = [(each.get_filename(), each.get_payload(decode=True)) for each in read.iter_attachments()]
    assert files == [("Übersicht “März”.csv", rows), ("sums.json", b"{}")]


@pytest.mark.case(28)
@pytest.mark.parametrize(
    ("recipient", "subject", "ending", "says"),
    [
        pytest.param("nobody", "Leads", Refused, "550 5.1.1", id="unknown recipient"),
        pytest.param("later", "Leads", Retry, "450 4.2.0", id="greylisted"),
        pytest.param("ok", "refuse me", Hold, "550 5.7.1", id="refused after the last byte"),
    ],
)
def test_what_postfix_refuses_is_surely_not_delivered(
    house: House, recipient: str, subject: str, ending: type, says: str
) -> None:
    found = given(house, mail(2, recipient=recipient, subject=subject), recipient)
    assert isinstance(found, ending), found
    assert says in found.reason
    assert "@" not in found.reason


def test_what_is_too_large_for_postfix_is_not_sent(house: House) -> None:
    held = given(house, mail(3, b"x" * MOST))
    assert isinstance(held, Hold)
    assert f"takes {MOST}" in held.reason


def test_postfix_is_believed_with_its_certificate_alone_and_believes_us_with_our_password(
    house: House,
) -> None:
    for wrong, says in (
        (replace(house.relay, ca=house.stranger), "certificate"),
        (replace(house.relay, host="127.0.0.1"), "certificate"),
        (replace(house.relay, password="guess"), "535 5.7.8"),
        (replace(house.relay, username=None, password=None), "Access denied"),
        (replace(house.relay, starttls=False, username=None, password=None), "Must issue a STARTTLS"),
    ):
        held = given(house, mail(4), relay=wrong)
        assert isinstance(held, Hold), (says, held)
        assert says in held.reason
