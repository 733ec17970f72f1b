"""A window of a file connection, as its hash in Redis says. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from schemas.delivery import window_id
from schemas.manifest import Mark


class State(StrEnum):
    """Of a window. UPLOADED: the file is on the server under a temporary name. SENDING: mails are
    under way. ENDED: sent, and Kafka is to be told.
    """

    CLAIMED = "CLAIMED"
    SEALED = "SEALED"
    UPLOADED = "UPLOADED"
    SENDING = "SENDING"
    ENDED = "ENDED"
    CLOSED = "CLOSED"


@dataclass(frozen=True, slots=True)
class WindowState:
    """A window as Redis has it. `fields` holds what only its channel reads."""

    connection: str
    number: int
    state: State
    slot: str
    token: int
    since: datetime
    reason: str
    tries: int
    retry_at: float
    fields: Mapping[str, str]

    @property
    def id(self) -> str:
        return f"{self.sent_as}{self.number}" if self.again else self.first_id

    @property
    def again(self) -> bool:
        """It is sent once more; `number` counts such windows then."""
        return "of" in self.fields

    @property
    def asked_at(self) -> datetime | None:
        """When somebody asked that it be sent once more."""
        asked = self.fields.get("asked_at")
        return None if asked is None else datetime.fromisoformat(asked)

    @property
    def first_number(self) -> int:
        """Of the window whose rows these are."""
        return int(self.fields.get("of", self.number))

    @property
    def first_id(self) -> str:
        return window_id(self.connection, self.first_number)

    @property
    def sent_as(self) -> str:
        """What all ids begin with under which this window was ever sent this way, and no other window."""
        return f"{self.first_id}-resend-" if self.again else f"{self.first_id}."

    @property
    def held(self) -> bool:
        """It waits for a person; `reason` says for what."""
        return self.fields.get("held") == "1"

    @property
    def unsure(self) -> str:
        """Why nobody knows whether it left, since Redis was lost meanwhile; "" where that is known."""
        return self.fields.get("unsure", "")

    @property
    def damaged(self) -> bool:
        """Its rows are not those that were sealed."""
        return self.fields.get("damaged") == "1"

    @property
    def marks(self) -> tuple[Mark, ...]:
        """One per partition once it is sealed."""
        return tuple(Mark(**mark) for mark in json.loads(self.fields.get("marks", "[]")))

    @property
    def sealed_at(self) -> datetime:
        return datetime.fromtimestamp(int(self.fields["sealed_at"]) / 1000, UTC)


def parsed(connection: str, fields: Mapping[str, str]) -> WindowState:
    """A window from its hash."""
    return WindowState(
        connection=connection,
        number=int(fields["n"]),
        state=State(fields["state"]),
        slot=fields["slot"],
        token=int(fields["token"]),
        since=datetime.fromtimestamp(int(fields["since"]) / 1000, UTC),
        reason=fields.get("reason", ""),
        tries=int(fields.get("tries", "0")),
        retry_at=float(fields.get("retry_at", "0")),
        fields=dict(fields),
    )
