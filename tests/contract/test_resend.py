"""A closed window sent once more: the same rows, made again from Kafka, or nothing and why."""

from __future__ import annotations

import io
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from functools import cached_property
from threading import Event
from typing import Any

import pytest
import pyzipper
from confluent_kafka import Producer

from batcher.again import Wish, Wishes
from batcher.desk import Desk
from batcher.window import State
from batcher.windows import Windows
from console import past
from console.again import resend
from consumer.log import silent
from consumer.service import Stop
from schemas import receipt as receipts
from schemas import referral as referrals
from schemas.connection import FileConnection
from schemas.delivery import Outcome
from schemas.receipt import Receipt, Subject, coordinates
from tests.support.batch import PASSWORD, House, house, until
from tests.support.desk import Worker, flushed
from tests.support.flush_entry import Parent, parent
from tests.support.kafka import Kafka
from tests.support.rows import csv_of, person


class Place(House):
    """Every record is in Kafka, too, at its own offset."""

    @cached_property
    def ends(self) -> Counter[int]:
        """Records of each partition so far: not every broker's word on that is to be trusted."""
        return Counter()

    def begin(self, *connections: FileConnection) -> None:
        self.empty(*connections, starts=[self.ends[p] for p in range(2)])

    def publish(self, partition: int, *events: dict[str, Any]) -> int:
        """To Kafka alone; the first one's offset."""
        producer = Producer({"bootstrap.servers": self.settings.kafka, "linger.ms": 0}, logger=silent())
        at: list[int] = []
        for given in events:
            producer.produce(
                self.topics.referrals,
                referrals.encode(given),
                given["referral_id"],
                partition,
                on_delivery=lambda _, message: at.append(message.offset()),
            )
        assert producer.flush(20) == 0
        self.ends[partition] = at[0] + len(events)
        return at[0]

    def put(self, partition: int, connections: Sequence[FileConnection], *events: dict[str, Any]) -> None:
        assert self.publish(partition, *events) == self.intake.next[partition]
        self.intake.put(partition, connections, *events)

    def wish(self, name: str, number: int = 1, *, same_name: bool = False) -> Wish:
        wish = Wish(name, number, same_name, datetime.now(UTC))
        assert Wishes(self.store, self.keys).make(wish)
        return wish

    def again(self, name: str) -> tuple[State, str, str]:
        window = Windows(self.store, self.keys, again=True).state(name)
        assert window is not None
        return window.state, window.fields.get("outcome", ""), window.reason


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, kafka: Kafka) -> Iterator[Place]:
    with house(tmp_path_factory.mktemp("house"), kafka.bootstrap, "again.") as running:
        running.__class__ = Place
        assert isinstance(running, Place)
        yield running


def sent_again(place: Place, worker: Worker, name: str, number: int = 1, *, same_name: bool = False) -> None:
    place.wish(name, number, same_name=same_name)
    worker.go()
    state, outcome, reason = place.again(name)
    assert (state, outcome) == (State.CLOSED, Outcome.DELIVERED), reason
    assert Wishes(place.store, place.keys).all() == {}


PEOPLE = [person(n) for n in range(5)]
CORRECTED = {**person(1), "revision": 2, "email": "new@example.com"}
FORMS = [
    pytest.param({}, id="csv"),
    pytest.param({"split": {"rows": 2}, "sidecar": True}, id="several"),
    pytest.param({"compression": "zip", "password": "${env:SFTP_PASSWORD}"}, id="aes zip"),
    pytest.param({"format": "xlsx"}, id="xlsx"),
]


@pytest.mark.parametrize("form", FORMS)
def test_the_same_content_once_more(place: Place, worker: Worker, form: dict[str, Any]) -> None:
    name = "-".join(["same", *(member.replace("_", "") for member in form)])
    connection = place.sftp_connection(name, file=form)
    place.begin(connection)
    place.put(0, [connection], *PEOPLE[:3])
    # Others' referrals and tests lie between.
    place.put(0, [], {**person(7), "account_id": "somebody-else"}, {**person(8), "is_test": True})
    place.put(1, [connection], *PEOPLE[3:], CORRECTED)
    flushed(place, worker, name)
    first = place.files(name)
    # The next window's rows, and what Kafka got since, are no part of it.
    place.put(0, [connection], person(9))
    flushed(place, worker, name)
    second = {file: content for file, content in place.files(name).items() if file not in first}
    sent_again(place, worker, name)
    added = {f: c for f, c in place.files(name).items() if f not in first and f not in second}
    assert [file.replace("-resend-1", "") for file in sorted(added)] == sorted(first)
    for file, content in added.items():
        before = first[file.replace("-resend-1", "")]
        if "password" in form:
            content, before = opened(content)[1], opened(before)[1]
        if not file.endswith(".manifest.json"):
            assert content == before
    told = {one.subject_id: one for one in place.receipts(name)}
    assert sorted(told) == [f"{name}-000001", f"{name}-000001-resend-1", f"{name}-000002"]
    audit = told[f"{name}-000001-resend-1"]
    assert (audit.outcome, audit.rows) == (Outcome.DELIVERED, told[f"{name}-000001"].rows)
    assert (audit.reason or "").startswith("sent again, as asked at 20")
    # What was told of the window itself stays.
    assert [one.outcome for one in place.manifests(name)] == [Outcome.DELIVERED] * 2


