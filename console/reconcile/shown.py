"""What a reconciliation came to: lines for people, a document, and figures for Prometheus."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from console.reconcile.books import Difference, Trouble, rows
from console.reconcile.run import Reconciled
from console.show import one_line
from consumer.service import Stop
from schemas.receipt import utc

COLUMNS = ("account", "campaign", "day", "connection", "count", "state")
#: Differences shown in a terminal; the document has more.
MAX_SHOWN = 100


def table(done: Reconciled) -> Iterator[tuple[str, ...]]:
    """A cell per column of COLUMNS: of each account, campaign and day the records, then each connection."""
    for place, states in rows(done.books.counts):
        for state, number in states.items():
            yield place.account or "?", place.campaign, place.day, place.connection, f"{number:,}", state


def lines(done: Reconciled) -> Iterator[str]:
    """The differences, a line each."""
    for one in done.books.differences[:MAX_SHOWN]:
        place = one.place
        where = " ".join(filter(None, (place.account, place.campaign, place.day, place.connection)))
        yield one_line(f"{one.trouble} {one.id} ({where}): {one.why}")
    more = done.books.troubles.total() - min(MAX_SHOWN, len(done.books.differences))
    if more:
        yield f"and {more:,} more"


def document(done: Reconciled) -> dict[str, object]:
    """What `--json` writes. Its `differences` hold the first `console.books.MAX_LISTED`."""
    books = done.books
    return {
        "from": utc(done.wanted.start_ms / 1000).isoformat(),
        "to": utc(done.wanted.end_ms / 1000).isoformat(),
        "account": done.wanted.account,
        "balanced": books.balanced,
        "troubles": {trouble: books.troubles[trouble] for trouble in Trouble},
        "counts": [{**asdict(place), "states": states} for place, states in rows(books.counts)],
        "differences": [_difference(one) for one in books.differences],
        "remarks": list(done.remarks()),
    }


def textfile(done: Reconciled, now: float) -> str:
    """For node_exporter's textfile collector; no label names an advertiser."""
    name, at = "referral_reconcile_difference", "referral_reconcile_timestamp_seconds"
    found = "".join(f'{name}{{trouble="{one}"}} {done.books.troubles[one]}\n' for one in Trouble)
    return (
        f"# HELP {name} Differences the last `referrals reconcile` found.\n# TYPE {name} gauge\n{found}"
        f"# HELP {at} When it was run.\n# TYPE {at} gauge\n{at} {now:.0f}\n"
    )


def write(path: str, content: str) -> None:
    """The file appears whole or not at all, readable by other services. Raises Stop."""
    target = Path(path)
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=target.parent, prefix=f".{target.name}.", delete=False
        ) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).chmod(0o644)
        Path(file.name).replace(target)
    except OSError as error:
        raise Stop(f"{path}: cannot be written: {error.strerror}") from error


def as_json(done: Reconciled) -> str:
    return json.dumps(document(done), indent=2, ensure_ascii=False) + "\n"


def _difference(one: Difference) -> dict[str, object]:
    return {"trouble": one.trouble, "id": one.id, **asdict(one.place), "why": one.why}
