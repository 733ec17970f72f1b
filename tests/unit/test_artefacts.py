"""A file through archive and envelope, opened by others' software; and what is left when it goes wrong."""

from __future__ import annotations

import gzip
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pysequoia
import pytest
import pyzipper

from batcher.files.artefact import write
from batcher.files.feed import Feed
from batcher.files.openpgp import usable
from batcher.files.packing import Envelope, Packing
from batcher.files.sink import CannotBeWritten, Written
from schemas.files import AnyFile, CsvFormat, JsonLinesFormat, XlsxFormat

AT = datetime(2026, 6, 1, 8, 30, 2, tzinfo=UTC)
ROWS = [["Zoë", "+61400111222"], ["x", "007"]]
COLUMNS = ["name", "phone"]
CONTENT = b'"name","phone"\r\n"Zo\xc3\xab","+61400111222"\r\n"x","007"\r\n'
KEY = pysequoia.Tsk.generate("advertiser <a@x.example>")
OWN = pysequoia.Tsk.generate("us <us@x.example>")
PUBLIC = usable(str(KEY.extract_certificate()), datetime.now(UTC))
assert isinstance(PUBLIC, bytes)
REFERENCE = "${env:X}"
SEALED = {"recipients": [REFERENCE]}


def packed(password: str | None = None, envelope: Envelope | None = None) -> Packing:
    return Packing("leads-000001.csv", AT, password, envelope)


def made(packing: Packing, **form) -> tuple[bytes, Written]:
    out = io.BytesIO()
    written = write(out, CsvFormat(**form), COLUMNS, Feed.of(ROWS), packing, guard=False)
    encoded = out.getvalue()
    assert (written.rows, written.bytes) == (2, len(encoded))
    assert written.sha256 == hashlib.sha256(encoded).hexdigest()
    assert written.plain == hashlib.sha256(CONTENT).hexdigest(), "whatever is round it"
    return encoded, written


@pytest.mark.parametrize("compression", ["none", "gzip", "zip"])
def test_without_a_secret_the_same_rows_give_the_same_bytes(compression: str) -> None:
    found, written = made(packed(), compression=compression)
    assert made(packed(), compression=compression) == (found, written)
    match compression:
        case "none":
            assert found == CONTENT
        case "gzip":
            assert gzip.decompress(found) == CONTENT
            assert found[3:8] == bytes(5), "neither name nor time"
        case _:
            [entry] = zipfile.ZipFile(io.BytesIO(found)).infolist()
            assert (entry.filename, entry.date_time) == ("leads-000001.csv", (2026, 6, 1, 8, 30, 2))
            assert zipfile.ZipFile(io.BytesIO(found)).read(entry) == CONTENT


def test_a_zip_with_a_password_is_aes_256() -> None:
    found, _ = made(packed("pässword"), compression="zip", password=REFERENCE)
    with pyzipper.AESZipFile(io.BytesIO(found)) as archive:
        [entry] = archive.infolist()
        assert (entry.wz_aes_strength, entry.flag_bits & 1) == (3, 1)
        assert archive.read(entry, "pässword".encode()) == CONTENT
        with pytest.raises(RuntimeError, match="Bad password"):
            archive.read(entry, b"password")
    assert found != made(packed("pässword"), compression="zip", password=REFERENCE)[0]


def decrypted(found: bytes, signed: bool = False) -> pysequoia.Decrypted:
    return pysequoia.decrypt(
        found, KEY.decryptor(), store=(lambda _: [OWN.extract_certificate()]) if signed else None
    )


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("armor", [False, True])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_an_envelope_holds_what_would_have_been_sent(compression: str, armor: bool, signed: bool) -> None:
    envelope = Envelope((PUBLIC,), str(OWN) if signed else None, None, armor)
    found, _ = made(packed(envelope=envelope), compression=compression, openpgp=SEALED)
    opened = decrypted(found, signed)
    assert opened.bytes == made(packed(), compression=compression)[0]
    assert len(opened.valid_sigs) == signed
    assert found.startswith(b"-----BEGIN PGP MESSAGE-----") is armor


