"""What every model of an advertiser's file stands on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from schemas import grammar
from schemas.grammar import Filled, Flag
from schemas.mapping import Columns, FieldRule

#: pydantic's name for an error between members that are each right.
CROSSING = "crossing"
#: The same, where only the models judge it: its context says where inside the model it stands.
MISFIT = "misfit"


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=False)


def _all_or_listed(value: Any) -> str:
    return "all" if isinstance(value, str) else "listed"


_Campaigns = Annotated[
    Annotated[Literal["all"], Tag("all")]
    | Annotated[tuple[Filled, ...], Field(min_length=1, max_length=1_000), Tag("listed")],
    Discriminator(_all_or_listed),
]


class ConnectionBase(Model):
    """What every kind of connection has."""

    name: grammar.Name
    #: Campaign ids, or "all": those of the account, new ones included.
    campaigns: _Campaigns = "all"
    fields: Annotated[tuple[FieldRule, ...], Field(min_length=1, max_length=200)]
    #: Partner identity (partner_id, source, confirmation_ref) leaves only where this is true.
    partner_data: Flag = False

    @cached_property
    def columns(self) -> Columns:
        """Its fields, ready to be read from many referrals."""
        return Columns(self.fields, partner_data=self.partner_data)

    @model_validator(mode="after")
    def _columns_differ(self) -> ConnectionBase:
        if doubled(rule.name for rule in self.fields):
            raise crossing("two fields have the same name: rename one")
        return self


def unless(default: Any) -> Callable[[Any], bool]:
    """For `exclude_if`: a member that says nothing new is left out, so that a definition stored before it
    existed keeps its digest.
    """

    def is_default(value: Any) -> bool:
        return bool(value == default)

    return is_default


def crossing(message: str) -> PydanticCustomError:
    """An error between members that are each right, in words for people."""
    told = {"what": "its members do not go together", "remedy": message}
    return PydanticCustomError(CROSSING, "{remedy}", told)


def misfit(what: str, remedy: str, *at: str | int) -> PydanticCustomError:
    """An error between members that are each right. `at`: the way from the model to where it stands."""
    return PydanticCustomError(MISFIT, "{what}; {remedy}", {"what": what, "remedy": remedy, "at": at})


def doubled(names: Iterable[str]) -> list[str]:
    """The names given more than once, sorted."""
    return sorted(name for name, times in Counter(names).items() if times > 1)
