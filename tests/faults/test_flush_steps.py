"""A flush worker that dies, freezes or loses its Redis at a named step: what receivers get, and what we say."""

from __future__ import annotations

import hashlib
import io
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import pyzipper

from batcher.desk import WORKERS
from batcher.files.manifest import parse
from schemas.delivery import Outcome
from tests.support.batch import PASSWORD, House, house, until
from tests.support.flush_entry import Flush, Parent, parent
from tests.support.kafka import Kafka
from tests.support.rows import csv_of, person

#: Both channels share the steps; every one of them is killed at for SFTP in each run, for FTPS in `make long`.
UPLOADS = ("sftp", pytest.param("ftps", marks=pytest.mark.long))
UPLOAD_STEPS = ("claimed", "sealed", "told", "uploaded", "uploaded durable", "renamed", "ended", "closing")
FENCED = 'referral_fenced_total{reason="token"}'
AMBIGUOUS = 'referral_ambiguous_total{sink="email"}'


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, kafka: Kafka) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("house"), kafka.bootstrap, "flush-steps.") as running:
        yield running


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parent]:
    with parent(tmp_path_factory.mktemp("services")) as running:
        yield running


def finish(place: House, service: Flush, name: str, number: int) -> None:
    """Have the window closed by whoever runs, however long it may have to wait for a lease or a pause."""

    def closed() -> bool:
        if place.closed(name, number):
            return True
        place.later(name)
        return False

    until(closed, lambda: f"window {number} of {name} closed; the last output: {service.output()[-1500:]}")


def killed_and_finished(place: House, services: Parent, name: str, step: str, occurrence: int) -> Flush:
    """A service flushes the connection's first window and is killed at the step; the one that finishes it."""
    place.ask(name)
    assert services.flush(place.environment, step, occurrence).ended() == -signal.SIGKILL
    fresh = services.flush(place.environment)
    finish(place, fresh, name, 1)
    return fresh


@pytest.mark.parametrize("kind", UPLOADS)
@pytest.mark.parametrize("step", UPLOAD_STEPS)
def test_killed_at_a_step_one_file_arrives(place: House, services: Parent, step: str, kind: str) -> None:
    name = f"{kind}-killed-{UPLOAD_STEPS.index(step)}"
    connection = place.upload_connection(kind, name)
    place.empty(connection)
    first = [person(n) for n in range(5)]
    place.intake.put(0, [connection], *first[:3])
    place.intake.put(1, [connection], *first[3:])
    place.ask(name)
    assert services.flush(place.environment, step).ended() == -signal.SIGKILL
    more = [person(n) for n in range(10, 14)]
    place.intake.put(0, [connection], *more)

    fresh = services.flush(place.environment)
    finish(place, fresh, name, 1)
    place.ask(name)
    finish(place, fresh, name, 2)
    assert fresh.stop() == 0

    one, two = place.manifests(name)
    assert [one.outcome, two.outcome] == [Outcome.DELIVERED, Outcome.DELIVERED]
    assert [mark.to for mark in one.marks] == [mark.start for mark in two.marks]
    assert [mark.to for mark in two.marks] == place.intake.next
    # What came between the claim and the seal is in the first window already.
    early = more if step == "claimed" else []
    late = [] if step == "claimed" else more
    contents = sorted(place.files(name).items())
    expected = [csv_of([*first[:3], *early, *first[3:]]), *([csv_of(late)] if late else [])]
    assert [content for _, content in contents] == expected
    assert place.renames(name) == [f"{name}/{file}" for file, _ in contents]
    told = {receipt.subject_id: receipt for receipt in place.receipts(name)}
    assert sorted(told) == [f"{name}-000001", f"{name}-000002"]
    assert {receipt.outcome for receipt in told.values()} == {Outcome.DELIVERED}
    assert told[f"{name}-000001"].rows == 5 + len(early)


