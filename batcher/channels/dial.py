"""Calling a server by an address that was judged first.

The law: whoever holds a host's name chooses what it stands for, so every address is judged before one is
called, and what is called is that address, never the name again. The name stays for host keys and
certificates.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Sequence
from ipaddress import ip_address

from batcher.channels import Hold, Retry
from batcher.channels.line import Trouble
from consumer.addresses import Policy, allowed

#: What may be called unless the operator says more: the public internet.
PUBLIC_ONLY = Policy()
#: Of the addresses of a name so many are called in turn; all are judged. They share the time of one step.
MAX_TRIED = 4
#: Seconds for a name: the system's own first two tries at a name server. One that hangs keeps its thread
#: for the system's own limit, often 10 to 30 s, so a worker leaves three behind at most.
LOOKUP_S = 10.0


def dial(host: str, port: int, timeout: float, policy: Policy) -> socket.socket:
    """A connection whose steps are bounded by `timeout` seconds, made within as many after the lookup.

    Raises OSError, and Trouble where the name does not resolve in time or to what may not be called.
    """
    addresses = judged(host, port, _looked_up(host, port), policy)[:MAX_TRIED]
    until = time.monotonic() + timeout
    failed: OSError | None = None
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        share = (until - time.monotonic()) / left
        if share <= 0:
            break
        try:
            line = socket.create_connection((address, port), share)
        except OSError as error:
            failed = failed or error
            continue
        line.settimeout(timeout)
        return line
    raise failed or TimeoutError


def judged(host: str, port: int, resolved: Sequence[str], policy: Policy) -> tuple[str, ...]:
    """The addresses, each once, in the resolver's order. One that may not be called refuses all. Pure.

    Raises Trouble.
    """
    found = tuple(dict.fromkeys(map(ip_address, resolved)))
    for address in found:
        kind = allowed(address, policy)
        if kind is not None:
            itself = "is" if str(address) == host else f"resolves to {address}, which is"
            raise Trouble(
                Hold(
                    f"{host}:{port} {itself} {kind}: nothing was sent; correct `host`, or name the network "
                    "in REFERRALS_ALLOWED_NETWORKS if it is to be called"
                )
            )
    return tuple(map(str, found))


def _looked_up(host: str, port: int) -> Sequence[str]:
    """What this machine's resolver says, best first. In a thread, since it has no time limit of its own."""
    answers: queue.SimpleQueue[Sequence[str] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([str(one[4][0]) for one in found])
        except OSError as error:
            answers.put(error)
        except UnicodeError:  # a name that the resolver cannot encode
            answers.put(socket.gaierror(socket.EAI_NONAME, "no name"))

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=LOOKUP_S)
    except queue.Empty:
        late = Retry(f"the name in {host}:{port} did not resolve in {LOOKUP_S:g} s")
        raise Trouble(late) from None
    if isinstance(answer, OSError):
        raise answer
    return answer
