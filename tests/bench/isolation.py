"""What the healthy notice of the troubled, and what a delivery costs with more and more connections."""

from __future__ import annotations

from collections.abc import Mapping

from consumer.keys import Role
from tests.bench import accounts, harness, latency
from tests.bench.entry import DOMAIN
from tests.bench.harness import Figure, Options
from tests.bench.record import spread
from tests.bench.stage import START_S, Stage

#: Every second connection is in trouble, in one of these ways.
CONNECTIONS, TROUBLES = 1_000, ("hang", "429")
#: Records a second over all: a small part of what one core bears, so that only the trouble can delay.
RATE, STREAM_S = 300.0, 30.0
#: All healthy ones got theirs within this, even where they waited for the troubled.
WITHIN_S = 90.0
CURVE = (10, 100, 1_000, 10_000)
#: A part of the curve ends after so many deliveries of each connection at least, or so long.
CURVE_EACH, CURVE_S = 2, 60.0
LOOK_S = 0.1
FIELDS = {"fields": "[referral_id, email, first_name, last_name]"}


def point(stage: Stage, options: Options) -> Mapping[str, Figure]:
    return harness.measure(options.repeats, lambda _: repeat(stage, options))


def repeat(stage: Stage, options: Options) -> Mapping[str, float]:
    names = [f"a{number:04d}" for number in range(min(CONNECTIONS, options.records))]
    count = min(options.records, int(RATE * STREAM_S))
    troubled = {name: TROUBLES[number % 4 // 2] for number, name in enumerate(names) if number % 2}
    well = p99(stage, names, troubled, count, {})
    ill = p99(stage, names, troubled, count, troubled)
    costs = {number: cost(stage, number, options.records) for number in CURVE if number <= options.records}
    return {
        "isolation.p99_shift": ill / well,
        "isolation.p99_well_ms": well,
        "isolation.p99_ill_ms": ill,
        "isolation.curve": max(costs.values()) / min(costs.values()),
        **{f"isolation.curve.{number}": each_us for number, each_us in costs.items()},
    }


def p99(
    stage: Stage, names: list[str], troubled: Mapping[str, str], count: int, modes: Mapping[str, str]
) -> float:
    """Milliseconds, of the connections that are not `troubled`, while the receiver does `modes`."""
    with stage.listening() as receiver:
        receiver.modes(modes)
        site = stage.site(accounts.crms(receiver.url, names, **FIELDS))
        service = site.start("push", "consumer")
        try:
            warm = latency.stream(site, spread(len(names), names, seed=1), RATE)
            latency.taken(receiver, healthy_of(warm, troubled), WITHIN_S)
            sent = latency.stream(site, spread(count, names, seed=2), RATE)
            healthy = healthy_of(sent, troubled)
            seen = latency.taken(receiver, healthy, WITHIN_S)
        finally:
            service.child.kill()
    stage.clear()
    return harness.quantile(latency.latencies_ms(sent, seen, healthy), 0.99)


def healthy_of(sent: latency.Sent, troubled: Mapping[str, str]) -> list[str]:
    return [key for key in sent.at if sent.account[key] not in troubled]


def cost(stage: Stage, number: int, records: int) -> float:
    """Microseconds of processor a delivery, with as many host names as connections."""
    names = [f"a{place:05d}" for place in range(number)]
    url = f"http://ACCOUNT{DOMAIN}:{stage.receiver.port}"
    site = stage.site(accounts.crms(url, names, **FIELDS))
    count = site.publish(spread(max(min(records, 20_000), CURVE_EACH * number), names))
    service = site.start("push", "tests.bench.entry")
    try:
        harness.wait(lambda: service.alive() and site.taken(Role.PUSH), "the first is taken", START_S)
        spent, before = harness.cpu_s(service.pid), site.receipts()
        try:
            harness.wait(lambda: service.alive() and site.receipts() >= count, "all", CURVE_S, LOOK_S)
        except harness.TooLate:
            service.alive()
        spent, done = harness.cpu_s(service.pid) - spent, site.receipts() - before
    finally:
        service.child.kill()
    stage.clear()
    return spent / max(1, done) * 1e6
