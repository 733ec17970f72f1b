"""The record of all points: the demo's referrals, every field filled as in life."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from random import Random

from deploy.embedded import people
from deploy.embedded.accounts import ACCOUNTS
from schemas import referral

#: Different people; more records are the same people with ids of their own.
PEOPLE = 20_000
SEED = 6
#: Below this a record would not be what life sends.
LEAST_BYTES = 600


@dataclass(frozen=True, slots=True)
class Made:
    """`value` as upstream publishes it under the key `referral_id`."""

    account: str
    referral_id: str
    value: bytes


def records(count: int, accounts: Sequence[str] = ACCOUNTS, seed: int = SEED) -> Iterator[Made]:
    """`count` of them, each with an id nobody else has."""
    return _numbered(count, _people(tuple(accounts), min(count, PEOPLE)), seed)


def _numbered(count: int, known: Sequence[Made], seed: int) -> Iterator[Made]:
    source = Random(seed)
    for number in range(count):
        one = known[number % len(known)]
        mine = str(uuid.UUID(int=source.getrandbits(128), version=4))
        yield Made(one.account, mine, one.value.replace(one.referral_id.encode(), mine.encode()))


def spread(count: int, accounts: Sequence[str], seed: int = SEED) -> Iterator[Made]:
    """As `records`, but every account gets as many."""
    at = datetime.now(UTC)
    known = []
    for number, account in enumerate(accounts[:count]):
        (event,) = people.referrals(number, 1, (account,), at)
        known.append(Made(account, event["referral_id"], referral._WHOLE.encode(event)))
    return _numbered(count, known, seed)


def size() -> int:
    """Bytes of Avro of a record, on average."""
    made = _people(ACCOUNTS, PEOPLE)
    assert min(len(one.value) for one in made) >= LEAST_BYTES
    return round(sum(len(one.value) for one in made) / len(made))


@cache
def _people(accounts: tuple[str, ...], count: int) -> list[Made]:
    at = datetime.now(UTC)
    return [
        Made(event["account_id"], event["referral_id"], referral._WHOLE.encode(event))
        for event in people.referrals(SEED, count, accounts, at)
    ]
