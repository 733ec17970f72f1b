"""The demo's result: a table for a newcomer, the same figures as JSON, and the verdict. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from deploy.embedded.reconcile import Tally
from deploy.embedded.times import Times

#: Key in the JSON file, and what a newcomer calls it.
KINDS = {"push": "requests to CRMs", "sftp": "rows in files by SFTP", "email": "rows in mails"}
FAULTS = ("lost", "duplicates", "uncertain", "strays", "mismatches")
NEWLINE = "\n"  # Python 3.11 takes no backslash inside an f-string
COLUMNS = ("expected", "delivered", "pending", "repeats", "lost", "duplicates")


@dataclass(frozen=True, slots=True)
class Result:
    """`hanging`: the connection whose CRM never answers, with what it is owed."""

    published: int
    accounts: int
    unrouted: int
    push: Tally
    sftp: Tally
    email: Tally
    hanging: tuple[str, int]
    held: Mapping[str, str]
    receipts: Mapping[str, int]
    times: Times
    versions: Mapping[str, str]
    artefacts: Mapping[str, int]

    @property
    def tallies(self) -> dict[str, Tally]:
        return {"push": self.push, "sftp": self.sftp, "email": self.email}


def wrong(result: Result) -> list[str]:
    """What must not be, a line each; nothing for a good run."""
    name, owed = result.hanging
    found: list[str] = []
    for kind, tally in result.tallies.items():
        counts = {fault: getattr(tally, fault) for fault in FAULTS}
        found += [f"{kind}: {count:,} {fault}" for fault, count in counts.items() if count]
        allowed = {name: owed} if kind == "push" else {}
        for at in sorted(tally.pending_at.keys() | allowed.keys()):
            is_, may = tally.pending_at.get(at, 0), allowed.get(at, 0)
            if is_ != may:
                found.append(f"{kind}: {is_:,} pending at {at}, not {may:,}")
    return found + [f"window {window} is held: {reason}" for window, reason in result.held.items()]


def table(result: Result) -> str:
    """Everything a newcomer needs to judge the run, in plain lines."""
    name, owed = result.hanging
    times = result.times
    lines = [f"{'':24}" + "".join(f"{column:>12}" for column in COLUMNS)]
    lines += [
        f"{KINDS[kind]:24}" + "".join(f"{getattr(tally, column):>12,}" for column in COLUMNS)
        for kind, tally in result.tallies.items()
    ]
    return f"""
{result.published:,} referrals of {result.accounts} advertisers were published; {result.unrouted:,} of them \
nobody had asked for.
What the receivers got of the others, compared by id:

{NEWLINE.join(lines)}

pending     the CRM behind {name} takes requests and never answers: its {owed:,} wait in Redis
repeats     the same request again under the same key, which a CRM recognises
duplicates  what an advertiser would have got twice: a new key, a second row, a second mail

at a steady rate     from publication to a healthy CRM's acceptance {_short(times.p50)} (median), \
{_short(times.p99)} (99 %)
a burst of {times.burst:,}    published in {times.published:.1f} s, all of it with the healthy CRMs \
after {times.drained:.1f} s: {times.drained_per_second:,.0f} a second
CRMs answering 503   had all of theirs {times.recovered:.1f} s after they worked again
files and mails      {times.flushed:.1f} s from the wish to the last one
"""


def document(result: Result) -> dict[str, Any]:
    """What out/demo.json holds. `times` as in Times: seconds, but for the burst and its rate."""
    return {
        "ok": not wrong(result),
        "wrong": wrong(result),
        "published": result.published,
        "unrouted": result.unrouted,
        **{kind: asdict(tally) for kind, tally in result.tallies.items()},
        "hanging": {"connection": result.hanging[0], "owed": result.hanging[1]},
        "receipts": dict(sorted(result.receipts.items())),
        "times": {name: round(value, 3) for name, value in asdict(result.times).items()},
        "versions": dict(result.versions),
        **result.artefacts,
    }


def _short(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
