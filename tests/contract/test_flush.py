"""A window from claim to end, by the desk itself, on real Kafka, Redis and receivers."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_urlsafe
from typing import Any
from zoneinfo import ZoneInfo

import openpyxl
import pysequoia
import pytest
import pyzipper

from batcher import mail_files, render
from batcher.channels.mail import Relay
from batcher.files.name import final_name
from batcher.window import State
from console.windows import give_up
from consumer import intake, metrics
from consumer.service import Stop
from deploy.embedded.processes import free_port
from schemas import referral
from schemas.delivery import Outcome
from tests.support.batch import PASSWORD, USER, House, house
from tests.support.desk import Worker, flushed, reading, state
from tests.support.kafka import Kafka
from tests.support.proxy import Proxy, proxy
from tests.support.receivers import sftp_receiver, smtp_receiver
from tests.support.rows import COLUMNS, chained, csv_of, person

#: Of the process that renders, beyond what it needs for a few pages: the ids it has seen take 4.
MAX_GROWTH_MIB = 8
FEW_ROWS, ROWS = 4 * render.PAGE, 40_000


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, kafka: Kafka) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("house"), kafka.bootstrap, "flush.") as running:
        yield running


# What stands in the file.


def test_one_row_per_referral_the_latest_revision(place: House, worker: Worker) -> None:
    connection = place.sftp_connection("latest")
    place.empty(connection)
    corrected = {**person(1), "revision": 2, "email": "new@example.com"}
    place.intake.put(1, [connection], person(1), person(2), corrected, {**person(1), "revision": 1})
    # Published again after the dedupe horizon: the same revision under another fingerprint.
    place.intake.put(1, [connection], person(2), person(3))
    flushed(place, worker, "latest")
    assert place.file("latest") == csv_of([person(2), corrected, person(3)])
    (told,) = place.receipts("latest")
    assert (told.outcome, told.rows, told.left_out) == (Outcome.DELIVERED, 3, 3)


def test_a_later_window_holds_the_later_correction(place: House, worker: Worker) -> None:
    connection = place.sftp_connection("corrected")
    place.empty(connection)
    place.intake.put(0, [connection], person(1))
    corrected = {**person(1), "revision": 1, "email": "new@example.com"}
    worker.at["told"] = lambda: place.intake.put(0, [connection], corrected)
    flushed(place, worker, "corrected")
    flushed(place, worker, "corrected")
    files = [content for _, content in sorted(place.files("corrected").items())]
    assert files == [csv_of([person(1)]), csv_of([corrected])]


@pytest.mark.parametrize("kind", ["sftp", "email"])
def test_removals_count_up_to_the_seal_and_up_to_the_first_byte(
    place: House, worker: Worker, kind: str
) -> None:
    name = f"removed-{kind}"
    connection = getattr(place, f"{kind}_connection")(name)
    place.empty(connection)
    people = {n: person(n) for n in range(1, 7)}
    place.intake.put(0, [connection], *people.values())
    place.intake.remove("r-000001")
    place.intake.remove("r-000002", erased=True)
    place.intake.remove("r-000003", revision=0)
    again = {**people[3], "revision": 1}
    place.intake.put(0, [connection], again)

    def after_the_seal() -> None:
        place.intake.remove("r-000004")
        place.intake.remove("r-000005", erased=True)

    worker.at["told"] = after_the_seal
    flushed(place, worker, name)
    expected = csv_of([people[4], people[6], again])
    if kind == "sftp":
        assert place.file(name) == expected
    else:
        assert {mail["content"] for mails in place.mails(name).values() for mail in mails} == {expected}
    (told,) = place.receipts(name)
    assert (told.rows, told.left_out) == (3, 4)


def test_erased_after_the_first_mail_the_second_one_is_the_same(place: House, worker: Worker) -> None:
    connection = place.email_connection("mid-mail")
    place.empty(connection)
    place.intake.put(0, [connection], person(1), person(2))
    dead = Relay("127.0.0.1", free_port(), 2.0, starttls=False)

    def then_fail() -> None:
        # The relay is away for the second recipient, and the row is erased before it comes back.
        object.__setattr__(worker.relay, "port", dead.port)
        place.intake.remove("r-000001", erased=True)

    worker.at["sent"] = then_fail
    place.ask("mid-mail")
    worker.go()
    assert {box: len(mails) for box, mails in place.mails("mid-mail").items()} == {"a": 1}
    worker.relay = Relay("127.0.0.1", place.smtp.port, 10.0, starttls=False)
    place.later("mid-mail")
    worker.go()
    got = place.mails("mid-mail")
    assert {box: [mail["content"] for mail in mails] for box, mails in got.items()} == {
        "a": [csv_of([person(1), person(2)])],
        "b": [csv_of([person(1), person(2)])],
    }
    assert place.closed("mid-mail", 1)


def test_erased_while_no_mail_got_through_the_row_stays_out(place: House, worker: Worker) -> None:
    connection = place.email_connection("no-mail-yet")
    place.empty(connection)
    place.intake.put(0, [connection], person(1), person(2))
    worker.relay = Relay("127.0.0.1", free_port(), 2.0, starttls=False)
    place.ask("no-mail-yet")
    worker.go()
    assert "refuses connections" in state(place, "no-mail-yet")[1]
    place.intake.remove("r-000001", erased=True)
    worker.relay = Relay("127.0.0.1", place.smtp.port, 10.0, starttls=False)
    place.later("no-mail-yet")
    worker.go()
    contents = {mail["content"] for mails in place.mails("no-mail-yet").values() for mail in mails}
    assert contents == {csv_of([person(2)])}


def test_everybody_gets_the_file_the_first_one_got(place: House, worker: Worker) -> None:
    """Though a mark under its rows changed in between; and nobody another one, once it is gone."""
    connection = place.email_connection("differs", recipients=[f"{box}@differs.example" for box in "abc"])
    place.empty(connection)
    place.intake.put(0, [connection], person(1), person(2))
    place.intake.remove("r-000009")

    def then_fail() -> None:
        object.__setattr__(worker.relay, "port", free_port())

    worker.at["sent"] = then_fail
    place.ask("differs")
    worker.go()
    # As a withdrawal known at the seal: what reads the mark now takes the row for withdrawn by then.
    place.store.command("HSET", f"{place.keys.prefix(0)}removed", "r-000001", "W 0 1 0 0 x")
    worker.relay = Relay("127.0.0.1", place.smtp.port, 10.0, starttls=False)
    worker.at["sent"] = then_fail
    place.later("differs")
    worker.go()
    found = place.state("differs")
    assert found is not None
    kept = place.windows.kept_file("differs", int(found.fields["kept"]), 1)
    place.store.command("DEL", kept)
    worker.relay = Relay("127.0.0.1", place.smtp.port, 10.0, starttls=False)
    place.later("differs")
    worker.go()
    assert "is no longer kept as some recipients may have it" in state(place, "differs")[1]
    got = place.mails("differs")
    assert {box: len(mails) for box, mails in got.items()} == {"a": 1, "b": 1}
    assert {mail["content"] for mails in got.values() for mail in mails} == {csv_of([person(1), person(2)])}


@pytest.mark.parametrize("kind", ["sftp", "email"])
@pytest.mark.parametrize("damage", ["changed", "lost", "added"])
def test_damaged_rows_go_to_nobody(place: House, worker: Worker, kind: str, damage: str) -> None:
    name = f"damaged-{damage}-{kind}"
    connection = getattr(place, f"{kind}_connection")(name)
    place.empty(connection)
    rows = place.intake.put(0, [connection], person(1), person(2))
    sealed = f"{place.keys.prefix(0)}sealed:{name}:1"
    does: dict[str, tuple[str | bytes | int, ...]] = {
        "changed": ("LSET", sealed, 1, rows[0]),
        "lost": ("RPOP", sealed),
        "added": ("RPUSH", sealed, rows[0]),
    }
    worker.at["told"] = lambda: place.store.command(*does[damage])
    place.ask(name)
    worker.go()
    found = place.state(name)
    assert found is not None
    assert found.held
    assert "Redis was tampered with or went back" in found.reason
    worker.observe()
    assert reading(metrics.FLUSH_STATE.labels("HELD")) == 1
    assert place.mails(name) == {}
    assert kind == "email" or place.files(name) == {}


def test_a_row_only_routing_can_read_stays_out(place: House, worker: Worker) -> None:
    connection = place.sftp_connection("half-read")
    place.empty(connection)
    good = place.intake.put(0, [connection], person(1), person(2, city="Wagga"))
    broken = good[1].replace(b"Wagga", b"\xff\xfe\xfd\xfc\xfb")
    assert broken != good[1]
    listed, seals = f"{place.keys.prefix(0)}open:half-read", f"{place.keys.prefix(0)}seals:half-read"
    place.store.command("LSET", listed, 1, broken)
    place.store.command("HSET", seals, "digest", chained([good[0], broken]))
    flushed(place, worker, "half-read")
    assert place.file("half-read") == csv_of([person(1)])
    (told,) = place.receipts("half-read")
    assert (told.rows, told.left_out) == (1, 1)


# What of an edit counts when.


def test_columns_are_frozen_at_the_seal(place: House, worker: Worker) -> None:
    connection = place.sftp_connection("edited")
    place.empty(connection)
    place.intake.put(0, [connection], person(1))
    edited = place.sftp_connection("edited", fields=["city"], file={"delimiter": ";"})
    worker.at["told"] = lambda: place.apply(edited)
    place.ask("edited")
    # What the frozen one needs is known to Redis, whatever the worker was told meanwhile.
    worker.go()
    place.intake.put(0, [edited], person(2))
    flushed(place, worker, "edited")
    files = [content for _, content in sorted(place.files("edited").items())]
    assert files == [csv_of([person(1)]), csv_of([person(2)], ["city"])]


@pytest.mark.case(27)
def test_a_held_window_leaves_once_its_connection_is_mended_and_asked_for(
    place: House, worker: Worker
) -> None:
    wrong = "SHA256:" + "A" * 43
    connection = place.sftp_connection("host-key", host_keys=[wrong])
    place.empty(connection)
    place.intake.put(0, [connection], person(1))
    place.ask("host-key")
    worker.go()
    held = place.state("host-key")
    assert held is not None
    assert held.held
    assert "key" in held.reason
    assert place.files("host-key") == {}
    worker.observe()
    assert reading(metrics.FLUSH_STATE.labels("HELD")) == 1

    place.apply(place.sftp_connection("host-key", fields=["city"]))
    worker.go()
    assert place.state("host-key") == held  # not before somebody asks, or its pause is over
    place.intake.put(0, [connection], person(2))
    place.ask("host-key")
    worker.go()
    worker.go()
    files = [content for _, content in sorted(place.files("host-key").items())]
    assert files == [csv_of([person(1)]), csv_of([person(2)], ["city"])]
    worker.observe()
    assert reading(metrics.FLUSH_STATE.labels("HELD")) == 0


def test_an_uploaded_file_is_not_looked_for_elsewhere(place: House, worker: Worker) -> None:
    """In a folder that never had it, a temporary file that is not there would mean: delivered."""
    connection = place.sftp_connection("moved")
    place.empty(connection)
    place.intake.put(0, [connection], person(1))
    place.sftp_connection("moved-here")
    moved = place.sftp_connection("moved", directory="moved-here")
    worker.at["uploaded durable"] = place.sftp.kill
    place.ask("moved")
    worker.go()
    assert state(place, "moved")[0] is State.UPLOADED
    place.sftp.restart()
    place.apply(moved)
    place.later("moved")
    worker.go()
    assert place.file("moved") == csv_of([person(1)])
    assert place.files("moved-here") == {}


def test_a_file_uploaded_where_nobody_looks_any_more_waits(place: House, worker: Worker) -> None:
    first, second, third = (
        place.sftp_connection("thrice", directory=folder) for folder in ("thrice", "thrice-b", "thrice-c")
    )
    for folder in ("thrice-b", "thrice-c"):
        place.sftp_connection(folder)
    place.empty(first)
    place.intake.put(0, [first], person(1))
    place.sftp.kill()
    place.ask("thrice")
    worker.go()
    place.sftp.restart()
    place.apply(second)
    place.later("thrice")
    worker.at["uploaded durable"] = place.sftp.kill
    worker.go()
    place.sftp.restart()
    place.apply(third)
    place.later("thrice")
    worker.go()
    found = place.state("thrice")
    assert found is not None
    assert found.held
    assert "/thrice-b, which is no longer configured" in found.reason
    place.apply(second)
    place.later("thrice")
    worker.go()
    assert place.closed("thrice", 1)
    assert [sorted(place.files(name)) for name in ("thrice", "thrice-c")] == [[], []]
    assert list(place.files("thrice-b").values()) == [csv_of([person(1)])]


def test_a_connection_taken_out_gets_what_was_sealed(place: House, worker: Worker) -> None:
    connection, other = place.sftp_connection("taken-out"), place.sftp_connection("stays")
    place.empty(connection, other)
    place.intake.put(0, [connection], person(1))
    place.sftp.kill()
    place.ask("taken-out")
    worker.go()
    assert "refuses connections" in state(place, "taken-out")[1]
    place.apply(other)
    place.sftp.restart()
    place.later("taken-out")
    worker.go()
    assert place.file("taken-out") == csv_of([person(1)])
    assert place.closed("taken-out", 1)


# Empty windows, sizes.


@pytest.mark.parametrize("kind", ["sftp", "email"])
@pytest.mark.parametrize("withdrawn", [False, True])
@pytest.mark.parametrize("empty", ["skip", "header"])
def test_a_window_without_rows(place: House, worker: Worker, kind: str, empty: str, withdrawn: bool) -> None:
    name = f"empty-{empty}-{kind}-{withdrawn}".lower()
    connection = getattr(place, f"{kind}_connection")(name, file={"empty": empty})
    place.empty(connection)
    if withdrawn:
        place.intake.put(0, [connection], person(1))
        place.intake.remove("r-000001")
    flushed(place, worker, name)
    contents = [mail["content"] for mails in place.mails(name).values() for mail in mails]
    contents += place.files(name).values() if kind == "sftp" else []
    assert set(contents) == (set() if empty == "skip" else {csv_of([])})
    (told,) = place.receipts(name)
    assert (told.outcome, told.rows, told.left_out) == (Outcome.DELIVERED, 0, int(withdrawn))
    assert (told.reason == "nothing new, no file wanted") is (empty == "skip")


def test_formulas_are_guarded_in_mails_and_not_in_folders(place: House, worker: Worker) -> None:
    connections = [
        place.sftp_connection("guard-sftp", fields=["first_name"]),
        place.email_connection("guard-mail", fields=["first_name"]),
    ]
    place.empty(*connections)
    place.intake.put(0, connections, person(1, first_name='=HYPERLINK("x")'))
    place.ask("guard-sftp")
    place.ask("guard-mail")
    worker.go()
    assert place.file("guard-sftp") == b'"first_name"\r\n"=HYPERLINK(""x"")"\r\n'
    mails = [mail["content"] for mails in place.mails("guard-mail").values() for mail in mails]
    assert mails == [b'"first_name"\r\n"\'=HYPERLINK(""x"")"\r\n'] * 2


def test_a_window_given_up_lets_the_next_ones_leave(place: House, worker: Worker) -> None:
    connection = place.sftp_connection("hopeless")
    place.empty(connection)
    rows = place.intake.put(0, [connection], person(1), person(2))
    worker.at["told"] = lambda: place.store.command(
        "LSET", f"{place.keys.prefix(0)}sealed:hopeless:1", 1, rows[0]
    )
    for wrong in ("hopeless-000001", "hopeless-000002", "hopeless"):
        with pytest.raises(Stop):
            give_up(place.settings, wrong, "tampered with")
    place.ask("hopeless")
    worker.go()
    found = place.state("hopeless")
    assert found is not None
    assert found.held
    told = give_up(place.settings, "hopeless-000001", "tampered with; exported by hand")
    assert "`referrals export` has its 2 rows" in told
    place.intake.put(0, [connection], person(3))
    place.ask("hopeless")
    worker.go()
    worker.go()
    assert place.file("hopeless") == csv_of([person(3)])
    first, second = sorted(place.receipts("hopeless"), key=lambda one: one.subject_id)
    assert (first.outcome, second.outcome) == (Outcome.REJECTED, Outcome.DELIVERED)
    assert first.reason == "given up by an operator: tampered with; exported by hand"


@pytest.mark.parametrize("form", [{}, {"compression": "zip"}, {"format": "xlsx"}], ids=["csv", "zip", "xlsx"])
def test_a_file_too_large_to_mail_comes_in_several_mails(
    place: House, worker: Worker, form: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its text hardly gets smaller in an archive."""
    most = 100_000
    monkeypatch.setattr(mail_files, "MAX_ATTACHMENT", most)
    name = f"large-{next(iter(form.values()), 'csv')}"
    connection = place.email_connection(name, fields=["referral_id", "ad_response"], file=form)
    place.empty(connection)
    people = [person(n, ad_response=f"x{token_urlsafe(300)}") for n in range(400)]
    place.intake.put(0, [connection], *people)
    flushed(place, worker, name)
    got = place.mails(name)
    assert sorted(got) == ["a", "b"]
    (manifest,) = place.manifests(name)
    assert manifest.sealed_at is not None
    local = manifest.sealed_at.astimezone(ZoneInfo("Europe/Berlin"))
    numbers = range(1, len(manifest.artefacts) + 1)
    assert len(numbers) in {2, 3}
    assert [one.name for one in manifest.artefacts] == [
        connection.file.called(f"{name}-{local:%Y%m%d}-000001-00{n}") for n in numbers
    ]
    for mails in got.values():
        assert all(len(mail["content"]) <= most for mail in mails)
        assert [mail["subject"] for mail in mails] == [
            f"Your new referrals ({n}/{len(numbers)})" for n in numbers
        ]
        rows = [line for mail in mails for line in lines(mail["content"], form)]
        assert rows == [[one["referral_id"], one["ad_response"]] for one in people]
    (told,) = place.receipts(name)
    assert (told.rows, told.digest) == (400, None)
    assert sum(one.rows for one in manifest.artefacts) == 400
    assert place.store.command("KEYS", "*:file:*") == []


