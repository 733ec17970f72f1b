"""What was published against what arrived, by id as multisets. Pure: the demo's judge.

The comparison of two multisets is the one of `referrals reconcile`; nothing else is shared with the code
under test but what that still calls pending or uncertain, which is believed only of what did not arrive.
What counts is the effect at the receiver: an advertiser who got a referral twice does not care why.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from console.reconcile.books import compare

Row = tuple[str, str, str]
"""Connection, recipient ('' but for mail), referral id."""
Held = Collection[tuple[str, str]]
"""(connection, referral id) of what is said to wait still."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request as a CRM noted it. `kind`: effect, repeat (key and bytes known) or mismatch (other bytes)."""

    kind: str
    connection: str
    key: str
    referral_id: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Artefact:
    """A file that got its final name, or a mail that was accepted. `id`: the file's name or the Message-ID.

    `window`: the id of the window it comes from. `ids`: of its rows, in order.
    """

    connection: str
    recipient: str
    window: str
    id: str
    sha256: str
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WindowEnd:
    """What the receipt of a window says: tries, rows, and whether nobody knows if its mails arrived."""

    attempts: int
    rows: int
    uncertain: bool


@dataclass(frozen=True, slots=True)
class Tally:
    """Referrals times connections, and for mail times recipients.

    expected    were to arrive
    delivered   arrived, once or more
    pending     did not arrive, and are still going to be sent
    uncertain   are not in the inbox, and shown as mails nobody knows of
    repeats     came again as the same request under the same key, or as an uncertain mail sent again
    lost        did not arrive, and nobody says why
    duplicates  arrived again: a new key, another row, another mail
    strays      arrived where nobody had asked for them
    mismatches  requests whose key came with another body before
    """

    expected: int
    delivered: int
    pending: int
    uncertain: int
    repeats: int
    lost: int
    duplicates: int
    strays: int
    mismatches: int
    pending_at: Mapping[str, int]

    @property
    def right(self) -> bool:
        return not (self.lost or self.duplicates or self.strays or self.mismatches)


def push(expected: Iterable[Row], requests: Sequence[Request], held: Held) -> Tally:
    """CRMs. One that ignores keys takes every request for new; the same request is a repeat all the same."""
    got: Counter[Row] = Counter()
    seen: set[tuple[str, str, str]] = set()
    repeats = mismatches = 0
    for request in requests:
        same = (request.connection, request.key, request.sha256)
        if request.kind == "mismatch":
            mismatches += 1
        elif request.kind == "repeat" or (request.key and same in seen):
            repeats += 1
        else:
            got[request.connection, "", request.referral_id] += 1
        seen.add(same)
    return _tally(Counter(expected), got, held, {}, repeats, mismatches)


def files(
    expected: Iterable[Row], artefacts: Sequence[Artefact], held: Held, ends: Mapping[str, WindowEnd]
) -> Tally:
    """Files and mails. `ends` by window id.

    The same mail again is a repeat as often as it was tried again; a file is never written again.
    """
    got: Counter[Row] = Counter()
    copies: Counter[tuple[str, str, str]] = Counter()
    repeats = 0
    for artefact in artefacts:
        same = (artefact.recipient, artefact.id, artefact.sha256)
        copies[same] += 1
        end = ends.get(artefact.window)
        if artefact.recipient and copies[same] > 1 and end is not None and copies[same] <= end.attempts:
            repeats += len(artefact.ids)
        else:
            got.update((artefact.connection, artefact.recipient, i) for i in artefact.ids)
    arrived = {(artefact.recipient, artefact.window) for artefact in artefacts}
    wanted = Counter(expected)
    unknown = {
        (connection, recipient): sum(
            end.rows
            for window, end in ends.items()
            if end.uncertain and _connection(window) == connection and (recipient, window) not in arrived
        )
        for connection, recipient in {(row[0], row[1]) for row in wanted}
    }
    return _tally(wanted, got, held, unknown, repeats, 0)


def _tally(
    wanted: Counter[Row],
    got: Counter[Row],
    held: Held,
    unknown: Mapping[tuple[str, str], int],
    repeats: int,
    mismatches: int,
) -> Tally:
    """`unknown`: rows of mails nobody knows of, by connection and recipient."""
    compared = compare(wanted, got)
    missing = Counter({row: n for row, n in compared.missing.items() if (row[0], row[2]) not in held})
    pending = compared.missing - missing
    absent: Counter[tuple[str, str]] = Counter()
    for (connection, recipient, _), count in missing.items():
        absent[connection, recipient] += count
    uncertain = sum(min(count, unknown.get(where, 0)) for where, count in absent.items())
    pending_at: Counter[str] = Counter()
    for (connection, _, _), count in pending.items():
        pending_at[connection] += count
    return Tally(
        expected=wanted.total(),
        delivered=(wanted & got).total(),
        pending=pending.total(),
        uncertain=uncertain,
        repeats=repeats,
        lost=missing.total() - uncertain,
        duplicates=compared.doubled.total(),
        strays=compared.strays.total(),
        mismatches=mismatches,
        pending_at=dict(pending_at),
    )


def _connection(window: str) -> str:
    """Of a window's id, `<connection>-000012`."""
    return window.rpartition("-")[0]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed; 0 for none. `values` in order."""
    if not values:
        return 0.0
    return values[max(0, math.ceil(share * len(values)) - 1)]
