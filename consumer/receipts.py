"""Receipts on their way: outbox entries in Redis, relayed to `referral-receipts`.

An entry is `R`, the receipt's key, a line feed and its Avro bytes; or `X`, for a delivery that ended
undelivered, the same with the body behind, which becomes a dead letter; or, for a duplicate that only
the script could tell, `D` and its coordinates, from which the relay makes the receipt. Repeats are
harmless: readers keep the first per key.
"""

from __future__ import annotations

from collections.abc import Sequence

from consumer import dead_letters
from consumer.kafka_out import KafkaOut, Out
from consumer.keys import Keys
from consumer.store import Call, Script, Store
from consumer.topics import Topics
from schemas.delivery import Outcome
from schemas.receipt import Receipt, Subject, coordinates, decode, utc

TRIM = Script("consumer", "trim")
#: Receipts produced before their entries are dropped: bounds what a crash repeats.
RELAY = 1_000


def entry(receipt: Receipt) -> bytes:
    return b"R" + receipt.subject_id.encode() + b"\n" + receipt.encode()


def entry_with_dead_letter(receipt: Receipt, body: bytes) -> bytes:
    """For a delivery that ended undelivered: its frozen body goes to dead letters."""
    encoded = receipt.encode()
    return b"X" + len(encoded).to_bytes(4, "big") + encoded + body


def duplicate_entry(
    partition: int, offset: int, referral_id: str, revision: int, digest: str, service: str
) -> bytes:
    """For a record that may turn out to be upstream's second publication."""
    return f"D{partition}\n{offset}\n{referral_id}\n{revision}\n{digest}\n{service}".encode()


def waiting(store: Store, keys: Keys, partitions: Sequence[int]) -> dict[int, int]:
    """How many entries each partition's outbox holds."""
    lengths = store.commands([("LLEN", f"{keys.prefix(p)}outbox") for p in partitions])
    return dict(zip(partitions, map(int, lengths), strict=True))


def relay(store: Store, out: KafkaOut, keys: Keys, topics: Topics, partition: int, now: float) -> int:
    """Produce the oldest entries of a partition's outbox and drop them; returns how many.

    Raises NotAcknowledged (nothing dropped) and StoreUnavailable.
    """
    outbox = f"{keys.prefix(partition)}outbox"
    base, entries = store.commands(
        [("HGET", keys.head(partition), "outbox"), ("LRANGE", outbox, 0, RELAY - 1)]
    )
    if not entries:
        return 0
    out.send([record for raw in entries for record in _records(topics, raw, now)])
    args = (keys.prefix(partition), base or b"0", len(entries))
    store.call(Call(TRIM, keys.head(partition), args))
    return len(entries)


def told_by(topics: Topics, raw: bytes, now: float) -> Receipt:
    """The receipt that an entry will become."""
    (value,) = (out.value for out in _records(topics, raw, now) if out.topic == topics.receipts)
    return decode(value or b"")


def _records(topics: Topics, raw: bytes, now: float) -> list[Out]:
    if raw[:1] == b"R":
        key, _, value = raw[1:].partition(b"\n")
        return [Out(topics.receipts, key.decode(), value)]
    if raw[:1] == b"X":
        size = int.from_bytes(raw[1:5], "big")
        value, body = raw[5 : 5 + size], raw[5 + size :]
        receipt = decode(value)
        letter = dead_letters.of_delivery(topics, receipt, body)
        return [letter, Out(topics.receipts, receipt.subject_id, value)]
    partition, offset, referral_id, revision, digest, service = raw[1:].decode().split("\n")
    receipt = Receipt(
        subject=Subject.RECORD,
        subject_id=coordinates(topics.referrals, int(partition), int(offset)),
        outcome=Outcome.DUPLICATE_UPSTREAM,
        reason="published before with the same referral id, revision and kind",
        service=service,
        at=utc(now),
        referral_id=referral_id,
        revision=int(revision),
        topic=topics.referrals,
        partition=int(partition),
        offset=int(offset),
        digest=digest,
    )
    return [Out(topics.receipts, receipt.subject_id, receipt.encode())]
