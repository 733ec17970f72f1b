"""What happens to servers while a test is kept waiting by them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.support.proxy import Proxy, proxy
from tests.support.receivers import eventually
from tests.support.sides import WITHIN
from tests.support.valkey import Valkey, start_valkey

#: Its thread outlives every test: Linux kills what a thread has started when that ends.
_BESIDE = ThreadPoolExecutor(1, thread_name_prefix="beside")


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[Callable[[], bool]]:
    """Have it done while this thread is kept waiting by a server in trouble; says whether it is done."""
    future = _BESIDE.submit(work)
    try:
        yield future.done
    finally:
        future.result(WITHIN)


@contextmanager
def repeating(work: Callable[[], object], every_s: float) -> Iterator[None]:
    """Have it done again and again, so many seconds apart, until the block ends."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(every_s):
            work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def replica_of(server: Valkey, folder: Path) -> Iterator[tuple[Valkey, Proxy]]:
    """A replica that has all, and the line it follows on."""
    with proxy(server.port) as line, server.client() as master:
        # Others that may want to follow are waited for: there are none.
        master.config_set("repl-diskless-sync-delay", 0)
        follow = ("--replicaof", f"127.0.0.1 {line.port}", "--repl-diskless-sync-delay", "0")
        made = start_valkey(folder, extra=follow)
        try:
            with made.client() as client:
                eventually(lambda: client.info("replication")["master_link_status"] == "up", "it follows")
            yield made, line
        finally:
            made.child.kill()
