"""What arrives of one window: several files, the document beside them, word that there was nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from batcher import mail_files
from batcher.channels.mail import Relay
from batcher.files.manifest import parse
from batcher.window import State
from console.verify import verify
from deploy.embedded.processes import free_port
from schemas.delivery import Outcome
from tests.support.batch import USER, House, house
from tests.support.desk import Worker, flushed, state
from tests.support.kafka import Kafka
from tests.support.receivers import smtp_receiver
from tests.support.rows import csv_of, person

UPLOADS = ("sftp", "ftps")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, kafka: Kafka) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("house"), kafka.bootstrap, "artefacts.") as running:
        yield running


def named(place: House, name: str) -> list[tuple[str, bytes]]:
    """The files in the connection's folder, by their names' ends, in order."""
    return sorted((file.partition("-000001")[2], content) for file, content in place.files(name).items())


SPLITS = [
    pytest.param({"rows": 2}, [2, 2, 1], id="at rows"),
    pytest.param({"rows": 5}, [5], id="all rows fit"),
    # The header has 39 bytes, a row 47.
    pytest.param({"bytes": 1_000}, [5], id="all bytes fit"),
    pytest.param({"rows": 4, "bytes": 1_000}, [4, 1], id="whatever comes first"),
]


@pytest.mark.parametrize("kind", UPLOADS)
@pytest.mark.parametrize(("split", "sizes"), SPLITS)
def test_a_window_is_split(
    place: House, worker: Worker, kind: str, split: dict[str, int], sizes: list[int]
) -> None:
    name = f"{kind}-split-{'-'.join(map(str, sizes))}-{len(split)}-{split.get('rows', 0)}"
    connection = place.upload_connection(kind, name, file={"split": split})
    place.empty(connection)
    people = [person(n) for n in range(5)]
    place.intake.put(0, [connection], *people[:3])
    place.intake.put(1, [connection], *people[3:])
    flushed(place, worker, name)
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    assert named(place, name) == [
        (f"-{n:03}.csv", csv_of(people[start : start + size]))
        for n, (start, size) in enumerate(zip(starts, sizes, strict=True), 1)
    ]
    (manifest,) = place.manifests(name)
    assert [one.rows for one in manifest.artefacts] == sizes
    assert manifest.account_id == "acme"


def test_bytes_are_counted_before_they_are_compressed(place: House, worker: Worker) -> None:
    name = "bytes"
    connection = place.sftp_connection(name, file={"split": {"bytes": 1_000}, "format": "json_lines"})
    place.empty(connection)
    people = [person(n) for n in range(40)]
    place.intake.put(0, [connection], *people)
    flushed(place, worker, name)
    contents = [content for _, content in named(place, name)]
    assert len(contents) > 2
    assert all(len(content) <= 1_000 for content in contents)
    line = len(contents[0].splitlines(keepends=True)[0])
    assert all(len(content) > 1_000 - line for content in contents[:-1])
    assert [row for content in contents for row in content.splitlines()] == [
        f'{{"referral_id":"{p["referral_id"]}","email":"{p["email"]}","postal_code":"{p["postal_code"]}"}}'.encode()
        for p in people
    ]
    place.apply(place.sftp_connection(name, file={"split": {"bytes": 1_000}, "compression": "gzip"}))
    place.intake.put(0, [connection], *people)
    flushed(place, worker, name)
    assert len(place.manifests(name)[1].artefacts) == 2  # 40 rows of 47 bytes


def test_a_window_of_more_files_than_it_may_have_waits(
    place: House, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batcher.deliver_upload.MAX_FILES", 3)
    connection = place.sftp_connection("manifold", file={"split": {"rows": 1}})
    place.empty(connection)
    place.intake.put(0, [connection], *(person(n) for n in range(4)))
    place.ask("manifold")
    worker.go()
    found = place.state("manifold")
    assert found is not None
    assert (found.held, found.state) == (True, State.SEALED)
    assert "let each take more in file.split" in found.reason
    # What is uploaded already was made for another split: it starts again.
    place.apply(place.sftp_connection("manifold", file={"split": {"rows": 2}}))
    place.later("manifold")
    worker.go()
    assert named(place, "manifold") == [
        ("-001.csv", csv_of([person(0), person(1)])),
        ("-002.csv", csv_of([person(2), person(3)])),
    ]


@pytest.mark.parametrize("kind", UPLOADS)
def test_the_document_comes_last_and_tells_the_advertiser_that_all_is_there(
    place: House, worker: Worker, kind: str
) -> None:
    name = f"{kind}-sidecar"
    connection = place.upload_connection(kind, name, file={"sidecar": True, "split": {"rows": 2}})
    place.empty(connection)
    place.intake.put(1, [connection], *(person(n) for n in range(3)))
    flushed(place, worker, name)
    assert [Path(file).name.partition("-000001")[2] for file in place.renames(name)] == [
        "-001.csv",
        "-002.csv",
        ".manifest.json",
    ]
    folder = place.ftps.folder / name if kind == "ftps" else place.sftp.folder / USER / name
    (manifest,) = place.manifests(name)
    for file, told in zip(sorted(folder.glob("*.csv")), manifest.artefacts, strict=True):
        verified = verify(str(file), None)
        assert verified.missing == ()
        assert (verified.entry.name, verified.entry.sha256) == (told.name, told.sha256)
        assert verified.sidecar.window == f"{name}-000001"
        assert verified.sidecar.ranges == tuple((m.partition, m.start, m.to) for m in manifest.marks)
    (told_of,) = place.receipts(name)
    assert (told_of.rows, told_of.outcome) == (3, Outcome.DELIVERED)


@pytest.mark.case(27)
@pytest.mark.parametrize("kind", UPLOADS)
def test_a_server_without_a_rename(place: House, worker: Worker, kind: str) -> None:
    name = f"{kind}-done"
    file = {"sidecar": True, "split": {"rows": 2}}
    connection = place.upload_connection(kind, name, file=file, completion="done_file")
    place.empty(connection)
    people = [person(n) for n in range(3)]
    place.intake.put(0, [connection], *people)
    worker.at["uploaded durable"] = lambda: place.later(name)
    flushed(place, worker, name)
    got = dict(named(place, name))
    assert sorted(got) == [
        "-001.csv",
        "-001.csv.done",
        "-002.csv",
        "-002.csv.done",
        ".manifest.json",
        ".manifest.json.done",
    ]
    assert (got["-001.csv"], got["-002.csv"]) == (csv_of(people[:2]), csv_of(people[2:]))
    assert {content for file, content in got.items() if file.endswith(".done")} == {b""}
    assert place.renames(name) == []


@pytest.mark.case(27)
def test_a_window_held_for_want_of_a_rename_leaves_once_its_connection_says_so(
    place: House, worker: Worker
) -> None:
    """It was uploaded to be renamed; then its connection learns that the server has no rename."""
    connection = place.sftp_connection("learns")
    place.empty(connection)
    place.intake.put(0, [connection], person(1))

    def then_fail() -> None:
        raise AssertionError("here the worker ends")

    worker.at["uploaded durable"] = then_fail
    place.ask("learns")
    worker.go()
    assert state(place, "learns")[0] is State.UPLOADED
    place.apply(place.sftp_connection("learns", completion="done_file"))
    place.later("learns")
    other = Worker(place, {})
    other.go()
    other.close()
    assert [end for end, _ in named(place, "learns")] == [".csv", ".csv.done"]


EMPTY = [
    pytest.param("skip", [], id="nothing"),
    pytest.param("header", [".csv"], id="a file without rows"),
    pytest.param("note", [".manifest.json"], id="the document that lists none"),
]


@pytest.mark.parametrize("kind", UPLOADS)
@pytest.mark.parametrize(("empty", "expected"), EMPTY)
def test_a_window_without_rows_uploaded(
    place: House, worker: Worker, kind: str, empty: str, expected: list[str]
) -> None:
    """No row came, or the only one was withdrawn: there is a receipt all the same."""
    name = f"{kind}-empty-{empty}"
    connection = place.upload_connection(kind, name, file={"empty": empty})
    place.empty(connection)
    flushed(place, worker, name)
    found = named(place, name)
    assert [end for end, _ in found] == expected
    if empty == "note":
        assert parse(found[0][1]).files == ()
    place.intake.put(0, [connection], person(1))
    place.intake.remove("r-000001")
    flushed(place, worker, name)
    told = sorted(place.receipts(name), key=lambda one: one.subject_id)
    assert [(one.outcome, one.rows) for one in told] == [(Outcome.DELIVERED, 0)] * 2
    assert told[1].left_out == 1
    assert len(place.files(name)) == 2 * len(expected)


@pytest.mark.parametrize("empty", ["skip", "header", "note"])
def test_a_window_without_rows_mailed(place: House, worker: Worker, empty: str) -> None:
    name = f"mail-empty-{empty}"
    connection = place.email_connection(name, file={"empty": empty})
    place.empty(connection)
    flushed(place, worker, name)
    got = place.mails(name)
    assert {box: len(mails) for box, mails in got.items()} == ({} if empty == "skip" else {"a": 1, "b": 1})
    for mails in got.values():
        assert [mail["content"] for mail in mails] == [None if empty == "note" else csv_of([])]
    (told,) = place.receipts(name)
    reasons = {"skip": "nothing new, no file wanted", "header": None, "note": "nothing new, and said so"}
    assert (told.outcome, told.rows, told.reason) == (Outcome.DELIVERED, 0, reasons[empty])


def test_the_last_mail_carries_the_document(place: House, worker: Worker) -> None:
    name = "documented"
    connection = place.email_connection(name, file={"sidecar": True, "split": {"rows": 2}})
    place.empty(connection)
    place.intake.put(0, [connection], *(person(n) for n in range(3)))
    flushed(place, worker, name)
    for mails in place.mails(name).values():
        first, last = (mail["attached"] for mail in mails)
        assert len(first) == 1
        ((csv, rest), (document, listed)) = sorted(last.items())
        assert (csv.endswith("-002.csv"), document.endswith(".manifest.json")) == (True, True)
        digests = [hashlib.sha256(content).hexdigest() for content in (*first.values(), rest)]
        assert [entry.sha256 for entry in parse(listed).files] == digests


REFUSALS: list[Any] = [
    pytest.param({"a": "550"}, {"b": 1}, "1 of 2 recipients are refused", id="one of two"),
    pytest.param({"a": "451"}, {"a": 1, "b": 1}, None, id="later taken"),
]


@pytest.mark.case(28)
@pytest.mark.parametrize(("modes", "expected", "reason"), REFUSALS)
def test_a_recipient_in_trouble_keeps_nobody_waiting(
    place: House,
    worker: Worker,
    tmp_path: Path,
    modes: dict[str, str],
    expected: dict[str, int],
    reason: str | None,
) -> None:
    name = f"trouble-{modes['a']}"
    connection = place.email_connection(name, file={"split": {"rows": 1}})
    place.empty(connection)
    place.intake.put(0, [connection], person(1), person(2))
    given = [f"{box}@{name}.example={mode}" for box, mode in modes.items()]
    with smtp_receiver(tmp_path / "busy", "--mode", *given) as busy:
        worker.relay = Relay("127.0.0.1", busy.port, 10.0, starttls=False)
        place.ask(name)
        worker.go()
        got = [mail["recipient"] for mail in busy.effects("mail")]
        assert got == [f"b@{name}.example"] * 2
    worker.relay = Relay("127.0.0.1", place.smtp.port, 10.0, starttls=False)
    place.later(name)
    worker.go()
    assert state(place, name)[0] is State.CLOSED
    later = {box: len(mails) // 2 for box, mails in place.mails(name).items()}
    assert {"b": 1, **later} == expected
    (told,) = place.receipts(name)
    assert (told.outcome, (told.reason or "").startswith(reason or "")) == (Outcome.DELIVERED, True)


@pytest.mark.case(28)
@pytest.mark.parametrize("last", ["550", "drop"])
def test_refused_for_a_later_file_alone_nobody_gets_an_earlier_one_twice(
    place: House, worker: Worker, tmp_path: Path, last: str
) -> None:
    """The mailbox is closed after the first mail, or after the second, which nobody knows of."""
    name = f"closes-{last}"
    recipient = f"a@{name}.example"
    connection = place.email_connection(name, recipients=[recipient], file={"split": {"rows": 1}})
    place.empty(connection)
    people = [person(n) for n in range(3)]
    place.intake.put(0, [connection], *people)
    with ExitStack() as stack:
        port = free_port()
        opened = stack.enter_context(smtp_receiver(tmp_path / "open", port=port))

        def refuse() -> None:
            opened.kill()
            stack.enter_context(smtp_receiver(tmp_path / "closed", "--mode", f"{recipient}=550", port=port))

        def unknown() -> None:
            opened.kill()
            dropping = smtp_receiver(tmp_path / "dropping", "--mode", f"{recipient}=drop", port=port)
            between = stack.enter_context(dropping)

            def then_refuse() -> None:
                between.kill()
                mode = ("--mode", f"{recipient}=550")
                stack.enter_context(smtp_receiver(tmp_path / "closed", *mode, port=port))

            worker.at["sent"] = then_refuse

        worker.relay = Relay("127.0.0.1", port, 10.0, starttls=False)
        worker.at["sent"] = refuse if last == "550" else unknown
        place.ask(name)
        worker.go()
        assert [mail["recipient"] for mail in opened.effects("mail")] == [recipient]
    found = place.state(name)
    assert found is not None
    assert (found.held, found.reason[:31]) == (True, "every recipient is refused by i")
    worker.relay = Relay("127.0.0.1", place.smtp.port, 10.0, starttls=False)
    place.later(name)
    worker.go()
    assert state(place, name)[0] is State.CLOSED
    left = people[1:] if last == "550" else people[2:]
    assert [mail["content"] for mail in place.mails(name)["a"]] == [csv_of([one]) for one in left]


def test_a_window_that_waits_keeps_no_files(place: House, worker: Worker, tmp_path: Path) -> None:
    """Each try would leave what a mail takes, ten times."""
    connection = place.email_connection("waits", file={"split": {"rows": 2}})
    place.empty(connection)
    people = [person(n) for n in range(4)]
    place.intake.put(0, [connection], *people)
    modes = [word for box in "ab" for word in ("--mode", f"{box}@waits.example=451")]
    with smtp_receiver(tmp_path / "busy", *modes) as busy:
        worker.relay = Relay("127.0.0.1", busy.port, 10.0, starttls=False)
        place.ask("waits")
        worker.go()
    assert place.store.command("KEYS", "*:file:*") == []
    # Mended to what is too many, then to what fits.
    place.store.command("HSET", place.keys.window("waits"), "held", 1)
    place.apply(place.email_connection("waits", file={"split": {"rows": 1}}))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(mail_files, "MAX_MAILS", 3)
        for _ in range(2):
            place.later("waits")
            worker.go()
            found = place.state("waits")
            assert found is not None
            assert (found.held, found.reason[:24]) == (True, "it would be over 3 mails")
            assert place.store.command("KEYS", "*:file:*") == []
    worker.relay = Relay("127.0.0.1", place.smtp.port, 10.0, starttls=False)
    place.later("waits")
    worker.go()
    assert [mail["content"] for mail in place.mails("waits")["a"]] == [csv_of([one]) for one in people]
    assert place.store.command("KEYS", "*:file:*") == []


@pytest.mark.parametrize("way", ["smaller files", "another way"])
def test_what_the_relay_does_not_take_leaves_once_it_is_mended(
    place: House, worker: Worker, tmp_path: Path, way: str
) -> None:
    name = way.replace(" ", "-")
    connection = place.email_connection(name, recipients=[f"a@{name}.example"])
    place.empty(connection)
    people = [person(1), person(2)]
    place.intake.put(0, [connection], *people)
    with smtp_receiver(tmp_path / "small", "--mode", f"a@{name}.example=data-552") as small:
        worker.relay = Relay("127.0.0.1", small.port, 10.0, starttls=False)
        place.ask(name)
        worker.go()
    found = place.state(name)
    assert found is not None
    assert (found.held, "send fewer rows or use SFTP" in found.reason) == (True, True)
    worker.relay = Relay("127.0.0.1", place.smtp.port, 10.0, starttls=False)
    split = {"split": {"rows": 1}}
    if way == "smaller files":
        place.apply(place.email_connection(name, recipients=[f"a@{name}.example"], file=split))
    else:
        place.apply(place.sftp_connection(name, file={"sidecar": True}))
    place.later(name)
    worker.go()
    assert place.closed(name, 1), state(place, name)
    if way == "smaller files":
        assert [mail["content"] for mail in place.mails(name)["a"]] == [csv_of([one]) for one in people]
    else:
        files = place.files(name)
        assert [files[file] for file in sorted(files) if file.endswith(".csv")] == [csv_of(people)]
        assert len(files) == 2


def test_a_window_mailed_after_its_server_failed_is_mailed_to_its_end(
    place: House, worker: Worker, tmp_path: Path
) -> None:
    """What some recipient has goes to the others, and not to the server it was sealed for."""
    name = "by-mail-now"
    first = place.sftp_connection(name, host_keys=["SHA256:" + "A" * 43])
    place.empty(first)
    place.intake.put(0, [first], person(1))
    place.ask(name)
    worker.go()
    found = place.state(name)
    assert found is not None
    assert found.held
    place.apply(place.email_connection(name))
    with smtp_receiver(tmp_path / "busy", "--mode", f"b@{name}.example=451") as busy:
        worker.relay = Relay("127.0.0.1", busy.port, 10.0, starttls=False)
        place.later(name)
        worker.go()
        (mail,) = busy.effects("mail")
    worker.relay = Relay("127.0.0.1", place.smtp.port, 10.0, starttls=False)
    place.apply(place.sftp_connection(name))
    place.later(name)
    worker.go()
    assert place.closed(name, 1), state(place, name)
    assert mail["recipient"] == f"a@{name}.example"
    assert {box: len(mails) for box, mails in place.mails(name).items()} == {"b": 1}
    assert place.files(name) == {}


def test_what_was_not_sent_in_the_end_is_not_told(place: House, worker: Worker, tmp_path: Path) -> None:
    connection = place.email_connection("all-erased")
    place.empty(connection)
    place.intake.put(0, [connection], person(1))
    modes = [word for box in "ab" for word in ("--mode", f"{box}@all-erased.example=451")]
    with smtp_receiver(tmp_path / "busy", *modes) as busy:
        worker.relay = Relay("127.0.0.1", busy.port, 10.0, starttls=False)
        place.ask("all-erased")
        worker.go()
        place.intake.remove("r-000001", erased=True)
        place.later("all-erased")
        worker.go()
    assert place.closed("all-erased", 1)
    (manifest,) = place.manifests("all-erased")
    (told,) = place.receipts("all-erased")
    assert (manifest.artefacts, told.digest, told.rows) == ((), None, 0)
    assert place.store.command("KEYS", "*:file:*") == []
