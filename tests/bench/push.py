"""Kafka → durable intake → HTTP 200 → done and receipt, against loops that keep nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from consumer.keys import Role
from tests.bench import accounts, harness
from tests.bench import latency as latency_of
from tests.bench.harness import Figure, Options
from tests.bench.record import records
from tests.bench.stage import PARTITIONS, START_S, Site, Stage

#: Requests the loops have in flight: more makes them no faster.
IN_FLIGHT = 64
#: One request at a time is slow: it needs no more of them to be known.
NAIVE_RECORDS = 2_000
#: A delivery costs less than this, even on a machine with much else to do.
EACH_S = 0.01
RECEIPT_LOOK_S = 0.05
#: Connections and clients are made before the stream that counts, which lasts so long at most.
WARM, STREAM_S = 500, 20.0
SLOW_MS, SLOW_IN_FLIGHT, SLOW_RECORDS = 100, 1_000, 50_000


@dataclass(frozen=True)
class Pushed:
    per_s: float
    cpu_us: float


def point(stage: Stage, options: Options) -> Mapping[str, Figure]:
    return harness.measure(options.repeats, lambda _: repeat(stage, options))


def repeat(stage: Stage, options: Options) -> Mapping[str, float]:
    site = stage.site(accounts.crms(f"http://127.0.0.1:{stage.receiver.port}"))
    count = site.publish(records(options.records))
    ours = pushed(site, count)
    within = START_S + count * EACH_S
    given = given_to_loops(site, count)
    p50, p99 = latency(stage, options, ours.per_s / 2)
    slow_crm_ratio = slow(stage, options)
    plain = stage.loop("plain", within, **given)
    bare = stage.loop("bare", within, **given)
    naive = stage.loop("naive", within, **{**given, "records": min(count, NAIVE_RECORDS)})
    stage.clear()
    return {
        "push.per_s": ours.per_s,
        "push.plain_loop_per_s": plain["per_s"],
        "push.ratio": ours.per_s / plain["per_s"],
        "push.bare_client_per_s": bare["per_s"],
        "push.naive_per_s": naive["per_s"],
        "push.naive_ratio": ours.per_s / naive["per_s"],
        "push.p50_ms": p50,
        "push.p99_ms": p99,
        "push.slow_crm_ratio": slow_crm_ratio,
        "push.cpu_us": ours.cpu_us,
        "push.plain_loop_cpu_us": plain["cpu_us"],
    }


def given_to_loops(site: Site, count: int) -> dict[str, object]:
    return {
        "kafka": site.settings.kafka,
        "topic": site.topics.referrals,
        "partitions": PARTITIONS,
        "connections": site.settings.connections,
        "records": count,
        "in_flight": IN_FLIGHT,
    }


def pushed(site: Site, count: int) -> Pushed:
    """A worker delivers all that was published: from the first record taken to the last receipt in Kafka."""
    before = site.stage.receiver.taken()
    service = site.start("push", "consumer")
    try:
        began = harness.wait(
            lambda: service.alive() and site.taken(Role.PUSH), "the first record is taken", START_S
        )
        spent = harness.cpu_s(service.pid)
        ended = harness.wait(
            lambda: service.alive() and site.receipts() >= count,
            "every delivery has its receipt",
            START_S + count * EACH_S,
            RECEIPT_LOOK_S,
        )
        spent = harness.cpu_s(service.pid) - spent
        delivered = service.metric('referral_deliveries_ended_total{outcome="DELIVERED"}')
        assert delivered == count, f"{delivered:.0f} of {count} delivered"
        assert site.stage.receiver.taken() - before >= count
    finally:
        service.stop()
    return Pushed(count / (ended - began), spent / count * 1e6)


def latency(stage: Stage, options: Options, rate: float) -> tuple[float, float]:
    """Median and 99th percentile, in milliseconds from publication to receiver, at so many a second."""
    count = min(options.records, int(rate * STREAM_S))
    with stage.listening() as receiver:
        site = stage.site(accounts.crms(receiver.url))
        service = site.start("push", "consumer")
        try:
            warm = latency_of.stream(site, records(WARM, seed=1), rate)
            latency_of.taken(receiver, warm.at, START_S)
            sent = latency_of.stream(site, records(count, seed=2), rate)
            seen = latency_of.taken(receiver, sent.at, START_S)
        finally:
            service.stop()
    found = latency_of.latencies_ms(sent, seen)
    return harness.quantile(found, 0.5), harness.quantile(found, 0.99)


def slow(stage: Stage, options: Options) -> float:
    """What a receiver that takes 100 ms gets with 1,000 in flight, as a part of in flight ÷ latency."""
    count = max(min(options.records, SLOW_RECORDS), 4 * SLOW_IN_FLIGHT)
    with stage.listening() as receiver:
        receiver.modes({"*": f"{SLOW_MS}ms"})
        limits = {"max_in_flight": str(SLOW_IN_FLIGHT)}
        site = stage.site(accounts.crms(receiver.url, **limits))
        site.publish(records(count))
        service = site.start("push", "consumer")
        try:
            began = harness.wait(lambda: service.alive() and site.taken(Role.PUSH), "it begins", START_S)
            ended = harness.wait(
                lambda: service.alive() and site.receipts() >= count,
                "every delivery has its receipt",
                START_S + count * EACH_S,
                RECEIPT_LOOK_S,
            )
        finally:
            service.stop()
    return count / (ended - began) / (SLOW_IN_FLIGHT / (SLOW_MS / 1000))
