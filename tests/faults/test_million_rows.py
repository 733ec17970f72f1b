"""A window of a million rows through the real flush service: every row, in bounded memory, and how fast.

FLUSH_ROWS=N takes another number of rows; the bound on memory stays.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro
import pytest
from confluent_kafka import Producer

from batcher.again import Wishes
from console.again import resend
from consumer import intake
from consumer.intake import Accepted, Entry, Fingerprint, WindowTarget
from consumer.log import silent
from schemas import referral
from schemas.connection import FileConnection
from tests.support.batch import USER, House, house, until
from tests.support.flush_entry import Flush, Parent, parent
from tests.support.kafka import Kafka
from tests.support.referral_events import event
from tests.support.rows import PARTITIONS, csv_of

#: A shared machine renders a million rows in a minute or two; everything here goes over them several times.
pytestmark = [pytest.mark.long, pytest.mark.timeout(2_400)]

ROWS = int(os.environ.get("FLUSH_ROWS", "1000000"))
SPLIT = ROWS // 10
MAX_MIB = 300
WITHIN = 900.0
#: Rows of the bare loop that says how fast this machine is.
LOOP_ROWS = min(ROWS, 50_000)
#: Stands for the row's number in the one event all are made from.
NUMBER = b"000000000000"
EVENT = event(
    event_id=f"0b7e4d0a-4f89-41d3-9a0c-{NUMBER.decode()}",
    referral_id=f"3f2504e0-4f89-41d3-9a0c-{NUMBER.decode()}",
    revision=0,
    email=f"person.{NUMBER.decode()}@example.com",
    email_sha256="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    user_agent="Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36",
)
COLUMNS = (
    "referral_id", "campaign_id", "campaign_name", "email", "email_sha256", "first_name", "last_name",
    "gender", "birth_date", "age", "phone_raw", "address1", "city", "state", "postal_code", "country",
    "bid_price", "currency",
)  # fmt: skip
VALUE = referral.encode(EVENT)
HEADER, LINE = csv_of([EVENT], COLUMNS).splitlines(keepends=True)


@dataclass(frozen=True)
class Loop:
    """The bare loop: rows a second, and microseconds of the processor for each, which other work on the
    machine changes less.
    """

    rows_per_s: float
    each_us: float

    def __str__(self) -> str:
        return f"bare loop: {self.rows_per_s:,.0f} rows/s, {self.each_us:.0f} us of CPU a row"


@dataclass
class Million:
    """The records are in Kafka; `enter` has a connection take them in as its first window."""

    place: House
    starts: Sequence[int]
    services: Parent

    def enter(self, connection: FileConnection) -> None:
        place = self.place
        place.empty(connection, starts=self.starts)
        for partition, numbers in shares():
            for first in range(numbers.start, numbers.stop, intake.MAX_BATCH):
                batch = range(first, min(first + intake.MAX_BATCH, numbers.stop))
                begun = place.intake.next[partition]
                entries = [entry(connection.name, offset, n) for offset, n in enumerate(batch, begun)]
                place.intake.next[partition] += len(batch)
                call = intake.intake(
                    place.keys,
                    partition,
                    epoch=place.intake._epochs[partition],
                    prev=begun,
                    next_offset=place.intake.next[partition],
                    set_version=1 << 20,
                    entries=entries,
                )
                assert isinstance(intake.accepted(place.store.call(call)), Accepted)

    def loop(self, name: str) -> Loop:
        """Reads, decodes and writes them nowhere."""
        schema, key = referral.definition(), f"{self.place.keys.prefix(0)}open:{name}"

        class Nowhere:
            def write(self, line: str) -> None: ...

        writer = csv.writer(Nowhere(), quoting=csv.QUOTE_ALL)
        count, began, spent = 0, time.monotonic(), time.process_time()
        for first in range(0, LOOP_ROWS, 500):
            for raw in self.place.store.command("LRANGE", key, first, first + 499):
                found: Any = fastavro.schemaless_reader(io.BytesIO(raw[18:]), schema, None)
                writer.writerow([found[column] for column in COLUMNS])
                count += 1
        assert count
        return Loop(count / (time.monotonic() - began), (time.process_time() - spent) / count * 1e6)

    def folder(self, name: str) -> Path:
        return self.place.sftp.folder / USER / name

    def named(self, name: str) -> list[Path]:
        return sorted(path for path in self.folder(name).iterdir() if not path.name.startswith("."))

    def measured(self, what: str, loop: Loop, done: Callable[[Flush], object]) -> str:
        """`done` by a service of its own, which must stay within its memory; the figures."""
        service = self.services.flush(self.place.environment)
        until(lambda: service.port, service.output)
        before, spent, began = peak_mib(service), cpu_s(service), time.monotonic()
        done(service)
        seconds, peak = time.monotonic() - began, peak_mib(service)
        each_us = (cpu_s(service) - spent) / ROWS * 1e6
        assert service.stop() == 0
        assert peak < MAX_MIB
        each = (peak - before) / ROWS * 2**20
        return (
            f"{what}: {ROWS:,} rows in {seconds:.0f} s, {ROWS / seconds:,.0f} rows/s, {each_us:.0f} us of CPU "
            f"a row ({loop.each_us / each_us:.2f} of the loop's speed), peak {peak} MiB "
            f"({before} at the start, {each:.0f} bytes a row)"
        )


def shares() -> Iterator[tuple[int, range]]:
    """Each partition's numbers."""
    each = -(-ROWS // PARTITIONS)
    for partition in range(PARTITIONS):
        yield partition, range(partition * each, min((partition + 1) * each, ROWS))


def entry(name: str, offset: int, number: int) -> Entry:
    target = WindowTarget(name, intake.row(offset, numbered(VALUE, number)))
    return Entry(offset, Fingerprint(offset, 1, offset % intake.DEDUPE_SHARDS), b"", str(number), 0, [target])


def numbered(template: bytes, number: int) -> bytes:
    return template.replace(NUMBER, b"%012d" % number)


def expected() -> str:
    """The digest of all lines but the headers, made without the code under test."""
    digest = hashlib.sha256()
    for number in range(ROWS):
        digest.update(numbered(LINE, number))
    return digest.hexdigest()


def found(files: Sequence[Path]) -> str:
    """The same of what lies there."""
    digest = hashlib.sha256()
    for path in files:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            assert file.readline() == HEADER
            while content := file.read(1 << 20):
                digest.update(content)
    return digest.hexdigest()


def peak_mib(service: Flush) -> int:
    """getrusage would count what the parent had when it forked."""
    told = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{service.pid}/status").read_text(), re.MULTILINE)
    assert told
    return int(told[1]) // 1024


def cpu_s(service: Flush) -> float:
    """Seconds of all its threads."""
    user, system = Path(f"/proc/{service.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory, kafka: Kafka) -> Iterator[Million]:
    folder = tmp_path_factory.mktemp("million")
    with (
        house(folder / "house", kafka.bootstrap, "million.") as place,
        parent(folder / "services") as services,
    ):
        ends = place.ground.admin.latest(place.topics.referrals, PARTITIONS)
        producer = Producer(
            {"bootstrap.servers": kafka.bootstrap, "enable.idempotence": True, "linger.ms": 20},
            logger=silent(),
        )
        for partition, numbers in shares():
            for number in numbers:
                while True:
                    try:
                        value = numbered(VALUE, number)
                        producer.produce(place.topics.referrals, value, str(number), partition)
                        break
                    except BufferError:
                        producer.poll(0.1)
        assert producer.flush(60) == 0
        yield Million(place, [ends[p] for p in range(PARTITIONS)], services)


def test_a_million_rows_and_once_more_from_kafka(
    million: Million, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = million.place.sftp_connection("whole", fields=COLUMNS)
    million.enter(connection)
    loop = million.loop("whole")

    def delivered(service: Flush) -> None:
        million.place.ask("whole")
        until(lambda: million.named("whole"), service.output, WITHIN)

    def once_more(_: Flush) -> None:
        told = resend(million.place.settings, "whole-000001", WITHIN, same_name=False)
        assert "DELIVERED" in told

    told = [million.measured("whole", loop, delivered)]
    until(lambda: million.place.closed("whole", 1), "closed")
    told.append(million.measured("once more", loop, once_more))
    wanted, files = expected(), million.named("whole")
    assert [found([path]) for path in files] == [wanted] * 2
    assert Wishes(million.place.store, million.place.keys).all() == {}
    shown(capsys, [str(loop), *told])


def test_a_million_rows_in_compressed_files_of_a_tenth(
    million: Million, capsys: pytest.CaptureFixture[str]
) -> None:
    form = {"compression": "gzip", "split": {"rows": SPLIT}, "sidecar": True}
    connection = million.place.sftp_connection("split", fields=COLUMNS, file=form)
    million.enter(connection)
    loop = million.loop("split")
    count = -(-ROWS // SPLIT)

    def delivered(service: Flush) -> None:
        million.place.ask("split")
        until(lambda: len(million.named("split")) == count + 1, service.output, WITHIN)

    told = million.measured("split, gzip", loop, delivered)
    *files, sidecar = sorted(million.named("split"), key=lambda path: path.suffix == ".json")
    listed = json.loads(sidecar.read_text())
    assert found(files) == expected()
    assert listed["rows"] == ROWS
    assert [one["name"] for one in listed["files"]] == [path.name for path in files]
    for one, path in zip(listed["files"], files, strict=True):
        with path.open("rb") as content:
            assert (one["rows"], one["sha256"]) == (SPLIT, hashlib.file_digest(content, "sha256").hexdigest())
    shown(capsys, [str(loop), told])


def shown(capsys: pytest.CaptureFixture[str], lines: Sequence[str]) -> None:
    with capsys.disabled():
        print("", f"{len(VALUE)} bytes a record, {len(LINE)} a line", *lines, sep="\n")