def lines(content: bytes, form: dict[str, Any]) -> list[list[str]]:
    """The rows of a file, without its header."""
    if form.get("format") == "xlsx":
        sheet = openpyxl.load_workbook(io.BytesIO(content), read_only=True).active
        assert sheet is not None
        return [[str(value) for value in row] for row in sheet.iter_rows(min_row=2, values_only=True)]
    if form.get("compression") == "zip":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            content = archive.read(archive.namelist()[0])
    return list(csv.reader(io.StringIO(content.decode(), newline="")))[1:]


def test_more_mails_than_a_window_may_take_wait_until_they_go_by_sftp(place: House, worker: Worker) -> None:
    connection = place.email_connection("many", file={"split": {"rows": 1}})
    place.empty(connection)
    people = [person(n) for n in range(11)]
    place.intake.put(0, [connection], *people)
    place.ask("many")
    worker.go()
    found = place.state("many")
    assert found is not None
    assert found.held
    assert found.reason == "it would be over 10 mails of 10 MiB: compress it, or deliver by SFTP"
    assert place.mails("many") == {}
    place.apply(place.sftp_connection("many"))
    place.later("many")
    worker.go()
    assert place.file("many") == csv_of(people)


RENDER = """
import sys, time
from datetime import UTC, datetime
from batcher.deliver import write
from batcher.files.feed import Feed
from batcher.files.packing import Packing
from batcher.render import Rows, Sealed
from batcher.window import State, WindowState
from batcher.windows import Windows
from consumer.keys import Keys, Role
from consumer.store import Store
from schemas.connection import EmailConnection

url, topic, marks = sys.argv[1:]
window = WindowState("huge", 1, State.SEALED, "", 1, datetime.now(UTC), "", 0, 0.0, {"marks": marks})
connection = EmailConnection.model_validate({
    "name": "huge", "kind": "email", "recipients": ["a@example.com"], "schedule": {"cron": "0 8 * * *"},
    "fields": ["referral_id", "email", "first_name", {"name": "sex", "from": "gender", "values": {"F": "Female"}}],
})

class Sink:
    def write(self, content):
        return len(content)

windows = Windows(Store(url), Keys(topic, Role.BATCH))
began = time.monotonic()
packed = Packing("huge.csv", datetime.now(UTC))
feed = Feed(Rows(Sealed(windows, window), window, connection, None, None))
written = write(Sink(), connection, feed, packed, None)
# getrusage would count what the parent had when it forked.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(written.rows, time.monotonic() - began, int(peak.split()[1]) // 1024)
"""


