"""YAML text to plain values that know their lines. The one owner of PyYAML.

Only text, numbers, true and false, nothing, lists and mappings come out: no tag builds an object.
What YAML would quietly read as something else than it looks like (022 is 18, 2026-01-01 a date) is
an error. A problem never repeats a value: it may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from schemas.problem import Problem, join

#: An account has at most 100 connections of some kilobytes; PyYAML reads 0.3 million characters a second.
MAX_CHARS = 500_000
#: The deepest agreed place, connections[0].fields[0].rules[0].value, is 7 levels down.
MAX_DEPTH = 20
#: Values after every alias is written out: far above an honest file, far below a "billion laughs".
MAX_VALUES = 100_000

_TEXT = "tag:yaml.org,2002:str"
_BOOL = "tag:yaml.org,2002:bool"
_NULL = "tag:yaml.org,2002:null"
_TRUE = frozenset({"yes", "true", "on"})
#: Numbers as people write them; what else YAML takes for one (0o17, 022, 1:30, .inf) is a trap.
_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FRACTION = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,17}")
#: What YAML's escapes may write and UTF-8 may not.
_HALF = re.compile("[\ud800-\udfff]")

#: What PyYAML's complaint holds, what happened, what to do.
_SYNTAX = (
    ("'\\t'", "a tab stands where YAML wants spaces", "indent with spaces"),
    (
        "mapping values are not allowed",
        "a colon stands where no member can begin",
        "quote a text that holds ': ', and indent the members of one mapping alike",
    ),
    ("unexpected end of stream", "a quote is opened here and never closed", "close it"),
    ("cannot start any token", "a text begins with a character YAML keeps for itself", "quote it"),
    ("incompatible YAML document", "another version of YAML is asked for", "leave the % line out"),
)
_ELSE = ("this is not YAML from here on", "check indentation, brackets and quotes here and just above")


@dataclass(slots=True)
class Node:
    """A value where it stands: a mapping has `members` (name to line and node), a list `items`.

    `kind` is text, number, bool, nothing, list or mapping; `count` and `depth` include all below.
    """

    line: int
    kind: str
    plain: Any = None
    members: dict[str, tuple[int, Node]] | None = None
    items: list[Node] | None = None
    count: int = 1
    depth: int = 1

    def value(self) -> Any:
        """As Python's own types."""
        if self.members is not None:
            return {name: node.value() for name, (_, node) in self.members.items()}
        if self.items is not None:
            return [node.value() for node in self.items]
        return self.plain

    def member(self, name: str) -> Node | None:
        return self.members[name][1] if self.members and name in self.members else None


def read(text: str, file: str) -> tuple[Node | None, list[Problem]]:
    """The root of `text`, none where it cannot be read as one, and every problem found on the way."""
    if len(text) > MAX_CHARS:
        return None, [
            Problem(file, 1, "", f"the file has over {MAX_CHARS:,} characters", "split the account")
        ]
    builder = _Builder(file)
    try:
        root = builder.document(yaml.parse(text, Loader=yaml.SafeLoader))
    except _Stop:
        root = None
    except yaml.YAMLError as error:
        builder.problems.append(_syntax(error, text, file))
        root = None
    return root, builder.problems


class _Stop(Exception):  # noqa: N818 - ends the walk; the problem is already noted
    pass


