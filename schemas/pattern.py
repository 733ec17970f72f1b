"""Regular expressions of custom fields: Python's, less what can take for ever.

Its law: `check` bounds the ways a search can go before it fails, so no text can hang a worker. It walks
the standard library's own parse tree, whose module is private but alike in every Python since 3.11.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from functools import lru_cache
from re import _parser  # type: ignore[attr-defined]
from typing import Any

MAX_CHARS = 200
#: A longer text matches no expression: values people choose between are short.
MAX_TEXT = 500
#: Ways to fail over a text of MAX_TEXT, steps of the longest with every fixed repetition written out, and
#: their product. Far above honest expressions; the slowest found within them takes 0.1 s.
MAX_WAYS = 2_000_000
MAX_STEPS = 1_000
MAX_COST = 40_000_000
#: Compiled expressions kept.
MAX_KEPT = 4_096

_COSTLY = (
    "too many repetitions could run for ever: begin with ^, give bounds such as {0,5}, "
    "and repeat no group that itself has *, +, ? or |"
)
_PLAIN = frozenset({"LITERAL", "NOT_LITERAL", "IN", "ANY", "AT"})


def check(expression: str) -> str:
    """The expression itself. Raises ValueError, in words for people."""
    if not 1 <= len(expression) <= MAX_CHARS:
        raise ValueError(f"a regular expression has 1 to {MAX_CHARS} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            parsed = _parser.parse(expression, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise ValueError("this is no regular expression Python reads: quote special characters") from error
    ways, steps = _sequence(parsed)
    ways *= 1 if _anchored(parsed) else MAX_TEXT
    if ways > MAX_WAYS or steps > MAX_STEPS or ways * steps > MAX_COST:
        raise ValueError(_COSTLY)
    return expression


def found(expression: str, text: str) -> bool:
    """Whether a checked expression matches anywhere in `text`, upper and lower case alike."""
    return len(text) <= MAX_TEXT and _compiled(expression).search(text) is not None


@lru_cache(maxsize=MAX_KEPT)
def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression, re.IGNORECASE)


def _anchored(parsed: Any) -> bool:
    """Whether a search can only begin at the text's first character."""
    if not len(parsed) or parsed.state.flags & re.MULTILINE:
        return False
    operation, argument = parsed[0]
    return str(operation) == "AT" and str(argument) in {"AT_BEGINNING", "AT_BEGINNING_STRING"}


def _sequence(nodes: Iterable[tuple[Any, Any]]) -> tuple[int, int]:
    """Upper bounds: the ways a search through `nodes` can go, and the steps of the longest."""
    ways, steps = 1, 0
    for operation, argument in nodes:
        more_ways, more_steps = _node(str(operation), argument)
        ways, steps = min(ways * more_ways, MAX_WAYS + 1), min(steps + more_steps, MAX_STEPS + 1)
    return ways, steps


def _node(operation: str, argument: Any) -> tuple[int, int]:
    if operation in _PLAIN:
        return 1, 1
    if operation == "SUBPATTERN":
        return _sequence(argument[-1])
    if operation == "BRANCH":
        each = [_sequence(branch) for branch in argument[1]]
        return sum(ways for ways, _ in each), 1 + max(steps for _, steps in each)
    if operation in {"MAX_REPEAT", "MIN_REPEAT"}:
        least, most, body = argument
        return _repeat(int(least), min(int(most), MAX_TEXT), *_sequence(body))
    raise ValueError("back references, look-arounds and possessive parts are not read: leave them out")


def _repeat(least: int, most: int, ways: int, steps: int) -> tuple[int, int]:
    # An empty body is one step too: repeated, it still takes its time.
    steps = min(max(least, 1) * max(steps, 1), MAX_STEPS + 1)
    if ways == 1:
        return max(most - least, 0) + 1, steps
    total, power = 0, ways ** min(least, MAX_TEXT)
    for _ in range(least, most + 1):
        total += power
        power *= ways
        if total > MAX_WAYS:
            break
    return max(total, 1), steps
