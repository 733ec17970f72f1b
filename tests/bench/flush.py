"""A window of a million rows: seal → CSV → SFTP, against a loop that writes its rows to nowhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from functools import partial

from batcher.window import State
from batcher.windows import Windows
from consumer.keys import Role
from consumer.store import Store
from deploy.embedded.accounts import ACCOUNTS
from deploy.embedded.processes import free_port
from tests.bench import accounts, harness
from tests.bench.collect import collected
from tests.bench.harness import Figure, Options
from tests.bench.record import records
from tests.bench.stage import PARTITIONS, START_S, Stage
from tests.support.receivers import Receiver, sftp_receiver

#: As many rows as this times the records of another point.
TIMES = 10
EACH_S = 0.005
LOOK_S = 0.02


def point(stage: Stage, options: Options) -> Mapping[str, Figure]:
    folder = stage.folder / "sftp"
    (folder / "advertiser").mkdir(parents=True)
    users = {"advertiser": {"password": "sesame"}}
    with sftp_receiver(folder, users, port=free_port()) as sftp:
        return harness.measure(options.repeats, lambda _: repeat(stage, sftp, TIMES * options.records))


def repeat(stage: Stage, sftp: Receiver, rows: int) -> Mapping[str, float]:
    one = ACCOUNTS[0]
    options = {"fields": json.dumps(accounts.COLUMNS)}
    site = stage.site(accounts.folders(sftp.port, sftp.words[1], [one], **options))
    count = site.publish(records(rows, [one]))
    collected(site, count)
    prefixes = [site.keys(Role.BATCH).prefix(p) for p in range(PARTITIONS)]
    loop = stage.loop(
        "rows",
        START_S + count * EACH_S,
        redis=site.settings.redis,
        keys=[f"{prefix}open:{one}-sftp" for prefix in prefixes],
        columns=accounts.COLUMNS,
    )
    assert loop["rows"] == count
    service = site.start("flush", "batcher", "flush")
    try:
        with closing(Store(site.settings.redis)) as store:
            windows = Windows(store, site.keys(Role.BATCH))
            windows.ask(f"{one}-sftp", datetime.now(UTC))
            state = partial(_state, windows, f"{one}-sftp")
            began = harness.wait(lambda: service.alive() and state(), "it is claimed", START_S, LOOK_S)
            spent = harness.cpu_s(service.pid)
            within = START_S + count * EACH_S
            ended = harness.wait(
                lambda: service.alive() and state() is State.CLOSED, "it is sent", within, LOOK_S
            )
        spent = harness.cpu_s(service.pid) - spent
        peak = harness.peak_mb(service.pid)
    finally:
        service.stop()
        stage.clear()
    (file,) = [path for path in (sftp.folder / "advertiser").iterdir() if path.is_file()]
    with file.open("rb") as lines:
        # Two of the columns may hold line breaks of their own.
        assert sum(1 for _ in lines) >= count + 1
    file.unlink()
    per_s = count / (ended - began)
    return {
        "flush.rows_per_s": per_s,
        "flush.loop_per_s": loop["per_s"],
        "flush.ratio": per_s / loop["per_s"],
        "flush.peak_mb": peak,
        "flush.cpu_us": spent / count * 1e6,
        "flush.loop_cpu_us": loop["cpu_us"],
    }


def _state(windows: Windows, name: str) -> State | None:
    window = windows.state(name)
    return None if window is None else window.state