class _Builder:
    """One file's events to nodes. An alias shares its node, so that size is counted, not spent."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._anchors: dict[str, Node] = {}
        self._resolver = yaml.resolver.Resolver()

    def document(self, events: Iterator[yaml.Event]) -> Node:
        root: Node | None = None
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    self._stop(event, "", "a second document begins here", "write one account per file")
                root = self._node(next(events), events, "", 1)
        if root is None or root.kind == "nothing":
            self.problems.append(
                Problem(self.file, 1, "", "the file is empty", "write an account or remove it")
            )
            raise _Stop
        return root

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], where: str, depth: int) -> Node:
        if depth > MAX_DEPTH:
            self._stop(event, where, f"values are nested over {MAX_DEPTH} deep", "write them flat")
        if isinstance(event, yaml.AliasEvent):
            node = self._alias(event, where)
        elif isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, where)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._list(event, events, where, depth)
        else:
            node = self._mapping(event, events, where, depth)
        if depth + node.depth - 1 > MAX_DEPTH:
            self._stop(event, where, f"values are nested over {MAX_DEPTH} deep", "write them flat")
        anchor = getattr(event, "anchor", None)
        if anchor and not isinstance(event, yaml.AliasEvent):
            self._anchors[anchor] = node
        return node

    def _alias(self, event: yaml.AliasEvent, where: str) -> Node:
        # An anchor is known once its value is complete, so that nothing can hold itself.
        if event.anchor not in self._anchors:
            self._stop(
                event, where, "an alias (*) has no finished anchor (&) before it", "quote it if it is text"
            )
        return self._anchors[event.anchor]

    def _list(self, event: yaml.Event, events: Iterator[yaml.Event], where: str, depth: int) -> Node:
        self._untagged(event, where)
        items: list[Node] = []
        node = Node(_line(event), "list", items=items)
        while not isinstance(inner := next(events), yaml.SequenceEndEvent):
            items.append(self._node(inner, events, f"{where}[{len(items)}]", depth + 1))
            self._grow(node, items[-1], inner, where)
        return node

    def _mapping(self, event: yaml.Event, events: Iterator[yaml.Event], where: str, depth: int) -> Node:
        self._untagged(event, where)
        members: dict[str, tuple[int, Node]] = {}
        node = Node(_line(event), "mapping", members=members)
        while not isinstance(inner := next(events), yaml.MappingEndEvent):
            name = self._name(inner, where)
            place = join(where, name)
            value = self._node(next(events), events, place, depth + 1)
            self._grow(node, value, inner, where)
            if name in members:
                self._note(inner, place, f"given twice, first in line {members[name][0]}", "keep one")
            else:
                members[name] = (_line(inner), value)
        return node

    def _name(self, event: yaml.Event, where: str) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            self._stop(event, where, "a member's name must be a text", "write name: value")
        name = str(event.value)
        if name == "<<":
            self._note(event, where, "merges (<<) are not read", "write the members out")
        elif self._scalar(event, where).kind != "text":
            self._note(
                event, where, "YAML does not read this member's name as text", "put the name in quotes"
            )
        return name

    def _scalar(self, event: yaml.ScalarEvent, where: str) -> Node:
        line, text = _line(event), event.value
        if _HALF.search(text):
            what = "half a surrogate pair (\\ud800 to \\udfff) is no character"
            self._note(event, where, what, "write the character itself, or its \\U… escape")
        tag = event.tag
        if tag not in {None, "!", _TEXT}:
            self._untagged(event, where)
            tag = _TEXT
        if tag is None:
            tag = str(self._resolver.resolve(yaml.ScalarNode, text, event.implicit))  # type: ignore[no-untyped-call]
        if tag in {"!", _TEXT}:
            return Node(line, "text", text)
        if tag == _BOOL:
            return Node(line, "bool", text.lower() in _TRUE)
        if tag == _NULL:
            return Node(line, "nothing", None)
        if _WHOLE.fullmatch(text):
            return Node(line, "number", int(text))
        if _FRACTION.fullmatch(text):
            return Node(line, "number", float(text))
        what = "a date" if tag.endswith(":timestamp") else "something else than it looks like"
        self._note(event, where, f"YAML reads this as {what}", "put it in quotes, or write a plain number")
        return Node(line, "text", text)

    def _untagged(self, event: yaml.Event, where: str) -> None:
        if getattr(event, "tag", None) not in {None, "!"}:
            self._note(
                event, where, "a tag (!) asks for a special kind of value", "leave it out, or quote the text"
            )

    def _grow(self, node: Node, inner: Node, event: yaml.Event, where: str) -> None:
        node.count += inner.count
        node.depth = max(node.depth, inner.depth + 1)
        if node.count > MAX_VALUES:
            what = f"over {MAX_VALUES:,} values once every alias is written out"
            self._stop(event, where, what, "split the account, or use fewer aliases")

    def _note(self, event: yaml.Event, where: str, what: str, remedy: str) -> None:
        self.problems.append(Problem(self.file, _line(event), where, what, remedy))

    def _stop(self, event: yaml.Event, where: str, what: str, remedy: str) -> NoReturn:
        self._note(event, where, what, remedy)
        raise _Stop


def _line(event: yaml.Event) -> int:
    assert event.start_mark is not None, "the parser marks every event"
    return int(event.start_mark.line) + 1


def _syntax(error: yaml.YAMLError, text: str, file: str) -> Problem:
    """PyYAML's complaint in other words: its own repeat names and characters of the file."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return Problem(file, line, "", "a character that YAML does not allow", "remove it")
    problem = str(getattr(error, "problem", None))
    what, remedy = next((says for part, *says in _SYNTAX if part in problem), _ELSE)
    # Where a quote was opened says more than the end of the file.
    mark = getattr(error, "context_mark" if "end of stream" in problem else "problem_mark", None)
    return Problem(file, mark.line + 1 if mark else 1, "", what, remedy)
