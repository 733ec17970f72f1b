"""`referrals publish`: how an upstream team tries the contract.

Every line is checked before the first is published. Memory holds one batch, whatever the file's size.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from console.ground import plainly
from consumer.kafka_out import KafkaOut, NotAcknowledged, Out
from consumer.registry import register
from consumer.service import Settings, Stop
from consumer.topics import Admin, Topics
from schemas import referral
from schemas.codec import Undecodable
from schemas.fit import printable
from schemas.referral import EventType
from schemas.referral_json import from_json

STDIN = "-"
#: A record has at most 0.9 MB, and JSON writes some characters as six: no honest line is longer.
MAX_LINE_BYTES = 6_000_000
#: As many as one sitting mends; the rest is counted.
MAX_FAULTS = 100
#: Records and bytes sent before waiting for their acknowledgement: bounds memory and what is in doubt.
BATCH = 1_000
BATCH_BYTES = 8_000_000

#: An event's bytes as Kafka gets them.
Frame = Callable[[Mapping[str, Any]], bytes]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a line; names members, never a value."""

    line: int
    what: str


@dataclass(frozen=True, slots=True)
class Event:
    """A line that is one: its key and its value."""

    referral_id: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Published:
    """How many went where: partition to records."""

    topic: str
    partitions: Mapping[int, int]

    @property
    def count(self) -> int:
        return sum(self.partitions.values())


def publish(settings: Settings, path: str) -> Published:
    """Check the whole of `path` (`-` is standard input), then publish it. Raises Stop."""
    with _opened(path) as source:
        total = _checked(source, "standard input" if path == STDIN else path)
        source.seek(0)
        topic = Topics(settings.prefix).referrals
        with plainly():
            if Admin(settings.kafka, settings.kafka_config).describe(topic) is None:
                raise Stop(
                    f"topic {topic} is not in Kafka at {settings.kafka}: check REFERRALS_KAFKA and "
                    "REFERRALS_PREFIX, or run `referrals init --from earliest|latest|TIME`"
                )
            frame = _framing(settings, topic)
            out = KafkaOut(settings.kafka, settings.kafka_config)
            return Published(topic, _sent(out, topic, source, frame, total))


def _framing(settings: Settings, topic: str) -> Frame:
    if settings.schema_registry is None:
        return referral.encode
    # What fastavro notes beside the schema is not part of it.
    schema = {name: part for name, part in referral.definition().items() if not name.startswith("__")}
    schema_id = register(settings.schema_registry, f"{topic}-value", json.dumps(schema))
    return partial(referral.encode_confluent, schema_id=schema_id)


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    """The file, at its beginning; what cannot be read twice is kept in a nameless file meanwhile."""
    try:
        with nullcontext(sys.stdin.buffer) if path == STDIN else Path(path).open("rb") as given:
            if path != STDIN and given.seekable():
                yield given
                return
            with tempfile.TemporaryFile() as kept:
                shutil.copyfileobj(given, kept)
                kept.seek(0)
                yield kept
    except OSError as error:
        raise Stop(f"{path}: cannot be read: {error.strerror}") from error


def _checked(source: IO[bytes], name: str) -> int:
    """The number of events. Raises Stop with the faults of all lines."""
    faults: list[str] = []
    bad = good = 0
    for found in events(source, referral.encode):
        if not isinstance(found, Fault):
            good += 1
            continue
        bad += 1
        if bad <= MAX_FAULTS:
            faults.append(f"{name}:{found.line}: {found.what}")
    if bad > MAX_FAULTS:
        faults.append(f"and {bad - MAX_FAULTS:,} more lines")
    if bad:
        lines = "line is" if bad == 1 else "lines are"
        raise Stop("\n".join([*faults, f"nothing was published: {bad:,} {lines} not a referral event"]))
    if not good:
        raise Stop(f"{name} holds no event: give one JSON object a line")
    return good


def _sent(out: KafkaOut, topic: str, source: IO[bytes], frame: Frame, total: int) -> Counter[int]:
    partitions: Counter[int] = Counter()
    for batch in _batches(topic, source, frame):
        try:
            partitions.update(out.send(batch))
        except NotAcknowledged as error:
            raise Stop(
                f"{error}. {partitions.total():,} of {total:,} are there for certain: check REFERRALS_KAFKA, "
                "then publish the same file within the hour; what is there already is dropped as a duplicate"
            ) from error
    return partitions


def _batches(topic: str, source: IO[bytes], frame: Frame) -> Iterator[list[Out]]:
    batch: list[Out] = []
    size = 0
    for event in events(source, frame):
        if isinstance(event, Fault):
            raise Stop(f"line {event.line} changed while it was read: {event.what}")
        batch.append(Out(topic, event.referral_id, event.value))
        size += len(event.value)
        if len(batch) == BATCH or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def events(source: IO[bytes], frame: Frame) -> Iterator[Event | Fault]:
    """The event or the fault of every line that is not blank."""
    number = 0
    while line := source.readline(MAX_LINE_BYTES):
        number += 1
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := source.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield Fault(number, f"the line is longer than {MAX_LINE_BYTES:,} bytes")
        elif line.strip():
            yield parsed(number, line, frame)


def parsed(number: int, line: bytes, frame: Frame) -> Event | Fault:
    """Line `number` as an event, or what is wrong with it. Pure."""
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        event = from_json(json.loads(text, object_pairs_hook=_object))
        value = frame(event)
    except UnicodeDecodeError as error:
        what = f"not UTF-8 text: byte {error.start + 1} of the line"
    except json.JSONDecodeError as error:
        what = f"not JSON: {error.msg[:1].lower()}{error.msg[1:]}, column {error.colno}"
    except RecursionError:
        what = "nested too deep for an event"
    except (Undecodable, _Twice) as error:
        what = str(error)
    except ValueError:
        what = "a number has too many digits"
    else:
        if event["event_type"] != EventType.UNKNOWN:
            return Event(event["referral_id"], value)
        what = "event_type UNKNOWN is what readers see instead of a newer type: name the type"
    return Fault(number, what)


class _Twice(Exception):  # noqa: N818 - what a member is
    """JSON would quietly keep the last."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        doubled = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise _Twice(f"{printable(doubled)} is given twice")
    return found
