"""A small deployment beside others on the same servers: topics, keys, connections and services of its own.

Law: it knows what it published and what is to become of it; `judged` compares that with what became of it.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from batcher.again import Wish, Wishes
from consumer.kafka_out import KafkaOut, Out
from consumer.keys import Role
from tests.faults.storm.entry import Parent, Service
from tests.support.deployment import (
    PARTITIONS,
    Deployment,
    http_connection,
    wait_until,
)
from tests.support.referral_events import event

#: Seconds; a session's end, a lease's end and a busy machine. What is lost never comes.
WITHIN = 90.0
#: Deliveries of a lane: so few that a test can fill it.
LANE = 8
#: Requests in flight: what one death of push may repeat.
IN_FLIGHT = 4
#: Seconds between attempts.
RETRIES = "[1, 1, 2, 2, 4, 4, 8, 8, 15, 30]"
#: Flush looks for work as often as a test has time for.
QUICK = {"batcher.__main__:LOOK_S": 0.05, "batcher.turn:INTERRUPTED_S": 0.1}
#: A topic's end is told after this: every service reads the manifests when it starts.
AT_ONCE = {"fetch.wait.max.ms": 10}


@dataclass
class Cell:
    """`wanted`: referrals that each connection gets once; `twice`: those whose file was asked for once more;
    `taken_back`: that a CRM gets and is told to forget; `left_out`: that nobody gets; `deaths`: of push, or of the
    connections its requests went over.
    """

    name: str
    running: Deployment
    parent: Parent
    out: KafkaOut
    pushed: bool
    wanted: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    taken_back: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    broken: int = 0
    published: int = 0
    deaths: int = 0
    accounts: int = 1
    lives: Counter[str] = field(default_factory=Counter)

    @property
    def crm(self) -> str:
        return f"{self.name}-crm"

    @property
    def sftp(self) -> str:
        return f"{self.name}-sftp"

    @property
    def mail(self) -> str:
        return f"{self.name}-mail"

    def start(self, service: str, **how: Any) -> Service:
        """The newest life of a service; `how` as for `Parent.start`."""
        self.lives[service] += 1
        name = f"{self.name}-{service}-{self.lives[service]}"
        constants = {**QUICK, **how.pop("constants", {})} if service == "flush" else how.pop("constants", {})
        found = self.parent.start(service, name, self.running.environment, constants=constants, **how)
        self.running.children[service] = found
        return found

    def stop(self, service: Service) -> None:
        """It ends in an orderly way, which takes one that has begun."""
        code = service.wait_started().stop()
        assert code == 0, f"{service.name} ended with {code}: {service.last_line()}"

    def wait(self, condition: Any, what: str, within: float = WITHIN) -> None:
        wait_until(condition, f"{self.name}: {what}", within, self.running)

    def publish(self, count: int) -> list[str]:
        """So many new referrals, for everybody."""
        ids = [str(uuid.uuid4()) for _ in range(count)]
        self._send(ids, "CREATED")
        self.wanted += ids
        return ids

    def withdraw(self, ids: Sequence[str]) -> None:
        """What was made is taken back, what was not is left out."""
        made = {one["referral_id"] for one in self.effects("effect")}
        for one in ids:
            self.wanted.remove(one)
            (self.taken_back if one in made else self.left_out).append(one)
        self._send(ids, "WITHDRAWN")

    def publish_broken(self) -> None:
        topic = self.running.topics.referrals
        self.out.send([Out(topic, f"broken-{self.broken}", b"\x00\x00\x00\x00\x09no referral")])
        self.broken += 1
        self.published += 1

    def _send(self, ids: Sequence[str], kind: str) -> None:
        now = datetime.now(UTC)
        self.running.publish(
            [
                event(
                    referral_id=one,
                    account_id=self.name,
                    event_id=str(uuid.uuid4()),
                    event_type=kind,
                    revision=1,
                    produced_at=now,
                )
                for one in ids
            ],
            self.out,
        )
        self.published += len(ids)

    def connect_another(self) -> None:
        """One more account's file: the next service that starts puts a new set in force."""
        self.accounts += 1
        name = f"{self.name}-{self.accounts}"
        text = f"account: {name}\nconnections:\n" + http_connection(self.running.crm, f"{name}-crm")
        self.running.write(name, text)

    def answers(self, mode: str) -> None:
        """What its CRM does from now on."""
        self.running.crm.modes({f"/{self.crm}": mode})

    def wait_taken(self, role: Role) -> None:
        self.wait(lambda: self.running.next_offsets(role) == self.published, "all records are taken")

    def wait_pushed(self) -> None:
        """All records are taken, all deliveries have ended, and Kafka has their receipts."""
        self.wait_taken(Role.PUSH)
        # A removal is followed a moment after its record was taken.
        self.wait(
            lambda: len(self.effects("removal")) >= len(self.taken_back), "what was withdrawn is forgotten"
        )
        self.wait(lambda: not self.waiting("body", "parked"), "all deliveries have ended")
        self.wait(lambda: not self._outboxes(), "all receipts are relayed")

    def idle(self) -> bool:
        """Nothing is due now or later, whether or not all has ended."""
        return not self.waiting("due", "again", "behind", "parked")

    def ask(self, connection: str) -> None:
        self.running.flush([connection])

    def window(self, connection: str) -> int:
        """The number of its newest."""
        windows = self.running.windows()
        found = windows.state(connection)
        windows.store.close()
        assert found is not None
        return found.number

    def send_again(self, connection: str, number: int) -> None:
        windows = self.running.windows()
        Wishes(windows.store, windows.keys).make(Wish(connection, number, False, datetime.now(UTC)))
        windows.store.close()

    def later(self, connection: str) -> None:
        """Time passes: whoever held a window has lost it, and a pause between tries is over."""
        keys = self.running.keys(Role.BATCH)
        with self.running.valkey.client() as client:
            for key in (keys.window(connection), keys.resend(connection)):
                if client.exists(key):
                    client.hset(key, mapping={"until": 0, "retry_at": 0})

    def wait_flushed(self, connection: str) -> None:
        """Whoever holds its window, and however long it would pause."""

        def closed() -> bool:
            if self.running.flushed([connection]) and not self._wishes():
                return True
            self.later(connection)
            return False

        self.wait(closed, f"the windows of {connection} are closed")

    @property
    def recipients(self) -> tuple[str, str]:
        return f"a@{self.name}.example", f"b@{self.name}.example"

    def effects(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in self.running.crm.effects(kind) if one["connection"] == self.crm]

    def waiting(self, *parts: str) -> int:
        """How many its lane holds in these parts, over all partitions."""
        keys = self.running.keys(Role.PUSH)
        with self.running.valkey.client() as client:
            counts = {"body": client.hlen, "tries": client.hlen, "parked": client.llen}
            return sum(
                counts.get(part, client.zcard)(f"{keys.prefix(p)}lane:{self.crm}:{part}")
                for part in parts
                for p in range(PARTITIONS)
            )

    def _outboxes(self) -> int:
        keys = self.running.keys(Role.PUSH)
        with self.running.valkey.client() as client:
            return sum(client.llen(f"{keys.prefix(p)}outbox") for p in range(PARTITIONS))

    def _wishes(self) -> int:
        with self.running.valkey.client() as client:
            return int(client.hlen(self.running.keys(Role.BATCH).resends))
