"""What an outage of an hour leaves behind is delivered as fast as anything else."""

from __future__ import annotations

from collections.abc import Mapping

from consumer.keys import Role
from deploy.embedded.accounts import ACCOUNTS
from tests.bench import accounts, harness
from tests.bench.harness import Figure, Options
from tests.bench.receiver import Receiver
from tests.bench.record import records
from tests.bench.stage import START_S, Site, Stage
from tests.support.push_entry import Clock

HOUR_S = 3_600.0
#: The one connection may have as many in flight as fifty have together, and no rate.
IN_FLIGHT = "800"
#: A delivery costs less than this, even on a machine with much else to do.
EACH_S = 0.01
LOOK_S = 0.05


def point(stage: Stage, options: Options) -> Mapping[str, Figure]:
    return harness.measure(options.repeats, lambda _: repeat(stage, options))


def repeat(stage: Stage, options: Options) -> Mapping[str, float]:
    one = ACCOUNTS[0]
    with stage.listening() as receiver:
        steady = delivered(stage.site(accounts.crms(receiver.url)), receiver, options.records, ACCOUNTS, "ok")
        stage.clear()
        site = stage.site(accounts.crms(receiver.url, [one], max_in_flight=IN_FLIGHT))
        drained = delivered(site, receiver, options.records, [one], "503")
        stage.clear()
    return {"drain.per_s": drained, "drain.push_per_s": steady, "drain.ratio": drained / steady}


def delivered(
    site: Site, receiver: Receiver, count: int, names: list[str] | tuple[str, ...], mode: str
) -> float:
    """Deliveries a second to all accounts; after an hour in which the receiver did `mode`, unless it is ok."""
    clock = Clock(site.folder / "clock")
    receiver.modes({"*": mode})
    site.publish(records(count, names))
    service = site.start("push", "tests.bench.entry", str(site.folder / "clock"))
    try:
        began = harness.wait(lambda: service.alive() and site.taken(Role.PUSH), "it begins", START_S)
        within = START_S + count * EACH_S
        if mode != "ok":
            began = harness.wait(
                lambda: service.alive() and site.taken(Role.PUSH) >= count, "all is taken", within
            )
            assert site.receipts() == 0
            receiver.modes({})
            clock.jump(HOUR_S)
        ended = harness.wait(
            lambda: service.alive() and site.receipts() >= count, "all have receipts", within, LOOK_S
        )
    finally:
        service.stop()
    return count / (ended - began)
