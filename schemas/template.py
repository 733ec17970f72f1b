"""Addresses and header values that name fields of the referral: `/leads/{referral_id}?mail={email}`.

Its law: a value stands where it was meant to and changes nothing around it. It is escaped for its
place, and one that cannot stand there is an `Unfit`, never another path, header or request. `{{` and
`}}` are braces; nothing stands in for scheme, host or port. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote

from schemas import mapping, sources
from schemas.referral import Referral

#: Characters of an address with its values: what servers commonly take.
MAX_URL = 8_000
#: Characters of one value in a header; servers commonly take 8 KiB for all of them.
MAX_HEADER = 2_000
#: Parsed templates kept: an address and a few headers for each of thousands of connections.
MAX_KEPT = 16_384

_PART = re.compile(r"\$\{[^}]*\}|\{\{|\}\}|\{([^{}]*)\}|[{}]")
_AUTHORITY = re.compile(r"[^/]*//[^/?]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Literal:
    text: str


@dataclass(frozen=True, slots=True)
class FieldPart:
    source: str


@dataclass(frozen=True, slots=True)
class Unfit:
    """A value that cannot stand where the template wants it. `reason` names the field, never the value."""

    reason: str


Part = Literal | FieldPart


@lru_cache(maxsize=MAX_KEPT)
def parse(template: str) -> tuple[Part, ...]:
    """The parts of a template. Raises ValueError, in words for people."""
    parts: list[Part] = []
    literal, end = "", 0
    for found in _PART.finditer(template):
        literal += template[end : found.start()]
        end = found.end()
        whole = found[0]
        if whole in {"{", "}"}:
            raise ValueError("a brace by itself: a field is written {email}, a brace {{ or }}")
        if whole in {"{{", "}}"}:
            literal += whole[0]
        elif whole.startswith("$"):
            literal += whole
        else:
            sources.check(found[1])
            parts += [Literal(literal), FieldPart(found[1])]
            literal = ""
    return (*parts, Literal(literal + template[end:]))


def fields_of(templates: Iterable[str]) -> frozenset[str]:
    """The fields that checked templates name."""
    return frozenset(part.source for text in templates for part in parse(text) if isinstance(part, FieldPart))


def values(templates: Iterable[str], referral: Referral, *, partner_data: bool) -> dict[str, str]:
    """What the templates take from the referral; what is missing or may not leave is empty."""
    return {
        source: mapping.source_text(source, referral, partner_data=partner_data)
        for source in _in_order(tuple(templates))
    }


@lru_cache(maxsize=MAX_KEPT)
def _in_order(templates: tuple[str, ...]) -> list[str]:
    return sorted(fields_of(templates))


def url(template: str, given: Mapping[str, str]) -> str | Unfit:
    """The address with its values: percent-encoded, a path's never empty nor a way to another folder."""
    return _fixed(template) or _address(template, given)


@lru_cache(maxsize=MAX_KEPT)
def _fixed(template: str) -> str | Unfit | None:
    """The address, where it takes nothing from the referral."""
    return None if fields_of([template]) else _address(template, {})


def _address(template: str, given: Mapping[str, str]) -> str | Unfit:
    path, question, query = template.partition("?")
    segments: list[str] = []
    for segment in path.split("/"):
        filled = _filled(parse(segment), given, _path_value)
        if isinstance(filled, Unfit):
            return filled
        if segment != filled and {".", ".."} & set(re.split(r"[/\\]", unquote(filled))):
            return Unfit(f"the path would lead elsewhere: {_names(segment)} holds dots")
        segments.append(filled)
    asked = _filled(parse(query), given, _quoted)
    if isinstance(asked, Unfit):
        return asked
    whole = "/".join(segments) + question + asked
    return whole if len(whole) <= MAX_URL else Unfit(f"the address would have over {MAX_URL:,} characters")


def header(parts: Iterable[Part], given: Mapping[str, str]) -> str | Unfit:
    """The header's value from its parsed parts, references in them resolved by the caller."""
    return _filled(parts, given, _header_value)


def _filled(
    parts: Iterable[Part], given: Mapping[str, str], escaped: Callable[[str, str], str | Unfit]
) -> str | Unfit:
    pieces: list[str] = []
    for part in parts:
        if isinstance(part, Literal):
            pieces.append(part.text)
            continue
        if part.source not in given:
            return Unfit(f"it was taken before {{{part.source}}} stood in the connection: replay it")
        piece = escaped(part.source, given[part.source])
        if isinstance(piece, Unfit):
            return piece
        pieces.append(piece)
    return "".join(pieces)


def _path_value(source: str, value: str) -> str | Unfit:
    if not value.strip():
        return Unfit(f"the path needs {{{source}}}, which is missing or may not leave")
    if _CONTROL.search(value):
        return Unfit(f"the path needs {{{source}}}, which holds a control character")
    return _quoted(source, value)


def _quoted(source: str, value: str) -> str | Unfit:
    try:
        return quote(value, safe="")
    except UnicodeEncodeError:
        return Unfit(f"{{{source}}} is no text UTF-8 can write")


def _header_value(source: str, value: str) -> str | Unfit:
    if not value.isascii() or not value.isprintable() or len(value) > MAX_HEADER:
        what = "is not one line of ASCII text"
        what = what if len(value) <= MAX_HEADER else f"is over {MAX_HEADER:,} characters"
        return Unfit(f"a header needs {{{source}}}, which {what}: send it in the body")
    return value


def _names(template: str) -> str:
    return ", ".join(f"{{{source}}}" for source in sorted(fields_of([template])))


def check_url(text: str) -> str:
    """An address's template itself. Raises ValueError, in words for people."""
    if "${" in text:
        raise ValueError("secrets do not stand in addresses: use auth, which can put a key in the query")
    authority = _AUTHORITY.match(text)
    if authority is not None and set("{}") & set(authority[0]):
        raise ValueError("fields stand in path and query only, never in scheme, host or port")
    if any(set("/?\\") & set(source) for source in fields_of([text])):
        raise ValueError("a field named in an address has no / and no ? in its name")
    return text


def check_header(text: str) -> str:
    """A header's template itself. Raises ValueError, in words for people."""
    parse(text)
    return text
