"""Which address is called for a name, and that nothing else is."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from batcher.channels import Hold, Retry, dial
from batcher.channels.dial import MAX_TRIED, PUBLIC_ONLY, judged
from batcher.channels.line import Trouble
from consumer.addresses import Policy, networks

INNER = Policy(allowed_networks=networks("127.0.0.0/8, 10.1.0.0/16"))


@pytest.mark.parametrize(
    ("host", "resolved", "policy", "says"),
    [
        pytest.param("a.example", ["10.1.2.3"], PUBLIC_ONLY, "resolves to 10.1.2.3, which is a private network", id="private"),
        pytest.param("a.example", ["8.8.8.8", "127.0.0.1"], PUBLIC_ONLY, "this machine", id="one of several"),
        pytest.param("127.1", ["127.0.0.1"], PUBLIC_ONLY, "resolves to 127.0.0.1", id="a spelling"),
        pytest.param("10.1.2.3", ["10.1.2.3"], PUBLIC_ONLY, "22 is a private network", id="itself"),
        pytest.param("a.example", ["fe80::1%lo"], PUBLIC_ONLY, "one link", id="link-local"),
        pytest.param("a.example", ["::ffff:10.1.2.3"], PUBLIC_ONLY, "private", id="IPv4 in IPv6"),
        pytest.param("a.example", ["10.2.0.1"], INNER, "private", id="another network than the allowed"),
        pytest.param("a.example", ["169.254.169.254"], Policy(allowed_networks=networks("169.254.0.0/16")), "metadata", id="metadata"),
    ],
)  # fmt: skip
def test_addresses_that_are_not_called(host: str, resolved: list[str], policy: Policy, says: str) -> None:
    with pytest.raises(Trouble) as trouble:
        judged(host, 22, resolved, policy)
    assert isinstance(trouble.value.value, Hold)
    reason = trouble.value.value.reason
    assert reason.startswith(f"{host}:22 ")
    assert says in reason
    assert "REFERRALS_ALLOWED_NETWORKS" in reason


@pytest.mark.parametrize(
    ("resolved", "policy"),
    [
        pytest.param(["8.8.8.8", "2a00:1450::1", "8.8.8.8"], PUBLIC_ONLY, id="public"),
        pytest.param(["10.1.255.255", "8.8.8.8"], INNER, id="allowed"),
    ],
)
def test_addresses_that_are_called(resolved: list[str], policy: Policy) -> None:
    assert judged("a.example", 22, resolved, policy) == tuple(dict.fromkeys(resolved))


@contextmanager
def listening(address: str, backlog: int = 5) -> Iterator[int]:
    with socket.create_server((address, 0), backlog=backlog) as server:
        yield int(server.getsockname()[1])


def names(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Sequence[str]]) -> list[str]:
    """Has `a.example` stand for `answer`; returns what is looked up."""
    asked: list[str] = []
    system = socket.getaddrinfo

    def look_up(host: str, *given: object, **named: object) -> object:
        asked.append(host)
        if host != "a.example":
            return system(host, *given, **named)  # type: ignore[arg-type]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 0)) for one in answer()]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def test_the_judged_address_is_called_and_the_name_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first has nobody, so the next is taken."""
    asked = names(monkeypatch, lambda: ["127.0.0.2", "127.0.0.3"])
    with listening("127.0.0.3") as port, dial.dial("a.example", port, 5.0, INNER) as line:
        assert line.getpeername() == ("127.0.0.3", port)
        assert line.gettimeout() == 5.0
    assert asked == ["a.example", "127.0.0.2", "127.0.0.3"]


def test_a_refused_name_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = names(monkeypatch, lambda: ["127.0.0.3", "10.9.0.1"])
    with listening("127.0.0.3") as port, pytest.raises(Trouble):
        dial.dial("a.example", port, 5.0, INNER)
    assert asked == ["a.example"]


def test_addresses_share_the_time_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names many silent ones holds a worker no longer than with one."""
    many = [f"127.0.1.{n}" for n in range(1, 20)]
    asked = names(monkeypatch, lambda: many)
    with listening("0.0.0.0", backlog=0) as port, full("127.0.1.1", port):
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            dial.dial("a.example", port, 0.8, INNER)
        assert 0.7 < time.monotonic() - begun < 3
    assert asked[asked.index("a.example") :] == ["a.example", *many[:MAX_TRIED]]


@contextmanager
def full(address: str, port: int) -> Iterator[None]:
    """Its queue of connections, so that it answers no more of them."""
    waiting: list[socket.socket] = []
    try:
        while True:
            waiting.append(socket.create_connection((address, port), 0.2))
    except TimeoutError:
        yield
    finally:
        for line in waiting:
            line.close()


def test_a_name_server_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def silent() -> Sequence[str]:
        over.wait(10)
        return ["127.0.0.1"]

    names(monkeypatch, silent)
    monkeypatch.setattr(dial, "LOOKUP_S", 0.1)
    with pytest.raises(Trouble) as trouble:
        dial.dial("a.example", 22, 5.0, INNER)
    over.set()
    assert trouble.value.value == Retry("the name in a.example:22 did not resolve in 0.1 s")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70 + ".example", "\udc80.example"])
def test_a_name_that_does_not_resolve(host: str) -> None:
    with pytest.raises(socket.gaierror):
        dial.dial(host, 22, 5.0, INNER)
