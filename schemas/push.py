"""Connections that get each referral at once: requests to a CRM's API."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas import grammar
from schemas.auth import Auth, ClientCertificate, NoAuth, Signature
from schemas.base import ConnectionBase, Model, crossing, doubled
from schemas.grammar import Filled, Flag, Seconds, Whole
from schemas.mapping import FieldRule

#: Attempts at 0, then 5 s, 5 min, 30 min, 2, 5, 10, 14, 20 and 24 h after the one before: about
#: three days, the Standard Webhooks schedule.
RETRY_SECONDS = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)

#: One wait between two attempts: a week, what a Kafka topic keeps by default.
_Wait = Annotated[Whole, Field(ge=1, le=604_800)]
_Count = Annotated[Whole, Field(ge=1, le=100_000_000)]
#: A JMESPath expression into an answer's JSON.
_Path = Annotated[str, Field(min_length=1, max_length=200)]


class Idempotency(Model):
    """The header that carries the delivery's key. Quoted: the draft's Structured-Field String."""

    header: grammar.HeaderName = "Idempotency-Key"
    quoted: Flag = True


class Limits(Model):
    """What the receiver allows a credential, over all workers and all connections that use it."""

    per_second: _Count | None = None
    per_minute: _Count | None = None
    per_hour: _Count | None = None
    per_day: _Count | None = None
    #: Requests at the same time.
    connections: Annotated[Whole, Field(ge=1, le=10_000)] | None = None


class ResponseRule(Model):
    """One rule for answers; the first that matches decides, before the defaults.

    `status`: `200`, `2xx` or `400-499`. `json` with `equal`, `contains` or neither (then: it is there
    and neither null nor false); `text`: it is somewhere in the body. Both look at the first 64 KiB.
    """

    status: Annotated[str, Field(pattern=r"^([2-5]xx|[1-5][0-9]{2}(-[1-5][0-9]{2})?)$")] | None = None
    json_path: Annotated[_Path | None, Field(alias="json")] = None
    equal: str | Flag | Whole | None = None
    contains: Filled | None = None
    text: Filled | None = None
    verdict: Annotated[Literal["delivered", "duplicate", "rejected", "retry", "pause"], Field(alias="is")]


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
    #: The receiver recognises a repeat by itself, however late.
    upsert: Flag = False
    #: Once its key may be forgotten, a delivery with an attempt nobody knows the end of is UNCERTAIN:
    #: try on (at least once), or wait for a person (at most once).
    on_uncertain: Literal["retry", "hold"] = "hold"

    @property
    def horizon(self) -> timedelta:
        """From the first attempt to the last."""
        return timedelta(seconds=sum(self.retry_seconds))

    @property
    def address(self) -> str:
        """Where its requests go, path and query included."""
        raise NotImplementedError

    @property
    def shared_as(self) -> str:
        """The name under which its limits are kept."""
        return self.credential or self.name


class Removal(Model):
    """How the receiver is told to forget a person it already got. Templates as in `url`."""

    url: grammar.Url
    method: Literal["POST", "PUT", "PATCH", "DELETE"] = "DELETE"
    #: The body's members; none, and the request has no body.
    fields: Annotated[tuple[FieldRule, ...], Field(max_length=50)] = ()


class HttpConnection(PushBase):
    """One request per referral to any HTTP API."""

    kind: Literal["http"]
    #: `{field}` stands for the referral's field, percent-encoded.
    url: grammar.Url
    method: Literal["POST", "PUT", "PATCH"] = "POST"
    headers: Annotated[dict[grammar.HeaderName, grammar.HeaderValue], Field(max_length=32)] = Field(
        default_factory=dict
    )
    body: Literal["json", "form"] = "json"
    #: A dot in a field's name makes an object: `person.first` is {"person": {"first": …}}.
    nested: Flag = False
    idempotency: Idempotency = Idempotency()
    signature: Signature | None = None
    responses: Annotated[tuple[ResponseRule, ...], Field(max_length=50)] = ()
    #: Where the receiver's own id of the record stands in its answer.
    record_id: _Path | None = None
    removal: Removal | None = None

    @model_validator(mode="after")
    def _headers_differ(self) -> HttpConnection:
        if doubled(name.lower() for name in (*self.headers, self.idempotency.header)):
            raise crossing("a header is given twice: keep one")
        return self

    @property
    def address(self) -> str:
        return self.url


class MailchimpConnection(PushBase):
    """Members of a Mailchimp audience: PUT by subscriber hash, never subscribing anyone again."""

    kind: Literal["mailchimp"]
    #: The data centre at the end of the API key, such as us21.
    data_center: Annotated[str, Field(pattern=r"^[a-z]{2}[0-9]{1,3}$")]
    list_id: Annotated[str, Field(pattern=r"^[a-zA-Z0-9]{1,32}$")]
    #: For people the audience does not have yet: at once, or after they confirm by mail.
    status_if_new: Literal["subscribed", "pending"] = "pending"
    #: Archive the member when the referral is withdrawn or erased.
    remove: Flag = False
    #: Where the API is, for a test server.
    base_url: grammar.Url | None = None

    @property
    def address(self) -> str:
        return self.base_url or f"https://{self.data_center}.api.mailchimp.com/3.0"


class SalesforceConnection(PushBase):
    """Records of one Salesforce object, upserted by an external id."""

    kind: Literal["salesforce"]
    instance_url: grammar.Url
    api_version: Annotated[str, Field(pattern=r"^v[0-9]{2}\.0$")] = "v62.0"
    object: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,39}$")] = "Lead"
    #: The external id field; one of `fields` fills it.
    external_id: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,39}$")]
    remove: Flag = False

    @property
    def address(self) -> str:
        return self.instance_url


class HubspotConnection(PushBase):
    """HubSpot contacts, upserted by a unique property."""

    kind: Literal["hubspot"]
    #: The unique property; one of `fields` fills it.
    id_property: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,99}$")] = "email"
    remove: Flag = False
    base_url: grammar.Url | None = None

    @property
    def address(self) -> str:
        return self.base_url or "https://api.hubapi.com"


class MetaAudienceConnection(PushBase):
    """A Meta custom audience: identifiers normalised and hashed here, never sent in clear."""

    kind: Literal["meta_custom_audience"]
    audience_id: Annotated[str, Field(pattern=r"^[0-9]{1,32}$")]
    api_version: Annotated[str, Field(pattern=r"^v[0-9]{2}\.0$")] = "v23.0"
    remove: Flag = False
    base_url: grammar.Url | None = None

    @property
    def address(self) -> str:
        return self.base_url or "https://graph.facebook.com"


class GoogleAudienceConnection(PushBase):
    """A Google customer-match audience through the Data Manager API, hashed here."""

    kind: Literal["google_customer_match"]
    #: The Google Ads account the audience belongs to, and the one that logs in, where it is another.
    account_id: Annotated[str, Field(pattern=r"^[0-9]{1,20}$")]
    login_account_id: Annotated[str, Field(pattern=r"^[0-9]{1,20}$")] | None = None
    audience_id: Annotated[str, Field(pattern=r"^[0-9]{1,32}$")]
    remove: Flag = False
    base_url: grammar.Url | None = None

    @property
    def address(self) -> str:
        return self.base_url or "https://datamanager.googleapis.com"


PushConnection = (
    HttpConnection
    | MailchimpConnection
    | SalesforceConnection
    | HubspotConnection
    | MetaAudienceConnection
    | GoogleAudienceConnection
)
