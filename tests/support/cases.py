"""The fault cases of the test plan by number: tests say which they show with `@pytest.mark.case(12)`.

`--case 12` runs what shows that case, `--case all` what shows any; `--case-report FILE` writes how each ended.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

#: As the plan numbers them.
CASES = {
    1: "kill -9 of a service at each named crash point",
    2: "a service frozen for two session timeouts, then thawed",
    3: "members of a group come and go every two seconds",
    4: "partitions are assigned while Redis is away",
    5: "max.poll.interval.ms is exceeded",
    6: "the leader of a partition is killed during a fetch",
    7: "the group's coordinator cannot be reached",
    8: "the stored offset lies before the log's start",
    9: "the topic was deleted and made anew",
    10: "Redis's reply is lost after the script ran",
    11: "Redis's reply comes after the client's timeout",
    12: "Redis is killed under load and its append-only file loses its tail",
    13: "Redis fails over to a replica that is behind",
    14: "Redis is emptied",
    15: "Redis forgets its scripts",
    16: "Redis has no memory left",
    17: "Redis's disk is full",
    18: "Redis answers LOADING, READONLY, TRYAGAIN, CLUSTERDOWN",
    19: "a receiver applies a request, then resets the connection",
    20: "503 with Retry-After in every form",
    21: "409 then 200; 422; 500 for ever",
    22: "answers that never end, swell or redirect",
    23: "one receiver is down for hours",
    24: "SFTP is cut at every tenth of the bytes and after each kind of request",
    25: "the advertiser takes the file away at once, and the reply is lost",
    26: "two flush workers on one window",
    27: "SFTP quota, permission, changed host key, no rename",
    28: "SMTP: dropped after the final dot, some recipients refused, 451, 552, 421",
    29: "clocks step and daylight saving begins and ends at a schedule's time",
    30: "an old and a new version side by side, told to end, then killed",
    31: "two flush workers inside one seal",
    32: "Redis was restored from an older copy while the services were down",
    33: "upstream publishes one in a hundred twice, also across a kill",
    34: "one referral id under two partitioners",
}


class Tally:
    """How the tests of each case ended."""

    def __init__(self, report: Path) -> None:
        self._report = report
        self._found: dict[int, dict[str, int]] = defaultdict(lambda: {"passed": 0, "failed": 0, "skipped": 0})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        for name, number in report.user_properties:
            if name == "case":
                self._found[int(str(number))][report.outcome] += 1

    def pytest_sessionfinish(self) -> None:
        self._report.parent.mkdir(parents=True, exist_ok=True)
        self._report.write_text(json.dumps({number: self._found[number] for number in sorted(self._found)}))


def passed(found: Mapping[str, Mapping[str, int]]) -> list[int]:
    """The cases whose tests all ended well, of a report's content; one that only skipped has shown nothing."""
    return [int(n) for n, ended in found.items() if ended["passed"] and not ended["failed"]]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fault cases")
    group.addoption("--case", help="run what shows this fault case: a number, or all")
    group.addoption("--case-report", type=Path, help="write how each fault case ended to this file")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "case(*numbers): the fault cases this test shows, by number")
    report = config.getoption("--case-report")
    if report is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Tally(report))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("--case")
    if wanted not in {None, "all"} and (not wanted.isdigit() or int(wanted) not in CASES):
        raise pytest.UsageError(f"--case {wanted}: a number from 1 to {max(CASES)}, or all")
    chosen, left = [], []
    for item in items:
        numbers = {number for marker in item.iter_markers("case") for number in marker.args}
        if unknown := numbers - CASES.keys():
            raise pytest.UsageError(f"{item.nodeid}: there is no fault case {min(unknown)}")
        item.user_properties += [("case", number) for number in sorted(numbers)]
        shows = wanted is None or (bool(numbers) if wanted == "all" else int(wanted) in numbers)
        (chosen if shows else left).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = chosen
