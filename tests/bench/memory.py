"""A million deliveries that wait for one paused connection: what the worker and Redis hold."""

from __future__ import annotations

from collections.abc import Mapping

from console.connections import pause
from consumer.keys import Role
from deploy.embedded.accounts import ACCOUNTS
from tests.bench import accounts, harness
from tests.bench.harness import Figure, Options
from tests.bench.record import records
from tests.bench.stage import PARTITIONS, START_S, Stage

#: As many as this times the records of another point.
TIMES = 10
EACH_S = 0.005
LOOK_S = 0.1


def point(stage: Stage, options: Options) -> Mapping[str, Figure]:
    return harness.measure(options.repeats, lambda _: repeat(stage, TIMES * options.records))


def repeat(stage: Stage, count: int) -> Mapping[str, float]:
    """No lane parks: all of them are in Redis."""
    one = ACCOUNTS[0]
    stage.clear()
    caps = {"REFERRALS_LANE_DELIVERIES": str(count), "REFERRALS_LANE_BYTES": str(count << 12)}
    site = stage.site(accounts.crms(f"http://127.0.0.1:{stage.receiver.port}", [one]), **caps)
    service = site.start("push", "consumer")
    try:
        pause(site.settings, f"{one}-crm", "measured")
        harness.wait(
            lambda: service.metric("referral_connections_paused") == 1, "it is paused", START_S, LOOK_S
        )
        before = used(stage)
        site.publish(records(count, [one]))
        harness.wait(
            lambda: service.alive() and site.taken(Role.PUSH) >= count,
            "all is taken",
            START_S + count * EACH_S,
            LOOK_S,
        )
        held, lanes = (
            used(stage) - before,
            [f"{site.keys(Role.PUSH).prefix(p)}lane:{one}-crm" for p in range(PARTITIONS)],
        )
        with stage.valkey.client() as client:
            pending = sum(client.hlen(f"{lane}:body") for lane in lanes)
            bodies = sum(int(client.get(f"{lane}:bytes") or 0) for lane in lanes)
        assert pending == count, f"{pending} of {count} pending"
        peak = harness.peak_mb(service.pid)
    finally:
        service.child.kill()
        stage.clear()
    return {
        "memory.push_mb": peak,
        "memory.pending_ratio": held / bodies,
        "memory.body_bytes": bodies / count,
    }


def used(stage: Stage) -> float:
    """Bytes Valkey's data take."""
    with stage.valkey.client() as client:
        return float(client.info("memory")["used_memory_dataset"])
