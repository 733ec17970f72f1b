"""A thousand advertisers' hosts, each with a name and TLS of its own, on one client."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import random
import resource
import time
from collections import Counter
from pathlib import Path

from consumer.clients import MAX_CLIENTS
from consumer.exchange import NotSent, Request
from consumer.http_client import HttpClient
from consumer.names import RESOLVE_S
from tests.support.certificates import Authority
from tests.support.peers import LOCAL, answer, peer

HOSTS, CALLS, AT_ONCE = 1_200, 3, 32
#: MAX_CLIENTS at 0.12 MB, a connection with TLS for each, and what the allocator keeps of those dropped.
MAX_GROWTH_MB = 250
#: A request whose server has no client waits for those before it, 5 ms each, then for TCP and TLS.
MAX_P99_S = 3.0
DOMAIN = "hosts.example"


def serve(folder, told):
    """In a process of its own, so that its memory is not counted as the client's."""

    async def run():
        authority = Authority(folder)
        async with peer(answer(200, body=b"{}"), tls=authority.server(f"*.{DOMAIN}")) as there:
            told.send((there.port, authority.pem))
            await asyncio.to_thread(told.recv)
            heads = [
                head.lower().partition(b"\r\nhost: ")[2].partition(b":")[0] for head, _ in there.received
            ]
            told.send((Counter(heads), there.connections))

    asyncio.run(run())


@contextlib.contextmanager
def server(folder):
    processes = multiprocessing.get_context("spawn")
    here, there = processes.Pipe()
    child = processes.Process(target=serve, args=(folder, there))
    child.start()
    try:
        yield here
    finally:
        child.join(10)
        if child.is_alive():
            child.kill()
            child.join()


def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


async def call_all(port, roots):
    """Every host CALLS times, in an order that suits no cache; seconds of each call, clients kept, MB."""
    calls = [f"https://h{number}.{DOMAIN}:{port}/leads" for number in range(HOSTS)] * CALLS
    random.Random(7).shuffle(calls)
    client = HttpClient(LOCAL, roots, lambda _: ["127.0.0.1"])
    taken = []

    async def sender():
        while calls:
            url = calls.pop()
            begun = time.perf_counter()
            got = await client.send(Request("POST", url, (), b"{}", 20.0))
            taken.append(time.perf_counter() - begun)
            assert getattr(got, "status", got) == 200

    await asyncio.gather(*(sender() for _ in range(AT_ONCE)))
    kept, grown = client.kept, resident_mb()
    await client.aclose()
    return sorted(taken), kept, grown


def test_more_hosts_than_clients_are_kept(tmp_path):
    with server(tmp_path) as told:
        port, roots = told.recv()
        asyncio.run(one_call(port, roots))
        before, begun = resident_mb(), time.perf_counter()
        taken, kept, after = asyncio.run(call_all(port, roots))
        seconds = time.perf_counter() - begun
        told.send(None)
        heads, connections = told.recv()
    p99, growth = taken[len(taken) * 99 // 100], after - before
    print(
        f"{HOSTS:,} hosts, {len(taken):,} calls in {seconds:.1f} s, {AT_ONCE} at once, {connections:,} "
        f"connections; {kept} clients kept; memory grew by {growth:.0f} MB; "
        f"median {taken[len(taken) // 2] * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms"
    )
    assert heads.pop(f"first.{DOMAIN}".encode()) == 1
    assert heads == {f"h{number}.{DOMAIN}".encode(): CALLS for number in range(HOSTS)}
    assert kept == MAX_CLIENTS
    assert growth < MAX_GROWTH_MB
    assert p99 < MAX_P99_S


async def one_call(port, roots):
    """What the process takes once, for the first of all hosts."""
    client = HttpClient(LOCAL, roots, lambda _: ["127.0.0.1"])
    await client.send(Request("POST", f"https://first.{DOMAIN}:{port}/", (), b"{}", 20.0))
    await client.aclose()


def test_a_name_whose_second_answer_is_private_is_refused(tmp_path):
    """A name that turns to a metadata service, while its first server still listens."""
    authority = Authority(tmp_path)
    answers, now = ["127.0.0.1"], [0.0]

    async def run():
        client = HttpClient(LOCAL, authority.pem, lambda _: list(answers), lambda: now[0])
        async with peer(answer(200), tls=authority.server(f"*.{DOMAIN}")) as there:
            to = Request("POST", f"https://turns.{DOMAIN}:{there.port}/leads", (), b"{}", 20.0)
            first = await client.send(to)
            answers[:] = ["169.254.169.254"]
            now[0] += RESOLVE_S
            later = [await client.send(to) for _ in range(3)]
            answers[:] = ["127.0.0.1"]
            back = await client.send(to)
            await client.aclose()
            return first.status, later, back.status, len(there.received)

    first, later, back, received = asyncio.run(run())
    refused = NotSent(
        f"turns.{DOMAIN} resolves to 169.254.169.254, which is a cloud's metadata service: nothing was sent"
    )
    assert (first, later, back, received) == (200, [refused] * 3, 200, 2)
