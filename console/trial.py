"""`referrals connections test`: one flagged, synthetic referral sent for real, and what it came to.

Its law: the delivery goes the whole way a live one goes, in this process, and changes nothing: no
pending state, no pause, no metric. Ids and key are its own, so it can neither use up nor meet a live one's.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import assert_never
from urllib.parse import quote, quote_plus

from console.preview import Chosen, request, sending, text, visible
from console.sample import kept_back, sources_of
from consumer.asking import Asking
from consumer.auth.authenticator import Authenticator
from consumer.crm.answers import (
    Answer,
    Delivered,
    Disable,
    Duplicate,
    KeyConflict,
    Pause,
    Rejected,
    Retry,
    in_words,
)
from consumer.crm.port import Sending
from consumer.ending import Decision, Ended, Hold, Later, Stand, conclude, receipt_of
from consumer.exchange import Exchanged, Request, Response
from consumer.frozen import Frozen
from consumer.http_client import HttpClient
from consumer.kafka_out import KafkaOut, NotAcknowledged, Out
from consumer.secrets import Missing, Secrets
from consumer.service import Settings, Stop
from consumer.topics import Admin, Topics, TopicTrouble
from consumer.tries import Tries
from schemas.delivery import Outcome
from schemas.push import PushBase
from schemas.receipt import Receipt, utc

#: Characters of an answer's body that are shown: enough for an error's text.
MAX_SHOWN = 2_048
#: A secret shorter than this would be found in any text.
MIN_SECRET = 4
SERVICE = "console"
WHOSE_SECRETS = "nothing was sent; secrets are looked up where this command runs, not where push does"


@dataclass(frozen=True, slots=True)
class Tried:
    """`request` and `answer` for a terminal, secrets masked; `answer` is None where none came."""

    request: str
    answer: str | None
    verdict: str
    follows: str
    notes: Sequence[str]
    accepted: bool
    receipt: Receipt


class _Seen(Secrets):
    """Remembers what it resolved, for masking."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, str] = {}

    def resolve(self, text: str, now: float) -> str | Missing:
        value = super().resolve(text, now)
        if isinstance(value, str) and value != text:
            self.values[value] = text
        return value


def trial(settings: Settings, chosen: Chosen, connection: PushBase) -> Tried:
    """Send it to the `connection` chosen. Raises Stop where there is nothing to send, or not to it."""
    if chosen.unrouted is not None:
        raise Stop(f"this referral is not for the connection: {chosen.unrouted}")
    made = sending(connection, chosen.referral)
    shown = request(connection, made)
    if isinstance(shown, str):
        raise Stop(f"nothing was sent: {shown}")
    secrets = _Seen()
    answer, sent, exchanged = asyncio.run(_asked(settings, connection, made, secrets))
    now = time.time()
    decision = conclude(made.rows[0], connection, answer, Tries(), now, 0.5)
    told = verdict(answer)
    return Tried(
        text(shown),
        None if not isinstance(exchanged, Response) else _answer(exchanged, _masks(secrets, sent, shown)),
        told,
        follows(decision, connection, now),
        [*_notes(chosen), *(() if sent else (WHOSE_SECRETS,))],
        isinstance(answer, Delivered | Duplicate),
        _receipt(made.rows[0], connection.name, answer, told, now),
    )


def tell(settings: Settings, receipt: Receipt) -> str:
    """Have `referral-receipts` say that it was a test, where Kafka can be reached; what became of that."""
    topic = Topics(settings.prefix).receipts
    try:
        if Admin(settings.kafka, settings.kafka_config).describe(topic) is None:
            return f"no receipt was written: topic {topic} is not in Kafka at {settings.kafka}"
        out = KafkaOut(settings.kafka, settings.kafka_config)
        out.send([Out(topic, receipt.subject_id, receipt.encode())])
    except (TopicTrouble, NotAcknowledged) as error:
        return f"no receipt was written: {error}"
    return f"its receipt is {receipt.subject_id}, outcome {receipt.outcome}"


async def _asked(
    settings: Settings, connection: PushBase, made: Sending, secrets: Secrets
) -> tuple[Answer, Request | None, Exchanged | None]:
    """The class of what came back, what was sent with its secrets, and what came back."""
    http = HttpClient(settings.policy)
    sent: list[tuple[Request, Exchanged]] = []

    async def send(request: Request) -> Exchanged:
        exchanged = await http.send(request)
        sent.append((request, exchanged))
        return exchanged

    asking = Asking(secrets, Authenticator(secrets, http.send), send, time.time)
    try:
        found = await asking.ask(connection, made, lambda: True)
    finally:
        await http.aclose()
    if found is None:
        raise AssertionError("nothing held it back")
    answer = found[0] if isinstance(found, Sequence) else found
    return (answer, *(sent[-1] if sent else (None, None)))


