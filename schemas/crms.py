"""Kinds with an API of their own. Each knows a person by its own key, so a repeat changes nothing."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Annotated, Literal

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from schemas import grammar
from schemas.base import misfit
from schemas.grammar import Flag
from schemas.push_base import PushBase

#: What is enough to find somebody at Meta, and what helps; they are the names of `fields`.
META_ENOUGH = (("EMAIL",), ("PHONE",), ("MADID",), ("FN", "LN"), ("FI", "LN"))
META_KEYS = frozenset(
    ["EMAIL", "PHONE", "MADID", "FN", "LN", "FI", "GEN", "DOBY", "DOBM", "DOBD", "CT", "ST", "ZIP"]
) | {"COUNTRY", "EXTERN_ID"}
#: The same for Google, which matches an address only whole and is told of consent.
GOOGLE_ENOUGH = (
    ("emailAddress",),
    ("phoneNumber",),
    ("givenName", "familyName", "regionCode", "postalCode"),
)
GOOGLE_KEYS = frozenset(name for names in GOOGLE_ENOUGH for name in names) | {
    "adUserData",
    "adPersonalization",
}

_MAILCHIMP_EMAIL = frozenset({"email", "email_address"})
_TAG = re.compile(r"[A-Za-z0-9_]{1,10}")

_ApiVersion = Annotated[str, grammar.matching(r"v[0-9]{2}\.0", "write the version as v23.0")]
_Number = Annotated[str, grammar.matching(r"[0-9]{1,32}", "give the id's digits alone, in quotes")]
_ApiName = Annotated[
    str, grammar.matching(r"[A-Za-z][A-Za-z0-9_]{0,39}", "give the API name, such as Lead or Referral_Id__c")
]
_Property = Annotated[
    str, grammar.matching(r"[a-z][a-z0-9_]{0,99}", "give the property's internal name, such as email")
]
_DataCenter = Annotated[
    str,
    grammar.matching(r"[a-z]{2}[0-9]{1,3}", "give the end of the API key behind the hyphen, such as us21"),
]
_ListId = Annotated[str, grammar.matching(r"[a-zA-Z0-9]{1,32}", "give the audience's id, such as a1b2c3d4e5")]


class UpsertBase(PushBase):
    """A receiver that keeps one record per person, whatever arrives how often."""

    #: Have the receiver forget the person when the referral is withdrawn or erased.
    remove: Flag = False

    @property
    def recognises_repeats(self) -> bool:
        return True

    @property
    def takes_back(self) -> bool:
        return self.remove

    def _unfilled(self, name: str, what: str) -> PydanticCustomError | None:
        if any(rule.name == name for rule in self.fields):
            return None
        return misfit(f"no field is named {name}: {what}", f"add {{name: {name}, from: …}}", "fields")

    def _finds_nobody(
        self, vendor: str, known: Collection[str], enough: Iterable[Iterable[str]], remedy: str
    ) -> PydanticCustomError | None:
        for index, rule in enumerate(self.fields):
            if rule.name not in known:
                what = f"{vendor} has no identifier of this name"
                return misfit(what, f"name it one of {', '.join(sorted(known))}", "fields", index)
        names = {rule.name for rule in self.fields}
        if not any(names >= set(together) for together in enough):
            return misfit(f"{vendor} finds nobody by these fields alone", remedy, "fields")
        return None


class MailchimpConnection(UpsertBase):
    """Members of a Mailchimp audience: PUT by subscriber hash, never subscribing anyone again.

    One of `fields` is named email; the others are merge fields by their tags. `remove` archives the member.
    """

    kind: Literal["mailchimp"]
    #: The data centre at the end of the API key, such as us21.
    data_center: _DataCenter
    list_id: _ListId
    #: For people the audience does not have yet: at once, or after they confirm by mail.
    status_if_new: Literal["subscribed", "pending"] = "pending"
    #: Where the API is, for a test server.
    base_url: grammar.BaseUrl | None = None

    @model_validator(mode="after")
    def _has_its_key(self) -> MailchimpConnection:
        if not {rule.name.lower() for rule in self.fields} & _MAILCHIMP_EMAIL:
            remedy = "add {name: email, from: email}"
            raise misfit("Mailchimp finds a member by the email address", remedy, "fields")
        for index, rule in enumerate(self.fields):
            if rule.name.lower() not in _MAILCHIMP_EMAIL and not _TAG.fullmatch(rule.name):
                remedy = "write the tag as the audience's settings show it, such as FNAME"
                what = "a merge field's tag has at most 10 letters, digits and underscores"
                raise misfit(what, remedy, "fields", index)
        return self

    @property
    def address(self) -> str:
        return self.base_url or f"https://{self.data_center}.api.mailchimp.com/3.0"


class SalesforceConnection(UpsertBase):
    """Records of one Salesforce object, upserted by an external id."""

    kind: Literal["salesforce"]
    instance_url: grammar.BaseUrl
    api_version: _ApiVersion = "v62.0"
    object: _ApiName = "Lead"
    #: The external id field; one of `fields` fills it.
    external_id: _ApiName

    @model_validator(mode="after")
    def _has_its_key(self) -> SalesforceConnection:
        fault = self._unfilled(self.external_id, "Salesforce finds a record by its external_id")
        if fault is not None:
            raise fault
        return self

    @property
    def address(self) -> str:
        return self.instance_url


class HubspotConnection(UpsertBase):
    """HubSpot contacts, upserted by a unique property."""

    kind: Literal["hubspot"]
    #: The unique property; one of `fields` fills it.
    id_property: _Property = "email"
    base_url: grammar.BaseUrl | None = None

    @model_validator(mode="after")
    def _has_its_key(self) -> HubspotConnection:
        fault = self._unfilled(self.id_property, "HubSpot finds a contact by its id_property")
        if fault is not None:
            raise fault
        return self

    @property
    def address(self) -> str:
        return self.base_url or "https://api.hubapi.com"


class MetaAudienceConnection(UpsertBase):
    """A Meta custom audience: identifiers normalised and hashed here, never sent in clear.

    `fields` have Meta's names: META_KEYS.
    """

    kind: Literal["meta_custom_audience"]
    audience_id: _Number
    api_version: _ApiVersion = "v23.0"
    base_url: grammar.BaseUrl | None = None

    @model_validator(mode="after")
    def _finds_people(self) -> MetaAudienceConnection:
        remedy = "add {name: EMAIL, from: email} or {name: PHONE, from: phone_e164}"
        fault = self._finds_nobody("Meta", META_KEYS, META_ENOUGH, remedy)
        if fault is not None:
            raise fault
        return self

    @property
    def address(self) -> str:
        return self.base_url or "https://graph.facebook.com"


class GoogleAudienceConnection(UpsertBase):
    """A Google customer-match audience through the Data Manager API, hashed here.

    `fields` have Google's names: GOOGLE_KEYS.
    """

    kind: Literal["google_customer_match"]
    #: The Google Ads account the audience belongs to, and the one that logs in, where it is another.
    account_id: _Number
    login_account_id: _Number | None = None
    audience_id: _Number
    base_url: grammar.BaseUrl | None = None

    @model_validator(mode="after")
    def _finds_people(self) -> GoogleAudienceConnection:
        remedy = "add {name: emailAddress, from: email} or {name: phoneNumber, from: phone_e164}"
        fault = self._finds_nobody("Google", GOOGLE_KEYS, GOOGLE_ENOUGH, remedy)
        if fault is not None:
            raise fault
        return self

    @property
    def address(self) -> str:
        return self.base_url or "https://datamanager.googleapis.com"