def test_memory_stays_flat_over_a_large_window(place: House, capsys: pytest.CaptureFixture[str]) -> None:
    place.empty()
    value = referral.encode(person(0))

    def seal(count: int) -> str:
        digest = ""
        key = f"{place.keys.prefix(0)}sealed:huge:1"
        place.store.command("DEL", key)
        for first in range(0, count, 5_000):
            rows = [
                intake.row(n, value.replace(b"r-000000", b"r-%06d" % n))
                for n in range(first, min(first + 5_000, count))
            ]
            for row in rows:
                digest = hashlib.sha1(digest.encode() + row).hexdigest()
            place.store.command("RPUSH", key, *rows)
        mark = {"partition": 0, "start": 0, "to": count, "rows": count, "digest": digest, "removals": 0}
        return json.dumps([mark])

    def rendered(count: int) -> tuple[float, int]:
        argv = (sys.executable, "-c", RENDER, place.valkey.url, place.topics.referrals, seal(count))
        told = subprocess.run(
            argv, capture_output=True, text=True, check=True, timeout=100, cwd=Path(__file__).parents[2]
        )
        rows, seconds, mib = told.stdout.split()
        assert int(rows) == count
        return float(seconds), int(mib)

    _, small = rendered(FEW_ROWS)
    seconds, large = rendered(ROWS)
    place.empty()
    with capsys.disabled():
        print(f"\n{ROWS} rows: {ROWS / seconds:,.0f} rows/s, peak {large} MiB against {small} MiB")
    assert large - small < MAX_GROWTH_MIB


