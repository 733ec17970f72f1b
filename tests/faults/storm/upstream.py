"""Upstream: publishes new referrals at a steady rate until SIGTERM, one in a hundred of them twice.

What it publishes is written down first, an account and an id per line, so that nobody has to ask Kafka what
was wanted. It publishes again what Kafka did not acknowledge: whether that took it the first time, nobody knows.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from consumer.kafka_out import KafkaOut, NotAcknowledged, Out
from consumer.topics import Topics
from deploy.embedded import people
from deploy.embedded.processes import Command, printed
from schemas import referral as referrals

ROOT = Path(__file__).parents[3]
#: Referrals of one batch: a twentieth of a second at the usual rate.
BATCH = 50
TWICE = 0.01
#: The second publication comes so many batches later at most, well within the dedupe horizon.
LATER = 200
AGAIN_S = 0.2
#: What is under way reaches Kafka, also while its last broker comes back.
STOP_WITHIN = 120.0


def command(
    folder: Path, bootstrap: str, prefix: str, accounts: Sequence[str], seed: int, rate: float
) -> Command:
    given = {
        "bootstrap": bootstrap,
        "prefix": prefix,
        "accounts": list(accounts),
        "seed": seed,
        "rate": rate,
        "folder": str(folder),
    }
    argv = (sys.executable, "-m", "tests.faults.storm.upstream", json.dumps(given))
    return Command(
        "upstream", argv, folder / "upstream.log", printed("ready"), folder=ROOT, stop_within=STOP_WITHIN
    )


def written(folder: Path) -> Path:
    """What was published."""
    return folder / "published.txt"


def count(folder: Path) -> int:
    """Records that Kafka acknowledged."""
    return int(_counted(folder).read_text() or "0")


def _counted(folder: Path) -> Path:
    return folder / "published.count"


def wanted(folder: Path) -> dict[str, list[str]]:
    """The ids published for each account."""
    found: dict[str, list[str]] = {}
    for line in written(folder).read_text().splitlines():
        account, referral_id = line.split()
        found.setdefault(account, []).append(referral_id)
    return found


def main() -> None:
    given = json.loads(sys.argv[1])
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    out, topic = KafkaOut(given["bootstrap"], {}), Topics(given["prefix"]).referrals
    chance = random.Random(given["seed"])
    later: deque[tuple[int, list[Out]]] = deque()
    print("ready", flush=True)
    begun, number, published = time.monotonic(), 0, 0
    folder = Path(given["folder"])
    _counted(folder).write_text("0")
    with written(folder).open("a") as book:
        while not stopping:
            records = batch(topic, given["accounts"], (given["seed"] << 32) + number, BATCH, book)
            if twice := [record for record in records if chance.random() < TWICE]:
                later.append((number + chance.randint(0, LATER), twice))
            while later and later[0][0] <= number:
                records += later.popleft()[1]
            _publish(out, records)
            number, published = number + 1, published + len(records)
            _counted(folder).write_text(str(published))
            time.sleep(max(0.0, begun + number * BATCH / given["rate"] - time.monotonic()))
            # After a pause it goes on at its rate, and does not catch up.
            begun = max(begun, time.monotonic() - number * BATCH / given["rate"] - 1.0)
        for _, records in later:
            _publish(out, records)
            published += len(records)
        _counted(folder).write_text(str(published))


def batch(topic: str, accounts: Sequence[str], seed: int, number: int, book: TextIO) -> list[Out]:
    """So many new referrals, written down in `book` before anybody publishes them."""
    events = list(people.referrals(seed, number, accounts, datetime.now(UTC)))
    book.writelines(f"{event['account_id']} {event['referral_id']}\n" for event in events)
    book.flush()
    return [Out(topic, event["referral_id"], referrals.encode(event)) for event in events]


def one_more(folder: Path, topic: str, accounts: Sequence[str], seed: int, number: int) -> list[Out]:
    """A batch that another publishes once upstream has ended; written down and counted as upstream's are."""
    with written(folder).open("a") as book:
        records = batch(topic, accounts, seed, number, book)
    _counted(folder).write_text(str(count(folder) + number))
    return records


def _publish(out: KafkaOut, records: list[Out]) -> None:
    while True:
        try:
            out.send(records)
        except NotAcknowledged:
            time.sleep(AGAIN_S)
        else:
            return


if __name__ == "__main__":
    main()
