"""Connections that get each referral at once: any HTTP API here, kinds with an API of their own beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from schemas import grammar, paths, template
from schemas.auth import Signature, headers_of
from schemas.base import Model, crossing, doubled, misfit
from schemas.crms import (
    GoogleAudienceConnection,
    HubspotConnection,
    MailchimpConnection,
    MetaAudienceConnection,
    SalesforceConnection,
)
from schemas.grammar import Filled, Flag, Whole
from schemas.mapping import FieldRule
from schemas.push_base import RETRY_SECONDS, Limits, PushBase

__all__ = [
    "RETRY_SECONDS",
    "GoogleAudienceConnection",
    "HttpConnection",
    "HubspotConnection",
    "Idempotency",
    "Limits",
    "MailchimpConnection",
    "MetaAudienceConnection",
    "PushBase",
    "PushConnection",
    "Removal",
    "ResponseRule",
    "SalesforceConnection",
]

_Path = Annotated[str, Field(min_length=1), AfterValidator(paths.check)]
_UrlTemplate = Annotated[grammar.Url, AfterValidator(template.check_url)]
_HeaderTemplate = Annotated[grammar.HeaderValue, AfterValidator(template.check_header)]

_STATUS = re.compile(r"[2-5]xx|([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?")


def _status(value: str) -> str:
    found = _STATUS.fullmatch(value)
    if found is None or (found[2] is not None and found[1] > found[2]):
        raise ValueError('write a status as "409", "4xx" or "400-499"')
    return value


class Idempotency(Model):
    """The header that carries the delivery's key. Quoted: the draft's Structured-Field String."""

    header: grammar.HeaderName = "Idempotency-Key"
    quoted: Flag = True


class ResponseRule(Model):
    """One rule for the answers to a delivery; the first that matches decides, before the defaults.

    All conditions it states must hold. `status`: `"200"`, `"2xx"` or `"400-499"`. `json`: a JMESPath
    expression into the body, with `equal` (a text, letter by letter, a whole number or a boolean), with
    `contains` (part of the text there, or one of the texts of the list there, in upper or lower case), or
    with neither: then something stands there, not null, false or empty. `text`: it stands somewhere in the
    body, in upper or lower case. A body longer than 64 KiB, or cut short, meets no `json`.

    Where any rule says `is: delivered`, success is what such a rule says: a 2xx that no rule matches is
    tried again.
    """

    #: A stored definition has the members' own names, a file their aliases.
    model_config = ConfigDict(populate_by_name=True)

    status: Annotated[str, AfterValidator(_status)] | None = None
    json_path: Annotated[_Path | None, Field(alias="json")] = None
    equal: Annotated[str, Field(max_length=512)] | Flag | Whole | None = None
    contains: Filled | None = None
    text: Filled | None = None
    verdict: Annotated[Literal["delivered", "duplicate", "rejected", "retry", "pause"], Field(alias="is")]

    @model_validator(mode="after")
    def _can_match(self) -> ResponseRule:
        if self.status is None and self.json_path is None and self.text is None:
            raise ValueError("say when the rule applies: status, json or text")
        if self.json_path is None and (self.equal is not None or self.contains is not None):
            raise ValueError("equal and contains look at what json leads to: add json, or use text")
        if self.equal is not None and self.contains is not None:
            raise ValueError("give either equal or contains")
        return self


class Removal(Model):
    """How the receiver is told to forget a person it already got; 404 and 410 mean it has nobody such.

    The connection's headers, key and signature go with it; its rules for answers do not apply.
    """

    url: _UrlTemplate
    method: Literal["POST", "PUT", "PATCH", "DELETE"] = "DELETE"
    #: The body's members; none, and the request has no body.
    fields: Annotated[tuple[FieldRule, ...], Field(max_length=50)] = ()

    @model_validator(mode="after")
    def _members_differ(self) -> Removal:
        if doubled(rule.name for rule in self.fields):
            raise misfit("two fields have the same name", "rename one", "fields")
        return self


class HttpConnection(PushBase):
    """One request per referral to any HTTP API.

    In `url` and `headers`, `{email}` stands for the referral's field and `{{` for a brace. A value is
    percent-encoded in an address. In a path it must be there; in a header it must be ASCII: else that
    referral is rejected.
    """

    kind: Literal["http"]
    url: _UrlTemplate
    method: Literal["POST", "PUT", "PATCH"] = "POST"
    headers: Annotated[dict[grammar.HeaderName, _HeaderTemplate], Field(max_length=32)] = Field(
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
    def _members_agree(self) -> HttpConnection:
        if doubled(name.lower() for name in (*self.headers, self.idempotency.header)):
            raise crossing("a header is given twice: keep one")
        fault = self._written_twice() or self._cannot_nest()
        if fault is not None:
            raise fault
        return self

    def _written_twice(self) -> PydanticCustomError | None:
        taken: dict[str, str] = {}
        for member, given in (("auth", self.auth), ("signature", self.signature)):
            for name in (name.lower() for name in headers_of(given)):
                if name in taken:
                    what = f"{taken[name]} and {member} write the same header"
                    return misfit(what, "give one of them another header", member)
                taken[name] = member
        for name in self.headers:
            if name.lower() in taken:
                what = f"{taken[name.lower()]} writes this header"
                return misfit(what, "leave it out here", "headers", name)
        if self.idempotency.header.lower() in taken:
            what = f"{taken[self.idempotency.header.lower()]} writes the header of the key"
            return misfit(what, "give idempotency another header", "idempotency")
        return None

    def _cannot_nest(self) -> PydanticCustomError | None:
        if not self.nested:
            return None
        if self.body != "json":
            return misfit("a form has no objects in it", "use body: json, or leave nested out", "nested")
        removal = self.removal.fields if self.removal is not None else ()
        return nesting(self.fields, "fields") or nesting(removal, "removal", "fields")

    @property
    def takes_back(self) -> bool:
        return self.removal is not None

    @property
    def address(self) -> str:
        return self.url


def nesting(rules: Sequence[FieldRule], *at: str) -> PydanticCustomError | None:
    """What keeps the rules' names from making one object: `a` beside `a.b`, or a part without a name."""
    leaves = {rule.name for rule in rules}
    for index, rule in enumerate(rules):
        parts = rule.name.split(".")
        if not all(parts):
            return misfit("a part of the name is empty", "write person.first", *at, index)
        if any(".".join(parts[:depth]) in leaves for depth in range(1, len(parts))):
            return misfit("another field is a value where this one wants an object", "rename one", *at, index)
    return None


PushConnection = (
    HttpConnection
    | MailchimpConnection
    | SalesforceConnection
    | HubspotConnection
    | MetaAudienceConnection
    | GoogleAudienceConnection
)