# Formats, archives and envelopes.


def test_a_format_an_archive_and_a_name_of_ones_own(place: House, worker: Worker) -> None:
    file = {"format": "json_lines", "compression": "gzip", "name": "leads {date:%Y} {number}"}
    connection = place.sftp_connection("lines", file=file)
    place.empty(connection)
    place.intake.put(0, [connection], person(1), person(2))
    flushed(place, worker, "lines")
    ((name, content),) = place.files("lines").items()
    assert re.fullmatch(r"leads 20[0-9]{2} 1\.jsonl\.gz", name)
    found = [json.loads(line) for line in gzip.decompress(content).splitlines()]
    assert found == [{column: person(n)[column] for column in COLUMNS} for n in (1, 2)]
    (told,) = place.receipts("lines")
    assert (told.rows, told.digest) == (2, hashlib.sha256(content).hexdigest())


def test_what_does_not_fit_is_held_until_its_file_is_mended(place: House, worker: Worker) -> None:
    changes = {"fields": ["referral_id", "first_name"]}
    connection = place.sftp_connection("fits", file={"encoding": "windows-1252"}, **changes)
    place.empty(connection)
    place.intake.put(0, [connection], person(1, first_name="Łucja"))
    place.ask("fits")
    worker.go()
    found = place.state("fits")
    assert found is not None
    assert (found.state, found.held) == (State.SEALED, True)
    assert found.reason == (
        "row 1, first_name: windows-1252 does not have all its characters: choose encoding: utf-8"
    )
    assert place.files("fits") == {}
    place.apply(place.sftp_connection("fits", file={"encoding": "utf-8"}, **changes))
    place.later("fits")
    worker.go()
    assert place.file("fits") == csv_of([person(1, first_name="Łucja")], changes["fields"])


