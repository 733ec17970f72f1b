"""One window, from wherever it stands to its end. Every step may be repeated after a crash.

CLAIMED -> sealed in every partition -> SEALED (durable) -> told to `referral-manifests` -> sent by its
channel -> ENDED (durable) -> told with its outcome -> rows dropped, CLOSED.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import assert_never

from batcher import artefacts, kept
from batcher.channels import Hold, Retry
from batcher.deliver import NOTHING_NEW, Finished, Result, Sending
from batcher.deliver_mail import by_mail
from batcher.deliver_upload import by_upload
from batcher.files.sink import CannotBeWritten
from batcher.in_force import FileConnection
from batcher.render import Damaged
from batcher.window import State, WindowState
from batcher.windows import Windows
from consumer import connection_sets, log, metrics
from consumer.kafka_out import KafkaOut, Out
from consumer.topics import Topics
from schemas.codec import Undecodable
from schemas.connection import EmailConnection, FileBase, FtpsConnection, SftpConnection, connection_digest
from schemas.delivery import Outcome
from schemas.manifest import Kind, Manifest
from schemas.receipt import Receipt, Subject

#: Pauses between tries of a window in trouble that passes; the last one repeats.
RETRY_S = (5.0, 15.0, 60.0, 300.0)
#: A held window looks whether its cause is gone this often.
HELD_S = 300.0
#: A window sent once more is tried so often, for about half an hour.
AGAIN_TRIES = 10


class Flush:
    """Flushes windows that the caller has claimed. Raises Gone, StoreUnavailable, NotDurable and
    NotAcknowledged: the window then stands where it stood, for the next try.
    """

    def __init__(self, sending: Sending, out: KafkaOut, topics: Topics) -> None:
        self._sending, self._out, self._topics = sending, out, topics
        self._windows, self._step = sending.windows, sending.step

    def seal(self, window: WindowState, named: tuple[str, FileConnection] | None, now: float) -> WindowState:
        """From CLAIMED to SEALED, and told. The definition it is rendered with is frozen here: `named` is
        the account and the connection, None where it is no longer in force and the window sealed already.

        A window found SEALED is sealed again: a crash of Redis may have undone a seal whose mark was
        noted already. Where it did not, the marks are the same.
        """
        self._step("claimed")
        marks = self._windows.seal(window, self._sending.partitions)
        self._step("sealed")
        fields: dict[str, str | int] = {"marks": json.dumps([asdict(mark) for mark in marks])}
        if window.state is State.CLAIMED:
            assert named is not None
            fields |= {
                "state": State.SEALED,
                "digest": connection_digest(named[1]),
                "account": named[0],
                "sealed_at": int(now * 1000),
            }
        window = self._windows.advance(window, fields, durable=True)
        # Told before the first byte leaves; again after a crash, since Kafka keeps the newest.
        self._tell(self._manifest(window, None))
        self._step("told")
        return window

    def send(self, window: WindowState, connection: FileConnection, now: float) -> WindowState:
        """From SEALED on to ENDED, or released for another try. `connection`: as frozen at the seal."""
        if window.state is State.SEALED and not window.again:
            window = self._noted(window, connection)
        try:
            window, result = self._given_up(window) or _unsure(window) or self._by_channel(window, connection)
        except (Damaged, Undecodable) as error:
            # Rows are dropped under a worker that was overtaken: that is no damage.
            self._windows.beat(window)
            result = Hold(f"the sealed rows cannot be sent: {error}")
        except CannotBeWritten as error:
            result = Hold(str(error))
        last = isinstance(result, Hold) or (isinstance(result, Retry) and window.tries + 1 >= AGAIN_TRIES)
        if window.again and last and not isinstance(result, Finished):
            # Nobody waits for it: who asked is told, and may ask again.
            result = Finished(Outcome.HELD, result.reason)
        outcome = _label(result)
        metrics.FLUSHED.labels(connection.kind, outcome).inc()
        log.event(
            "window.sent" if isinstance(result, Finished) else "window.delayed",
            window=window.id,
            channel=connection.kind,
            outcome=outcome,
            reason=result.reason,
            rows=int(window.fields.get("rows", 0)),
            attempt=window.tries + 1,
        )
        tries = window.tries + 1
        match result:
            case Finished(ended, reason):
                window = self._windows.advance(
                    window,
                    {"state": State.ENDED, "outcome": ended, "reason": reason, "tries": tries, "held": 0},
                    durable=True,
                )
                self._step("ended")
            case Retry(reason) | Hold(reason):
                held = isinstance(result, Hold)
                pause = HELD_S if held else RETRY_S[min(tries, len(RETRY_S)) - 1]
                self._windows.release(
                    window,
                    {
                        "reason": reason,
                        "held": int(held),
                        "tries": tries,
                        "tried_at": int(now),
                        "retry_at": int(now + pause),
                    },
                )
            case _:
                assert_never(result)
        return window

    def close(self, window: WindowState) -> None:
        """From ENDED to CLOSED: Kafka has the receipt and the manifest's outcome, Redis the rows no more."""
        receipt = self._receipt(window)
        out = [Out(self._topics.receipts, receipt.subject_id, receipt.encode())]
        if not window.again:
            told = self._manifest(window, receipt.outcome)
            out.append(Out(self._topics.manifests, told.key, told.encode()))
        self._out.send(out)
        self._step("closing")
        if not window.again:
            self._windows.drop(window, self._sending.partitions)
        kept.forget(self._windows, window)
        self._windows.release(window, {"state": State.CLOSED, **artefacts.forgotten(window.fields)})

    def _by_channel(self, window: WindowState, connection: FileConnection) -> tuple[WindowState, Result]:
        if connection.file.empty == "skip" and not sum(mark.rows for mark in window.marks):
            return window, NOTHING_NEW
        match connection:
            case SftpConnection() | FtpsConnection() if window.state is State.SENDING:
                return window, Hold(
                    "mails of it are under way, and its connection is no longer: make it one for email again"
                )
            case SftpConnection() | FtpsConnection():
                return by_upload(self._sending, window, connection)
            case EmailConnection() if window.state is State.UPLOADED:
                put = window.fields["place"]
                return window, Hold(f"it was uploaded to {put}, which is no longer configured: put that back")
            case EmailConnection():
                return by_mail(self._sending, window, connection)
            case _:
                assert_never(connection)

    def _given_up(self, window: WindowState) -> tuple[WindowState, Result] | None:
        """Its end, where a person has decided that it will not be delivered."""
        why = self._windows.given_up(window)
        return (
            None if why is None else (window, Finished(Outcome.REJECTED, f"given up by an operator: {why}"))
        )

    def _noted(self, window: WindowState, connection: FileConnection) -> WindowState:
        """What it is made with, where it was mended since the seal: whoever goes on with it, or sends it once
        more, makes the same.
        """
        digest = connection_digest(connection)
        if digest == window.fields.get("made_with", window.fields["digest"]):
            return window
        if not connection_sets.remember(self._windows.store, self._topics, connection):
            return window
        return self._windows.advance(window, {"made_with": digest}, durable=False)

    def _tell(self, manifest: Manifest) -> None:
        self._out.send([Out(self._topics.manifests, manifest.key, manifest.encode())])

    def _manifest(self, window: WindowState, outcome: str | None) -> Manifest:
        return Manifest(
            kind=Kind.WINDOW,
            at=datetime.now(UTC),
            connection=window.connection,
            connection_digest=window.fields.get("made_with", window.fields["digest"]),
            window=window.number,
            slot=window.slot,
            marks=window.marks,
            outcome=outcome,
            account_id=window.fields["account"],
            sealed_at=window.sealed_at,
            first_byte=tuple((artefacts.first_byte(window.fields) or {}).values()),
            artefacts=tuple(file.told for file in artefacts.contents(window.fields)),
        )

    def _receipt(self, window: WindowState) -> Receipt:
        fields = window.fields
        return Receipt(
            subject=Subject.WINDOW,
            subject_id=window.id,
            outcome=Outcome(fields["outcome"]),
            service="flush",
            at=datetime.now(UTC),
            reason="; ".join(filter(None, (_asked(fields), window.reason, _repeated(fields)))) or None,
            account_id=fields["account"] or None,
            connection=window.connection,
            digest=artefacts.digest(fields),
            attempts=window.tries,
            rows=int(fields.get("rows", 0)),
            left_out=int(fields.get("left_out", 0)),
        )


