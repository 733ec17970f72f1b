"""Redis in trouble under running workers: replies lost, tails cut, replicas behind, nothing left, no room."""

from __future__ import annotations

import io
import random
import re
import resource
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from consumer import store as redis_client
from consumer import worker as loop
from consumer.keys import Role
from consumer.service import Stop
from deploy.embedded.processes import free_port
from tests.support.beside import beside, replica_of
from tests.support.deployment import SERVICES
from tests.support.figures import CONSUMED, PROGRESS, REWINDS, TAKEN_AT, quiet, watched
from tests.support.kafka import Kafka
from tests.support.proxy import Proxy, proxy
from tests.support.receivers import Receiver, eventually
from tests.support.services import Services, halted, refused
from tests.support.sides import BOTH, MAX_IN_FLIGHT, WITHIN, Join, Place, Side, run
from tests.support.valkey import Valkey, start_valkey

#: A client's patience with one reply, where the test is about replies that never come.
SOON_S = 0.3


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    """A server of the test's own, which it may ruin."""
    made = start_valkey(tmp_path / "valkey")
    yield made
    made.child.kill()


@pytest.fixture
def own(kafka: Kafka, server: Valkey, crm: Receiver) -> Place:
    return Place(kafka.bootstrap, server, crm)


def through(line: Proxy) -> str:
    return f"redis://127.0.0.1:{line.port}/0"


# A reply that is lost, or late.


@pytest.mark.parametrize(
    "late", [pytest.param(False, marks=pytest.mark.case(10)), pytest.param(True, marks=pytest.mark.case(11))]
)
@pytest.mark.parametrize(
    ("role", "occurrence"),
    [
        pytest.param(Role.BATCH, 1, id="rows"),
        pytest.param(Role.PUSH, 1, id="deliveries"),
        pytest.param(Role.PUSH, 2, id="their ends"),
    ],
)
def test_what_redis_did_unseen_is_done_once(
    valkey: Valkey,
    place: Place,
    join: Join,
    monkeypatch: pytest.MonkeyPatch,
    role: Role,
    occurrence: int,
    late: bool,
) -> None:
    """The script ran; its reply is thrown away with the connection, or comes when nobody listens any more."""
    monkeypatch.setattr(redis_client, "SOCKET_TIMEOUT_S", SOON_S)
    marked = str(uuid.uuid4())
    said: list[bytes] = []
    replied = threading.Event()

    def hears(data: bytes) -> None:
        if marked.encode() in data:
            said.append(data)

    def tells(_data: bytes) -> None:
        if len(said) == occurrence and not replied.is_set():
            replied.set()
            if late:
                time.sleep(3 * SOON_S)  # the client's time runs out: this is the fault itself
            else:
                line.cut()

    with proxy(valkey.port) as line:
        line.hears, line.tells = hears, tells
        side = join(place, role, url=through(line))
        place.publish(10)
        run(lambda: place.done(role), "the first are taken", side)
        before, progress = quiet(), watched(*PROGRESS)
        place.publish(5, marked)
        run(lambda: replied.is_set() and place.done(role), "all is done", side)
        assert len(said) > occurrence, "it was said again"
        place.publish(5)
        run(lambda: place.done(role), "it goes on", side)
        place.judge(role)
        # Nothing was lost, so nobody is woken; and the loop goes round again.
        assert quiet() == before
        assert watched(*PROGRESS) > progress
        assert watched("ReferralOutboxNotDraining", "referral_outbox_length") >= 0
        side.close()


# What it had confirmed is gone.


def tail(server: Valkey) -> Path:
    (file,) = (server.child.command.log.parent / "data").glob("appendonlydir/*.incr.aof")
    return file