def test_an_envelope_waits_for_a_key_that_lives(place: House, worker: Worker, tmp_path: Path) -> None:
    path, theirs = tmp_path / "theirs.asc", pysequoia.Tsk.generate("them <a@x.example>")
    path.write_bytes((Path(__file__).parents[1] / "support/openpgp/expired.asc").read_bytes())
    connection = place.sftp_connection("sealed", file={"openpgp": {"recipients": [f"${{file:{path}}}"]}})
    place.empty(connection)
    place.intake.put(0, [connection], person(1))
    place.ask("sealed")
    worker.go()
    found = place.state("sealed")
    assert found is not None
    assert found.held
    assert f"the key in ${{file:{path}}} expired on 2024-01-02" in found.reason
    path.write_text(str(theirs.extract_certificate()))
    place.later("sealed")
    worker.go()
    ((name, content),) = place.files("sealed").items()
    assert name.endswith(".csv.pgp")
    assert pysequoia.decrypt(content, theirs.decryptor()).bytes == csv_of([person(1)])
    (told,) = place.receipts("sealed")
    assert told.digest == hashlib.sha256(content).hexdigest()


def test_everybody_is_mailed_the_same_archive_though_no_second_making_gives_it(
    place: House, worker: Worker, tmp_path: Path
) -> None:
    path = tmp_path / "password"
    path.write_text("sesame")
    file = {"compression": "zip", "password": f"${{file:{path}}}"}
    connection = place.email_connection("archive", file=file)
    place.empty(connection)
    place.intake.put(0, [connection], person(1))
    with smtp_receiver(tmp_path / "busy", "--mode", "b@archive.example=451") as busy:
        worker.relay = Relay("127.0.0.1", busy.port, 10.0, starttls=False)
        place.ask("archive")
        worker.go()
        (one,) = busy.effects("mail")
        first = (busy.folder / "mail" / one["files"][0]).read_bytes()
    found = place.state("archive")
    assert found is not None
    assert (found.state, found.held) == (State.SENDING, False)
    assert place.store.command("TTL", place.windows.kept_file("archive", int(found.fields["kept"]), 1)) == -1
    # What has left may not change any more, whatever its reference leads to now.
    path.unlink()
    worker.relay = Relay("127.0.0.1", place.smtp.port, 10.0, starttls=False)
    place.later("archive")
    worker.go()
    ((box, (mail,)),) = place.mails("archive").items()
    assert (box, mail["content"]) == ("b", first)
    with pyzipper.AESZipFile(io.BytesIO(first)) as archive:
        assert archive.read(archive.namelist()[0], b"sesame") == csv_of([person(1)])
    assert state(place, "archive")[0] is State.CLOSED
    assert place.store.command("KEYS", "*:file:*") == []


