"""Other functions around real ones: before them, after them, in the middle of what they do.

Law: what is replaced must be there, or it fails loudly.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

Hit = Callable[[], None]
Around = Callable[[Callable[..., Any], Hit], Callable[..., Any]]
"""Given what stands there and what to do when the point is reached, what stands there instead."""


def _holder(where: str) -> tuple[Any, str]:
    module, _, path = where.partition(":")
    *owners, name = path.split(".")
    holder: Any = importlib.import_module(module)
    for owner in owners:
        holder = getattr(holder, owner)
    if name not in vars(holder):
        raise LookupError(f"{where} is not there any more: say anew where this point is")
    return holder, name


def standing(where: str) -> Any:
    """What stands at module:attribute. Raises LookupError."""
    holder, name = _holder(where)
    return vars(holder)[name]


def replace_with(where: str, instead: Callable[[Any], Any]) -> None:
    """Put `instead(original)` in the place of module:attribute. Raises LookupError where nothing is there."""
    holder, name = _holder(where)
    setattr(holder, name, instead(vars(holder)[name]))


def _always(*_args: Any) -> bool:
    return True


def before(given: Callable[..., Any] = _always) -> Around:
    """Before each call whose positional arguments are as given."""

    def around(original: Callable[..., Any], hit: Hit) -> Callable[..., Any]:
        @functools.wraps(original)
        def instead(*args: Any, **named: Any) -> Any:
            if given(*args):
                hit()
            return original(*args, **named)

        return instead

    return around


def after(given: Callable[..., Any] = _always) -> Around:
    """After each call whose positional arguments were as given."""

    def around(original: Callable[..., Any], hit: Hit) -> Callable[..., Any]:
        @functools.wraps(original)
        def instead(*args: Any, **named: Any) -> Any:
            found = original(*args, **named)
            if given(*args):
                hit()
            return found

        return instead

    return around


def _runs(script: str, given: Callable[[Any], Any]) -> Callable[..., bool]:
    return lambda _store, calls, *_meanwhile: any(
        call.script.name == script and given(call) for call in calls
    )


def asking(script: str, given: Callable[[Any], Any] = _always) -> Around:
    """Before the round trip that runs a script."""
    return before(_runs(script, given))


def unobeyed(script: str, given: Callable[[Any], Any] = _always) -> Around:
    """The script has run, its reply is not obeyed yet."""
    return after(_runs(script, given))


def in_half(script: str) -> Around:
    """The script has run in half of the partitions it is to run in."""

    def around(original: Callable[..., Any], hit: Hit) -> Callable[..., Any]:
        def instead(store: Any, calls: Any, *meanwhile: Any) -> Any:
            mine = [call for call in calls if call.script.name == script]
            if len(mine) > 1:
                original(store, mine[: len(mine) // 2])
                hit()
            return original(store, calls, *meanwhile)

        return instead

    return around


def step(name: str) -> Around:
    """Of a flush, just done."""

    def around(original: Callable[..., Any], hit: Hit) -> Callable[..., Any]:
        def instead(**given: Any) -> Any:
            sending = original(**given)

            def done(found: str) -> None:
                sending.step(found)
                if found == name:
                    hit()

            return replace(sending, step=done)

        return instead

    return around


def on_its_way(original: Callable[..., Any], hit: Hit) -> Callable[..., Any]:
    """The request was handed to the client, no answer came: it may have arrived in part, in whole or not."""

    async def instead(*args: Any) -> Any:
        under_way = asyncio.ensure_future(original(*args))
        await asyncio.sleep(0)
        hit()
        return await under_way

    return instead