#: Five rows, two a file, and the document beside them: four files, each with a state of its own.
SEVERAL = {"split": {"rows": 2}, "sidecar": True}
SEVERAL_STEPS = [
    pytest.param(step, n, id=f"{step} {n}", marks=() if n in once else pytest.mark.long)
    for step, once in (("uploaded", {2, 4}), ("uploaded durable", {1, 3, 4}), ("renamed", {1, 3, 4}))
    for n in (1, 2, 3, 4)
]


@pytest.mark.parametrize("kind", UPLOADS)
@pytest.mark.parametrize(("step", "occurrence"), [*SEVERAL_STEPS, ("ended", 1), ("closing", 1)])
def test_killed_at_a_step_every_file_of_several_arrives_once(
    place: House, services: Parent, step: str, occurrence: int, kind: str
) -> None:
    name = f"{kind}-several-{step.replace(' ', '-')}-{occurrence}"
    connection = place.upload_connection(kind, name, file=SEVERAL)
    place.empty(connection)
    people = [person(n) for n in range(5)]
    place.intake.put(0, [connection], *people[:3])
    place.intake.put(1, [connection], *people[3:])
    place.ask(name)
    assert services.flush(place.environment, step, occurrence).ended() == -signal.SIGKILL
    # Erased after the first byte left, and before it: what was uploaded stays as it is.
    place.intake.remove(people[4]["referral_id"], erased=True)
    fresh = services.flush(place.environment)
    finish(place, fresh, name, 1)
    assert fresh.stop() == 0

    kept = people[:4] if (step, occurrence) == ("uploaded", 1) else people
    expected = [csv_of(kept[n : n + 2]) for n in range(0, len(kept), 2)]
    (told,) = place.manifests(name)
    files = place.files(name)
    document = next(file for file in files if file.endswith(".manifest.json"))
    assert [files[one.name] for one in told.artefacts] == expected
    assert sorted(files) == sorted([*(one.name for one in told.artefacts), document])
    assert [Path(file).name for file in place.renames(name)] == [
        *(one.name for one in told.artefacts),
        document,
    ]
    listed = parse(files[document])
    assert [(one.name, one.rows, one.sha256) for one in listed.files] == [
        (one.name, one.rows, hashlib.sha256(files[one.name]).hexdigest()) for one in told.artefacts
    ]
    assert (told.outcome, listed.rows) == (Outcome.DELIVERED, len(kept))


@pytest.mark.parametrize(
    ("step", "occurrence"), [("kept", 1), ("sending durable", 3), ("sent", 2), ("sent", 4)]
)
def test_killed_at_a_step_everybody_gets_every_file(
    place: House, services: Parent, step: str, occurrence: int
) -> None:
    name = f"mails-{step.split()[0]}-{occurrence}"
    connection = place.email_connection(name, on_uncertain="resend", file={"split": {"rows": 2}})
    place.empty(connection)
    people = [person(n) for n in range(4)]
    place.intake.put(1, [connection], *people)
    fresh = killed_and_finished(place, services, name, step, occurrence)
    assert fresh.stop() == 0

    got = place.mails(name)
    # File by file, and each to both: the second transaction is b's first file, the fourth its second.
    again = {("sent", 2): ("b", 0), ("sent", 4): ("b", 1)}.get((step, occurrence))
    for box in "ab":
        for index, content in enumerate((csv_of(people[:2]), csv_of(people[2:]))):
            copies = [mail for mail in got[box] if mail["content"] == content]
            assert len(copies) == (2 if (box, index) == again else 1)
            assert len({(mail["message_id"], mail["sha256"]) for mail in copies}) == 1
    assert len({mail["message_id"] for mails in got.values() for mail in mails}) == 4
    (told,) = place.receipts(name)
    assert (told.outcome, told.rows) == (Outcome.DELIVERED, 4)


MAIL_STEPS = (
    ("claimed", 1),
    ("sealed", 1),
    ("told", 1),
    ("sending durable", 1),
    ("sent", 1),
    ("sending durable", 2),
    ("sent", 2),
    ("ended", 1),
    ("closing", 1),
)