def definition(windows: Windows, topics: Topics, window: WindowState, digest: str) -> FileConnection:
    """The connection as it stood under `digest`. Raises LookupError where nobody knows it any more."""
    found = connection_sets.definition(windows.store, topics, digest)
    if not isinstance(found, FileBase):
        raise LookupError(f"{window.id}: its definition is not in Redis")  # noqa: TRY004 - it is missing
    return found


def _unsure(window: WindowState) -> tuple[WindowState, Result] | None:
    """It may have left before Redis was lost: a person says whether it is to be sent."""
    return (window, Hold(window.unsure)) if window.unsure else None


def _asked(fields: Mapping[str, str]) -> str:
    """That a person wanted it sent once more."""
    return f"sent again, as asked at {fields['asked_at']}" if "asked_at" in fields else ""


def _repeated(fields: Mapping[str, str]) -> str:
    """What a receiver may have got twice, for whoever asks later."""
    uncertain = int(fields.get("uncertain", 0))
    return f"attempts with unknown outcome: {uncertain}" if uncertain else ""


def _label(result: Result) -> str:
    match result:
        case Finished(Outcome.UNCERTAIN):
            return "uncertain"
        case Finished(Outcome.HELD | Outcome.REJECTED):
            return "held"
        case Finished():
            return "delivered"
        case Retry():
            return "retry"
        case Hold():
            return "held"
        case _:
            assert_never(result)
