"""From SIGKILL of one of two push workers until its partitions are served again."""

from __future__ import annotations

import time
from collections.abc import Mapping

from tests.bench import accounts, harness, latency
from tests.bench.harness import Figure, Options
from tests.bench.record import records
from tests.bench.stage import PARTITIONS, START_S, Stage

SESSION_TIMEOUT_MS = 6_000
#: Published right after the kill: some for every partition.
AFTER, RATE = 200, 2_000.0
WITHIN_S = 60.0


def point(stage: Stage, options: Options) -> Mapping[str, Figure]:
    return harness.measure(options.repeats, lambda _: {"recovery_s": repeat(stage)})


def repeat(stage: Stage) -> float:
    """Seconds until the last of what was published right after the kill is received."""
    with stage.listening() as receiver:
        timeout = {"REFERRALS_SESSION_TIMEOUT_MS": str(SESSION_TIMEOUT_MS)}
        site = stage.site(accounts.crms(receiver.url), **timeout)
        one = site.start("push-1", "consumer")
        other = site.start("push-2", "consumer")
        try:
            half = f"{PARTITIONS // 2} partitions\n"
            harness.wait(
                lambda: all(w.alive() and w.ready() == half for w in (one, other)), "they share", START_S, 0.1
            )
            warm = latency.stream(site, records(AFTER, seed=1), RATE)
            latency.taken(receiver, warm.at, WITHIN_S)
            killed = time.time()
            one.child.kill()
            sent = latency.stream(site, records(AFTER, seed=2), RATE)
            seen = latency.taken(receiver, sent.at, WITHIN_S)
        finally:
            other.stop()
    stage.clear()
    return max(seen[key] for key in sent.at) - killed
