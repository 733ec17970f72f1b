"""Sends a vendor's rows as the core does, in small: each request over a connection of its own."""

from __future__ import annotations

import http.client
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from consumer.crm.answers import Answer, Pause, Rejected
from consumer.crm.port import AnyCrm, Sending
from consumer.exchange import Exchanged, Request, Response, Unknown
from consumer.frozen import Frozen
from consumer.push import frozen
from consumer.secrets import Secrets
from consumer.verdicts import key
from schemas.delivery import Action
from schemas.push import PushBase
from schemas.referral import Referral

#: Unix seconds at which every answer is read.
NOW = 1_790_000_000.0
#: Seconds a test waits for an answer, and bytes of one that are read, as the real client does.
WITHIN = 5.0
MAX_BODY = 65_536


def exchange(request: Request, *extra: tuple[str, str]) -> Exchanged:
    """The request over a real connection, with headers the core adds; the body read to the cap."""
    parts = urlsplit(request.url)
    assert parts.hostname is not None
    link = http.client.HTTPConnection(parts.hostname, parts.port, timeout=WITHIN)
    try:
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        link.request(request.method, path, request.body or None, dict((*request.headers, *extra)))
        answer = link.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        try:
            body = answer.read(MAX_BODY + 1)
        except http.client.IncompleteRead as error:
            return Response(answer.status, headers, error.partial, read_fully=False)
        announced = int(headers.get("content-length", len(body)))
        whole = len(body) <= MAX_BODY and len(body) == announced
        return Response(answer.status, headers, body[:MAX_BODY], whole)
    except (OSError, http.client.HTTPException):
        return Unknown("no answer")
    finally:
        link.close()


def taken_back(connection: PushBase, referral: Referral) -> Frozen:
    """The removal of a delivery."""
    removal = frozen(connection, referral).taken_back(connection.name)
    assert removal is not None
    return removal


def sending(*rows: Frozen) -> Sending:
    """What one request carries."""
    return Sending(key(rows), rows[0].action, rows)


@dataclass
class Driver:
    """Sends as the core does: one Rejected for several rows splits them, removals go one by one."""

    crm: AnyCrm
    connection: PushBase
    auth: tuple[str, str]

    def request(self, *rows: Frozen) -> Request | Pause | Rejected:
        return self.crm.request(self.connection, Secrets({}), sending(*rows), 0.0)

    def once(self, *rows: Frozen) -> Answer | Sequence[Answer]:
        """One request and what its answer is classed as."""
        request = self.request(*rows)
        if not isinstance(request, Request):
            return request
        return self.crm.classify(self.connection, sending(*rows), exchange(request, self.auth), NOW)

    def deliver(self, *referrals: Referral) -> list[Answer]:
        """An answer for each, in their order."""
        return self.send(*(frozen(self.connection, referral) for referral in referrals))

    def remove(self, *referrals: Referral) -> list[Answer]:
        return self.send(*(taken_back(self.connection, referral) for referral in referrals))

    def send(self, *rows: Frozen) -> list[Answer]:
        most = 1 if rows[0].action is Action.REMOVE else self.crm.max_rows
        if len(rows) > most:
            return [*self.send(*rows[:most]), *self.send(*rows[most:])]
        answer = self.once(*rows)
        if isinstance(answer, Sequence):
            assert len(answer) == len(rows)
            return list(answer)
        if isinstance(answer, Rejected) and len(rows) > 1:
            half = len(rows) // 2
            return [*self.send(*rows[:half]), *self.send(*rows[half:])]
        return [answer] * len(rows)
