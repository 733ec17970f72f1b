"""A broker that is killed while it is read from, and a group's coordinator that cannot be reached."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from consumer.keys import Role
from tests.support import kafka as brokers
from tests.support.beside import beside
from tests.support.figures import CONSUMED, figure, quiet, watched
from tests.support.linked_kafka import GROUP, LinkedKafka, request
from tests.support.receivers import Receiver
from tests.support.sides import MAX_IN_FLIGHT, WITHIN, Join, Place, drive, quick_group, run
from tests.support.valkey import Valkey

FENCED = 'referral_fenced_total{reason="epoch"}'
SESSION_MS = 2_000
#: Bytes; hundreds of records, compressed, are more.
NO_ANSWER_BUT_RECORDS = 4_000


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LinkedKafka]:
    if brokers.choice()[0] is not brokers.Kind.JAVA:
        pytest.skip("its listeners can be set where Apache Kafka runs as a process of ours")
    running = LinkedKafka(tmp_path_factory.mktemp("linked"))
    yield running
    running.stop()


@pytest.fixture
def own(linked: LinkedKafka, valkey: Valkey, crm: Receiver) -> Iterator[Place]:
    yield Place(linked.bootstrap, valkey, crm)
    linked.line.hears = linked.line.tells = len


@pytest.mark.case(6)
def test_the_leader_is_killed_while_it_is_read_from(linked: LinkedKafka, own: Place, join: Join) -> None:
    """What it was about to hand over does not arrive; it comes back with what it had."""
    sides = [join(own, role, kafka=linked.linked) for role in Role]

    def done() -> bool:
        return all(own.done(role) for role in Role)

    own.publish(20)
    run(done, "the first are taken", *sides)
    before, killed = quiet(), threading.Event()

    def tells(said: bytes) -> None:
        if len(said) > NO_ANSWER_BUT_RECORDS:
            linked.line.cut()
            killed.set()

    linked.line.tells = tells
    own.publish(400)
    run(killed.is_set, "it is being handed over", *sides)
    linked.child.kill()
    linked.line.tells = len
    drive(0.5, *sides)
    consumed = watched(*CONSUMED)
    drive(0.5, *sides)
    assert watched(*CONSUMED) == consumed
    assert not done()
    with beside(linked.child.start):
        run(done, "all is taken once it is back", *sides)
    assert watched(*CONSUMED) > consumed
    for role in Role:
        own.judge(role)
    assert quiet() == before


@pytest.mark.case(7)
@pytest.mark.parametrize(
    ("role", "protocol", "seconds"),
    [
        (Role.BATCH, "consumer", 0.5),
        pytest.param(Role.PUSH, "consumer", 60.0, marks=pytest.mark.long),
        pytest.param(Role.BATCH, "classic", 0.5, marks=pytest.mark.long),
        pytest.param(Role.PUSH, "classic", 60.0, marks=pytest.mark.long),
    ],
)
@pytest.mark.timeout(180)
def test_who_cannot_reach_its_coordinator_is_fenced(
    linked: LinkedKafka, own: Place, join: Join, role: Role, protocol: str, seconds: float
) -> None:
    """The leader of its partitions answers as ever, so that under the new protocol it goes on reading."""
    if protocol == "consumer":
        quick_group(own.kafka, own.topics.group(role.service), SESSION_MS)
    options = {"protocol": protocol, "session_ms": SESSION_MS}
    alone = join(own, role, "alone", kafka=linked.linked, **options)
    own.publish(10)
    run(lambda: own.done(role), "it owns all and takes it", alone)
    owned, before, fenced = set(alone.ownership.owned), quiet(), figure(FENCED)
    go = threading.Event()
    linked.line.hears = lambda said: request(said) in GROUP and go.wait(WITHIN + 60)
    try:
        if protocol == "consumer":
            own.publish(10)
            run(lambda: own.done(role), "it goes on reading", alone)
        other = join(own, role, "other", **options)
        run(lambda: other.owns == own.partitions, "the other has taken over", alone, other)
        own.publish(10)
        run(lambda: own.done(role), "the other takes what comes", alone, other)
        drive(seconds, alone, other)
        if protocol == "consumer":
            run(lambda: figure(FENCED) == fenced + len(owned), "Redis refuses it", alone, other)
            assert not alone.lost
        else:
            run(lambda: set(alone.lost) == owned, "it knows without being told", alone, other)
    finally:
        go.set()
    own.publish(10)
    run(lambda: own.done(role), "all is taken", alone, other)
    run(lambda: alone.owns == other.owns == 1, "they share", alone, other)
    own.publish(10)
    run(lambda: own.done(role), "each takes its part", alone, other)
    own.judge(role, repeats=MAX_IN_FLIGHT)
    assert quiet() == before
