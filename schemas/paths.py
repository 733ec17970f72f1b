"""JMESPath expressions into a receiver's JSON. The one owner of jmespath.

Its law: an expression is checked when the file is checked, and never raises afterwards. What makes
more values than it was given (`[a, b]`, `{x: a}`) is refused, so that no answer can make one costly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions

#: Far above an honest path; also bounds how deep the parser recurses.
MAX_CHARS = 200
#: Compiled expressions kept: a few for each of thousands of connections.
MAX_KEPT = 4_096


def check(expression: str) -> str:
    """The expression itself. Raises ValueError, in words for people."""
    if len(expression) > MAX_CHARS:
        raise ValueError(f"a path has at most {MAX_CHARS} characters")
    try:
        parsed = jmespath.compile(expression).parsed
    except (JMESPathError, RecursionError) as error:
        raise ValueError("this is no JMESPath: write a path such as result.id or errors[0].code") from error
    for node in _nodes(parsed):
        if node["type"] in {"multi_select_list", "multi_select_dict"}:
            raise ValueError("a path leads to one value: leave [a, b] and {x: a} out")
        if node["type"] == "function_expression":
            _check_function(node["value"], node["children"])
    return expression


def _check_function(name: str, given: Sequence[Mapping[str, Any]]) -> None:
    if name not in Functions.FUNCTION_TABLE:
        raise ValueError("JMESPath has no function of this name")
    if name == "join" and given and given[0]["type"] != "literal":
        # Half an answer between each two of the other half's members is hundreds of megabytes.
        raise ValueError("join takes what stands between in quotes: join(', ', names)")


def find(expression: str, document: Any) -> Any:
    """What stands at a checked path; None where nothing does or a function does not fit what is there."""
    try:
        return _compiled(expression).search(document)
    except Exception:  # noqa: BLE001 - its functions look at types loosely: contains('text', `1`) is a TypeError
        return None


@lru_cache(maxsize=MAX_KEPT)
def _compiled(expression: str) -> Any:
    return jmespath.compile(expression)


def _nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for child in node.get("children", ()):
        if isinstance(child, dict):
            yield from _nodes(child)
