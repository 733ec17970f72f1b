"""What Redis is told of one delivery comes in the order it happened, however fast the receiver answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from consumer.addresses import Policy
from consumer.crm.answers import Answer, Delivered, Rejected, Retry
from consumer.frozen import Frozen
from consumer.lane import Delivery
from consumer.lanes import Lanes
from consumer.sender import Sender
from consumer.settling import Outgoing
from schemas.push import HttpConnection


class Asked:
    """Answers in their order."""

    def __init__(self, *answers: Answer) -> None:
        self._answers: Iterator[Answer] = iter(answers)

    async def ask(self, *_: Any) -> Answer:
        return next(self._answers)


def test_a_revision_put_off_by_a_split_is_told_of_before_its_own_attempt() -> None:
    told = Outgoing()
    ticks = count(100_000)
    clock: Callable[[], float] = lambda: next(ticks) / 100  # noqa: E731
    lanes = Lanes(lambda _: True)
    sender = Sender(lanes, lambda _: told, Policy(), clock)
    sender.attempts.connections(
        {
            "crm": HttpConnection.model_validate(
                {"name": "crm", "kind": "http", "url": "https://crm.example/x", "fields": ["referral_id"]}
            )
        }
    )
    lanes.configure({"crm": (1, 9, None)})
    refused, made = Rejected(400, "one of them"), Delivered(200)
    asked = Asked(refused, made, made, Retry("answered 503", unknown=False, status=503))
    sender.attempts._asking = asked  # type: ignore[assignment]
    for offset, (referral_id, revision) in enumerate([("r", 0), ("q", 0), ("r", 1)]):
        frozen = Frozen(f"d{offset}", referral_id, revision, "acme", "c", 0, b"{}")
        lanes.accept(Delivery(0, "crm", offset, 1.0, frozen))
    asyncio.run(sender._send(lanes.start(clock())))
    sender._loop.close()
    assert [item.tries.attempts for item in told.later if item.offset == 2] == [0, 1]
