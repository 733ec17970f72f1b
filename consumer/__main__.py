"""`python -m consumer`: the push service."""

from __future__ import annotations

import os
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
    _share_the_core()
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


def _share_the_core() -> None:
    """For this process's threads, which all want one interpreter: the reading one, the requests' loop and
    those of the libraries.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    if hasattr(os, "SCHED_BATCH"):
        # Otherwise the client's thread interrupts the loop for each request and each answer, and a core works
        # a third less.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


#: The default, 5 ms, is most of a push.
SWITCH_INTERVAL_S = 0.001

if __name__ == "__main__":
    sys.exit(service.run(main))
