"""What durability writes: bytes of the append-only file for each delivery, from intake to receipt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tests.bench import accounts, harness, push
from tests.bench.harness import Figure, Options
from tests.bench.record import records
from tests.bench.stage import Stage
from tests.support.valkey import start_valkey

#: Below what makes Valkey rewrite its file.
MOST = 20_000


def point(stage: Stage, options: Options) -> Mapping[str, Figure]:
    return harness.measure(options.repeats, lambda n: {"aof.bytes_per_delivery": repeat(stage, n, options)})


def repeat(stage: Stage, number: int, options: Options) -> float:
    valkey = start_valkey(stage.folder / f"valkey-{number}", extra=("--auto-aof-rewrite-percentage", "0"))
    try:
        site = replace(stage, valkey=valkey).site(accounts.crms(f"http://127.0.0.1:{stage.receiver.port}"))
        count = site.publish(records(min(options.records, MOST)))
        with valkey.client() as client:
            before = client.info("persistence")["aof_current_size"]
            push.pushed(site, count)
            harness.wait(lambda: client.dbsize(), "it answers", push.START_S)
            return (client.info("persistence")["aof_current_size"] - before) / count
    finally:
        valkey.stop()