@pytest.mark.case(28)
@pytest.mark.parametrize("choice", ["hold", "resend"])
@pytest.mark.parametrize(("step", "occurrence"), MAIL_STEPS)
def test_killed_at_a_step_mails_keep_what_was_chosen(
    place: House, services: Parent, step: str, occurrence: int, choice: str
) -> None:
    name = f"{choice}-{MAIL_STEPS.index((step, occurrence))}"
    connection = place.email_connection(name, on_uncertain=choice)
    place.empty(connection)
    people = [person(n) for n in range(4)]
    place.intake.put(1, [connection], *people)
    fresh = killed_and_finished(place, services, name, step, occurrence)

    # Between the intent and its answer nobody can know; everywhere else everybody does.
    uncertain = "ab"[occurrence - 1] if step in {"sending durable", "sent"} else ""
    expected = {"a": 1, "b": 1}
    if uncertain:
        expected[uncertain] = {"hold": 0, "resend": 1}[choice] + (step == "sent")
    got = place.mails(name)
    assert {box: len(got.get(box, [])) for box in "ab"} == expected
    assert {mail["content"] for mails in got.values() for mail in mails} == {csv_of(people)}
    for mails in got.values():
        assert len({(mail["message_id"], mail["sha256"]) for mail in mails}) == 1
    assert fresh.metric(AMBIGUOUS) == bool(uncertain)
    (told,) = place.receipts(name)
    held = uncertain and choice == "hold"
    assert told.outcome == (Outcome.UNCERTAIN if held else Outcome.DELIVERED)
    assert ("mails to 1 of 2" in (told.reason or "")) == bool(held)
    (manifest,) = place.manifests(name)
    assert manifest.outcome == told.outcome
    assert fresh.stop() == 0


@pytest.mark.parametrize(
    ("step", "occurrence"),
    [("kept", 1), ("sending durable", 1), ("sent", 1), ("sending durable", 2), ("sent", 2), ("closing", 1)],
)
def test_killed_at_a_step_everybody_has_the_same_archive(
    place: House, services: Parent, step: str, occurrence: int
) -> None:
    name = f"archive-{step.split()[0]}-{occurrence}"
    file = {"compression": "zip", "password": "${env:SFTP_PASSWORD}"}
    connection = place.email_connection(name, on_uncertain="resend", file=file)
    place.empty(connection)
    people = [person(n) for n in range(4)]
    place.intake.put(1, [connection], *people)
    fresh = killed_and_finished(place, services, name, step, occurrence)

    got = place.mails(name)
    again = "ab"[occurrence - 1] if step == "sent" else ""
    assert {box: len(got[box]) for box in "ab"} == {box: 2 if box == again else 1 for box in "ab"}
    (content,) = {mail["content"] for mails in got.values() for mail in mails}
    with pyzipper.AESZipFile(io.BytesIO(content)) as archive:
        assert archive.read(archive.namelist()[0], PASSWORD.encode()) == csv_of(people)
    (told,) = place.receipts(name)
    assert (told.outcome, told.digest) == (Outcome.DELIVERED, hashlib.sha256(content).hexdigest())
    assert place.store.command("KEYS", "*:file:*") == []
    assert fresh.stop() == 0


FROZEN_STEPS = ("claimed", "sealed", "told", "uploaded", "uploaded durable", "renamed")


