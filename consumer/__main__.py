"""`python -m consumer`: the push service."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from consumer import log, service
from consumer.keys import Role
from consumer.push import Push
from consumer.refill import Refiller
from consumer.run import Ground, run, worker_name
from consumer.service import Service


def main(clock: Callable[[], float] = time.time) -> None:
    """Push referrals until told to stop. Raises Stop."""
    settings = service.settings()
    log.configure("push", settings.log_level)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    process = Service(settings)
    try:
        ground = Ground(settings, Role.PUSH)
        push = Push(
            ground.keys,
            settings.max_in_flight,
            process.stopping.is_set,
            settings.policy,
            worker_name(),
            clock,
        )
        refiller = Refiller(ground, push.parked, process.stopping, clock)
        push.sender.start()
        try:
            beside = {"refill": refiller.turn}
            run(ground, process, "push", push, push.targets, whole=True, beside=beside)
        finally:
            push.sender.close()
    finally:
        process.close()


#: The reading thread and the requests' loop share the interpreter: the default, 5 ms, is most of a push.
SWITCH_INTERVAL_S = 0.0005

if __name__ == "__main__":
    sys.exit(service.run(main))