def opened(content: bytes) -> tuple[str, bytes]:
    with pyzipper.AESZipFile(io.BytesIO(content)) as archive:
        (name,) = archive.namelist()
        return name, archive.read(name, PASSWORD.encode())


def test_under_the_name_it_had(place: Place, worker: Worker) -> None:
    """There still or taken away meanwhile."""
    connection = place.sftp_connection("named")
    place.begin(connection)
    place.put(0, [connection], *PEOPLE)
    flushed(place, worker, "named")
    before = place.files("named")
    sent_again(place, worker, "named", same_name=True)
    assert place.files("named") == before
    (file,) = before
    (place.sftp.folder / "advertiser" / "named" / file).unlink()
    sent_again(place, worker, "named", same_name=True)
    assert place.files("named") == before


def test_mailed_once_more(place: Place, worker: Worker) -> None:
    connection = place.email_connection("mailed")
    place.begin(connection)
    place.put(1, [connection], *PEOPLE)
    flushed(place, worker, "mailed")
    sent_again(place, worker, "mailed")
    for mails in place.mails("mailed").values():
        assert [mail["content"] for mail in mails] == [csv_of(PEOPLE)] * 2
        assert len({mail["message_id"] for mail in mails}) == 2
    assert place.store.command("KEYS", "*:file:*") == []


def test_upstreams_second_publications_are_told_apart_by_their_receipts(place: Place, worker: Worker) -> None:
    """One was dropped whose first publication lies in an earlier window."""
    connection = place.sftp_connection("twice")
    place.begin(connection)
    place.put(0, [connection], *PEOPLE[:2])
    flushed(place, worker, "twice")
    dropped = place.publish(0, PEOPLE[0])
    place.intake.put(0, [], PEOPLE[0])
    place.put(0, [connection], *PEOPLE[2:])
    flushed(place, worker, "twice")
    place.wish("twice", 2)
    worker.go()
    state, outcome, reason = place.again("twice")
    assert (state, outcome) == (State.CLOSED, Outcome.HELD)
    assert "the rows of partition 0 are no longer the sealed ones" in reason
    tell(place, dropped)
    sent_again(place, worker, "twice", 2)
    again = [content for file, content in place.files("twice").items() if "-resend-2" in file]
    assert again == [csv_of(PEOPLE[2:])]


def tell(place: Place, offset: int) -> None:
    """As intake says that a record was published before."""
    told = Receipt(
        subject=Subject.RECORD,
        subject_id=coordinates(place.topics.referrals, 0, offset),
        outcome=Outcome.DUPLICATE_UPSTREAM,
        service="collect",
        at=datetime.now(UTC),
        topic=place.topics.referrals,
        partition=0,
        offset=offset,
    )
    producer = Producer({"bootstrap.servers": place.settings.kafka}, logger=silent())
    producer.produce(place.topics.receipts, receipts.Receipt.encode(told), told.subject_id)
    assert producer.flush(20) == 0


def test_who_was_erased_since_is_not_sent_again(place: Place, worker: Worker) -> None:
    connection = place.sftp_connection("erased")
    place.begin(connection)
    place.put(0, [connection], *PEOPLE)
    flushed(place, worker, "erased")
    before = place.files("erased")
    # A withdrawal after the seal changes nothing in what was sent.
    place.intake.remove("r-000003")
    sent_again(place, worker, "erased")
    place.intake.remove("r-000002", erased=True)
    place.wish("erased")
    worker.go()
    _, outcome, reason = place.again("erased")
    assert outcome == Outcome.HELD
    assert "would not be the one that was sent, since a referral in it was erased" in reason
    assert len(place.files("erased")) == len(before) + 1
    audit = next(one for one in place.receipts("erased") if one.subject_id == "erased-000001-resend-2")
    assert audit.outcome is Outcome.HELD


