"""`python -m batcher collect` and `python -m batcher flush`: the two processes of batch delivery."""

from __future__ import annotations

import secrets as tokens
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from batcher.collect import Collect, targets
from batcher.connect import relay
from batcher.deliver import Sending
from batcher.desk import LOOK_S, WORKERS, Desk, utc_now
from batcher.windows import Windows
from batcher.witness import require_windows
from consumer import log, registry, service
from consumer.keys import Role
from consumer.ownership import patiently
from consumer.run import Ground, adopt_files, run, watch
from consumer.secrets import Secrets
from consumer.service import Service, Stop
from consumer.store import StoreRefused, StoreUnavailable


def collect() -> None:
    """Put rows into windows until told to stop. Raises Stop."""
    settings = service.settings()
    log.configure("collect", settings.log_level)
    process = Service(settings)
    try:
        run(Ground(settings, Role.BATCH), process, "collect", Collect(), targets, whole=False)
    finally:
        process.close()


def flush() -> None:
    """Deliver windows on schedule until told to stop. Raises Stop."""
    settings = service.settings()
    log.configure("flush", settings.log_level)
    way_out = relay(settings)
    process = Service(settings)
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="flush")
    try:
        ground = Ground(settings, Role.BATCH)
        ground.require_barrier()
        known = Windows(ground.store, ground.keys)
        names = list(ground.remembered.windows)
        states = patiently(process.stopping.is_set, lambda: known.states(names))
        require_windows(ground.remembered, states)
        adopt_files(ground)
        by_id = registry.waiting(settings.schema_registry, process.stopping.wait)

        def sending(windows: Windows) -> Sending:
            return Sending(
                windows=windows,
                partitions=ground.layout.partitions,
                secrets=Secrets(),
                relay=way_out,
                policy=settings.policy,
                mail_from=settings.mail_from,
                monotonic=time.monotonic,
                by_id=by_id,
                step=lambda _name: None,
            )

        owner = f"{socket.gethostname()}-{tokens.token_hex(4)}"
        _flush(ground, process, Desk(ground, owner, sending, pool))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        process.close()


def _flush(ground: Ground, process: Service, desk: Desk) -> None:
    watcher = watch(ground, process.stopping)
    log.event("service.started", port=process.port, partitions=ground.layout.partitions)
    log.write_out()
    while not process.stopping.is_set():
        process.health.beat()
        try:
            patiently(process.stopping.is_set, lambda: desk.look(utc_now()))
        except (StoreUnavailable, StoreRefused):
            break
        if watcher.failure:
            raise Stop(watcher.failure)
        process.health.tell(ready=True, reason="ready")
        process.stopping.wait(LOOK_S)
    if not desk.finish():
        # The interpreter would wait for a thread that waits for a receiver.
        service.cut_off()
    log.event("service.stopped")


SERVICES = {"collect": collect, "flush": flush}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in SERVICES:
        sys.exit("usage: python -m batcher collect|flush")
    sys.exit(service.run(SERVICES[sys.argv[1]]))