def stopped(service: Flush) -> bool:
    return Path(f"/proc/{service.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


@pytest.mark.case(26)
@pytest.mark.parametrize("kind", UPLOADS)
@pytest.mark.parametrize("step", FROZEN_STEPS)
@pytest.mark.case(2)
def test_a_frozen_worker_that_was_overtaken_stops(
    place: House, services: Parent, step: str, kind: str
) -> None:
    name = f"{kind}-frozen-{FROZEN_STEPS.index(step)}"
    connection = place.upload_connection(kind, name)
    place.empty(connection)
    people = [person(n) for n in range(4)]
    place.intake.put(0, [connection], *people)
    place.ask(name)
    frozen = services.flush(place.environment, step, number=signal.SIGSTOP)
    until(lambda: stopped(frozen), "the first worker froze")
    other = services.flush(place.environment)
    finish(place, other, name, 1)
    delivered = place.file(name)
    frozen.send(signal.SIGCONT)
    until(lambda: frozen.metric(FENCED) == 1, lambda: f"it was refused; {frozen.output()[-1500:]}")

    assert delivered == place.file(name) == csv_of(people)
    assert len(place.renames(name)) == 1
    assert [receipt.outcome for receipt in place.receipts(name)] == [Outcome.DELIVERED]
    assert "tampered" not in frozen.output()
    assert other.metric(FENCED) == 0
    assert [frozen.stop(), other.stop()] == [0, 0]


@pytest.mark.parametrize("kind", UPLOADS)
@pytest.mark.parametrize("step", UPLOAD_STEPS)
def test_redis_killed_at_a_step_and_started_again(
    place: House, services: Parent, step: str, kind: str
) -> None:
    name = f"{kind}-redis-{UPLOAD_STEPS.index(step)}"
    connection = place.upload_connection(kind, name)
    place.empty(connection)
    people = [person(n) for n in range(4)]
    place.intake.put(0, [connection], *people)
    place.ask(name)
    service = services.flush(place.environment, step, number=signal.SIGSTOP)
    until(lambda: stopped(service), "the worker stands at the step")
    place.valkey.kill()
    place.valkey.restart()
    place.reconnect()
    service.send(signal.SIGCONT)
    finish(place, service, name, 1)

    assert place.file(name) == csv_of(people)
    assert len(place.renames(name)) == 1
    assert [receipt.outcome for receipt in place.receipts(name)] == [Outcome.DELIVERED]
    assert service.stop() == 0


ZERO = (
    *(f'referral_flush_state{{state="{s}"}}' for s in ("CLAIMED", "SEALED", "UPLOADED", "SENDING", "HELD")),
    *(
        f'referral_flush_artefacts_total{{channel="{channel}",outcome="{outcome}"}}'
        for channel in ("sftp", "ftps", "email")
        for outcome in ("delivered", "retry", "held", "uncertain")
    ),
    AMBIGUOUS,
    FENCED,
    "referral_flush_overdue",
    "referral_window_oldest_unsealed_timestamp_seconds",
)


def test_told_to_stop_it_finishes_what_is_under_way_and_begins_nothing(
    place: House, services: Parent
) -> None:
    names = [f"drain-{n}" for n in range(WORKERS + 1)]
    connections = [place.sftp_connection(name) for name in names]
    place.empty(*connections)
    service = services.flush(place.environment)
    until(lambda: service.port, service.output)
    until(lambda: service.get("/readyz") == (200, "ready\n"), service.output)
    assert service.get("/healthz") == (200, "ok\n")
    assert {line: service.metric(line) for line in ZERO} == dict.fromkeys(ZERO, 0)

    place.intake.put(0, connections, person(1))
    place.sftp.freeze()
    for name in names:
        place.ask(name)
    until(lambda: service.metric('referral_flush_state{state="SEALED"}') == WORKERS, service.output)
    service.send(signal.SIGTERM)
    place.sftp.thaw()
    assert service.ended() == 0
    assert "service.stopped" in service.output()
    begun = [name for name in names if place.state(name) is not None]
    assert len(begun) == WORKERS
    assert all(place.closed(name, 1) and place.file(name) == csv_of([person(1)]) for name in begun)


def test_told_to_stop_while_a_receiver_hangs_it_ends_all_the_same(place: House, services: Parent) -> None:
    connection = place.sftp_connection("cut-off")
    place.empty(connection)
    place.intake.put(0, [connection], person(1))
    place.ask("cut-off")
    place.sftp.freeze()
    try:
        service = services.flush(place.environment, join_s=0.2)
        until(lambda: service.port, service.output)
        until(lambda: service.metric('referral_flush_state{state="SEALED"}') == 1, service.output)
        service.send(signal.SIGTERM)
        assert service.ended(within=3.0) == 0
    finally:
        place.sftp.thaw()
    assert "service.cut_off" in service.output()
    fresh = services.flush(place.environment)
    finish(place, fresh, "cut-off", 1)
    assert place.file("cut-off") == csv_of([person(1)])
    assert fresh.stop() == 0