def test_every_recipient_can_open_it() -> None:
    other = pysequoia.Tsk.generate("other <o@x.example>")
    key = usable(str(other.extract_certificate()), datetime.now(UTC))
    assert isinstance(key, bytes)
    found, _ = made(packed(envelope=Envelope((PUBLIC, key))), openpgp={"recipients": [REFERENCE, REFERENCE]})
    assert decrypted(found).bytes == pysequoia.decrypt(found, other.decryptor()).bytes == CONTENT


# What goes wrong.


class FullError(Exception):
    pass


class Full:
    """Takes so many bytes, then no more; says so once."""

    def __init__(self, room: int) -> None:
        self.room, self.told = room, 0

    def write(self, content: bytes, /) -> None:
        self.room -= len(content)
        if self.room < 0:
            self.told += 1
            raise FullError


FILES = [
    pytest.param(CsvFormat(), packed(), id="csv"),
    pytest.param(XlsxFormat(format="xlsx"), packed(), id="xlsx"),
    pytest.param(CsvFormat(compression="gzip"), packed(), id="gzip"),
    pytest.param(CsvFormat(compression="zip", password=REFERENCE), packed("p"), id="aes zip"),
    pytest.param(CsvFormat(openpgp=SEALED), packed(envelope=Envelope((PUBLIC,))), id="openpgp"),
    pytest.param(
        JsonLinesFormat(format="json_lines", compression="zip", openpgp=SEALED),
        packed(envelope=Envelope((PUBLIC,))),
        id="zip in openpgp",
    ),
]


def many(count: int) -> Iterator[list[str]]:
    return ([hashlib.sha256(b"%d" % n).hexdigest() * 8, f"{n:09}"] for n in range(count))


@pytest.mark.parametrize("room", [0, 5_000])
@pytest.mark.parametrize(("file", "packing"), FILES)
def test_a_receiver_that_takes_no_more_is_told_of_once(file: AnyFile, packing: Packing, room: int) -> None:
    before, out = threading.active_count(), Full(room)
    with pytest.raises(FullError):
        write(out, file, COLUMNS, Feed.of(many(2_000)), packing, guard=False)
    assert out.told == 1
    assert threading.active_count() == before


class RowsError(Exception):
    pass


@pytest.mark.parametrize(("file", "packing"), FILES)
def test_rows_that_fail_leave_nothing_behind(
    file: AnyFile, packing: Packing, tmp_path: Path, monkeypatch
) -> None:
    def rows() -> Iterator[list[str]]:
        yield from many(500)
        raise RowsError

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = threading.active_count()
    with pytest.raises(RowsError):
        write(io.BytesIO(), file, COLUMNS, Feed.of(rows()), packing, guard=False)
    assert threading.active_count() == before
    assert list(tmp_path.iterdir()) == []


def test_what_the_library_refuses_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUST_BACKTRACE", "1")
    signer = pysequoia.Cert.from_bytes(
        (Path(__file__).parents[1] / "support/openpgp/signonly.asc").read_bytes()
    )
    with pytest.raises(CannotBeWritten) as told:
        made(packed(envelope=Envelope((bytes(signer),))), openpgp=SEALED)
    assert str(told.value).startswith("OpenPGP encryption failed: ")
    assert "\n" not in str(told.value)


def test_secrets_stand_in_no_repr() -> None:
    shown = repr(packed("hunter2", Envelope((PUBLIC,), "hunter3", "hunter4")))
    assert "hunter" not in shown


#: Of rows of 600 bytes: 24 MB of content.
LARGE = 40_000
MAX_GROWTH_KIB = 16 * 1024


@pytest.mark.parametrize(("file", "packing"), FILES)
def test_memory_stays_flat(file: AnyFile, packing: Packing) -> None:
    class Nowhere:
        def write(self, content: bytes, /) -> None:
            """It is measured, not kept."""

    def resident() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

    write(Nowhere(), file, COLUMNS, Feed.of(many(500)), packing, guard=False)
    Path("/proc/self/clear_refs").write_text("5")  # the high water mark begins anew
    before = resident()
    assert write(Nowhere(), file, COLUMNS, Feed.of(many(LARGE)), packing, guard=False).rows == LARGE
    assert resident() - before < MAX_GROWTH_KIB