def test_an_archive_that_was_not_sent_is_made_anew(place: House, worker: Worker, tmp_path: Path) -> None:
    connection = place.email_connection(
        "anew", file={"compression": "zip", "password": "${env:SFTP_PASSWORD}"}
    )
    place.empty(connection)
    place.intake.put(0, [connection], person(1))
    modes = [word for box in "ab" for word in ("--mode", f"{box}@anew.example=data-451")]
    with smtp_receiver(tmp_path / "full", *modes) as full:
        worker.relay = Relay("127.0.0.1", full.port, 10.0, starttls=False)
        place.ask("anew")
        worker.go()
    assert place.store.command("KEYS", "*:anew}:file:*") == [], "nothing of it had left"
    place.intake.remove(person(1)["referral_id"], erased=True)
    worker.relay = Relay("127.0.0.1", place.smtp.port, 10.0, starttls=False)
    place.later("anew")
    worker.go()
    assert place.mails("anew") == {}, "erased before anything had left"
    assert place.closed("anew", 1)
    assert [one.artefacts for one in place.manifests("anew")] == [()]
    assert place.store.command("KEYS", "*:file:*") == []


# Trouble with the receiver.


def test_a_server_that_is_down_gets_its_file_later(place: House, worker: Worker) -> None:
    connection = place.sftp_connection("down")
    place.empty(connection)
    place.intake.put(0, [connection], person(1))
    place.sftp.kill()
    retries = reading(metrics.FLUSHED.labels("sftp", "retry"))
    place.ask("down")
    worker.go()
    found = place.state("down")
    assert found is not None
    assert (found.state, found.held, found.tries) == (State.SEALED, False, 1)
    assert found.retry_at > time.time()
    assert reading(metrics.FLUSHED.labels("sftp", "retry")) == retries + 1
    worker.go()
    assert place.state("down") == found  # its pause is not over
    place.sftp.restart()
    place.later("down")
    worker.go()
    assert place.file("down") == csv_of([person(1)])
    (told,) = place.receipts("down")
    assert told.attempts == 2


def test_windows_of_a_held_connection_leave_in_order(place: House, worker: Worker) -> None:
    connection = place.sftp_connection("no-folder")
    folder = place.sftp.folder / USER / "no-folder"
    folder.rmdir()
    place.empty(connection)
    place.intake.put(0, [connection], person(1))
    place.ask("no-folder")
    worker.go()
    found = place.state("no-folder")
    assert found is not None
    assert found.held
    assert "check `directory`" in found.reason
    place.intake.put(0, [connection], person(2))
    folder.mkdir()
    place.later("no-folder")
    worker.go()
    flushed(place, worker, "no-folder")
    files = sorted(place.files("no-folder").items())
    assert [content for _, content in files] == [csv_of([person(1)]), csv_of([person(2)])]
    assert place.renames("no-folder") == [f"no-folder/{file}" for file, _ in files]


