"""Starts the real push service with a resolver and a clock of the bench's own.

`python -m tests.bench.entry [CLOCK]`. Law: production code holds no switch. Every name under
`.bench.example` is this machine; with a file CLOCK, the service's time is what the file says ahead.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

from consumer import __main__ as push
from consumer import sender, service
from consumer.http_client import HttpClient
from tests.support.push_entry import Clock

DOMAIN = ".bench.example"
#: How often the loop looks at a clock that jumps.
LOOK_S = 0.02


def resolve(host: str) -> list[str]:
    if not host.endswith(DOMAIN):
        raise OSError(f"{host} is no name of the bench")
    return ["127.0.0.1"]


def main() -> None:
    sender.HttpClient = partial(HttpClient, resolver=resolve)
    clock = time.time
    if len(sys.argv) > 1:
        clock = Clock(Path(sys.argv[1]))
        sender.LOOK_S = LOOK_S
    sys.exit(service.run(lambda: push.main(clock)))


if __name__ == "__main__":
    main()
