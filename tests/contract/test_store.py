"""The Redis client on a real Valkey: nothing is repeated below the caller, refusals stand alone, barriers hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.store import Call, NotDurable, Script, Store, StoreRefused, StoreUnavailable, text
from tests.support.proxy import Proxy, proxy
from tests.support.receivers import eventually
from tests.support.valkey import Valkey, start_valkey


class Lua(Script):
    """A script of the test's own; `name` is its source."""

    def source(self) -> str:
        return self.name


PLAIN = Lua("test", "#!lua\nreturn redis.call('INCR', KEYS[1])")
#: Answers with less than it takes, as an intake of rows does.
GROW = Lua("test", "#!lua\nreturn redis.call('APPEND', KEYS[1], ARGV[1])")
SHRINK = Lua("test", "#!lua flags=allow-oom\nreturn redis.call('INCR', KEYS[1])")
BROKEN = Lua("test", "#!lua\nreturn redis.call('INCR')")


@pytest.fixture
def store(valkey: Valkey) -> Iterator[Store]:
    made = Store(valkey.url)
    yield made
    made.close()


@pytest.fixture
def between(valkey: Valkey) -> Iterator[Proxy]:
    with proxy(valkey.port) as made:
        yield made


def through(made: Proxy) -> Store:
    return Store(f"redis://127.0.0.1:{made.port}/0")


@pytest.mark.case(10, 11)
def test_a_lost_reply_is_told_and_nothing_is_repeated(valkey: Valkey, between: Proxy, monkeypatch) -> None:
    """redis-py by itself would try eleven times: the caller decides."""
    monkeypatch.setattr("consumer.store.SOCKET_TIMEOUT_S", 0.3)
    store = through(between)
    store.call(Call(PLAIN, "n", ()))
    between.deaf = True
    with pytest.raises(StoreUnavailable):
        store.call(Call(PLAIN, "n", ()))
    between.deaf = False
    with valkey.client() as client:
        assert client.get("n") == b"2"
    assert store.command("GET", "n") == b"2"
    store.close()


def test_a_cut_connection_is_told_once_and_made_anew(valkey: Valkey, between: Proxy) -> None:
    store = through(between)
    store.call(Call(PLAIN, "n", ()))
    between.cut_after = 1
    with pytest.raises(StoreUnavailable):
        store.call(Call(PLAIN, "n", ()))
    between.cut_after = None
    with valkey.client() as client:
        assert client.get("n") == b"1"
    assert store.call(Call(PLAIN, "n", ())) == 2
    store.close()


def test_a_server_that_is_not_there_is_told_at_once() -> None:
    store = Store("redis://127.0.0.1:1/0")
    with pytest.raises(StoreUnavailable, match="ConnectionError"):
        store.command("PING")
    store.close()


@pytest.mark.case(15)
def test_scripts_are_loaded_anew_after_a_flush(valkey: Valkey, store: Store) -> None:
    calls = [Call(PLAIN, "n", ()), Call(SHRINK, "m", ())]
    assert store.calls(calls) == [1, 1]
    with valkey.client() as client:
        client.script_flush()
    assert store.calls(calls) == [2, 2]


def test_work_is_done_while_redis_has_the_calls(valkey: Valkey, store: Store) -> None:
    def meanwhile() -> None:
        with valkey.client() as client:
            eventually(lambda: client.get("n") == b"1", "Redis has it")

    assert store.each([Call(PLAIN, "n", ())], meanwhile) == [1]


def test_work_that_fails_leaves_no_reply_behind(store: Store) -> None:
    def meanwhile() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.each([Call(PLAIN, "n", ())], meanwhile)
    assert store.call(Call(PLAIN, "m", ())) == 1


@pytest.mark.case(16)
def test_a_refusal_stands_for_its_call_alone(tmp_path: Path) -> None:
    """A full Redis refuses what needs memory; what frees some is carried out beside it, and says so."""
    server = start_valkey(tmp_path)
    try:
        store = Store(server.url)
        store.call(Call(GROW, "filler", ("x" * 2_000_000,)))
        store.command("CONFIG", "SET", "maxmemory", "1mb")
        replies = store.each([Call(SHRINK, "n", ()), Call(GROW, "n", ("1",)), Call(SHRINK, "n", ())])
        assert [replies[0], replies[2]] == [1, 2]
        assert isinstance(replies[1], StoreRefused)
        with pytest.raises(StoreRefused, match="maxmemory"):
            store.calls([Call(SHRINK, "n", ()), Call(GROW, "n", ("secret",))])
        with pytest.raises(StoreRefused) as refused:
            store.command("SET", "k", "a body nobody may see")
        assert "nobody" not in str(refused.value)
        store.close()
    finally:
        server.stop()


