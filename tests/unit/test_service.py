"""How a service's process ends: an operator gets one line, never a traceback."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from consumer import log
from consumer.service import Stop, run
from consumer.store import StoreRefused, StoreUnavailable


def raises(error: Exception) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (Stop("two deployments share this Redis"), "two deployments share this Redis\n"),
        (
            StoreUnavailable("Redis is not ready: loading"),
            "Redis is not ready: loading: check REFERRALS_REDIS and start again\n",
        ),
        (StoreRefused("Redis is full"), "Redis is full: check REFERRALS_REDIS and start again\n"),
    ],
)
def test_one_line_says_why_it_ended(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raises(error)) == 1
    assert capsys.readouterr().err == line


def test_its_last_line_comes_after_all_it_logged(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("push", "INFO")

    def main() -> None:
        log.event("lane.refilled", partition=3)
        raise Stop("the end")

    assert run(main) == 1
    first, last = capsys.readouterr().err.splitlines()
    assert '"event": "lane.refilled"' in first
    assert '"service": "push"' in first
    assert last == "the end"


def test_a_warning_is_written_at_once_behind_what_waits(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("push", "INFO")
    log.event("connections.loaded", version=1)
    log.trouble("redis.refused", reason="full")
    told = capsys.readouterr().err.splitlines()
    assert ["connections.loaded" in told[0], "redis.refused" in told[1]] == [True, True]


def test_nobody_reading_the_log_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    log.configure("push", "INFO")
    with monkeypatch.context() as patched:
        patched.setattr("sys.stderr", Closed())
        log.trouble("redis.refused", reason="full")
