"""Wrong pieces, put in the place of right ones from outside: the oracle must see each, or it proves nothing.

Law: a piece whose original is not there any more fails loudly. Each is called in the process of a service
before it starts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from batcher.channels import Retry
from batcher.window import State, parsed
from consumer.store import Script
from tests.faults.storm.around import replace_with


@dataclass(frozen=True)
class Planted:
    """`plant`: called in each of these services; `seen`: what `judged.judge` must say of a run with it."""

    plant: Callable[[], None]
    services: tuple[str, ...]
    seen: str

    @property
    def name(self) -> str:
        """As `Parent.start` takes it."""
        return f"{__name__}.{self.plant.__name__}"


def wrong_script(package: str, name: str, right: str, wrong: str) -> None:
    """A script in which `right` reads `wrong`. Raises LookupError where it does not stand there once."""
    whole = Script(package, name).source()
    if whole.count(right) != 1:
        raise LookupError(f"{package}/lua/{name}.lua does not say this once: {right}")

    def source(original: Callable[[Script], str]) -> Callable[[Script], str]:
        def instead(script: Script) -> str:
            mine = (script.package, script.name) == (package, name)
            return whole.replace(right, wrong) if mine else original(script)

        return instead

    replace_with("consumer.store:Script.source", source)


def key_of_each_attempt() -> None:
    """The idempotency key names the attempt, too."""
    number = itertools.count()
    replace_with("consumer.attempts:key", lambda key: lambda rows: f"{key(rows)}-{next(number)}")


def row_dropped() -> None:
    """The next offset is stored without a batch's first row, in every batch of a partition but its first."""
    wrong_script(
        "consumer",
        "intake",
        "  verdicts[r] = verdict\n",
        "  if r == 1 and h[3] ~= '-1' then verdict = 'N' end\n  verdicts[r] = verdict\n",
    )


def put_off_and_forgotten() -> None:
    """A delivery that is to be tried again is noted, but not when."""
    wrong_script("consumer", "settle", "redis.call('ZADD', lane .. ':again', due, offset)", "local _ = due")


def upload_forgotten() -> None:
    """That a file was uploaded is known to the process alone."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def instead(windows: Any, window: Any, fields: Any, lease_ms: int, *, durable: bool) -> Any:
            forgets = fields.get("state") == State.UPLOADED
            found = original(windows, window, {} if forgets else fields, lease_ms, durable=durable)
            return parsed(window.connection, {**found.fields, **{name: str(v) for name, v in fields.items()}})

        return instead

    replace_with("batcher.windows:Windows._advance", around)


def seal_without_a_mark() -> None:
    """One partition's share is closed, and nothing says so."""
    right = "redis.call('HSET', seals, 'last', n, 'to', to,"
    wrong_script("batcher", "seal", right, f"if string.find(head, ':0}}', 1, true) then n = '0' end\n{right}")


def body_made_anew() -> None:
    """What is sent is not what was sent."""
    number = itertools.count()

    def around(sending: Callable[..., Any]) -> Callable[..., Any]:
        def instead(key: str, action: Any, rows: Any) -> Any:
            return sending(
                key, action, tuple(replace(row, body=row.body + b" " * next(number)) for row in rows)
            )

        return instead

    replace_with("consumer.attempts:Sending", around)


def repeat_uncounted() -> None:
    """A mail that may have arrived is sent again, and nobody is told."""

    def instead(mailing: Any, field: str, _reason: str) -> None:
        mailing._advance({field: ""}, durable=True)
        mailing._trouble = Retry("sent again")

    replace_with("batcher.deliver_mail:_Mailing._uncertain", lambda _original: instead)


PLANTED: Mapping[str, Planted] = {
    "key": Planted(key_of_each_attempt, ("push",), "duplicates"),
    "body": Planted(body_made_anew, ("push",), "mismatch"),
    "intake": Planted(row_dropped, ("push",), "lost"),
    "settle": Planted(put_off_and_forgotten, ("push",), "lost"),
    "seal": Planted(seal_without_a_mark, ("flush",), "lost"),
    "upload": Planted(upload_forgotten, ("flush",), "doubled file"),
    "mail": Planted(repeat_uncounted, ("flush",), "uncounted"),
}
