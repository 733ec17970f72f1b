"""The loops our services are held against, each a process of its own on the measured core.

`python -m tests.bench.loops NAME JSON` prints what it found as JSON. They keep nothing, know no lease, no
retry and no limit: what is left is what the work itself costs in this language.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from itertools import islice
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from consumer.crm import http
from consumer.folder import look
from consumer.route import Router
from schemas import referral

#: Records asked for at once, and how long a loop waits for the first.
CHUNK, WAIT_S = 500, 20.0
#: With an empty buffer the loop of requests looks again after this.
LOOK_S = 0.001


def consumer(given: Mapping[str, Any]) -> Consumer:
    """Reads as ours does, from the beginning, in no group."""
    made = Consumer(
        {
            "bootstrap.servers": given["kafka"],
            "group.id": "bench-loop",
            "enable.auto.commit": False,
            "check.crcs": True,
            "queued.max.messages.kbytes": 16_384,
            "fetch.queue.backoff.ms": 50,
        }
    )
    made.assign([TopicPartition(given["topic"], p, OFFSET_BEGINNING) for p in range(given["partitions"])])
    return made


class Source:
    """Values of a topic, as many as are wanted; `began` when the first came."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._consumer, self._left = consumer(given), given["records"]
        self._buffer: deque[bytes] = deque()
        self._silent_since = time.monotonic()
        self.began = 0.0

    def take(self) -> bytes | None:
        """None while there is nothing; raises StopIteration when all were taken."""
        if not self._left:
            raise StopIteration
        if not self._buffer:
            self._fill()
        if not self._buffer:
            if time.monotonic() - self._silent_since > WAIT_S:
                raise TimeoutError("Kafka says nothing")
            return None
        self._left -= 1
        return self._buffer.popleft()

    def _fill(self) -> None:
        for message in self._consumer.consume(CHUNK, 0):
            if message.error() is None:
                self._buffer.append(message.value())
        if self._buffer:
            self._silent_since = time.monotonic()
            self.began = self.began or self._silent_since

    def close(self) -> None:
        self._consumer.close()


def _client() -> Any:
    from pyreqwest.client import ClientBuilder

    return (
        ClientBuilder()
        .no_proxy()
        .follow_redirects(False)
        .default_cookie_store(False)
        .http1_only()
        .max_connections(1_000)
        .pool_max_idle_per_host(256)
        .timeout(timedelta(seconds=20))
        .build()
    )


def rendered(given: Mapping[str, Any]) -> Callable[[bytes], tuple[str, list[tuple[str, str]], bytes]]:
    """Address, headers and body of a record, as our connection makes them."""
    router = Router(look(given["connections"]).connections)

    def made(value: bytes) -> tuple[str, list[tuple[str, str]], bytes]:
        found = referral.decode(value)
        (connection,) = router.connections(found)
        body = http.render(connection, found).body
        key = ("Idempotency-Key", f'"{found.referral_id}"')
        return connection.url, [key, ("Content-Type", "application/json"), http.USER_AGENT], body

    return made


def plain(given: Mapping[str, Any]) -> dict[str, float]:
    """Reads, decodes, renders and posts, with so many in flight."""
    source, make = Source(given), rendered(given)
    try:
        return asyncio.run(_post(given, source, lambda: _made(source, make)))
    finally:
        source.close()


def _made(source: Source, make: Callable[[bytes], Any]) -> Any:
    value = source.take()
    return None if value is None else make(value)


def bare(given: Mapping[str, Any]) -> dict[str, float]:
    """Posts bodies that are ready."""
    source, make, ready = Source(given), rendered(given), []
    while len(ready) < given["records"]:
        value = source.take()
        if value is not None:
            ready.append(make(value))
    source.close()
    rest = iter(ready)
    source.began = 0.0
    return asyncio.run(_post(given, source, lambda: next(rest)))


async def _post(given: Mapping[str, Any], source: Source, take: Callable[[], Any]) -> dict[str, float]:
    client, spent = _client(), 0.0

    async def one() -> None:
        while True:
            try:
                wanted = take()
            except StopIteration:
                return
            if wanted is None:
                await asyncio.sleep(LOOK_S)
                continue
            url, headers, body = wanted
            answer = await client.post(url).headers(headers).body_bytes(body).build().send()
            assert answer.status == 200

    source_began, spent = time.monotonic(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(given["in_flight"]):
            group.create_task(one())
    ended, spent = time.monotonic(), time.process_time() - spent
    await client.close()
    return _told(given["records"], ended - (source.began or source_began), spent)


def naive(given: Mapping[str, Any]) -> dict[str, float]:
    """A plain consumer with one httpx call at a time."""
    import httpx2

    source, make = Source(given), rendered(given)
    with httpx2.Client(timeout=20, trust_env=False) as client:
        spent = time.process_time()
        for url, headers, body in islice(_each(source, make), given["records"]):
            assert client.post(url, headers=headers, content=body).status_code == 200
        ended = time.monotonic()
    source.close()
    return _told(given["records"], ended - source.began, time.process_time() - spent)


def _each(source: Source, make: Callable[[bytes], Any]) -> Iterator[Any]:
    while True:
        try:
            found = _made(source, make)
        except StopIteration:
            return
        if found is None:
            time.sleep(LOOK_S)
        else:
            yield found


def _told(records: int, seconds: float, spent: float) -> dict[str, float]:
    return {"per_s": records / seconds, "cpu_us": spent / records * 1e6}


def main(name: str, given: Mapping[str, Any]) -> dict[str, float]:
    from tests.bench import rows, script

    loops: Mapping[str, Callable[[Mapping[str, Any]], dict[str, float]]] = {
        "plain": plain,
        "bare": bare,
        "naive": naive,
        "script": script.script,
        "rows": rows.rows,
    }
    return loops[name](given)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))))
