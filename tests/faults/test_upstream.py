"""What upstream does wrong: it publishes referrals twice, or with another partitioner than agreed."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from confluent_kafka import Producer

from console import connections
from consumer.keys import Role
from consumer.log import silent
from consumer.partitioner import partition_of
from consumer.reading import read_all
from schemas import receipt, referral
from schemas.delivery import Outcome
from tests.support import oracle
from tests.support.deployment import (
    PARTITIONS,
    SFTP_USER,
    Deployment,
    deployment,
    http_connection,
    sftp_connection,
    wait_until,
)
from tests.support.kafka import Kafka
from tests.support.push_entry import made

TWICE, STRAY = "twice", "stray"
WITHIN = 60.0
READERS = {"push": Role.PUSH, "collect": Role.BATCH}
#: Referrals, and of how many one is published twice.
PUBLISHED, ONE_IN = 2_000, 100
#: So many could be on their way as a worker is killed.
MAX_IN_FLIGHT = 32


class Upstream:
    """A deployment, and what was published to it."""

    def __init__(self, running: Deployment) -> None:
        self.running, self.records = running, 0

    def publish(self, events: Sequence[dict[str, Any]]) -> None:
        self.running.publish(events)
        self.records += len(events)

    def publish_as_librdkafka_does(self, events: Sequence[dict[str, Any]]) -> None:
        """Its partitioner is CRC32, where nobody says otherwise."""
        producer = Producer({"bootstrap.servers": self.running.settings.kafka, "logger": silent()})
        for one in events:
            producer.produce(self.running.topics.referrals, referral.encode(one), one["referral_id"])
        assert producer.flush(20) == 0
        self.records += len(events)

    def until(self, condition: Any, what: str) -> None:
        wait_until(condition, what, WITHIN, self.running)

    def taken(self) -> None:
        for role in READERS.values():
            self.until(lambda role=role: self.running.next_offsets(role) == self.records, f"{role} has all")

    def flush(self, account: str) -> None:
        self.running.flush([f"{account}-sftp"])
        self.until(lambda: self.running.flushed([f"{account}-sftp"]), "the window is closed")

    def pushed(self) -> None:
        self.until(lambda: self.running.pending() == 0, "all is pushed")

    def crm(self, account: str, wanted: Sequence[str]) -> oracle.Verdict:
        log = self.running.crm.folder / "effects.jsonl"
        assert {key for key, bodies in oracle.bodies_per_key(log).items() if len(bodies) > 1} == set()
        return oracle.crm(log, f"{account}-crm", wanted)

    def files(self, account: str, wanted: Sequence[str]) -> oracle.Verdict:
        return oracle.files(self.running.sftp.folder / SFTP_USER, f"{account}-sftp", wanted)

    def dropped(self, of: Sequence[str]) -> Counter[tuple[str, str | None]]:
        """Records of these referrals told to be duplicates: by which reader; once each, however often told."""
        found: set[tuple[str, str, str | None]] = set()
        for record in read_all(self.running.settings.kafka, {}, self.running.topics.receipts):
            one = receipt.decode(record.value or b"")
            if one.outcome is Outcome.DUPLICATE_UPSTREAM and one.referral_id in of:
                found.add((one.subject_id, one.service, one.referral_id))
        return Counter((service, referral_id) for _, service, referral_id in found)


@pytest.fixture(scope="module")
def upstream(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    prefix = f"t{uuid.uuid4().hex[:12]}."
    folder = tmp_path_factory.mktemp("upstream")
    with deployment(folder, kafka.bootstrap, prefix, REFERRALS_MAX_IN_FLIGHT=str(MAX_IN_FLIGHT)) as running:
        for account in (TWICE, STRAY):
            crm = http_connection(running.crm, f"{account}-crm")
            running.write(
                account,
                f"account: {account}\nconnections:\n{crm}{sftp_connection(running.sftp, f'{account}-sftp')}",
            )
        running.init()
        running.start()
        yield Upstream(running)


@pytest.mark.case(33)
@pytest.mark.timeout(180)
def test_one_in_a_hundred_published_twice_also_across_a_kill(upstream: Upstream) -> None:
    running = upstream.running
    events = [made(TWICE) for _ in range(PUBLISHED)]
    # The same publication again: another event of the same referral and revision.
    again = [{**one, "event_id": str(uuid.uuid4())} for one in events[::ONE_IN]]
    third = len(again) // 3
    part = PUBLISHED // 2

    # Some at once, some once the first window left; the rest behind a kill of every reader under load.
    upstream.publish([*events[:part], *again[:third]])
    upstream.taken()
    upstream.flush(TWICE)
    upstream.publish(events[part:])
    upstream.until(lambda: running.next_offsets(Role.PUSH) > part + third, "they are being taken")
    for name in READERS:
        running.children[name].kill()
    upstream.publish(again[third:])
    running.start(*READERS)
    upstream.taken()
    upstream.pushed()
    upstream.flush(TWICE)

    wanted = [one["referral_id"] for one in events]
    pushed, filed = upstream.crm(TWICE, wanted), upstream.files(TWICE, wanted)
    print(pushed, filed)
    assert (pushed.delivered, pushed.lost, pushed.duplicates, pushed.mismatches) == (PUBLISHED, 0, 0, 0)
    assert pushed.repeats <= MAX_IN_FLIGHT
    assert (filed.delivered, filed.lost, filed.duplicates) == (PUBLISHED, 0, 0)
    # Each is told by both readers, with where it lies, and counted.
    told = Counter((name, one["referral_id"]) for name in READERS for one in again)
    upstream.until(lambda: upstream.dropped(wanted).total() >= told.total(), "each is told")
    assert upstream.dropped(wanted) == told
    for name in READERS:
        # Each began anew after the kill, and was given this many since.
        assert running.metric("referral_duplicates_dropped_total", name) >= len(again) - third


@pytest.mark.case(34)
@pytest.mark.timeout(120)
def test_one_referral_from_two_partitioners_is_counted_and_its_removal_holds(upstream: Upstream) -> None:
    running = upstream.running
    connections.pause(running.settings, f"{STRAY}-crm", "until all was published")
    upstream.until(lambda: running.metric("referral_connections_paused", "push") == 1, "push knows")
    misplaced = {name: running.metric("referral_miskeyed_total", name) for name in READERS}
    people = [made(STRAY) for _ in range(40)]
    withdrawn, erased, same, kept = people[:10], people[10:20], people[20:30], people[30:]
    upstream.publish(people)
    upstream.taken()
    strays = [
        *({**one, "event_type": "WITHDRAWN"} for one in withdrawn),
        *({**one, "event_type": "ERASED"} for one in erased),
        *({**one, "event_id": str(uuid.uuid4())} for one in same),
    ]
    upstream.publish_as_librdkafka_does(strays)
    # And the other way about: the removal lies where it belongs, what it removes does not.
    late = [made(STRAY) for _ in range(10)]
    upstream.publish_as_librdkafka_does(late)
    upstream.taken()
    upstream.publish([{**one, "event_type": "WITHDRAWN"} for one in late])
    upstream.taken()
    # What is taken in reaches the lanes a moment later; what had left by then would not come back.
    upstream.until(lambda: ends(running)[Outcome.WITHDRAWN] == 30, "the removals took hold")
    connections.resume(running.settings, f"{STRAY}-crm")
    upstream.pushed()
    upstream.flush(STRAY)

    every = read_all(running.settings.kafka, {}, running.topics.referrals)
    elsewhere = sum(record.partition != partition_of(record.key or b"", PARTITIONS) for record in every)
    assert elsewhere > len(strays) / 4, "the partitioners agreed: this run proves nothing"
    # What ReferralMiskeyed looks at.
    for name in READERS:
        assert running.metric("referral_miskeyed_total", name) == misplaced[name] + elsewhere
    wanted = [one["referral_id"] for one in (*same, *kept)]
    pushed, filed = upstream.crm(STRAY, wanted), upstream.files(STRAY, wanted)
    print(pushed, filed)
    assert (pushed.delivered, pushed.lost, pushed.duplicates, pushed.mismatches) == (20, 0, 0, 0)
    assert (filed.delivered, filed.lost, filed.duplicates) == (20, 0, 0)
    assert ends(running)[Outcome.WITHDRAWN] == 30


def ends(running: Deployment) -> Counter[Outcome]:
    """How pushes to the account whose referrals stray have ended."""
    return Counter(one.outcome for one in running.receipts() if one.connection == f"{STRAY}-crm")
