"""Starts the real push service with a clock that a test sets forward, on a deployment of the test's own.

Law: production code holds no switch. `consumer.__main__.main` runs as it is with its clock given; every
process of a test reads that clock's offset from one mapped file. Where the test jumps it, the loop of
requests looks more often: its sleeps are real time.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from consumer.kafka_out import KafkaOut
from consumer.keys import Role
from consumer.lane import Tier
from deploy.embedded.processes import Command, start
from deploy.embedded.receivers import read_effects
from schemas.delivery import delivery_id
from schemas.receipt import Receipt
from tests.support import oracle
from tests.support.deployment import PARTITIONS, ROOT, Deployment, deployment, http_connection, wait_until
from tests.support.receivers import Receiver, receiver
from tests.support.referral_events import event

#: Seconds; busy machines are slow, a lost delivery never comes.
WITHIN = 60.0
#: How often the loop looks at a clock that jumps.
LOOK_S = 0.02

_OFFSET = struct.Struct("=d")


class Clock:
    """The time, in seconds since the epoch, and what the file says on top."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(_OFFSET.pack(0.0))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _OFFSET.size)

    def __call__(self) -> float:
        return time.time() + self.offset

    @property
    def offset(self) -> float:
        found: float = _OFFSET.unpack_from(self._shared)[0]
        return found

    def jump(self, seconds: float) -> None:
        """Set it forward; one process of a test does that."""
        _OFFSET.pack_into(self._shared, 0, self.offset + seconds)


@dataclass
class Pushing:
    """A deployment whose push services share a clock, and a CRM that writes down every request."""

    running: Deployment
    crm: Receiver
    clock: Clock
    clock_path: Path
    out: KafkaOut
    published: int = 0

    def connect(self, account: str, path: str = "", **options: str) -> None:
        """One account's file; its connection is <account>-crm, with `path` at the end of its address."""
        connection = http_connection(self.crm, f"{account}-crm", **options)
        url = f"/{account}-crm\n"
        connection = connection.replace(url, url.replace("\n", f"{path}\n"))
        self.running.write(account, f"account: {account}\nconnections:\n{connection}")

    def start(self, *names: str, jumps: bool = True) -> None:
        """Workers, or those that ended again. `jumps`: the clock will while they run."""
        for name in names:
            if name in self.running.children:
                self.running.children[name].start()
                continue
            argv = (sys.executable, "-m", "tests.support.push_entry", str(self.clock_path))
            log = self.running.folder / f"{name}.log"
            command = Command(
                name,
                argv if jumps else (*argv, "steady"),
                log,
                lambda out: "service.started" in out,
                self.running.environment,
                folder=ROOT,
            )
            self.running.children[name] = start(command)

    def wait(self, condition: Callable[[], Any], what: str, within: float = WITHIN) -> None:
        wait_until(condition, what, within, self.running)

    def wait_shared(self, *names: str) -> None:
        """Each has its part of the partitions."""
        share = f"{PARTITIONS // len(names)} partitions\n"
        self.wait(lambda: all(self._ready(name) == share for name in names), "the partitions are shared")

    def _ready(self, name: str) -> str:
        return self.running.page(name, "readyz")

    def metric(self, series: str, name: str = "push") -> float:
        return self.running.metric(series, name)

    def publish(self, events: Sequence[Mapping[str, Any]]) -> None:
        self.running.publish(events, self.out)
        self.published += len(events)

    def wait_taken(self) -> None:
        self.wait(lambda: self.running.next_offsets(Role.PUSH) == self.published, "all records are taken")

    def schedule(self, accounts: Iterable[str]) -> dict[str, dict[bytes, float]]:
        """When what is pending of each account is due, by partition and offset; what is held is not."""
        names, found = list(accounts), {}
        with self.running.valkey.client() as client, client.pipeline(transaction=False) as many:
            for lane in self._lanes(names):
                for tier in Tier:
                    many.zrange(f"{lane}:{tier}", 0, -1, withscores=True)
            replies = iter(many.execute())
        for name in names:
            found[name] = {
                b"%d:%s" % (partition, offset): score / 1000
                for partition in range(PARTITIONS)
                for _ in Tier
                for offset, score in next(replies)
            }
        return found

    def count(self, account: str, part: str = "body") -> int:
        """Deliveries that have not ended; of the part `held`, those that wait for a person."""
        with self.running.valkey.client() as client:
            sizes = [
                (client.zcard if part == "held" else client.hlen)(f"{x}:{part}")
                for x in self._lanes([account])
            ]
        return sum(int(size) for size in sizes)

    def _lanes(self, accounts: Iterable[str]) -> list[str]:
        keys = self.running.keys(Role.PUSH)
        return [f"{keys.prefix(p)}lane:{name}-crm" for name in accounts for p in range(PARTITIONS)]

    def modes(self, modes: Mapping[str, str]) -> dict[str, Counter[str]]:
        """Set what paths do; how often each connection did what."""
        return self.crm.modes(modes)

    def requests(self, account: str = "") -> list[dict[str, Any]]:
        """All that reached the receiver, in order, refused or not; of one account or of all."""
        every = read_effects(self.crm.folder / "requests.jsonl")
        return [one for one in every if not account or one["connection"] == f"{account}-crm"]

    def effects(self, account: str) -> list[dict[str, Any]]:
        return [one for one in self.crm.effects("effect") if one["connection"] == f"{account}-crm"]

    def verdict(self, account: str, wanted: Sequence[str]) -> oracle.Verdict:
        return oracle.crm(self.crm.folder / "effects.jsonl", f"{account}-crm", wanted)

    def receipts(self, account: str, count: int) -> list[Receipt]:
        """So many, waited for: they reach Kafka a moment after the end they tell of."""
        found: list[Receipt] = []

        def all_there() -> bool:
            found[:] = [one for one in self.running.receipts() if one.connection == f"{account}-crm"]
            return len(found) >= count

        self.wait(all_there, f"{count} receipts of {account}")
        return found


@contextmanager
def pushing(folder: Path, bootstrap: str, **environment: str) -> Iterator[Pushing]:
    """Everything but the workers is running; connections are to be written and `init` called."""
    prefix = f"t{uuid.uuid4().hex[:12]}."
    log = folder / "requests" / "requests.jsonl"
    with (
        receiver("crm", log.parent, "--requests", str(log)) as crm,
        deployment(folder, bootstrap, prefix, **environment) as running,
    ):
        path = folder / "clock"
        yield Pushing(running, crm, Clock(path), path, KafkaOut(bootstrap, {}))


def made(account: str, referral_id: str = "", revision: int = 1) -> dict[str, Any]:
    """A referral, or its correction."""
    return event(
        referral_id=referral_id or str(uuid.uuid4()),
        account_id=account,
        event_id=str(uuid.uuid4()),
        event_type="CREATED" if revision == 1 else "CORRECTED",
        revision=revision,
        produced_at=datetime.now(UTC),
    )


def key_of(event: Mapping[str, Any]) -> str:
    """The idempotency key of its delivery to its account's connection."""
    return delivery_id(f"{event['account_id']}-crm", event["referral_id"], event["revision"])


def main() -> None:
    from consumer import __main__ as entry
    from consumer import sender, service

    if "steady" not in sys.argv:
        sender.LOOK_S = LOOK_S
    clock = Clock(Path(sys.argv[1]))
    sys.exit(service.run(lambda: entry.main(clock)))


if __name__ == "__main__":
    main()