def test_a_foreign_file_under_the_final_name_is_not_overwritten(place: House, worker: Worker) -> None:
    connection = place.sftp_connection("foreign")
    place.empty(connection)
    place.intake.put(0, [connection], person(1))
    folder = place.sftp.folder / USER / "foreign"
    foreign: list[Path] = []

    def put() -> None:
        window = place.windows.state("foreign")
        assert window is not None
        foreign.append(folder / final_name(window, connection))
        foreign[0].write_text("theirs")

    worker.at["uploaded durable"] = put
    place.ask("foreign")
    worker.go()
    found = place.state("foreign")
    assert found is not None
    assert (found.state, found.held) == (State.UPLOADED, True)
    assert foreign[0].name in found.reason
    assert foreign[0].read_text() == "theirs"
    foreign[0].unlink()
    place.later("foreign")
    worker.go()
    assert place.files("foreign") == {foreign[0].name: csv_of([person(1)])}


@pytest.mark.case(25)
def test_taken_away_at_once_while_the_reply_is_lost(place: House, worker: Worker, tmp_path: Path) -> None:
    users = {USER: {"password": PASSWORD}}
    with sftp_receiver(tmp_path / "taker", users, "--take") as taker, proxy(taker.port) as line:
        changes = {"port": line.port, "host_keys": [taker.words[1]], "timeout": 1.0, "directory": "."}
        # The same steps on a line without faults tell how many bytes lead to the rename.
        connections = [place.sftp_connection(f"taken-{n}", **changes) for n in (1, 2)]
        place.empty(*connections)
        place.intake.put(0, connections, person(1))
        upstream = _bytes_to_rename(place, worker, line, "taken-1")

        def deafen() -> None:
            line.deaf_after = line.passed + upstream

        worker.at["uploaded durable"] = deafen
        place.ask("taken-2")
        worker.go()
        assert state(place, "taken-2")[0] is State.UPLOADED
        assert [e["name"][:7] for e in taker.effects("rename")] == ["taken-1", "taken-2"]
        line.deaf_after, line.deaf = None, False
        place.later("taken-2")
        worker.go()
        assert place.closed("taken-2", 1)
        assert [e["name"][:7] for e in taker.effects("rename")] == ["taken-1", "taken-2"]
        assert [told.outcome for told in place.receipts("taken-2")] == [Outcome.DELIVERED]


def _bytes_to_rename(place: House, worker: Worker, line: Proxy, name: str) -> int:
    seen: list[int] = []
    worker.at["uploaded durable"] = lambda: seen.append(line.passed)
    worker.at["renamed"] = lambda: seen.append(line.passed)
    flushed(place, worker, name)
    return seen[1] - seen[0]


@pytest.mark.case(28)
def test_one_recipient_refused_the_other_is_served_once(place: House, worker: Worker, tmp_path: Path) -> None:
    connection = place.email_connection("refused")
    place.empty(connection)
    place.intake.put(0, [connection], person(1))
    with smtp_receiver(tmp_path / "refusing", "--mode", "a@refused.example=550") as refusing:
        worker.relay = Relay("127.0.0.1", refusing.port, 10.0, starttls=False)
        flushed(place, worker, "refused")
        assert [mail["recipient"] for mail in refusing.effects("mail")] == ["b@refused.example"]
    assert state(place, "refused")[0] is State.CLOSED
    (told,) = place.receipts("refused")
    assert told.outcome is Outcome.DELIVERED
    assert told.reason == "1 of 2 recipients are refused by their mail system and miss it"


@pytest.mark.case(28)
def test_while_every_recipient_is_refused_the_window_waits(
    place: House, worker: Worker, tmp_path: Path
) -> None:
    connection = place.email_connection("nobody", recipients=["a@nobody.example"])
    place.empty(connection)
    place.intake.put(0, [connection], person(1))
    with smtp_receiver(tmp_path / "refusing", "--mode", "a@nobody.example=550") as refusing:
        worker.relay = Relay("127.0.0.1", refusing.port, 10.0, starttls=False)
        place.ask("nobody")
        worker.go()
    found = place.state("nobody")
    assert found is not None
    assert (found.held, found.reason) == (
        True,
        "every recipient is refused by its mail system: check the addresses",
    )
    place.apply(place.email_connection("nobody", recipients=["c@nobody.example"]))
    worker.relay = Relay("127.0.0.1", place.smtp.port, 10.0, starttls=False)
    place.later("nobody")
    worker.go()
    assert {box: len(mails) for box, mails in place.mails("nobody").items()} == {"c": 1}
    assert [told.outcome for told in place.receipts("nobody")] == [Outcome.DELIVERED]


