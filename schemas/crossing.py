"""Rules of the advertisers' files that no single member can break, judged on the files as written.

They are judged here too, and not only by the models, because a model looks at them only when all
its members are right, and every error is to be told at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from schemas import approval, grammar
from schemas.connection import FILE_KINDS, NAME, REFERENCE, Idempotency
from schemas.problem import Problem, join
from schemas.yaml_lines import Node

#: Names under which secrets travel, in headers, bodies and queries.
_SECRET_NAME = re.compile(
    r"authori[sz]ation|authentication|cookie|token|secret|passw|pwd|credential|signature|"
    r"(api|access|private|subscription)[-_]?key|(^|[-_])(auth|key)$",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(r"\s*(bearer|basic|digest|token)\s+\S", re.IGNORECASE)
#: What a template takes from the referral, and what is left to be a secret.
_FIELD = re.compile(r"\{[^{}]*\}")
_OWN = re.compile(r"\w")
#: Parts of a file's name that no two connections share.
_TELLS_APART = re.compile(r"\{(connection|window)\b")
_BY_REFERENCE = "keep it out of the file: ${env:NAME} or ${file:/run/secrets/x}"

_BEARER = '{kind: bearer, token: "${env:NAME}"}'
#: How each vendor's API knows who calls, where it is not for the advertiser to say.
_LOGINS = {
    "mailchimp": '{kind: basic, username: any, password: "${env:NAME}"}',
    "salesforce": "{kind: oauth2, …}",
    "hubspot": _BEARER,
    "meta_custom_audience": _BEARER,
    "google_customer_match": "{kind: oauth2_assertion, …}",
}

#: A text and where it stands: line and path.
_Named = tuple[str, int, str]


def within(root: Node, file: str) -> list[Problem]:
    """Problems between the members of one file."""
    found = (fault for where, node in _connections(root) for fault in _connection(node, where))
    return [Problem(file, *fault) for fault in (*found, *_unapproved(root))]


def between(files: Sequence[tuple[str, Node]]) -> list[Problem]:
    """What one file cannot break alone: names given more than once, also of what is put into one folder, and
    limits of one credential.
    """
    accounts = [(file, named) for file, root in files for named in _texts([(root, "")], "account")]
    names = [(file, named) for file, root in files for named in _connection_names(root)]
    twice = [*_twice(accounts, "this account"), *_twice(names, "a connection of this name")]
    return [*twice, *_limits(files), *_file_names(files)]


def _twice(given: list[tuple[str, _Named]], what: str) -> Iterator[Problem]:
    first: dict[str, tuple[str, int]] = {}
    for file, (text, line, where) in given:
        if text in first:
            at_file, at_line = first[text]
            yield Problem(
                file, line, where, f"{what} already stands in {at_file}:{at_line}", "rename or remove one"
            )
        else:
            first[text] = (file, line)


def _limits(files: Sequence[tuple[str, Node]]) -> Iterator[Problem]:
    """Connections that share a credential, by its name or as the one of that name, and differ in limits."""
    first: dict[str, tuple[str, int, Mapping[str, Any]]] = {}
    for file, root in files:
        for where, node in _connections(root):
            kind, limits = node.member("kind"), (node.members or {}).get("limits")
            if kind is None or kind.plain in FILE_KINDS:
                continue
            own = [(node, where)]
            names = [text for text, _, _ in (*_texts(own, "credential"), *_texts(own, "name"))]
            line, stated = (limits[0], limits[1].value()) if limits is not None else (node.line, {})
            at_file, at_line, there = first.setdefault(names[0] if names else "", (file, line, stated))
            if names and there != stated:
                what = f"other limits stand in {at_file}:{at_line} for the same credential"
                remedy = "state the same limits wherever it is used"
                yield Problem(file, line, join(where, "limits"), what, remedy)


def _file_names(files: Sequence[tuple[str, Node]]) -> Iterator[Problem]:
    """Connections whose files would meet under one name in one folder."""
    first: dict[tuple[str, ...], tuple[str, int]] = {}
    for file, root in files:
        for where, node in _connections(root):
            form = node.member("file")
            place = tuple(
                text.lower() for m in ("host", "directory") for text, _, _ in _texts([(node, "")], m)
            )
            account = "".join(text for text, _, _ in _texts([(root, "")], "account"))
            chosen = "".join(str(item.plain) for item in _items(node, "campaigns"))
            for text, line, at in _texts([(form, join(where, "file"))], "name") if form and place else ():
                if _TELLS_APART.search(text):
                    continue
                stands = text.replace("{account}", account).replace("{campaign}", chosen).lower()
                at_file, at_line = first.setdefault((*place, stands), (file, line))
                if (at_file, at_line) != (file, line):
                    there = f"{at_file}:{at_line}"
                    what = f"files of another connection get the same names in this folder ({there})"
                    yield Problem(file, line, at, what, "add {connection}")


def _connection_names(root: Node) -> Iterator[_Named]:
    return _texts([(node, where) for where, node in _connections(root)], "name")


def _connections(root: Node) -> Iterator[tuple[str, Node]]:
    listed = root.member("connections")
    for index, node in enumerate((listed.items if listed else None) or ()):
        if node.members is not None:
            yield f"connections[{index}]", node


_Fault = tuple[int, str, str, str]


def _connection(node: Node, where: str) -> Iterator[_Fault]:
    yield from _same(_columns(node, where), "another field has this name", "rename one")
    yield from _same(_recipients(node, where), "this recipient stands twice", "keep one")
    yield from _same(_headers(node, where), "this header is given twice", "keep one")
    yield from _credentials(node, where)
    yield from _logins(node, where)
    yield from _secrets(node, where)


def _same(given: Iterable[_Named], what: str, remedy: str) -> Iterator[_Fault]:
    first: dict[str, int] = {}
    for text, line, where in given:
        if text in first:
            place = f" (line {first[text]})" if first[text] else ""
            yield line, where, what + place, remedy
        first.setdefault(text, line)


def _columns(node: Node, where: str) -> Iterator[_Named]:
    for index, item in enumerate(_items(node, "fields")):
        place = f"{where}.fields[{index}]"
        if item.kind == "text":
            yield item.plain, item.line, place
        yield from _texts([(item, place)], "name")


def _recipients(node: Node, where: str) -> Iterator[_Named]:
    for index, item in enumerate(_items(node, "recipients")):
        if item.kind == "text":
            yield item.plain.lower(), item.line, f"{where}.recipients[{index}]"


def _unapproved(root: Node) -> Iterator[_Fault]:
    """Addresses of people stay out of the sentence: they are told by their number."""
    approved = approval.known(str(item.plain) for item in _items(root, "approved_recipients"))
    for where, node in _connections(root) if approved else ():
        name = next((f" of {text}" for text, _, _ in _texts([(node, "")], "name") if NAME.match(text)), "")
        for index, item in enumerate(_items(node, "recipients")):
            # Of what is no address, its form is told.
            mailbox = item.kind == "text" and grammar.is_mailbox(item.plain)
            if mailbox and not approval.covers(approved, item.plain):
                what = f"recipient {index + 1}{name} is not among the account's approved_recipients"
                yield item.line, f"{where}.recipients[{index}]", what, "add it there, or leave it out here"


def _headers(node: Node, where: str) -> Iterator[_Named]:
    kind, idempotency, headers = node.member("kind"), node.member("idempotency"), node.member("headers")
    if kind is not None and kind.plain == "http":
        own = next(_texts([(idempotency, "")], "header"), None) if idempotency is not None else None
        # The one that carries the key may be unwritten: then it has no line.
        yield (own[0].lower(), own[1], "") if own else (Idempotency().header.lower(), 0, "")
    for name, (line, _) in ((headers.members if headers else None) or {}).items():
        yield name.lower(), line, join(f"{where}.headers", name)


def _credentials(node: Node, where: str) -> Iterator[_Fault]:
    kind = node.member("kind")
    given = [
        name
        for name in ("password", "private_key")
        if (value := node.member(name)) and value.plain is not None
    ]
    if kind is not None and kind.plain == "sftp" and len(given) != 1:
        what = "both password and private_key are given" if given else "no password or private_key is given"
        yield node.line, where, what, "give one of them, as a ${env:NAME} or ${file:/run/secrets/x} reference"


def _logins(node: Node, where: str) -> Iterator[_Fault]:
    """A vendor's API without a login answers nobody; a server of one's own, at `base_url`, may."""
    kind, auth = node.member("kind"), node.member("auth")
    login = None if kind is None or kind.kind != "text" else _LOGINS.get(kind.plain)
    if login is None or node.member("base_url") is not None:
        return
    given = auth.member("kind") if auth is not None else None
    if auth is None or (given is not None and given.plain == "none"):
        yield node.line, join(where, "auth"), "is missing", f"add auth: {login}"


def _secrets(node: Node, where: str) -> Iterator[_Fault]:
    headers = node.member("headers")
    for name, (line, value) in ((headers.members if headers else None) or {}).items():
        if _is_secret(name, value):
            yield line, join(f"{where}.headers", name), "holds a secret in plain text", _BY_REFERENCE
    removal = node.member("removal")
    for holder, place in ((node, where), *(((removal, join(where, "removal")),) if removal else ())):
        for index, item in enumerate(_items(holder, "fields")):
            name_node, constant = item.member("name"), item.member("constant")
            if name_node and constant and _is_secret(str(name_node.plain), constant):
                inner = f"{place}.fields[{index}].constant"
                yield constant.line, inner, "holds a secret in plain text", "send it by auth, by reference"
    for text, line, place in _addresses(node, where):
        query = text.partition("?")[2].partition("#")[0]
        if any(
            _SECRET_NAME.search(name) and _OWN.search(_FIELD.sub("", value))
            for name, value in parse_qsl(query)
        ):
            yield line, place, "the address holds a secret", "send it by auth, by reference"


def _addresses(node: Node, where: str) -> Iterator[_Named]:
    for member in ("url", "base_url", "instance_url"):
        yield from _texts([(node, where)], member)
    for inner, member in (("removal", "url"), ("auth", "token_url")):
        if (held := node.member(inner)) is not None:
            yield from _texts([(held, join(where, inner))], member)


def _is_secret(name: str, value: Node) -> bool:
    if value.kind in {"list", "mapping", "nothing"} or REFERENCE.search(str(value.plain)):
        return False
    own = bool(_OWN.search(_FIELD.sub("", str(value.plain))))
    return own and bool(_SECRET_NAME.search(name) or _SECRET_VALUE.match(str(value.plain)))


def _items(node: Node, name: str) -> Sequence[Node]:
    listed = node.member(name)
    return (listed.items if listed else None) or ()


def _texts(nodes: Iterable[tuple[Node, str]], name: str) -> Iterator[_Named]:
    """The text member `name` of each node, where it has one."""
    for node, where in nodes:
        if node.members and name in node.members:
            line, value = node.members[name]
            if value.kind == "text":
                yield value.plain, line, join(where, name)