@pytest.mark.parametrize("step", ["uploaded", "uploaded durable", "renamed", "ended", "closing"])
def test_killed_on_the_way_it_is_sent_again_once(
    place: Place, services: Parent, worker: Worker, step: str
) -> None:
    name = f"killed-{step.replace(' ', '-')}"
    connection = place.sftp_connection(name)
    place.begin(connection)
    place.put(0, [connection], *PEOPLE)
    flushed(place, worker, name)
    wish = place.wish(name)
    assert services.flush(place.environment, step).ended() == -signal.SIGKILL
    if step == "closing":
        # It dies when all is done but the wish is still there.
        place.store.command("HSET", place.keys.resend(name), "state", State.CLOSED)
    fresh = services.flush(place.environment)

    def closed() -> bool:
        place.store.command("HSET", place.keys.resend(name), "until", 0, "retry_at", 0)
        return Wishes(place.store, place.keys).all() == {}

    until(closed, fresh.output)
    assert fresh.stop() == 0
    assert sorted(place.files(name).values()) == [csv_of(PEOPLE)] * 2
    assert len(place.renames(name)) == 2
    window = Windows(place.store, place.keys, again=True).state(name)
    assert window is not None
    assert (window.number, window.asked_at) == (1, wish.at)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parent]:
    with parent(tmp_path_factory.mktemp("services")) as running:
        yield running


def test_what_intake_refused_stays_out(place: Place, worker: Worker) -> None:
    """An event newer than this release lies between, as a dead letter."""
    connection = place.sftp_connection("newer")
    place.begin(connection)
    place.put(0, [connection], PEOPLE[0])
    place.put(0, [], {**person(9), "event_type": "UNKNOWN"})
    place.put(0, [connection], PEOPLE[1])
    flushed(place, worker, "newer")
    sent_again(place, worker, "newer")
    assert list(place.files("newer").values()) == [csv_of(PEOPLE[:2])] * 2


def test_a_publication_that_was_dropped_supersedes_nothing(place: Place, worker: Worker) -> None:
    connection = place.sftp_connection("older")
    place.begin(connection)
    place.put(0, [connection], CORRECTED)
    flushed(place, worker, "older")
    dropped = place.publish(0, CORRECTED)
    place.intake.put(0, [], CORRECTED)
    earlier = {**CORRECTED, "revision": 1, "email": "between@example.com"}
    place.put(0, [connection], earlier)
    flushed(place, worker, "older")
    tell(place, dropped)
    sent_again(place, worker, "older", 2)
    again = [content for file, content in place.files("older").items() if "-resend-1" in file]
    assert again == [csv_of([earlier])]


@pytest.mark.parametrize("kind", ["sftp", "email"])
@pytest.mark.parametrize("empty", ["skip", "note"])
def test_a_window_of_which_everybody_was_erased_is_not_sent_again(
    place: Place, worker: Worker, kind: str, empty: str
) -> None:
    name = f"none-left-{kind}-{empty}"
    made = place.sftp_connection if kind == "sftp" else place.email_connection
    connection = made(name, file={"empty": empty, "sidecar": kind == "sftp"})
    place.begin(connection)
    place.put(0, [connection], PEOPLE[0])
    flushed(place, worker, name)
    place.intake.remove(PEOPLE[0]["referral_id"], erased=True)
    place.wish(name)
    worker.go()
    _, outcome, reason = place.again(name)
    assert (outcome, "a referral in it was erased" in reason) == (Outcome.HELD, True), reason
    assert (
        len(place.files(name)) == 2 if kind == "sftp" else {1} == {len(m) for m in place.mails(name).values()}
    )


def test_a_worker_that_comes_late_sends_nothing_twice(place: Place, worker: Worker) -> None:
    """It saw the window under way, waited for a thread, and found it closed."""
    connection = place.sftp_connection("late")
    place.begin(connection)
    place.put(0, [connection], *PEOPLE)
    flushed(place, worker, "late")
    wish = place.wish("late")
    with ThreadPoolExecutor(1) as pool:
        free = Event()
        other = Desk(place.ground, "other", worker._sending, pool)
        pool.submit(free.wait, 20)
        worker.at["uploaded"] = lambda: other.look(datetime.now(UTC))
        worker.go()
        assert place.again("late")[:2] == (State.CLOSED, Outcome.DELIVERED)
        free.set()
        assert not wait([future for future, _ in other._busy.values()], timeout=20).not_done
    assert Wishes(place.store, place.keys).all() == {}
    window = Windows(place.store, place.keys, again=True).state("late")
    assert window is not None
    assert (window.number, window.asked_at) == (1, wish.at)
    assert len(place.files("late")) == 2