def verdict(answer: Answer) -> str:
    """In words for people. Pure."""
    match answer:
        case Delivered(status, record_id, by_request):
            known = "" if record_id is None else f"; the receiver's id is {visible(record_id)}"
            whole = "; it answers for requests, not for single referrals" if by_request else ""
            return f"delivered: {in_words(status)}{known}{whole}"
        case Duplicate(status, _):
            return f"delivered before, says the receiver: {in_words(status)}"
        case Rejected(_, reason):
            return f"rejected: {reason}"
        case KeyConflict(reason, _):
            return f"rejected for its key: {reason}"
        case Retry(reason, unknown):
            doubt = "; nobody can know whether it was applied" if unknown else "; it was not applied"
            return f"not delivered: {reason}{doubt}"
        case Pause(reason, _) | Disable(reason, _):
            return f"nothing of this connection can succeed: {reason}"
        case _:
            assert_never(answer)


def follows(decision: Decision, connection: PushBase, now: float) -> str:
    """What would become of a live delivery. Pure."""
    match decision:
        case Ended(Outcome.DELIVERED | Outcome.DUPLICATE_AT_DESTINATION as outcome):
            return f"a live delivery would end {outcome}"
        case Ended(outcome):
            return f"a live delivery would end {outcome}, and its body be a dead letter"
        case Later(due, quiet_until, tries):
            left = len(connection.retry_seconds) - tries.attempts
            quiet = f"; nothing else is sent before {_moment(quiet_until)}" if quiet_until > now else ""
            again = f"a live delivery would be tried again about {_moment(due)}"
            return f"{again}, and {left} times more after that{quiet}"
        case Hold():
            return "a live delivery would wait for a person: `referrals connections uncertain`"
        case Stand(reason):
            name = connection.name
            return f"the connection would be paused ({reason}) until `referrals connections resume {name}`"
        case _:
            assert_never(decision)


def _moment(seconds: float) -> str:
    return f"{utc(seconds):%Y-%m-%d %H:%M:%S} UTC"


def _notes(chosen: Chosen) -> list[str]:
    told = list(kept_back(chosen.connection, chosen.referral))
    if "is_test" not in sources_of(chosen.connection):
        told.append("the receiver cannot tell that it is a test: no field is from is_test")
    return told


def _answer(response: Response, masks: Sequence[tuple[str, str]]) -> str:
    """Masked before it is cut, or half a secret would stand at the end."""
    body = _masked(response.body.decode("utf-8", "replace"), masks)
    headers = (f"{name}: {_masked(value, masks)}" for name, value in response.headers.items())
    head = [in_words(response.status), *headers]
    lines = [*head, "", *body[:MAX_SHOWN].splitlines()] if body else head
    if len(body) > MAX_SHOWN or not response.read_fully:
        lines.append(f"(more than the {len(body[:MAX_SHOWN]):,} characters shown)")
    return "\n".join(map(visible, lines))


def _masks(secrets: _Seen, sent: Request | None, shown: Request) -> list[tuple[str, str]]:
    """What an answer may repeat of the request's secrets, and what stands for it; the longest first."""
    known = dict(secrets.values)
    before = dict(shown.headers)
    for name, value in () if sent is None else sent.headers:
        if before.get(name) != value:
            instead = before.get(name, "<secret>")
            known[value] = instead
            known[value.partition(" ")[2]] = instead.partition(" ")[2]
    return sorted(known.items(), key=lambda pair: len(pair[0]), reverse=True)


def _masked(text: str, masks: Sequence[tuple[str, str]]) -> str:
    """As before, however an answer spells it: plainly, as JSON, in an address or in a form."""
    for value, instead in masks:
        if len(value) >= MIN_SECRET:
            for spelt in (value, json.dumps(value)[1:-1], quote(value, safe=""), quote_plus(value)):
                text = text.replace(spelt, instead)
    return text


def _receipt(row: Frozen, connection: str, answer: Answer, told: str, now: float) -> Receipt:
    return replace(
        receipt_of(row, connection, row.delivery_id, Outcome.TEST, 1, now),
        service=SERVICE,
        reason=told,
        status=getattr(answer, "status", None),
        record_id=getattr(answer, "record_id", None),
    )