@pytest.mark.case(17)
def test_a_disk_in_trouble_refuses_every_write(tmp_path: Path) -> None:
    """A failed save, which `stop-writes-on-bgsave-error` answers with MISCONF."""
    server = start_valkey(tmp_path, extra=("--save", "3600 1"))
    try:
        store = Store(server.url)
        store.command("SET", "k", "v")
        (tmp_path / "data" / "dump.rdb").mkdir()
        store.command("BGSAVE")

        def failed() -> bool:
            return store.command("INFO", "persistence")["rdb_last_bgsave_status"] == "err"

        eventually(failed, "the save fails")
        replies = store.each([Call(SHRINK, "n", ()), Call(PLAIN, "n", ())])
        assert [type(reply) for reply in replies] == [StoreRefused, StoreRefused]
        store.close()
    finally:
        server.kill()  # it would not end by itself without having saved


def test_an_error_of_a_script_is_nobodys_refusal(store: Store) -> None:
    with pytest.raises(Exception, match="rong number of arg") as raised:
        store.call(Call(BROKEN, "n", ()))
    assert not isinstance(raised.value, StoreRefused | StoreUnavailable)


@pytest.mark.case(18)
def test_a_replica_is_no_master(tmp_path: Path, valkey: Valkey) -> None:
    server = start_valkey(tmp_path, extra=("--replicaof", f"127.0.0.1 {valkey.port}"))
    try:
        store = Store(server.url)
        with pytest.raises(StoreUnavailable):
            store.call(Call(PLAIN, "n", ()))
        store.close()
    finally:
        server.stop()


def test_the_barrier_returns_once_it_is_on_disk(store: Store) -> None:
    for _ in range(3):
        store.call(Call(PLAIN, "n", ()))
        store.barrier()
    assert store.command("INFO", "persistence")["aof_pending_bio_fsync"] == 0


@pytest.mark.case(13)
def test_the_barrier_asks_for_replicas_that_are_not_there(valkey: Valkey, monkeypatch) -> None:
    monkeypatch.setattr("consumer.store.BARRIER_TIMEOUT_MS", 50)
    store = Store(valkey.url, replicas=1)
    store.call(Call(PLAIN, "n", ()))
    with pytest.raises(NotDurable):
        store.barrier()
    store.close()


def test_the_barrier_does_not_speak_for_a_connection_that_broke(valkey: Valkey, between: Proxy) -> None:
    """Redis may have died with the write; a new connection, which wrote nothing, would be told that all is well."""
    store = through(between)
    store.barrier()
    store.call(Call(PLAIN, "n", ()))
    between.cut()
    with pytest.raises(StoreUnavailable):  # seen as broken, or made anew unseen
        store.barrier()
    store.call(Call(PLAIN, "n", ()))
    store.barrier()
    store.close()


def test_without_append_only_file_there_is_no_barrier(tmp_path: Path) -> None:
    server = start_valkey(tmp_path, extra=("--appendonly", "no", "--maxmemory-policy", "allkeys-lru"))
    try:
        store = Store(server.url, append_only=False)
        store.barrier()
        durability = store.durability()
        assert (durability.append_only, durability.eviction) == (False, "allkeys-lru")
        store.close()
    finally:
        server.stop()


def test_it_says_how_durable_the_server_is(store: Store) -> None:
    durability = store.durability()
    assert (durability.append_only, durability.eviction) == (True, "noeviction")


def test_hashes_are_text(store: Store) -> None:
    store.command("HSET", "h", "name", "Zoë")
    assert store.hashes(["h", "missing"]) == [{"name": "Zoë"}, {}]
    assert store.hash("h") == {"name": "Zoë"}


def test_a_store_has_one_connection(valkey: Valkey, store: Store) -> None:
    """WAITAOF speaks for the connection it is asked on."""
    with valkey.client() as client:
        client.client_list()
        before = len(client.client_list())
        for n in range(5):
            store.call(Call(PLAIN, f"n{n}", ()))
            store.command("PING")
            store.durability()
            store.barrier()
        assert len(client.client_list()) == before + 1


@pytest.mark.parametrize(
    ("reply", "expected"), [pytest.param(b"OK", "OK", id="bytes"), pytest.param(7, "7", id="number")]
)
def test_text(reply: bytes | int, expected: str) -> None:
    assert text(reply) == expected
