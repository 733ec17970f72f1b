"""Every connection between the parts of the storm passes through here: one process, many links.

`python -m tests.faults.storm.links '[{"name": "a-crm", "host": "127.0.0.1", "target": 8080, "port": 0}]'`
prints `ready {"control": 20001, "links": {"a-crm": 20002}}` and ends on SIGTERM. It takes orders as
JSON lines on its control port and answers each with one line: {"links": [names]}, {"counts": …} or
{"error": "…"}. Law: when the answer comes, the order holds.
"""

from __future__ import annotations

import asyncio
import fnmatch
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.embedded.processes import Child, Command, free_port, printed, raise_open_files, start
from deploy.embedded.receivers import until_terminated
from tests.faults.storm.link import Link
from tests.faults.storm.link_rules import order_of

ROOT = Path(__file__).parents[3]
#: It does nothing for long: an order that is not answered by then is never answered.
ANSWER_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class LinkTo:
    """A link to be, to `host`:`target`, listening on 127.0.0.1. `port` 0: a free one."""

    name: str
    target: int
    port: int = 0
    host: str = "127.0.0.1"


def free_ports(but: Iterable[int] = ()) -> Callable[[], int]:
    """Each call gives another free port, none of `but`: none need be taken before all are given."""
    given = set(but)

    def port() -> int:
        while (found := free_port()) in given:
            pass
        given.add(found)
        return found

    return port


class Links:
    """The process, and the synchronous way to talk to it from any thread."""

    def __init__(self, child: Child) -> None:
        self.child = child
        ready = next(line for line in child.output().splitlines() if line.startswith("ready "))
        told = json.loads(ready.removeprefix("ready "))
        self.ports: Mapping[str, int] = told["links"]
        self._lock = threading.Lock()
        self._control = socket.create_connection(("127.0.0.1", told["control"]), timeout=ANSWER_SECONDS)
        self._lines = self._control.makefile("rb")

    @classmethod
    def start(cls, folder: Path, links: Iterable[LinkTo]) -> Links:
        """Its log lies in `folder`. Raises StartError, for one when a port is taken."""
        links = list(links)
        # Not the kernel's choice: a client that dials a refused port of that range can connect to itself.
        port = free_ports(link.port for link in links)
        wanted = [asdict(link) | {"port": link.port or port()} for link in links]
        argv = (sys.executable, "-m", "tests.faults.storm.links", json.dumps(wanted))
        return cls(start(Command("links", argv, folder / "links.log", printed("}}\n"), folder=ROOT)))

    def port(self, name: str) -> int:
        """Where it listens. Raises KeyError."""
        return self.ports[name]

    def order(self, pattern: str, fault: str, **values: float) -> list[str]:
        """Put `fault` on every link whose name matches, in the place of what stood. Returns their names.

        `seconds` bounds it in time; `n`, `rate` or `delay` as link_rules.NEEDS says. Raises ValueError,
        with nothing changed, when no link matches or the values make no order.
        """
        links: list[str] = self._ask({"order": pattern, "fault": fault, "values": values})["links"]
        return links

    def heal(self, pattern: str = "*") -> list[str]:
        """Returns the names of all links that match, faulty or not. Raises ValueError when none does."""
        links: list[str] = self._ask({"heal": pattern})["links"]
        return links

    def counts(self) -> dict[str, dict[str, int]]:
        """By link: connections and open; bytes up, down and lost; resets and refused, in connections."""
        counts: dict[str, dict[str, int]] = self._ask({})["counts"]
        return counts

    def stop(self) -> None:
        self._lines.close()
        self._control.close()
        self.child.stop()

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            self._control.sendall(json.dumps(question).encode() + b"\n")
            line = self._lines.readline()
        if not line:
            raise ConnectionError(f"links ended: {self.child.last_line()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer


def answer(links: Mapping[str, Link], question: Mapping[str, Any]) -> dict[str, Any]:
    """Do what is asked. An order that cannot be is an `error`."""
    pattern = question.get("order") or question.get("heal")
    if pattern is None:
        return {"counts": {name: link.told() for name, link in links.items()}}
    matching = fnmatch.filter(links, pattern)
    if not matching:
        return {"error": f"no link is called {pattern}: there are {', '.join(links)}"}
    if "heal" in question:
        for name in matching:
            links[name].heal()
        return {"links": matching}
    try:
        order = order_of(question["fault"], question["values"])
    except ValueError as error:
        return {"error": str(error)}
    for name in matching:
        links[name].take(order)
    return {"links": matching}


async def serve(wanted: Iterable[LinkTo]) -> None:
    links = {link.name: Link(link.name, (link.host, link.target), link.port) for link in wanted}

    async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(json.dumps(answer(links, json.loads(line))).encode() + b"\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(control, "127.0.0.1", 0)
    ready = {
        "control": server.sockets[0].getsockname()[1],
        "links": {link.name: link.port for link in links.values()},
    }
    await until_terminated(json.dumps(ready))


if __name__ == "__main__":
    raise_open_files()
    asyncio.run(serve(LinkTo(**link) for link in json.loads(sys.argv[1])))
