"""The named crash points of the three services: each with its place in production code and what it stands for.

Law: production code holds no switch. A point puts another function around a real one, in the process of one
service. `row` is the row of the reliability plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.faults.storm.around import (
    Around,
    Hit,
    after,
    asking,
    before,
    in_half,
    on_its_way,
    replace_with,
    step,
    unobeyed,
)

#: Every script call of a service passes here, alone or in a round trip with others.
EACH = "consumer.store:Store.each"
#: By a point's name, or by the part of it that follows the service's; all others need referrals alone.
NEEDS: Mapping[str, str] = {
    "set": "another set of connections in the folder",
    "give-back": "an orderly stop",
    "dead-letter": "a record nobody can read",
    "marks": "a removal",
    "removal": "a removal",
    "push.removal.swept": "a removal of what waits",
    "put-off": "a receiver that refuses",
    "lane": "more than a lane takes",
    "refill": "more than a lane takes",
    "kept": "a mail",
    "mail": "a mail",
    "resend": "a window sent once more",
}


@dataclass(frozen=True)
class Point:
    """`where`: module:attribute of what is replaced. `needs`: beyond referrals, what must happen for it to be
    reached.
    """

    name: str
    row: str
    where: str
    around: Around

    @property
    def service(self) -> str:
        return self.name.partition(".")[0]

    @property
    def needs(self) -> str:
        parts = self.name.split(".")
        return NEEDS.get(self.name) or NEEDS.get(parts[1], "")

    def put(self, hit: Hit) -> None:
        """Have `hit` called in this process each time the point is reached. Raises LookupError."""
        replace_with(self.where, lambda original: self.around(original, hit))


def _facts(call: Any) -> int:
    return int(call.args[4])


def _put_off(call: Any) -> int:
    """Reschedules stand behind the facts, seven arguments each."""
    return int(call.args[5 + 7 * _facts(call)])


def _writes(field: str, value: str) -> Callable[..., bool]:
    """An `advance` that writes `value` to a field of this beginning."""

    def given(call: Any) -> bool:
        fields = dict(zip(call.args[3::2], call.args[4::2], strict=True))
        return any(name.startswith(field) and str(told) == value for name, told in fields.items())

    return given


_PARKED = before(lambda _self, _partition, connections: connections)
_SENDING = "batcher.__main__:Sending"

#: What push and collect share: reading, taking, the offset and all that must be there before it.
_READERS: tuple[tuple[str, str, str, Around], ...] = (
    ("take.asking", "A1", EACH, asking("take")),
    ("take.unobeyed", "A5", EACH, unobeyed("take")),
    ("taken", "A5", "consumer.ownership:Ownership.assigned", after()),
    ("set.stored", "P10", EACH, unobeyed("apply_set")),
    ("set.raised-in-half", "P10", EACH, in_half("raise_set")),
    ("set.raised", "P10", EACH, unobeyed("raise_set")),
    ("set.told", "P10", "consumer.connection_sets:apply", after()),
    ("read", "A1", "consumer.offers:Offers.plan", before()),
    ("dead-letter.unsent", "A10", "consumer.offers:Offers._bury", before()),
    ("dead-letter.acknowledged", "A10", "consumer.offers:Offers._bury", after()),
    ("marks.asking", "A1", EACH, asking("mark")),
    ("marks.in-half", "A1", EACH, in_half("mark")),
    ("marks.spread", "A1", EACH, unobeyed("mark")),
    ("intake.asking", "A1", EACH, asking("intake")),
    ("intake.unobeyed", "A3", EACH, unobeyed("intake")),
    ("intake.obeyed", "A3", "consumer.worker:Worker._accepted", after()),
    ("commit.before", "A5", "consumer.stream:Stream.commit", before(lambda _self, witnesses: witnesses)),
    ("commit.after", "A5", "consumer.stream:Stream.commit", after(lambda _self, witnesses: witnesses)),
    ("give-back.asking", "A5", EACH, asking("give_back")),
    ("give-back.unobeyed", "A5", EACH, unobeyed("give_back")),
)
#: The same rows of the plan as push names them.
_AS_PUSH: Mapping[str, str] = {"intake.asking": "P1", "intake.unobeyed": "P2", "intake.obeyed": "P4"}

_PUSH: tuple[tuple[str, str, str, Around], ...] = (
    ("lane.parked", "P4", "consumer.parked:Parked.parked", _PARKED),
    ("request.unsent", "P4", "consumer.http_client:HttpClient.send", before()),
    ("request.on-its-way", "P6", "consumer.http_client:_exchange", on_its_way),
    ("request.answered", "P6", "consumer.http_client:_headers", before()),
    ("answer.known", "P7", "consumer.attempts:Attempts._obey", before()),
    ("answer.noted", "P7", "consumer.attempts:Attempts._obey", after()),
    ("settle.asking", "P7", EACH, asking("settle", _facts)),
    ("settle.unobeyed", "P7", EACH, unobeyed("settle", _facts)),
    ("put-off.asking", "P5", EACH, asking("settle", _put_off)),
    ("put-off.unobeyed", "P5", EACH, unobeyed("settle", _put_off)),
    ("page.asking", "P9", "consumer.loading:page", before()),
    ("page.read", "P9", "consumer.loading:page", after()),
    ("refill.read", "P4", "consumer.reread:Reread.read", after()),
    ("refill.asking", "P4", EACH, asking("refill")),
    ("refill.unobeyed", "P4", EACH, unobeyed("refill")),
    ("removal.asking", "P9", EACH, asking("follow")),
    ("removal.unobeyed", "P9", EACH, unobeyed("follow")),
    ("removal.swept", "P9", EACH, unobeyed("sweep")),
    ("receipts.unsent", "P7", "consumer.receipts:_records", before()),
    ("receipts.produced", "P7", EACH, asking("trim")),
    ("receipts.trimmed", "P7", EACH, unobeyed("trim")),
)

_FLUSH: tuple[tuple[str, str, str, Around], ...] = (
    ("set.stored", "P10", EACH, unobeyed("apply_set")),
    ("set.raised", "P10", EACH, unobeyed("raise_set")),
    ("claim.asking", "F1", EACH, asking("claim")),
    ("claim.unobeyed", "F1", EACH, unobeyed("claim")),
    ("claimed", "F1", _SENDING, step("claimed")),
    ("sealed-in-half", "F1a", EACH, in_half("seal")),
    ("sealed", "F2", _SENDING, step("sealed")),
    ("sealed-durable", "F1b", EACH, unobeyed("advance", _writes("state", "SEALED"))),
    ("told", "F1b", _SENDING, step("told")),
    ("uploading", "F3", "batcher.channels.remote_file:RemoteFile.finish", before()),
    ("uploaded", "F3", _SENDING, step("uploaded")),
    ("uploaded-durable", "F5", _SENDING, step("uploaded durable")),
    ("renaming", "F5", "batcher.channels.upload:Session.deliver", before()),
    ("renamed", "F6", _SENDING, step("renamed")),
    ("kept", "E1", _SENDING, step("kept")),
    ("mail.intent", "E1", EACH, asking("advance", _writes("to:", "SENDING"))),
    ("mail.sending-durable", "E1", _SENDING, step("sending durable")),
    ("mail.before-dot", "E1", "smtplib:SMTP.send", before(lambda _smtp, content: content == b".\r\n")),
    ("mail.after-dot", "E3", "smtplib:SMTP.send", after(lambda _smtp, content: content == b".\r\n")),
    ("mail.sent", "E4", _SENDING, step("sent")),
    ("mail.sent-durable", "E4", EACH, unobeyed("advance", _writes("to:", "DELIVERED"))),
    ("ended", "F6", _SENDING, step("ended")),
    ("closing", "F6", _SENDING, step("closing")),
    ("dropped-in-half", "F6", EACH, in_half("drop")),
    ("dropped", "F6", EACH, unobeyed("drop")),
    ("closed", "F6", EACH, unobeyed("advance", _writes("state", "CLOSED"))),
    ("resend.begun", "F1b", "batcher.resend:Resend._begin", after()),
    ("resend.done", "F6", "batcher.again:Wishes.done", before()),
)


def _table() -> dict[str, Point]:
    rows = [Point(f"push.{name}", _AS_PUSH.get(name, row), *rest) for name, row, *rest in _READERS + _PUSH]
    rows += [Point(f"collect.{name}", row, *rest) for name, row, *rest in _READERS]
    rows += [Point(f"flush.{name}", row, *rest) for name, row, *rest in _FLUSH]
    return {point.name: point for point in rows}


#: By name, which begins with the service's.
POINTS: Mapping[str, Point] = _table()
