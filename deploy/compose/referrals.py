"""Referrals for the stack's account as `referrals publish` reads them: one JSON object a line."""

from __future__ import annotations

import argparse
import json
import secrets
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from deploy.compose.prepare import USER
from deploy.embedded.people import referrals

#: More at once than a laptop's disk and patience take well.
MAX_COUNT = 1_000_000


def line(event: dict[str, Any]) -> str:
    """Times and dates as ISO 8601, money as text. Pure."""
    return json.dumps(event, default=_text, ensure_ascii=False, separators=(",", ":"))


def _text(value: object) -> str:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    raise TypeError(f"an event has no {type(value).__name__}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Prints new referrals of the compose stack's account.")
    parser.add_argument("count", type=int, nargs="?", default=1_000)
    count = min(parser.parse_args().count, MAX_COUNT)
    for event in referrals(secrets.randbits(32), count, [USER], datetime.now(UTC)):
        print(line(event))


if __name__ == "__main__":
    main()
