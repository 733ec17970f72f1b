"""SIGTERM at any moment stops a service, also while its main thread asks whether it came."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

#: Most of the time the main thread holds the flag's lock.
LOOP = """
from consumer.service import Service, Settings
service = Service(Settings())
print("ready", flush=True)
while not service.stopping.wait(0):
    pass
"""


@pytest.mark.case(30)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_never_lost(number: signal.Signals) -> None:
    argv = (sys.executable, "-c", LOOP)
    running = [
        subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) for _ in range(4)
    ]
    try:
        for child in running:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            child.send_signal(number)
            child.send_signal(number)
        assert [child.wait(10) for child in running] == [0] * len(running)
    finally:
        for child in running:
            child.kill()
            child.communicate()
