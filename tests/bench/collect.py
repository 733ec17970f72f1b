"""Kafka → windows of fifty connections, against the same script fed with arguments that are ready."""

from __future__ import annotations

from collections.abc import Mapping

from consumer.keys import Role
from tests.bench import accounts, harness
from tests.bench.harness import Figure, Options
from tests.bench.push import given_to_loops
from tests.bench.record import records
from tests.bench.stage import START_S, Site, Stage

#: Nobody is called here.
HOST_KEY = f"SHA256:{'A' * 43}"
#: A record costs less than this, even on a machine with much else to do.
EACH_S = 0.005


def point(stage: Stage, options: Options) -> Mapping[str, Figure]:
    return harness.measure(options.repeats, lambda _: repeat(stage, options))


def repeat(stage: Stage, options: Options) -> Mapping[str, float]:
    site = stage.site(accounts.folders(22, HOST_KEY))
    count = site.publish(records(options.records))
    per_s, cpu_us = collected(site, count)
    into = stage.site({})
    given = {**given_to_loops(site, count), "into": into.topics.referrals, "redis": site.settings.redis}
    raw = stage.loop("script", START_S + count * EACH_S, **given)
    stage.clear()
    return {
        "collect.per_s": per_s,
        "collect.raw_script_per_s": raw["per_s"],
        "collect.ratio": per_s / raw["per_s"],
        "collect.cpu_us": cpu_us,
        "collect.raw_script_cpu_us": raw["cpu_us"],
    }


def collected(site: Site, count: int) -> tuple[float, float]:
    """Records a second from the first taken to the last, and microseconds of processor for each."""
    service = site.start("collect", "batcher", "collect")
    try:
        began = harness.wait(
            lambda: service.alive() and site.taken(Role.BATCH), "the first record is taken", START_S
        )
        spent = harness.cpu_s(service.pid)
        ended = harness.wait(
            lambda: service.alive() and site.taken(Role.BATCH) >= count,
            "all records are in windows",
            START_S + count * EACH_S,
        )
        spent = harness.cpu_s(service.pid) - spent
        assert service.metric("referral_unrouted_total") == 0
    finally:
        service.stop()
    return count / (ended - began), spent / count * 1e6
