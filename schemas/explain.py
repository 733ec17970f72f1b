"""What pydantic found wrong, where it stands in the file and in words for people; never with a value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from schemas import auth, files, push
from schemas.base import CROSSING, MISFIT
from schemas.connection import Account, EmailConnection, FtpsConnection, Schedule, SftpConnection
from schemas.mapping import FieldRule, ValueRule
from schemas.problem import Problem, join
from schemas.yaml_lines import Node

_KINDS: Mapping[str, type[BaseModel]] = {
    "http": push.HttpConnection,
    "mailchimp": push.MailchimpConnection,
    "salesforce": push.SalesforceConnection,
    "hubspot": push.HubspotConnection,
    "meta_custom_audience": push.MetaAudienceConnection,
    "google_customer_match": push.GoogleAudienceConnection,
    "sftp": SftpConnection,
    "ftps": FtpsConnection,
    "email": EmailConnection,
}
#: Kinds that there will not be, and why.
_REFUSED = {
    "ftp": (
        "is refused: plain FTP sends the password and people's data in the clear",
        "write ftps or sftp, whichever the advertiser's server offers",
    )
}
_AUTH: Mapping[str, type[BaseModel]] = {
    "none": auth.NoAuth,
    "header": auth.HeaderKey,
    "query": auth.QueryKey,
    "basic": auth.Basic,
    "bearer": auth.Bearer,
    "oauth2": auth.ClientCredentials,
    "oauth2_assertion": auth.SignedAssertion,
}
_SIGNATURES: Mapping[str, type[BaseModel]] = {
    "hmac": auth.Hmac,
    "standard_webhooks": auth.StandardWebhooks,
}
_FORMATS: Mapping[str, type[BaseModel]] = {
    "csv": files.CsvFormat,
    "json_lines": files.JsonLinesFormat,
    "xlsx": files.XlsxFormat,
}
#: What tells kinds apart and the kinds there are, by the member that holds them.
_KINDS_OF = {"auth": ("kind", _AUTH), "signature": ("kind", _SIGNATURES), "file": ("format", _FORMATS)}
_MODELS: Mapping[str, type[BaseModel]] = {
    **_KINDS,
    **_AUTH,
    **_SIGNATURES,
    **_FORMATS,
    "openpgp": files.OpenPgp,
    "client_certificate": auth.ClientCertificate,
    "limits": push.Limits,
    "idempotency": push.Idempotency,
    "responses": push.ResponseRule,
    "removal": push.Removal,
    "schedule": Schedule,
    "fields": FieldRule,
    "rules": ValueRule,
}
_STANDS = {
    "text": "a text",
    "number": "a number",
    "bool": "what YAML reads as yes or no",
    "nothing": "nothing",
    "list": "a list",
    "mapping": "a mapping",
}
_WANTED = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping (name: value)",
    "model_type": "a mapping (name: value)",
    "model_attributes_type": "a mapping (name: value)",
}
#: Limits: pydantic's name, the limit's name in its context, what is said and what to do.
_LIMITS = {
    "greater_than": ("gt", "must be more than {}", "change it"),
    "greater_than_equal": ("ge", "must be at least {}", "change it"),
    "less_than": ("lt", "must be less than {}", "change it"),
    "less_than_equal": ("le", "must be at most {}", "change it"),
    "too_short": ("min_length", "needs at least {} entry", "add one"),
    "too_long": ("max_length", "has more than {} entries", "leave some out"),
    "string_too_short": ("min_length", "needs at least {} character", "write it out"),
    "string_too_long": ("max_length", "has more than {} characters", "shorten it"),
}


def problem(fault: ErrorDetails, root: Node, file: str) -> Problem | None:
    """The fault where it stands, a missing member at its parent's line.

    None for a list that is too short only because its wrong entries were not counted: those have
    faults of their own.
    """
    node, line, where = root, root.line, ""
    kind, context = fault["type"], fault.get("ctx", {})
    for step in (*fault["loc"], *(context["at"] if kind == MISFIT else ())):
        if isinstance(step, int) and node.items and step < len(node.items):
            node = node.items[step]
            line, where = node.line, f"{where}[{step}]"
        elif isinstance(step, str) and node.members and step in node.members:
            line, node = node.members[step]
            where = join(where, step)
    if kind == "missing":
        name = str(fault["loc"][-1])
        return Problem(file, line, join(where, name), "is missing", f"add {name}: …")
    if kind in {"union_tag_not_found", "union_tag_invalid"}:
        member, kinds = _KINDS_OF.get(str(fault["loc"][-1]), ("kind", _KINDS))
        given = node.members.get(member) if node.members else None
        line = given[0] if given else line
        return Problem(file, line, join(where, member), *_kind(given[1] if given else None, kinds))
    if kind == "too_short" and len(node.items or ()) > context["actual_length"]:
        return None
    says = _wrong_type(_WANTED[kind], node) if kind in _WANTED else _say(fault, context)
    return Problem(file, line, where, *says)


def _say(fault: ErrorDetails, context: Mapping[str, Any]) -> tuple[str, str]:
    kind, loc = fault["type"], fault["loc"]
    if kind == "extra_forbidden":
        return "is unknown here", _instead(str(loc[-1]), loc[:-1])
    if kind == "literal_error":
        remedy = "or give a list of campaign ids" if loc[-1] == "all" else "write one of these"
        return f"must be {context['expected']}", remedy
    if kind in _LIMITS:
        limit, says, remedy = _LIMITS[kind]
        return says.format(f"{context[limit]:,}"), remedy
    if kind == "value_error":
        return "cannot be used", str(context["error"])
    if kind in {MISFIT, CROSSING}:
        return context["what"], context["remedy"]
    return "cannot be used", "see deploy/connections.example for what stands here"


def _wrong_type(wanted: str, node: Node) -> tuple[str, str]:
    what = f"{wanted} is wanted, here stands {_STANDS[node.kind]}"
    if wanted == "a text" and node.kind in {"bool", "number"}:
        return what, "put it in quotes"
    if node.kind == "text" and wanted in {"a number", "a whole number", "true or false"}:
        return what, "write it plainly, without quotes, leading zeros or exponent"
    return what, f"write {wanted}"


def _kind(given: Node | None, kinds: Mapping[str, type[BaseModel]]) -> tuple[str, str]:
    if given is None:
        return "is missing", f"add kind: {_listed(kinds, 'or')}"
    if kinds is _KINDS and given.plain in _REFUSED:
        return _REFUSED[given.plain]
    near = _near(str(given.plain), kinds)
    return f"must be {_listed(kinds, 'or')}", f"did you mean {near}?" if near else "write one of these"


def _listed(names: Iterable[str], last: str) -> str:
    *others, final = names
    return f"{', '.join(others)} {last} {final}" if others else final


def _instead(name: str, loc: tuple[int | str, ...]) -> str:
    """What to write for an unknown member: a near name, the kinds that have it, or all there are."""
    # Outermost to innermost the loc names a model at each step; between stand indexes and their names.
    model = next(
        (_MODELS[step] for step in reversed(loc) if step in _MODELS and isinstance(step, str)), Account
    )
    near = _near(name, _names(model))
    if near:
        return f"did you mean {near}?"
    having = [kind for kind, other in _KINDS.items() if name in _names(other)]
    if having and model in _KINDS.values():
        return f"only {_listed(having, 'and')} connections have it: remove it"
    having = [kind for kind, other in _FORMATS.items() if name in _names(other)]
    if having and model in _FORMATS.values():
        return f"only {_listed(having, 'and')} files have it: remove it"
    return f"the members here are {', '.join(_names(model))}"


def _names(model: type[BaseModel]) -> list[str]:
    names = [field.alias or name for name, field in model.model_fields.items()]
    return [*names, "values"] if model is FieldRule else names


def _near(name: str, names: Iterable[str]) -> str | None:
    return next(iter(get_close_matches(name.lower(), list(names), n=1)), None)
