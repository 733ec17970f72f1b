"""The storm's links on a real server: what each fault does, and that what passes is unharmed."""

from __future__ import annotations

import asyncio
import random
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest

from deploy.embedded.processes import free_port
from tests.faults.storm.link_rules import Order, Verdict, Way, judge, order_of
from tests.faults.storm.links import Links, LinkTo
from tests.support.receivers import eventually

#: A reply that comes, comes at once.
WITHIN = 10.0
CONNECTIONS = 64
MESSAGES = 60
#: More than all kernel buffers between two ends hold.
FLOOD_BYTES = 96 * 1024 * 1024

FAULTS: list[tuple[str, dict[str, float]]] = [
    ("cut", {"seconds": 0.05}),
    ("reset", {}),
    ("stall", {"seconds": 0.05}),
    ("deaf", {"seconds": 0.05}),
    ("mute", {"seconds": 0.05}),
    ("drop_reply", {"n": 2}),
    ("throttle", {"rate": 500_000, "seconds": 0.1}),
    ("cut_after", {"n": 10_000, "seconds": 0.1}),
    ("delay", {"delay": 0.01, "seconds": 0.1}),
]


class Echo(socketserver.ThreadingTCPServer):
    """Says everything back, and keeps what arrived on each connection."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self) -> None:
        self.arrived: list[bytearray] = []
        self.open: list[socket.socket] = []
        super().__init__(("127.0.0.1", 0), Handler)
        self.port: int = self.server_address[1]

    def holds(self, said: bytes) -> bool:
        return any(said in arrived for arrived in self.arrived)

    def handle_error(self, request, client_address) -> None:
        """Resets are what this file is about."""


class Handler(socketserver.BaseRequestHandler):
    server: Echo

    def handle(self) -> None:
        arrived = bytearray()
        self.server.arrived.append(arrived)
        self.server.open.append(self.request)
        while data := self.request.recv(65536):
            arrived += data
            self.request.sendall(data)


@pytest.fixture(scope="module")
def echo() -> Iterator[Echo]:
    with Echo() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def process(echo: Echo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Links]:
    targets = {"a-echo": echo.port, "b-echo": echo.port, "a-gone": free_port()}
    running = Links.start(tmp_path_factory.mktemp("links"), [LinkTo(*target) for target in targets.items()])
    yield running
    running.stop()


@pytest.fixture
def links(process: Links) -> Iterator[Links]:
    yield process
    process.heal("*")


@pytest.fixture
def dial(links: Links) -> Iterator[Callable[..., socket.socket]]:
    made: list[socket.socket] = []

    def connect(name: str = "a-echo") -> socket.socket:
        made.append(socket.create_connection(("127.0.0.1", links.port(name)), WITHIN))
        return made[-1]

    yield connect
    for line in made:
        line.close()


def read(line: socket.socket, size: int) -> bytes:
    said = b""
    while len(said) < size and (data := line.recv(size - len(said))):
        said += data
    return said


def ask(line: socket.socket, said: bytes = b"hello") -> bytes:
    line.sendall(said)
    return read(line, len(said))


def is_reset(line: socket.socket) -> bool:
    """Waits for the end of the line; False when it came in good order."""
    try:
        assert line.recv(1) == b""
    except ConnectionResetError:
        return True
    return False


def test_many_connections_pass_unharmed_at_once(links: Links) -> None:
    choice = random.Random(7)
    content = choice.randbytes(1_000_000)
    before = links.counts()["b-echo"]
    total = 0

    async def client(number: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", links.port("b-echo"))
        own, sent = random.Random(number), 0
        for _ in range(MESSAGES):
            begin, size = own.randrange(500_000), own.choice((1, 60, 700, 20_000, 300_000))
            writer.write(content[begin : begin + size])
            assert await reader.readexactly(size) == content[begin : begin + size]
            sent += size
        writer.write(b"the end")
        writer.write_eof()
        assert await reader.read() == b"the end"
        writer.close()
        return sent + len(b"the end")

    async def clients() -> int:
        return sum(await asyncio.gather(*(client(number) for number in range(CONNECTIONS))))

    total = asyncio.run(clients())
    eventually(lambda: links.counts()["b-echo"]["open"] == before["open"], "both ends closed")
    after = links.counts()["b-echo"]
    assert after["connections"] - before["connections"] == CONNECTIONS
    assert (after["up"] - before["up"], after["down"] - before["down"]) == (total, total)
    assert (after["lost"], after["resets"]) == (before["lost"], before["resets"])


def test_a_server_that_takes_nothing_slows_its_client_and_loses_nothing(links: Links, dial) -> None:
    line = dial()
    block, sent = bytes(range(256)) * 4096, 0
    line.settimeout(0.5)  # the echo takes nothing while its own words are not taken
    with suppress(TimeoutError):
        while sent < FLOOD_BYTES:
            sent += line.send(block[sent % len(block) :])
    assert sent < FLOOD_BYTES
    line.settimeout(WITHIN)
    got = 0
    while got < sent:
        data = line.recv(262_144)
        begin = got % len(block)
        assert data == (block + block)[begin : begin + len(data)]
        got += len(data)


def test_cut_closes_and_refuses_until_healed(links: Links, dial) -> None:
    line, other = dial(), dial("b-echo")
    assert ask(line) == b"hello"
    assert links.order("a-echo", "cut") == ["a-echo"]
    assert line.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        dial()
    assert ask(other) == b"hello"
    links.heal("a-echo")
    assert ask(dial()) == b"hello"


def test_reset_ends_what_is_open_and_lets_new_ones_in(links: Links, dial, echo: Echo) -> None:
    line = dial()
    ask(line, b"before the reset")
    links.order("?-echo", "reset")
    assert is_reset(line)
    assert ask(dial()) == b"hello"


def test_a_stalled_link_takes_connections_and_passes_nothing_until_healed(
    links: Links, dial, echo: Echo
) -> None:
    line, other = dial(), dial("b-echo")
    ask(line)
    links.order("a-echo", "stall")
    late = dial()
    line.sendall(b"stalled, known")
    late.sendall(b"stalled, new")
    ask(other, b"a question behind them on another link")
    assert not echo.holds(b"stalled")
    links.heal("a-echo")
    assert read(line, 14) == b"stalled, known"
    assert read(late, 12) == b"stalled, new"


def test_a_deaf_connection_is_reset_when_it_heals_and_an_idle_one_goes_on(
    links: Links, dial, echo: Echo
) -> None:
    line, idle = dial(), dial()
    ask(line), ask(idle)
    links.order("a-echo", "deaf")
    line.sendall(b"deaf to the reply")
    eventually(lambda: echo.holds(b"deaf to the reply"), "the request arrives")
    eventually(lambda: links.counts()["a-echo"]["lost"] >= 17, "the reply is lost")
    links.heal("a-echo")
    assert is_reset(line)
    assert ask(idle) == b"hello"


def test_a_deaf_client_is_not_told_that_the_server_went(links: Links, dial, echo: Echo) -> None:
    line = dial()
    ask(line, b"the last to connect")
    links.order("a-echo", "deaf")
    echo.open[-1].shutdown(socket.SHUT_RDWR)
    line.sendall(b"nobody hears")
    links.order("a-echo", "stall")  # what stood has ended
    assert is_reset(line)  # and not: closed in good order


def test_a_mute_client_is_not_heard_and_both_are_reset_when_it_heals(links: Links, dial, echo: Echo) -> None:
    line, lost = dial(), links.counts()["a-echo"]["lost"]
    ask(line)
    links.order("a-echo", "mute", seconds=60)
    line.sendall(b"mute, so nobody hears")
    eventually(lambda: links.counts()["a-echo"]["lost"] == lost + 21, "thrown away")
    links.heal("a-echo")
    assert is_reset(line)
    assert not echo.holds(b"mute")


def test_a_dropped_reply_is_lost_and_its_client_learns_of_it(links: Links, dial, echo: Echo) -> None:
    line, second = dial(), dial()
    ask(line), ask(second)
    links.order("a-echo", "drop_reply", n=1)
    line.sendall(b"drop the reply")
    assert is_reset(line)
    assert echo.holds(b"drop the reply")
    assert ask(second) == b"hello"  # spent


def test_a_throttled_link_keeps_to_its_rate(links: Links, dial) -> None:
    line, content = dial(), random.Random(3).randbytes(30_000)
    links.order("a-echo", "throttle", rate=100_000)
    begun = time.monotonic()
    line.sendall(content)
    assert read(line, len(content)) == content
    assert time.monotonic() - begun > 0.2


def test_a_link_cut_after_some_bytes_passes_those_and_no_more(links: Links, dial, echo: Echo) -> None:
    line = dial()
    ask(line, b"not counted ")
    links.order("a-echo", "cut_after", n=10)
    for said in (b"four", b"and "):
        assert ask(line, said) == said
    line.sendall(b"on and on")
    with suppress(ConnectionError):
        while line.recv(100):
            pass
    eventually(lambda: echo.holds(b"not counted fourand on"), "the first ten arrive")
    assert not echo.holds(b"not counted fourand on ")
    links.heal("a-echo")
    assert ask(dial(), b"more than ten again") == b"more than ten again"


def test_a_delayed_link_keeps_the_order_and_lets_go_when_healed(links: Links, dial) -> None:
    line = dial()
    links.order("a-echo", "delay", delay=0.05)
    begun = time.monotonic()
    for said in (b"one", b"two"):
        assert ask(line, said) == said
    assert time.monotonic() - begun > 0.2
    links.order("a-echo", "delay", delay=600)
    line.sendall(b"first, ")
    ask(dial("b-echo"))
    links.heal("a-echo")
    line.sendall(b"then")
    line.shutdown(socket.SHUT_WR)
    assert read(line, 100) == b"first, then"


def test_an_order_with_an_end_heals_itself(links: Links, dial) -> None:
    line = dial()
    links.order("*-echo", "stall", seconds=0.1)
    assert ask(line) == b"hello"
    links.order("a-echo", "cut", seconds=0.1)
    eventually(lambda: _answers(links.port("a-echo")), "it listens again")


def test_a_server_that_is_not_there_resets(dial) -> None:
    with pytest.raises(ConnectionResetError):  # when it says so depends on who is faster
        read(dial("a-gone"), 1)


def test_whatever_befalls_a_link_no_stream_has_a_hole(links: Links) -> None:
    """Clients compare every byte while faults come and go, then every connection works again or is gone."""
    choice = random.Random(11)
    content, over = choice.randbytes(400_000), threading.Event()
    finished: list[int] = []

    def client(number: int) -> None:
        own, done = random.Random(number), 0
        while not over.is_set():
            with suppress(ConnectionError), closing(_connected(links.port("a-echo"))) as line:
                while not over.is_set():
                    begin, size = own.randrange(200_000), own.choice((3, 700, 5_000, 150_000))
                    got = ask(line, content[begin : begin + size])
                    assert content[begin : begin + size].startswith(got)
                    if len(got) < size:
                        break
                    done += 1
        assert done
        finished.append(number)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for fault, values in choice.sample(FAULTS * 3, len(FAULTS) * 3):
        before = links.counts()["a-echo"]
        links.order("a-echo", fault, **values)
        eventually(lambda before=before: _felt(before, links.counts()["a-echo"]), "passed, lost or ended")
        if choice.random() < 0.5:
            links.heal("a-echo")
    links.heal("a-echo")
    before = links.counts()["a-echo"]["down"]
    eventually(lambda: links.counts()["a-echo"]["down"] > before + 1_000_000, "all is well again")
    over.set()
    for thread in threads:
        thread.join(WITHIN)
    assert sorted(finished) == list(range(8))
    eventually(lambda: links.counts()["a-echo"]["open"] == 0, "no connection is left")


@pytest.mark.parametrize(
    ("pattern", "fault", "values", "why"),
    [
        ("c-*", "cut", {}, "no link is called c-"),
        ("a-echo", "storm", {}, "storm"),
        ("a-echo", "throttle", {}, "throttle needs rate"),
        ("a-echo", "cut", {"rate": 1}, "cut knows no rate"),
    ],
)
def test_an_order_that_cannot_be_is_refused(links: Links, pattern, fault, values, why) -> None:
    with pytest.raises(ValueError, match=why):
        links.order(pattern, fault, **values)


def test_a_throttled_link_shares_its_rate_among_its_connections() -> None:
    order = order_of("throttle", {"rate": 1000})
    first = judge(order, Way.UP, 50, said=0, free_at=0, now=100.0)
    second = judge(order, Way.UP, 50, said=0, free_at=first.free_at, now=100.0)
    assert (first.free_at, second.free_at) == (pytest.approx(100.05), pytest.approx(100.1))
    assert order.slice == 50


def test_what_was_read_before_a_stall_still_passes() -> None:
    assert judge(Order(order_of("stall", {}).fault), Way.UP, 9, said=0, free_at=0, now=0) == Verdict(9)


def _answers(port: int) -> bool:
    try:
        with closing(_connected(port)) as line:
            return ask(line) == b"hello"
    except ConnectionError:
        return False


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), WITHIN)


def _felt(before: dict[str, int], now: dict[str, int]) -> bool:
    return now["down"] > before["down"] + 10_000 or now["resets"] > before["resets"]
