"""`make bench` from end to end, with few records: every key it owes is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITHIN = 1_100
KEYS = {
    "push": {
        "per_s", "plain_loop_per_s", "ratio", "bare_client_per_s", "naive_per_s", "slow_crm_ratio", "p50_ms", "p99_ms",
    },
    "isolation": {"p99_shift", "curve"},
    "collect": {"per_s", "raw_script_per_s", "ratio"},
    "flush": {"rows_per_s", "loop_per_s", "ratio", "peak_mb"},
    "drain": {"per_s"},
    "memory": {"push_mb", "pending_ratio"},
    "aof": {"bytes_per_delivery"},
}  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(1_200)
def test_every_point_measures(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    argv = (sys.executable, "-m", "tests.bench", "--records", "500", "--repeats", "1", "--out", str(out))
    subprocess.run(argv, cwd=ROOT, check=True, timeout=WITHIN)
    found = json.loads(out.read_text())
    wanted = {f"{point}.{name}" for point, names in KEYS.items() for name in names} | {"recovery_s"}
    assert wanted <= found.keys()
    assert all(one["median"] > 0 and one["spread"] == 0 for key, one in found.items() if key in wanted)
    assert found["conditions"]["record_bytes"] >= 600
    assert out.with_suffix(".svg").read_text().startswith("<svg")
