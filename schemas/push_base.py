"""What every connection has that gets each referral at once."""

from __future__ import annotations

from abc import abstractmethod
from datetime import timedelta
from typing import Annotated, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, model_validator

from schemas import grammar
from schemas.auth import Auth, ClientCertificate, NoAuth, QueryKey
from schemas.base import ConnectionBase, Model, misfit
from schemas.grammar import Flag, Seconds, Whole

#: Attempts at 0, then 5 s, 5 min, 30 min, 2, 5, 10, 14, 20 and 24 h after the one before: about
#: three days, the Standard Webhooks schedule.
RETRY_SECONDS = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)

#: One wait between two attempts: a week, what a Kafka topic keeps by default.
_Wait = Annotated[Whole, Field(ge=1, le=604_800)]
_Count = Annotated[Whole, Field(ge=1, le=100_000_000)]
#: Where a key may travel in a query without TLS: to a server on the developer's own machine.
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


class Limits(Model):
    """What the receiver allows a credential, over all workers and all connections that use it."""

    per_second: _Count | None = None
    per_minute: _Count | None = None
    per_hour: _Count | None = None
    per_day: _Count | None = None
    #: Requests at the same time.
    connections: Annotated[Whole, Field(ge=1, le=10_000)] | None = None


class PushBase(ConnectionBase):
    """What every pushed kind has."""

    kind: str
    auth: Auth = NoAuth()
    client_certificate: ClientCertificate | None = None
    #: Whose limits it shares; by default its own. Connections of one credential state the same limits.
    credential: grammar.Name | None = None
    limits: Limits = Limits()
    timeout: Seconds = 20.0
    retry_seconds: Annotated[tuple[_Wait, ...], Field(max_length=50)] = RETRY_SECONDS
    #: Requests at the same time by one worker.
    max_in_flight: Annotated[Whole, Field(ge=1, le=1_000)] = 16
    #: Seconds the receiver remembers an idempotency key.
    key_ttl: Annotated[Whole, Field(ge=60, le=31_536_000)] = 86_400
    #: The receiver recognises a repeat by itself, however late. Kinds that upsert by nature need not say it.
    upsert: Flag = False
    #: Once its key may be forgotten, a delivery with an attempt nobody knows the end of is UNCERTAIN:
    #: try on (at least once), or wait for a person (at most once). Nothing is uncertain where repeats
    #: are recognised.
    on_uncertain: Literal["retry", "hold"] = "hold"

    @model_validator(mode="after")
    def _key_in_query_is_private(self) -> PushBase:
        if isinstance(self.auth, QueryKey):
            parts = urlsplit(self.address)
            if parts.scheme != "https" and parts.hostname not in _LOCAL:
                remedy = "use https, or put the key in a header"
                raise misfit("a key in the query could be read on the way", remedy, "auth", "query")
            if self.auth.name in dict(parse_qsl(parts.query, keep_blank_values=True)):
                remedy = "remove it from the address"
                raise misfit("the address has this name in its query already", remedy, "auth", "name")
        return self

    @property
    def horizon(self) -> timedelta:
        """From the first attempt to the last."""
        return timedelta(seconds=sum(self.retry_seconds))

    @property
    @abstractmethod
    def takes_back(self) -> bool:
        """Whether the receiver is told of a removal after the delivery."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Where its requests go, path and query included; fields of the referral stand in braces."""

    @property
    def shared_as(self) -> str:
        """The name under which its limits are kept."""
        return self.credential or self.name

    @property
    def recognises_repeats(self) -> bool:
        """Whether the receiver takes the same referral once, however late its repeat comes."""
        return self.upsert