def test_what_was_uploaded_is_mailed_as_it_was(place: Place, worker: Worker) -> None:
    """The guard against formulas, which is on for mails alone, would make it another file."""
    before = place.sftp_connection("mailed-now", fields=["referral_id", "email", "phone_raw"])
    place.begin(before)
    place.put(0, [before], {**person(1), "phone_raw": "+61400000001"})
    flushed(place, worker, "mailed-now")
    place.apply(place.email_connection("mailed-now", fields=["referral_id", "email", "phone_raw"]))
    sent_again(place, worker, "mailed-now")
    for mails in place.mails("mailed-now").values():
        assert [mail["content"] for mail in mails] == list(place.files("mailed-now").values())


def test_a_window_that_was_mended_is_made_as_it_was_sent(place: Place, worker: Worker) -> None:
    """In between a server is down, which changes nothing in what was mended."""
    name, odd = "mended", {**person(1), "email": "\u4e00@example.com"}
    wrong = place.sftp_connection(name, file={"encoding": "latin-1"})
    place.begin(wrong)
    place.put(0, [wrong], odd)
    place.ask(name)
    worker.go()
    place.apply(place.sftp_connection(name, file={"delimiter": ";"}))
    place.sftp.kill()
    for again in range(2):
        if again:
            place.sftp.restart()
        found = place.state(name)
        assert found is not None
        assert found.held == (not again), found.reason
        place.later(name)
        worker.go()
    assert place.closed(name, 1)
    place.apply(place.email_connection(name))
    sent_again(place, worker, name)
    (content,) = place.files(name).values()
    assert content == csv_of([odd]).replace(b",", b";")
    assert {mail["content"] for mails in place.mails(name).values() for mail in mails} == {content}


def test_nowhere_to_send_it(place: Place, worker: Worker) -> None:
    """Taken out between the wish and its turn."""
    connection = place.sftp_connection("nowhere")
    place.begin(connection)
    place.put(0, [connection], *PEOPLE)
    flushed(place, worker, "nowhere")
    place.apply(place.sftp_connection("another"))
    place.wish("nowhere")
    worker.go()
    state, outcome, reason = place.again("nowhere")
    assert (state, outcome) == (State.CLOSED, Outcome.HELD)
    assert reason == "nowhere is no file connection any more: there is nowhere to send its windows to"
    assert len(place.files("nowhere")) == 1
    assert Wishes(place.store, place.keys).all() == {}


def test_the_command(place: Place, services: Parent, worker: Worker) -> None:
    connection = place.sftp_connection("asked")
    place.begin(connection)
    place.put(0, [connection], *PEOPLE)
    flushed(place, worker, "asked")
    fresh = services.flush(place.environment)
    told = resend(place.settings, "asked-000001", 20, same_name=False)
    assert told.startswith("asked-000001 once more, as asked-000001-resend-1: DELIVERED")
    assert fresh.stop() == 0
    assert resend(place.settings, "asked-000001", None, same_name=True).startswith("asked for asked-000001")
    refused: list[tuple[str, str]] = [
        ("asked-000001", "is being sent again already"),
        ("asked-000002", "Kafka remembers no such window"),
        ("asked", "is no window: they are called like acme-daily-000012"),
        ("other-000001", "Kafka remembers no such window"),
    ]
    for window, says in refused:
        with pytest.raises(Stop, match=says):
            resend(place.settings, window, None, same_name=False)
    place.apply(place.sftp_connection("another"))
    with pytest.raises(Stop, match="asked is no file connection any more"):
        resend(place.settings, "asked-000001", None, same_name=False)


def test_past_windows_are_listed_with_their_files(place: Place, worker: Worker) -> None:
    connection = place.sftp_connection("past", file={"split": {"rows": 3}})
    place.begin(connection)
    flushed(place, worker, "past")
    place.put(0, [connection], *PEOPLE)
    flushed(place, worker, "past")
    rows = past.windows(place.settings, "past", 10)
    assert [(window, outcome, count) for window, _, outcome, _, count, *_ in rows] == [
        ("past-000002", "DELIVERED", "3"),
        ("past-000002", "DELIVERED", "2"),
        ("past-000001", "DELIVERED", "0"),
    ]
    assert sorted(file for _, _, _, file, *_ in rows if file) == sorted(place.files("past"))
    assert len(past.windows(place.settings, "past", 1)) == 2
    with pytest.raises(Stop, match="Kafka remembers no window of nobody"):
        past.windows(place.settings, "nobody", 1)
