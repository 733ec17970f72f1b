"""A window sent once more: the same content from Kafka, checked against what its manifest says, or nothing.

It has a number, a state and ids of its own, so nothing of it is taken for the window that was. It never waits
for a person: what cannot be sent now is told, and may be asked for again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from batcher.again import Wish
from batcher.artefacts import Fields
from batcher.deliver import Sending
from batcher.files.name import AGAIN
from batcher.flush import Flush, definition
from batcher.from_kafka import FromKafka
from batcher.in_force import FileConnection, in_force, own
from batcher.render import Damaged
from batcher.window import State, WindowState
from consumer import log, manifests
from consumer.intake import MARKS_KEPT_MS
from consumer.reading import read_all
from consumer.run import Ground
from consumer.stream import Record
from schemas.connection import CsvFormat
from schemas.delivery import Outcome
from schemas.manifest import Manifest

#: A removal mark may be forgotten after this; until then whoever was erased since the seal stays out.
ERASED_KNOWN = timedelta(milliseconds=MARKS_KEPT_MS)


def told_of(remembered: manifests.Remembered, connection: str, number: int, now: datetime) -> Manifest | str:
    """What is known of the window, or why it cannot be sent again, in words for people. Pure."""
    found = remembered.windows.get(connection, {}).get(number)
    if found is None:
        return "Kafka remembers no such window: see `referrals windows`"
    if found.outcome is None:
        return "it has not ended yet: see `referrals windows`"
    if found.account_id is None or found.sealed_at is None:
        return "it was sealed by a release that did not note what this needs: export the time range by hand"
    if now - found.sealed_at > ERASED_KNOWN:
        return (
            f"it was sealed over {ERASED_KNOWN.days} days ago, and nobody knows for longer who was "
            "erased since: export the time range by hand"
        )
    if not found.artefacts:
        return "it had no file: nothing was sent"
    return found


def nowhere(connection: str) -> str:
    """Why nothing of it is sent again once it was taken out, or is pushed to by now."""
    return f"{connection} is no file connection any more: there is nowhere to send its windows to"


def as_then(frozen: FileConnection) -> FileConnection:
    """With what followed from its kind said aloud, so that another way makes no other file. Pure."""
    if not isinstance(frozen.file, CsvFormat):
        return frozen
    return frozen.model_copy(
        update={"file": frozen.file.model_copy(update={"formula_guard": frozen.guarded})}
    )


class Resend:
    """Sends the window of one wish, whose turn the caller has claimed."""

    def __init__(self, ground: Ground, sending: Sending, wish: Wish) -> None:
        self._ground, self._sending, self._wish = ground, sending, wish

    def go(self, window: WindowState, named: tuple[str, FileConnection] | None, now: float) -> WindowState:
        """As far as it goes: to its end, or released for another try. Raises what Flush raises, and
        StreamFailed.
        """
        if window.state is State.CLAIMED:
            window = self._begin(window, named, datetime.fromtimestamp(now, UTC))
        flush = Flush(self._sending, self._ground.out, self._ground.topics)
        if window.state is not State.ENDED:
            window = self._send(window, named, now)
        if window.state is State.ENDED:
            flush.close(window)
        return window

    def _begin(
        self, window: WindowState, named: tuple[str, FileConnection] | None, now: datetime
    ) -> WindowState:
        """What the window is made of, from its manifest; or its end, where there is nothing to make it of."""
        topics, settings = self._ground.topics, self._ground.settings
        remembered = manifests.remember(settings.kafka, settings.kafka_config, topics)
        told = told_of(remembered, self._wish.connection, self._wish.number, now)
        asked: Fields = {"of": self._wish.number, "asked_at": self._wish.at.isoformat()}
        if not isinstance(told, str) and (named is None or named[0] != told.account_id):
            told = nowhere(self._wish.connection)
        if isinstance(told, str):
            return self._ended(window, {**asked, "account": ""}, told)
        assert told.sealed_at is not None
        return self._sending.windows.advance(
            window,
            {
                **asked,
                "state": State.SEALED,
                "marks": json.dumps([asdict(mark) for mark in told.marks]),
                "digest": str(told.connection_digest),
                "account": str(told.account_id),
                "sealed_at": int(told.sealed_at.timestamp() * 1000),
                "before": json.dumps([artefact.plain for artefact in told.artefacts]),
                "suffix": "" if self._wish.same_name else f"{AGAIN}-{window.number}",
            },
            durable=True,
        )

    def _send(self, window: WindowState, named: tuple[str, FileConnection] | None, now: float) -> WindowState:
        windows, ground = self._sending.windows, self._ground
        frozen = as_then(definition(windows, ground.topics, window, window.fields["digest"]))
        read: Callable[[str, Mapping[int, int] | None], Iterator[Record]] = partial(
            read_all, ground.settings.kafka, ground.settings.kafka_config
        )
        topics = (ground.topics.referrals, ground.topics.receipts)
        rows = FromKafka(windows, window.fields["account"], frozen, topics, read, self._sending.by_id)
        try:
            rows.check(window.marks)
        except Damaged as error:
            return self._ended(window, {}, str(error))
        sending = replace(self._sending, source=lambda _windows, _window: rows)
        flush = Flush(sending, ground.out, ground.topics)
        return flush.send(window, in_force(frozen, own(named, window), window), now)

    def _ended(self, window: WindowState, fields: Fields, reason: str) -> WindowState:
        """It cannot be sent, and says why."""
        log.trouble("resend.refused", window=self._wish.window, reason=reason)
        ended: Fields = {**fields, "state": State.ENDED, "outcome": Outcome.HELD, "reason": reason}
        return self._sending.windows.advance(window, ended, durable=True)
