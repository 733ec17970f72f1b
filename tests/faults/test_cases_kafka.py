"""Kafka's side in trouble: members freeze, come and go, stall; records and the topic vanish under the readers."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
import uuid
from collections import Counter

import pytest
from confluent_kafka import OFFSET_END
from confluent_kafka.admin import AdminClient

from consumer import stream
from consumer.keys import Role
from consumer.stream import StreamFailed
from consumer.topics import Admin
from tests.support.deployment import SERVICES
from tests.support.figures import PROGRESS, figure, quiet, watched
from tests.support.kafka import Kafka, delete_records, needs, supports
from tests.support.proxy import proxy
from tests.support.services import Services, halted, refused, scraped
from tests.support.sides import WITHIN, Join, Place, Side, drive, quick_group, run
from tests.support.valkey import Valkey

FENCED = 'referral_fenced_total{reason="epoch"}'
REWIND = "referral_redis_rewind_total"
#: Steps of a classic rebalance take a heartbeat, a sixth of this.
SESSION_MS = 1_500
#: A push worker waits for the lease of the one before it, which takes a while: the rest in `make long`.
ROLES = pytest.mark.parametrize("role", [Role.BATCH, pytest.param(Role.PUSH, marks=pytest.mark.long)])
EACH_ONCE = pytest.mark.parametrize(
    ("role", "protocol"),
    [
        (Role.PUSH, "classic"),
        (Role.BATCH, "consumer"),
        pytest.param(Role.PUSH, "consumer", marks=pytest.mark.long),
        pytest.param(Role.BATCH, "classic", marks=pytest.mark.long),
    ],
)


@pytest.mark.case(2)
@pytest.mark.parametrize(
    ("role", "protocol", "session_s"),
    [
        pytest.param(Role.BATCH, "consumer", 2.0),
        pytest.param(Role.PUSH, "consumer", 2.0, marks=pytest.mark.long),
        pytest.param(Role.BATCH, "classic", 6.0, marks=pytest.mark.long),
        pytest.param(Role.PUSH, "classic", 6.0, marks=pytest.mark.long),
    ],
)
def test_what_a_frozen_owner_wrote_comes_too_late(
    kafka: Kafka,
    valkey: Valkey,
    place: Place,
    services: Services,
    role: Role,
    protocol: str,
    session_s: float,
) -> None:
    """It froze with an intake call on its way, which reaches Redis when another has taken over."""
    supports(kafka, protocol)
    if protocol == "consumer":
        quick_group(kafka.bootstrap, place.topics.group(role.service))
    late, held, go = str(uuid.uuid4()), threading.Event(), threading.Event()

    def hold(said: bytes) -> None:
        if late.encode() in said and not held.is_set():
            held.set()
            go.wait(WITHIN)

    with proxy(valkey.port) as line:
        line.hears = hold
        own = {"REFERRALS_GROUP_PROTOCOL": protocol}
        redis = f"redis://127.0.0.1:{line.port}/0"
        frozen = services.start(place, role.service, **own, REFERRALS_REDIS=redis)
        place.publish(20)
        run(lambda: place.done(role), "it owns all and takes it")
        place.publish(0, late)
        assert held.wait(WITHIN)
        os.kill(frozen.pid, signal.SIGSTOP)
        thaw = time.monotonic() + 2 * session_s
        other = services.start(place, role.service, **own)
        run(lambda: place.done(role), "the other has taken over")
        with pytest.raises(OSError):  # `up` is 0, which ReferralInstanceDown reads
            scraped(frozen, timeout=0.5)
        run(lambda: time.monotonic() > thaw, "two sessions are over")
        heads = [place.heads(role, field) for field in ("epoch", "owner", "next")]
        go.set()
        os.kill(frozen.pid, signal.SIGCONT)
        run(lambda: figure(FENCED, scraped(frozen)) >= 1, "it was refused")
        assert [place.heads(role, field) for field in ("epoch", "owner", "next")] == heads
        place.judge(role)
        place.publish(20)
        run(lambda: place.done(role), "all is taken")
        place.judge(role)
        for child in (frozen, other):
            assert watched("ReferralRedisRewind", REWIND, scraped(child)) == 0
        assert [frozen.stop(), other.stop()] == [0, 0]


@pytest.mark.case(3)
@pytest.mark.parametrize(
    ("role", "protocol", "changes", "seconds"),
    [
        (Role.PUSH, "classic", 8, (0.05, 1.2)),
        (Role.BATCH, "consumer", 8, (0.05, 1.2)),
        pytest.param(Role.PUSH, "consumer", 8, (0.05, 1.2), marks=pytest.mark.long),
        pytest.param(Role.BATCH, "classic", 8, (0.05, 1.2), marks=pytest.mark.long),
        pytest.param(Role.PUSH, "classic", 150, (2.0, 2.0), marks=pytest.mark.long, id="five minutes"),
    ],
)
@pytest.mark.timeout(600)
def test_members_come_and_go_all_the_time(
    kafka: Kafka,
    place: Place,
    join: Join,
    role: Role,
    protocol: str,
    changes: int,
    seconds: tuple[float, float],
) -> None:
    supports(kafka, protocol)
    if protocol == "consumer":
        quick_group(kafka.bootstrap, place.topics.group(role.service))
    chance, before = random.Random(changes), quiet()
    stays = join(place, role, protocol=protocol, session_ms=SESSION_MS)
    others: list[Side] = []
    for number in range(changes):
        place.publish(10)
        if number % 2:
            others.pop().close()
        else:
            others.append(join(place, role, f"b{number}", protocol=protocol, session_ms=SESSION_MS))
        drive(chance.uniform(*seconds), stays, *others)
    run(lambda: place.done(role), "all is taken", stays, *others)
    place.judge(role)
    # Nothing is wrong, and nobody is woken.
    assert quiet() == before


@pytest.mark.case(4)
@ROLES
def test_partitions_assigned_while_redis_is_away_are_not_read(
    valkey: Valkey, place: Place, services: Services, join: Join, role: Role
) -> None:
    first = join(place, role)
    place.publish(10)
    run(lambda: place.done(role), "the first are taken", first)
    first.worker.commit(first.stream)
    first.close()
    place.publish(10)
    with proxy(valkey.port) as line:

        def vanish(said: bytes) -> None:
            # The call that takes a partition says who takes it.
            if f"{socket.gethostname()}-".encode() in said:
                line.target = 1
                line.cut()

        line.hears = vanish
        argv = ("tests.support.impatient", role.service)
        redis = f"redis://127.0.0.1:{line.port}/0"
        child = services.start(place, role.service, argv, REFERRALS_REDIS=redis)
        halted(
            child, r"^Redis did not answer: ConnectionError, for 1 s: check REFERRALS_REDIS and start again$"
        )
    assert place.next(role) == 10
    assert sum(one.offset for one in place.committed(role)) == 10
    second = join(place, role, "b")
    run(lambda: place.done(role), "the rest is taken", second)
    place.judge(role)


@pytest.mark.case(5)
@EACH_ONCE
@pytest.mark.parametrize(
    "shared",
    [True, pytest.param(False, id="asked to share meanwhile", marks=pytest.mark.long)],
)
def test_who_does_not_poll_in_time_loses_its_partitions_and_commits_nothing(
    kafka: Kafka,
    place: Place,
    join: Join,
    monkeypatch: pytest.MonkeyPatch,
    role: Role,
    protocol: str,
    shared: bool,
) -> None:
    supports(kafka, protocol)
    if protocol == "consumer":
        quick_group(kafka.bootstrap, place.topics.group(role.service))
    monkeypatch.setattr(stream, "MAX_POLL_INTERVAL_MS", 2_000)
    slow = join(place, role, "slow", protocol=protocol, session_ms=SESSION_MS)
    place.publish(10)
    run(lambda: place.done(role), "it owns all and takes it", slow)
    other = join(place, role, "other", protocol=protocol, session_ms=SESSION_MS)
    monkeypatch.setattr(other.service.health, "beat", int)  # the gauge of this process tells of the slow one
    if shared:
        run(lambda: slow.owns == other.owns == 1, "they share", slow, other)
    owned, progress = set(slow.ownership.owned), watched(*PROGRESS)
    place.publish(10)
    run(lambda: place.done(role) and other.owns == 2, "the other has taken over", other)
    other.worker.commit(other.stream)
    run(lambda: sum(one.offset for one in place.committed(role)) == 20, "it has committed", other)
    assert watched(*PROGRESS) == progress, "its loop stands still, and its metrics say so"
    fenced = figure(FENCED)
    slow.round()
    assert watched(*PROGRESS) > progress
    assert figure(FENCED) == fenced + len(owned), "Redis told it, whatever Kafka did"
    if shared:
        run(lambda: set(slow.lost) == owned, "its partition is lost", slow)
        assert slow.owns == 0
    assert sum(one.offset for one in place.committed(role)) == 20
    place.publish(10)
    run(lambda: place.done(role), "all is taken", slow, other)
    run(lambda: slow.owns == other.owns == 1, "it takes its part again", slow, other)
    place.publish(10)
    run(lambda: place.done(role), "each takes its part", slow, other)
    place.judge(role)


@pytest.mark.case(8)
def test_records_deleted_before_they_were_read_stop_the_services(
    kafka: Kafka, place: Place, services: Services, join: Join
) -> None:
    needs(kafka, "deletion")
    for role in Role:
        side = join(place, role)
        place.publish(6 if role is Role.PUSH else 0)
        run(lambda role=role: place.done(role), "the first are taken", side)
        side.worker.commit(side.stream)
        side.close()
    place.publish(40)
    topic = place.topics.referrals
    delete_records(kafka, topic, dict.fromkeys(range(place.partitions), OFFSET_END))
    line = f"^the offset stored for a partition of {topic} is not in Kafka's log any more"
    for child in [services.start(place, role.service) for role in Role]:
        halted(child, line)
    for role in Role:  # and it stops again
        side = join(place, role)
        with pytest.raises(StreamFailed, match=line):
            run(lambda: False, "it stops", side)
        assert place.next(role) == 6
        assert sum(one.offset for one in place.committed(role)) == 6
    del place.published[6:]
    for role in Role:
        place.judge(role)


@pytest.mark.case(9)
def test_a_topic_made_anew_stops_the_services(kafka: Kafka, place: Place, services: Services) -> None:
    needs(kafka, "anew")
    children = [services.start(place, name) for name in SERVICES]
    place.publish(6)
    for role in Role:
        run(lambda role=role: place.done(role), "the first are taken")
    topic, admin = place.topics.referrals, AdminClient({"bootstrap.servers": place.kafka})
    admin.delete_topics([topic])[topic].result(timeout=WITHIN)
    run(lambda: Admin(place.kafka, {}).describe(topic) is None, "it is gone")
    Admin(place.kafka, {}).create(topic, place.partitions, {}, 1)
    before = list(place.published)
    place.publish(20)
    gone = f"^topic {topic} (was deleted and made again|is not (there|in Kafka) )"
    for child in children:
        halted(child, gone)
    refused(place, f"topic {topic} was deleted and made again")
    # Until it is noticed, some of the new topic may come in: nothing twice, and nothing of before is touched.
    pushed = Counter(
        e["referral_id"] for e in place.crm.effects("effect") if e["connection"] == place.connection
    )
    for found in (pushed, place.rows()):
        assert set(before) <= set(found) <= set(place.published)
        assert set(found.values()) == {1}
