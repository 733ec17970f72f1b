"""Starts a service that waits a second for Redis, where it would two minutes: `… impatient push`."""

from __future__ import annotations

import sys

PATIENCE_S = 1.0


def main() -> None:
    from batcher import __main__ as batcher
    from consumer import __main__ as push
    from consumer import ownership, service

    ownership.REDIS_PATIENCE_S = PATIENCE_S
    services = {"push": push.main, **batcher.SERVICES}
    sys.exit(service.run(services[sys.argv[1]]))


if __name__ == "__main__":
    main()
