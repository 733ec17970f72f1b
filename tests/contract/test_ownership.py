"""Whether Redis can be believed: a reply that was lost, a server that forgets or is busy, one that went back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from consumer import intake, layout, metrics
from consumer.connection_sets import StoredSet
from consumer.intake import Accepted, Entry, Fingerprint, WindowTarget
from consumer.keys import Keys, Role
from consumer.layout import Layout
from consumer.manifests import Remembered
from consumer.ownership import Owned, Ownership
from consumer.service import Stop
from consumer.store import Call, Reply, Script, Store, StoreRefused, StoreUnavailable
from consumer.stream import Witness
from consumer.topics import Topics
from deploy.embedded import valkey as embedded
from schemas.manifest import Kind, Manifest, Mark
from tests.support.proxy import Proxy, proxy
from tests.support.rows import write_layout
from tests.support.valkey import Valkey, start_valkey

WITHIN_S = 5.0
TOPICS = Topics()


class Increment(Script):
    """Not repeatable: tells how often it was carried out."""

    def source(self) -> str:
        return "#!lua\nreturn {tostring(redis.call('INCR', KEYS[1]))}"


ONCE = Call(Increment("tests", "increment"), "counter", ())


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not happened():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    """A server of this test's own, since its settings are changed."""
    server = start_valkey(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def line(valkey: Valkey) -> Iterator[Proxy]:
    with proxy(valkey.port) as line:
        yield line


@contextmanager
def connected(port: int, **options: Any) -> Iterator[Store]:
    store = Store(embedded.url(port), **options)
    yield store
    store.close()


def lose_the_reply(
    valkey: Valkey, line: Proxy, happened: Callable[[], bool], call: Callable[[], object]
) -> None:
    """Make the call; Redis carries it out, and the connection breaks before its reply arrives."""
    outcome: list[object] = []

    def attempt() -> None:
        try:
            outcome.append(call())
        except StoreUnavailable as error:
            outcome.append(error)

    line.deaf = True
    thread = threading.Thread(target=attempt)
    thread.start()
    until(happened)
    line.cut()
    thread.join(WITHIN_S)
    line.deaf = False
    assert isinstance(outcome[0], StoreUnavailable)


@pytest.mark.case(10)
def test_a_lost_reply_of_intake_is_answered_when_asked_again(valkey: Valkey, line: Proxy) -> None:
    keys = Keys(TOPICS.referrals, Role.BATCH)
    with connected(line.port) as store, connected(valkey.port) as other:
        write_layout(other, TOPICS, Layout("topic", 1, (0,), b"key"))
        taken = intake.taken(store.call(intake.take(keys, 0, "worker", 0)))
        assert isinstance(taken, intake.Taken)

        def offer(first: int) -> Reply:
            entries = [
                Entry(at, Fingerprint(0, 5, 0), b"note", targets=(WindowTarget("daily", b"row"),))
                for at in (first, first + 1)
            ]
            place = {"epoch": taken.epoch, "prev": first, "next_offset": first + 2, "set_version": 0}
            return store.call(intake.intake(keys, 0, entries=entries, **place))

        def rows() -> int:
            return int(other.command("LLEN", f"{keys.prefix(0)}open:daily"))

        assert intake.accepted(offer(0)) == Accepted("AD", 0)
        with_two = offer(2)
        assert intake.accepted(with_two) == Accepted("DD", 0)
        other.command("DEL", f"{keys.prefix(0)}seen:5:0")
        lose_the_reply(valkey, line, lambda: rows() == 2, lambda: offer(4))
        assert intake.accepted(offer(4)) == Accepted("AD", 0)
        assert rows() == 2
        assert other.command("LLEN", f"{keys.prefix(0)}outbox") == 4
        assert other.hash(keys.head(0))["next"] == "6"


# Which answers are refusals, and which say that nothing is known.


BUSY = "#!lua flags=no-writes\nwhile true do end"

REFUSED, UNAVAILABLE = StoreRefused, StoreUnavailable


def test_a_busy_redis_is_waited_for(server: Valkey) -> None:
    with connected(server.port) as store, server.client() as client, server.client() as blocker:
        client.config_set("busy-reply-threshold", 1)
        store.call(ONCE)
        sent = blocker.connection_pool.get_connection()
        sent.send_command("EVAL", BUSY, 0)
        try:
            seen: list[str] = []

            def refused() -> bool:
                try:
                    store.call(ONCE)
                except StoreUnavailable as error:
                    seen.append(str(error))
                return bool(seen)

            until(refused)
            assert "not ready" in seen[0]
        finally:
            client.execute_command("SCRIPT", "KILL")
            with suppress(Exception):
                sent.read_response()
            blocker.connection_pool.release(sent)
        assert int(store.call(ONCE)[0]) >= 2


@pytest.mark.parametrize(
    ("given", "line"),
    [
        pytest.param([], None, id="as it should be"),
        pytest.param([("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")], "evicts keys", id="evicts"),
        pytest.param([("CONFIG", "SET", "appendonly", "no")], "set appendonly yes", id="forgets"),
    ],
)
def test_a_redis_that_forgets_is_not_started_with(
    server: Valkey, given: Sequence[Sequence[str]], line: str | None
) -> None:
    with connected(server.port) as store:
        store.commands(given)
        if line is None:
            layout.require_durable(store, volatile_ok=False)
        else:
            with pytest.raises(Stop, match=line):
                layout.require_durable(store, volatile_ok=False)


# A Redis that went back.


class Silent:
    """A half that keeps nothing."""

    def __init__(self) -> None:
        self.had: list[int] = []

    def owned(self, owned: Owned) -> None:
        self.had.append(owned.partition)

    def gone(self, partition: int) -> None:
        self.had.remove(partition)

    def drain(self, partitions: Sequence[int]) -> Sequence[int]:
        """Nothing is under way."""
        return partitions

    def connections(self, stored: StoredSet) -> None:
        """It needs none."""

    def accepted(
        self, owned: Owned, entries: Sequence[Entry], verdicts: str, parked: Mapping[str, int]
    ) -> None:
        """It keeps nothing."""

    def settle(self, owned: Owned) -> Call | None:
        return None

    def settled(self, owned: Owned, reply: Reply) -> None:
        """It asked for nothing."""

    def after(self, store: Store) -> None:
        """It reads nothing."""


def remembered(to: int) -> Remembered:
    mark = Mark(partition=0, start=0, to=to, rows=1, digest="d", removals=0)
    window = Manifest(kind=Kind.WINDOW, at=datetime.now(UTC), connection="daily", window=3, marks=(mark,))
    other = Mark(partition=1, start=0, to=10 * to, rows=1, digest="d", removals=0)
    elsewhere = Manifest(kind=Kind.WINDOW, at=datetime.now(UTC), connection="daily", window=4, marks=(other,))
    return Remembered(windows={"daily": {3: window, 4: elsewhere}})


@pytest.mark.case(32)
@pytest.mark.parametrize(
    ("role", "at", "witness", "sealed", "line", "rewinds"),
    [
        pytest.param(Role.PUSH, 100, Witness(100, 90), 0, None, 0, id="where it was"),
        pytest.param(Role.PUSH, 120, Witness(100, 90), 0, None, 0, id="further: the commit came late"),
        pytest.param(Role.PUSH, 100, Witness(0, 0), 0, None, 0, id="never committed"),
        pytest.param(Role.PUSH, 95, Witness(100, 90), 0, None, 1, id="a second went with a crash"),
        pytest.param(Role.PUSH, 90, Witness(100, 90), 0, None, 1, id="as much as a crash may take"),
        pytest.param(Role.PUSH, 89, Witness(100, 90), 0, "it had confirmed 90", 0, id="more than that"),
        pytest.param(
            Role.PUSH, 99, Witness(100, 100), 0, "it had confirmed 100", 0, id="a commit without note"
        ),
        pytest.param(
            Role.BATCH, 99, Witness(0, 0), 100, "daily-000003 was sealed up to 100", 0, id="below a seal"
        ),
        pytest.param(Role.BATCH, 100, Witness(0, 0), 100, None, 0, id="at a seal"),
        pytest.param(Role.BATCH, 99, Witness(100, 90), 99, None, 1, id="between a seal and the commit"),
        pytest.param(Role.PUSH, 99, Witness(0, 0), 100, None, 0, id="a seal says nothing of push"),
    ],
)
@pytest.mark.case(12, 13)
def test_whether_redis_can_be_believed(
    valkey: Valkey, role: Role, at: int, witness: Witness, sealed: int, line: str | None, rewinds: int
) -> None:
    with connected(valkey.port) as store:
        write_layout(store, TOPICS, Layout("topic", 1, (at,), b"key"))
        half = Silent()
        ownership = Ownership(
            store, Keys(TOPICS.referrals, role), half, remembered(sealed), "me", lambda: False
        )
        counted = metrics.REDIS_REWIND._value.get()
        if line is None:
            assert ownership.assigned({0: witness}) == {0: at}
            assert half.had == [0]
            assert ownership.owned[0].durable == min(at, witness.durable)
        else:
            with pytest.raises(Stop, match=line) as raised:
                ownership.assigned({0: witness})
            assert f"stands at offset {at} of referrals/0" in str(raised.value)
            assert half.had == []
            assert ownership.owned == {}
        assert metrics.REDIS_REWIND._value.get() - counted == rewinds


@pytest.mark.case(14)
def test_a_redis_that_knows_nothing_stops_everything(valkey: Valkey) -> None:
    with connected(valkey.port) as store:
        ownership = Ownership(
            store, Keys("referrals", Role.PUSH), Silent(), Remembered(), "me", lambda: False
        )
        with pytest.raises(Stop, match="has no state of referrals/0"):
            ownership.assigned({0: Witness(0, 0)})


def test_what_was_confirmed_long_enough_before_the_next_answer_is_durable() -> None:
    owned = Owned(0, 1, 10, 0, 0.0, 0.0, durable=10)
    for asked, next_offset in ((0.0, 11), (0.05, 12), (1.0, 13), (2.4, 14)):
        owned.confirm(next_offset, asked, asked + 0.01)
    assert owned.witness == Witness(14, 10)
    owned.confirm(15, 2.52, 2.53)
    assert owned.witness == Witness(15, 11)
    owned.confirm(16, 9.0, 9.1)
    assert owned.witness == Witness(16, 15)
    # Redis went back: nothing durable is taken back with it.
    owned.confirm(15, 9.2, 9.3)
    assert owned.witness == Witness(15, 15)


def test_a_partition_given_back_costs_the_next_owner_no_wait(valkey: Valkey) -> None:
    keys = Keys(TOPICS.referrals, Role.PUSH)
    with connected(valkey.port) as store:
        write_layout(store, TOPICS, Layout("topic", 2, (0, 0), b"key"))
        half = Silent()
        ownership = Ownership(store, keys, half, Remembered(), "me", lambda: False)
        ownership.assigned({0: Witness(0, 0), 1: Witness(0, 0)})
        ownership.revoked([0, 7])
        ownership.lost([1])
        assert (half.had, ownership.owned) == ([], {})
        waits = []
        for p in range(2):
            taken = intake.taken(store.call(intake.take(keys, p, "other", 0)))
            assert isinstance(taken, intake.Taken)
            waits.append(taken.wait_ms)
        assert waits[0] == 0
        assert 5_000 < waits[1] <= intake.LEASE_MS + 2_000