@pytest.mark.case(26)
@pytest.mark.parametrize("kind", ["sftp", "email"])
def test_overtaken_before_the_intent_nothing_leaves(place: House, worker: Worker, kind: str) -> None:
    name = f"overtaken-{kind}"
    connection = getattr(place, f"{kind}_connection")(name)
    place.empty(connection)
    place.intake.put(0, [connection], person(1))

    def take_over() -> None:
        place.later(name)
        assert place.windows.claim(name, "somebody else", "", 1, scheduled=False) is not None

    worker.at["uploaded" if kind == "sftp" else "told"] = take_over
    fenced = reading(metrics.FENCED.labels("token"))
    place.ask(name)
    worker.go()
    assert reading(metrics.FENCED.labels("token")) == fenced + 1
    assert state(place, name)[0] is State.SEALED
    assert place.mails(name) == {}
    assert kind == "email" or place.files(name) == {}
    worker.go()
    assert state(place, name)[0] is State.SEALED  # the other one holds it
    place.later(name)
    worker.go()
    assert place.closed(name, 1)


# Schedule and metrics.


@pytest.mark.case(29)
def test_wishes_and_slots_take_turns(place: House, worker: Worker) -> None:
    connection = place.sftp_connection("turns", schedule={"cron": "0 8 * * *", "zone": "UTC"})
    place.empty(connection)
    day = datetime(2026, 6, 1, 9, 0, tzinfo=UTC)

    def look(now: datetime) -> tuple[int, str]:
        worker.go(now)
        window = place.state("turns")
        return (window.number, window.slot[:16]) if window else (0, "")

    assert look(day) == (0, "")  # new: today's slot was before it
    place.windows.ask("turns", day)
    assert look(day + timedelta(hours=1)) == (1, "asked:2026-06-01")
    assert look(day + timedelta(hours=2)) == (1, "asked:2026-06-01")
    assert look(day + timedelta(days=1)) == (2, "2026-06-02T08:00")
    place.windows.ask("turns", day)
    assert look(day + timedelta(days=1, hours=1)) == (3, "asked:2026-06-01")
    assert look(day + timedelta(days=1, hours=2)) == (3, "asked:2026-06-01")
    assert look(day + timedelta(days=4)) == (4, "2026-06-05T08:00")  # three slots missed: one window
    assert look(day + timedelta(days=4)) == (4, "2026-06-05T08:00")
    one, *rest = place.manifests("turns")
    assert [mark.start for manifest in rest for mark in manifest.marks] == [
        mark.to for manifest in (one, *rest[:-1]) for mark in manifest.marks
    ]


def test_a_paused_connection_waits_and_loses_nothing(place: House, worker: Worker) -> None:
    connection = place.sftp_connection("paused")
    place.empty(connection)
    place.intake.put(0, [connection], person(1))
    place.store.command("HSET", place.keys.paused, "paused", "by hand")
    place.ask("paused")
    worker.go()
    assert place.state("paused") is None
    place.intake.put(1, [connection], person(2))
    place.store.command("HDEL", place.keys.paused, "paused")
    worker.go()
    assert place.file("paused") == csv_of([person(1), person(2)])


def test_what_metrics_tell_of_windows_under_way(place: House, worker: Worker) -> None:
    connection = place.sftp_connection("told")
    place.empty(connection)
    place.intake.put(0, [connection], person(1))
    key = place.keys.window("told")
    windows = place.windows
    window = windows.claim("told", "somebody else", "slot", 0, scheduled=True)
    assert window is not None
    long_ago = int((time.time() - 3600) * 1000)
    for found in (one for one in State if one is not State.CLOSED):
        place.store.command("HSET", key, "state", found, "since", long_ago)
        worker.observe()
        told = {s: reading(metrics.FLUSH_STATE.labels(s)) for s in State if s is not State.CLOSED}
        assert told == {**dict.fromkeys(told, 0), found: 1}
        assert reading(metrics.FLUSH_OVERDUE) == 1
    assert abs(reading(metrics.OLDEST_UNSEALED) - time.time()) < 60
    place.store.command("HSET", key, "held", 1, "since", int(time.time() * 1000))
    worker.observe()
    assert reading(metrics.FLUSH_STATE.labels("HELD")) == 1
    assert reading(metrics.FLUSH_STATE.labels("ENDED")) == 0
    assert reading(metrics.FLUSH_OVERDUE) == 0


def test_a_definition_redis_does_not_have_leaves_the_window_where_it_is(place: House, worker: Worker) -> None:
    connection = place.sftp_connection("undefined")
    place.empty(connection)
    place.intake.put(0, [connection], person(1))
    worker.at["told"] = lambda: place.store.command("DEL", place.keys.definitions)
    place.ask("undefined")
    worker.go()
    assert state(place, "undefined")[0] is State.SEALED
    assert place.files("undefined") == {}
