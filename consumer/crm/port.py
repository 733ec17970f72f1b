"""What the push service needs of a kind of connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from consumer.crm.answers import Answer, Pause, Rejected
from consumer.exchange import Exchanged, Request
from consumer.frozen import Frozen
from consumer.secrets import Secrets
from schemas.delivery import Action
from schemas.push import PushBase
from schemas.referral import Referral

C = TypeVar("C", bound=PushBase)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A referral as the receiver wants it: made once, at intake, and kept with the delivery.

    `body`: of the request, or one row of it where requests carry several. `values`: what address and
    header templates take from the referral. `removal`: `body` of the request that takes it back; None
    where the connection does not ask for that.
    """

    body: bytes = field(repr=False)
    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    removal: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Sending:
    """What one request carries: rows of one action, one connection and at most `Crm.max_rows`.

    `key`: the idempotency key; the delivery's id, or for several rows the UUIDv5 of their sorted ids.
    """

    key: str
    action: Action
    rows: tuple[Frozen, ...]


@dataclass(frozen=True, slots=True)
class Crm(Generic[C]):
    """All pure: what is sent and what came back are values. Authentication is added behind `request`."""

    #: A rendering of the referral with the connection's fields.
    render: Callable[[C, Referral], Rendered]
    #: (connection, secrets, what to send, monotonic seconds): one attempt's request, or why there is none.
    request: Callable[[C, Secrets, Sending, float], Request | Pause | Rejected]
    #: (connection, what was sent, what came back, Unix seconds). One answer for all rows, or one a row in
    #: their order. One `Rejected` for several rows means: one of them, unknown which; they are split.
    classify: Callable[[C, Sending, Exchanged, float], Answer | Sequence[Answer]]
    max_rows: int = 1


AnyCrm = Crm[Any]
