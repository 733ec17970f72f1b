"""Where a confirmed write may not be on disk, flush refuses to start."""

from __future__ import annotations

from pathlib import Path

import pytest

from consumer import layout
from consumer.service import Stop
from consumer.store import Store
from tests.support.valkey import start_valkey


def test_a_server_that_syncs_always_is_believed(tmp_path: Path) -> None:
    server = start_valkey(tmp_path, "always")
    layout.require_barrier(Store(server.url), "probe", volatile_ok=False)
    server.stop()


@pytest.mark.parametrize("fsync", ["everysec", "no"])
def test_a_server_that_confirms_before_its_disk_is_refused(tmp_path: Path, fsync) -> None:
    server = start_valkey(tmp_path, fsync)
    store = Store(server.url)
    with pytest.raises(Stop, match="set appendfsync always"):
        layout.require_barrier(store, "probe", volatile_ok=False)
    layout.require_barrier(store, "probe", volatile_ok=True)
    server.stop()