@pytest.mark.case(12)
@BOTH
@pytest.mark.parametrize("cuts", [6, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.timeout(600)
def test_a_power_cut_takes_the_tail_and_nothing_else(
    own: Place, join: Join, monkeypatch: pytest.MonkeyPatch, role: Role, cuts: int
) -> None:
    """Killed while records wait, with 1 to all bytes of the last second cut off its append-only file."""
    monkeypatch.setattr(loop, "LOOK_EVERY_S", 0.05)
    chance, server = random.Random(cuts), own.valkey
    side = join(own, role)
    own.publish(20)
    run(lambda: own.done(role), "the first are taken", side)
    gone_back = 0
    for _ in range(cuts):
        kept = tail(server).stat().st_size
        confirmed = own.next(role) + chance.randrange(1, 8)
        own.publish(20)
        run(lambda least=confirmed: own.next(role) >= least, "some are taken", side)
        taken, rewinds = own.next(role), watched(*REWINDS)
        server.kill()
        written = tail(server).stat().st_size - kept
        cut = chance.choice((1, 40, 400, chance.randrange(1, written + 1)))
        with tail(server).open("r+b") as file:
            file.truncate(kept + max(0, written - cut))
        server.restart()
        back = own.next(role) < taken
        gone_back += back
        run(lambda: own.done(role), "all is taken", side)
        if back:
            assert watched(*REWINDS) > rewinds
    assert gone_back > 0, "no cut took an offset: this run proves nothing"
    own.judge(role, repeats=cuts * MAX_IN_FLIGHT)


@pytest.mark.case(13)
@BOTH
@pytest.mark.parametrize("explained", [True, pytest.param(False, id="longer than a crash explains")])
def test_a_failover_to_a_replica_that_is_behind(
    own: Place, join: Join, tmp_path: Path, role: Role, explained: bool
) -> None:
    server, stalled, go = own.valkey, threading.Event(), threading.Event()
    with replica_of(server, tmp_path / "replica") as (replica, following), proxy(server.port) as line:
        following.tells = lambda _data: stalled.is_set() and go.wait(WITHIN)
        side = join(own, role, url=through(line))
        own.publish(20)
        run(lambda: own.done(role), "the first are taken", side)
        with replica.client() as client:
            head = own.keys(role).head(0)
            eventually(lambda: client.hget(head, "next").decode() == own.heads(role, "next")[0], "it has all")
        stalled.set()
        own.publish(10)
        run(lambda: own.done(role), "the replica does not have the last", side)
        if not explained:
            owned = side.ownership.owned
            run(
                lambda: all(one.durable == one.next_offset for one in owned.values()), "it relies on it", side
            )
        rewinds = watched(*REWINDS)
        server.kill()
        with replica.client() as client:
            client.replicaof("NO", "ONE")
        go.set()
        own.valkey, line.target = replica, replica.port
        line.cut()
        assert own.next(role) == 20
        if not explained:
            with pytest.raises(Stop, match="Redis went back: it stands at offset .* but it had confirmed"):
                run(lambda: False, "it stops", side)
            assert own.next(role) == 20
            return
        own.publish(10)
        run(lambda: own.done(role), "all is taken", side)
        own.judge(role, repeats=MAX_IN_FLIGHT)
        assert watched(*REWINDS) > rewinds


@pytest.mark.case(14)
def test_an_emptied_redis_stops_everything(place: Place, services: Services) -> None:
    children = [services.start(place, name) for name in SERVICES]
    place.publish(10)
    for role in Role:
        run(lambda role=role: place.done(role), "the first are taken")
        run(lambda role=role: sum(one.offset for one in place.committed(role)) == 10, "Kafka was told")
    with place.valkey.client() as client:
        client.flushall()
    place.publish(10)
    for child in children:
        halted(child, "^Redis .*has no state of .*run `referrals rebuild`")
    refused(place, "run `referrals rebuild`")
    with place.valkey.client() as client:
        assert client.dbsize() == 0, "nothing was begun on it"
    for role in Role:
        assert sum(one.offset for one in place.committed(role)) == 10
    del place.published[10:]
    place.judge(Role.PUSH)


@pytest.mark.case(15)
@BOTH
def test_scripts_are_forgotten_again_and_again(valkey: Valkey, place: Place, join: Join, role: Role) -> None:
    side, before = join(place, role), quiet()
    with valkey.client() as client:
        for _ in range(10):
            place.publish(5)
            client.script_flush()
            taken = place.next(role)
            run(lambda since=taken: place.next(role) > since, "some are taken", side)
        client.script_flush()
        run(lambda: place.done(role), "all is taken", side)
    place.judge(role)
    assert quiet() == before


# No room.


@pytest.mark.case(16)
@BOTH
def test_without_memory_intake_pauses_and_goes_on(own: Place, join: Join, role: Role) -> None:
    side = join(own, role)
    own.mode("503")
    own.publish(20)
    run(lambda: own.next(role) == 20, "the first are taken", side)
    with own.valkey.client() as client:
        client.set("ballast", "x" * 2_000_000)
        client.config_set("maxmemory", "1mb")
        own.publish(10)
        run(lambda: not side.ready[0], "it is refused", side)
        stalled(side, own, 10)
        own.mode("ok")
        if role is Role.PUSH:
            run(lambda: own.pending() == 0, "what it had is delivered", side)
        assert own.next(role) == 20
        client.delete("ballast")
        client.config_set("maxmemory", "0")
    run(lambda: own.done(role), "the rest follows", side)
    own.judge(role)
    run(lambda: side.ready[0], "it is well again", side)


def stalled(side: Side, place: Place, waiting: int) -> None:
    """What ReferralIntakeStalled reads: records wait, and none is taken."""
    since = watched(*TAKEN_AT)

    def lag() -> float:
        return sum(
            watched("ReferralIntakeStalled", f'referral_lag_records{{partition="{p}"}}')
            for p in range(place.partitions)
        )

    run(lambda: lag() == waiting, "the lag says so", side)
    assert watched(*TAKEN_AT) == since


#: A full disk is an error of the write, not the signal that RLIMIT_FSIZE sends by default.
UNSIGNALLED = ("sh", "-c", 'trap "" XFSZ; exec "$0" "$@"')


def refuses_ballast(server: Valkey) -> bool:
    with server.client() as client, suppress(redis.ResponseError):
        client.set("ballast", "x" * 1_000)
        return False
    return True


@pytest.mark.case(17)
@BOTH
@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_a_full_disk_takes_nothing_in(
    kafka: Kafka, crm: Receiver, tmp_path: Path, join: Join, role: Role, fsync: str
) -> None:
    """Under `always` Valkey ends without a reply; under `everysec` it refuses all writes until there is room."""
    server = start_valkey(tmp_path / "valkey", fsync, wrap=UNSIGNALLED)
    try:
        place = Place(kafka.bootstrap, server, crm)
        side = join(place, role)
        place.publish(20)
        run(lambda: place.done(role), "the first are taken", side)
        since = watched(*CONSUMED)
        size = tail(server).stat().st_size
        room = size + 300
        resource.prlimit(server.child.pid, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        if fsync == "everysec":
            # What it took before it knew would be all there is: it knows before there is something to take.
            eventually(lambda: refuses_ballast(server), "it refuses what is written")
        place.publish(40)

        def ends() -> None:
            eventually(lambda: server.child.exit_code is not None, "Valkey gives up")
            assert tail(server).stat().st_size <= room
            server.restart()

        def refuses() -> None:
            with server.client() as client:
                eventually(lambda: answered(client, "MISCONF") >= 2, "it refuses")
                consumed, so_far = watched(*CONSUMED), answered(client, "MISCONF")
                eventually(lambda: answered(client, "MISCONF") >= so_far + 4, "and goes on refusing")
                assert watched(*CONSUMED) == consumed < since + 40
            resource.prlimit(server.child.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

        with beside(ends if fsync == "always" else refuses):
            run(lambda: place.done(role), "all is taken once there is room", side)
        place.judge(role, repeats=MAX_IN_FLIGHT)
        assert watched(*CONSUMED) == since + 40
    finally:
        server.child.kill()


# It answers, and does not do it.


def answered(client: redis.Redis, code: str) -> int:
    """How often the server answered with this error."""
    found = client.info("errorstats").get(f"errorstat_{code}")
    return int(found["count"]) if isinstance(found, dict) else 0


@pytest.mark.case(18)
def test_a_master_made_a_replica_for_a_while(own: Place, join: Join) -> None:
    def lift(client: redis.Redis) -> None:
        eventually(lambda: answered(client, "READONLY") >= 4, "it says READONLY")
        client.replicaof("NO", "ONE")

    sides = [join(own, role) for role in Role]
    with own.valkey.client() as client:
        waits_and_goes_on(own, sides, lambda: client.replicaof("127.0.0.1", 1), lambda: lift(client))


@pytest.mark.case(18)
def test_a_redis_that_reads_its_file(own: Place, join: Join) -> None:
    def back() -> None:
        own.valkey.restart()
        with own.valkey.client() as client:
            turned_away = {
                name: found["rejected_calls"]
                for name, found in client.info("commandstats").items()
                if found["rejected_calls"] and name != "cmdstat_ping"
            }
            assert answered(client, "LOADING") >= 1
            assert turned_away, "the workers were told, too"

    # Its own keys and the ballast take four seconds to read: longer than any pause of a worker.
    own.valkey.child.command = replace(
        own.valkey.child.command, argv=(*own.valkey.child.command.argv, "--key-load-delay", "500")
    )
    with own.valkey.client() as client, client.pipeline(transaction=False) as many:
        for number in range(8_000):
            many.set(f"ballast:{number}", "x")
        many.execute()
    sides = [join(own, role) for role in Role]
    waits_and_goes_on(own, sides, own.valkey.kill, back)


@pytest.mark.case(18)
def test_a_cluster_whose_slots_nobody_serves_for_a_while(
    kafka: Kafka, crm: Receiver, tmp_path: Path, join: Join
) -> None:
    # Its own default, 10,000 above, is where outgoing connections have theirs.
    bus = ("--cluster-port", str(free_port()))
    server = start_valkey(tmp_path / "valkey", extra=("--cluster-enabled", "yes", *bus))

    def lift() -> None:
        with server.client() as client:
            eventually(lambda: answered(client, "CLUSTERDOWN") >= 4, "it says CLUSTERDOWN")
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)

    try:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            eventually(lambda: b"state:ok" in client.execute_command("CLUSTER", "INFO"), "it serves")
            place = Place(kafka.bootstrap, server, crm)
            sides = [join(place, role) for role in Role]
            gone = lambda: client.execute_command("CLUSTER", "DELSLOTSRANGE", 0, 16383)  # noqa: E731
            waits_and_goes_on(place, sides, gone, lift)
    finally:
        server.child.kill()


@pytest.mark.case(18)
def test_a_slot_on_its_way_to_another_node(valkey: Valkey, place: Place, join: Join) -> None:
    """A node that moves a slot has some of a call's keys only; no other node is needed to say so."""
    told: list[int] = []

    def answers(said: bytes) -> bytes | None:
        calls = commands(said)
        if len(told) >= 4 or not calls or set(calls) != {b"EVALSHA"}:
            return None
        told.append(len(calls))
        return b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n" * len(calls)

    with proxy(valkey.port) as line:
        sides = [join(place, role, url=through(line)) for role in Role]

        def begin() -> None:
            line.answers = answers

        waits_and_goes_on(place, sides, begin, lambda: eventually(lambda: len(told) >= 4, "it was told"))
        for side in sides:
            side.close()


def commands(said: bytes) -> list[bytes]:
    """The names of the commands that a client said; nothing where one is not whole."""
    found: list[bytes] = []
    lines = io.BytesIO(said)
    while head := lines.readline():
        if not re.fullmatch(rb"\*\d+\r\n", head):
            return []
        for place in range(int(head[1:])):
            size = lines.readline()
            if not re.fullmatch(rb"\$\d+\r\n", size):
                return []
            value = lines.read(int(size[1:]) + 2)
            if len(value) != int(size[1:]) + 2:
                return []
            found += [value[:-2]] if place == 0 else []
    return found


def waits_and_goes_on(
    place: Place, sides: Sequence[Side], begin: Callable[[], object], end: Callable[[], object]
) -> None:
    """Between `begin` and `end` nothing is taken or lost; `end` waits until all the while it was refused."""

    def done() -> bool:
        return all(place.done(role) for role in Role)

    place.publish(20)
    run(done, "the first are taken", *sides)
    place.publish(20)
    before, progress = quiet(), watched(*PROGRESS)
    begin()
    with beside(end) as ended:
        # A round that brings no record asks Redis for nothing.
        while not ended():
            for side in sides:
                side.round()
    run(done, "all is taken", *sides)
    for role in Role:
        place.judge(role, repeats=MAX_IN_FLIGHT)
    assert quiet() == before
    assert watched(*PROGRESS) > progress
