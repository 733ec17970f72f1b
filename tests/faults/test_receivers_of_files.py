"""Receivers of files that fail at each step: one final file with the right hash, the truth for every recipient,
and what waits for a person is held and seen by its alert's metric.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from batcher.channels.mail import Relay
from batcher.window import State
from consumer import metrics
from deploy.embedded.receivers import read_effects
from schemas.connection import SftpConnection
from schemas.delivery import Outcome
from tests.support.batch import PASSWORD, USER, House, house
from tests.support.cutting_sftp import CuttingSftp, cutting_sftp
from tests.support.desk import Worker, reading, state
from tests.support.kafka import Kafka
from tests.support.receivers import smtp_receiver
from tests.support.rows import csv_of, person

#: Over 32 KiB, so that its bytes come in several writes.
PEOPLE = [person(n) for n in range(1_000)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, kafka: Kafka) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("house"), kafka.bootstrap, "trouble.") as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CuttingSftp]:
    with cutting_sftp(tmp_path_factory.mktemp("sftp"), {USER: {"password": PASSWORD}}) as running:
        yield running


def connection_to(place: House, server: CuttingSftp, name: str, **changes: Any) -> SftpConnection:
    (server.root / USER / name).mkdir(parents=True)
    given = {"port": server.port, "host_keys": [server.fingerprint], **changes}
    return place.sftp_connection(name, **given)


def names(server: CuttingSftp, name: str) -> list[str]:
    return sorted(path.name for path in (server.root / USER / name).iterdir())


def one_whole_file(place: House, server: CuttingSftp, name: str) -> None:
    """Alone in its folder, with the bytes and the hash that were told, renamed once."""
    (file,) = names(server, name)
    content = (server.root / USER / name / file).read_bytes()
    assert content == csv_of(PEOPLE)
    renamed = [e for e in read_effects(server.root / "effects.jsonl") if e["name"].startswith(f"{name}/")]
    digest = hashlib.sha256(content).hexdigest()
    assert [(one["name"], one["sha256"]) for one in renamed] == [(f"{name}/{file}", digest)]
    (told,) = place.receipts(name)
    assert (told.outcome, told.rows, told.digest) == (Outcome.DELIVERED, len(PEOPLE), digest)


def put(place: House, connection: SftpConnection) -> None:
    for first in range(0, len(PEOPLE), 500):
        place.intake.put(0, [connection], *PEOPLE[first : first + 500])


@pytest.mark.case(24)
@pytest.mark.parametrize("applied", [False, True], ids=["asked", "applied, not answered"])
@pytest.mark.parametrize(
    ("request_name", "occurrence"),
    [
        ("open", 1),
        ("write", 1),
        ("write", 2),
        ("fsync", 1),
        ("close", 1),
        ("stat", 1),
        ("stat", 2),
        ("rename", 1),
    ],
)
def test_cut_at_each_request(
    place: House, server: CuttingSftp, worker: Worker, request_name: str, occurrence: int, applied: bool
) -> None:
    name = f"cut-{request_name}-{occurrence}-{applied}".lower()
    connection = connection_to(place, server, name)
    place.empty(connection)
    put(place, connection)
    retries = reading(metrics.FLUSHED.labels("sftp", "retry"))
    server.mend()
    server.cut, server.applied = (request_name, occurrence), applied
    place.ask(name)
    worker.go()
    assert server.cut is None, f"{request_name} {occurrence} never came: {server.asked}"
    found, _ = state(place, name)
    if found is not State.CLOSED:
        assert reading(metrics.FLUSHED.labels("sftp", "retry")) == retries + 1
        place.later(name)
        worker.go()
    assert place.closed(name, 1)
    one_whole_file(place, server, name)


TROUBLE: dict[str, tuple[dict[str, Exception], dict[str, Any], str]] = {
    "quota": ({"write": OSError(28, "No space left on device")}, {}, "used-up quota"),
    "permission": ({"open": asyncssh.SFTPPermissionDenied("no")}, {}, "denies permission"),
    "rename": ({"rename": asyncssh.SFTPOpUnsupported("no")}, {}, "completion: done_file"),
    "host-key": ({}, {"host_keys": ["SHA256:" + "A" * 43]}, "host key"),
}


@pytest.mark.case(27)
@pytest.mark.parametrize("trouble", TROUBLE)
def test_what_only_a_person_can_mend_is_held_and_told(
    place: House, server: CuttingSftp, worker: Worker, trouble: str
) -> None:
    refuse, changes, says = TROUBLE[trouble]
    connection = connection_to(place, server, trouble, **changes)
    place.empty(connection)
    put(place, connection)
    held = reading(metrics.FLUSHED.labels("sftp", "held"))
    server.mend()
    server.refuse = refuse
    place.ask(trouble)
    worker.go()
    window = place.state(trouble)
    assert window is not None
    assert (window.held, says in window.reason) == (True, True), window.reason
    assert [one for one in names(server, trouble) if not one.startswith(".")] == []
    # What ReferralWindowHeld looks at.
    worker.observe()
    assert reading(metrics.FLUSH_STATE.labels("HELD")) == 1
    assert reading(metrics.FLUSHED.labels("sftp", "held")) == held + 1

    server.mend()
    if changes:
        given = {"port": server.port, "host_keys": [server.fingerprint]}
        place.apply(place.sftp_connection(trouble, **given))
    place.later(trouble)
    worker.go()
    assert place.closed(trouble, 1)
    one_whole_file(place, server, trouble)
    worker.observe()
    assert reading(metrics.FLUSH_STATE.labels("HELD")) == 0


#: What the inbox does for each recipient, and how many copies it keeps: at the first try, and in the end when
#: it is mended, where uncertain mails are held or sent again.
RECIPIENTS = {
    "well": ("ok", 1, 1, 1),
    "gone": ("550", 0, 0, 0),
    "grey": ("451", 0, 1, 1),
    "full": ("552", 0, 1, 1),
    "closing": ("421", 0, 1, 1),
    "late": ("data-451", 0, 1, 1),
    "dropped": ("drop", 1, 1, 2),
}


@pytest.mark.case(28)
@pytest.mark.parametrize("choice", ["hold", "resend"])
def test_every_recipient_has_a_truth_of_its_own(
    place: House, worker: Worker, tmp_path: Path, choice: str
) -> None:
    name = f"truth-{choice}"
    boxes = [f"{box}@{name}.example" for box in RECIPIENTS]
    connection = place.email_connection(name, recipients=boxes, on_uncertain=choice)
    place.empty(connection)
    place.intake.put(0, [connection], *PEOPLE[:5])
    modes = [f"{address}={RECIPIENTS[address.partition('@')[0]][0]}" for address in boxes]
    ambiguous, refused = (
        reading(metrics.AMBIGUOUS.labels("email")),
        reading(metrics.FLUSHED.labels("email", "refused")),
    )
    with smtp_receiver(tmp_path / "moody", *(word for mode in modes for word in ("--mode", mode))) as moody:
        worker.relay = Relay("127.0.0.1", moody.port, 5.0, starttls=False)
        place.ask(name)
        worker.go()
        first = moody.effects("mail")
        kept = {e["number"]: (moody.folder / "mail" / e["files"][0]).read_bytes() for e in first}
    counts = {box: sum(e["recipient"].startswith(f"{box}@") for e in first) for box in RECIPIENTS}
    assert counts == {box: tried for box, (_, tried, _, _) in RECIPIENTS.items()}
    assert set(kept.values()) == {csv_of(PEOPLE[:5])}
    # What ReferralOutcomeUncertain and ReferralMailRefused look at.
    assert reading(metrics.AMBIGUOUS.labels("email")) == ambiguous + 1
    assert reading(metrics.FLUSHED.labels("email", "refused")) == refused + 1
    window = place.state(name)
    assert window is not None
    assert (window.state, window.held) == (State.SENDING, True), "a full mailbox is for a person"
    worker.observe()
    assert reading(metrics.FLUSH_STATE.labels("HELD")) == 1

    worker.relay = Relay("127.0.0.1", place.smtp.port, 5.0, starttls=False)
    place.later(name)
    worker.go()
    assert place.closed(name, 1)
    got = place.mails(name)
    for box, (_, tried, held, resent) in RECIPIENTS.items():
        expected = (held if choice == "hold" else resent) - tried
        assert len(got.get(box, [])) == expected, box
    again = [mail for mails in got.values() for mail in mails]
    assert {mail["content"] for mail in again} == {csv_of(PEOPLE[:5])}
    ids = {e["recipient"]: (e["message_id"], e["sha256"]) for e in first}
    for mail in again:
        mine = mail["message_id"], mail["sha256"]
        assert ids.get(mail["recipient"], mine) == mine, "the same mail, word for word"
    (told,) = place.receipts(name)
    assert told.outcome is (Outcome.UNCERTAIN if choice == "hold" else Outcome.DELIVERED)
    of = len(RECIPIENTS)
    assert f"1 of {of} recipients are refused" in (told.reason or "")
    assert (f"mails to 1 of {of} recipients" in (told.reason or "")) is (choice == "hold")
