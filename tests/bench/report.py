"""What a run says: the table, out/bench.json, and the conditions both are worth nothing without. Pure but
for the file.
"""

from __future__ import annotations

import json
import operator
import platform
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.bench import harness
from tests.bench.harness import Figure, Options
from tests.support import kafka, valkey

_SIGNS: Mapping[str, Callable[[float, float], bool]] = {"≥": operator.ge, "≤": operator.le, "<": operator.lt}
#: By key: what is to be reached. The others are what these are held against.
GOALS: Mapping[str, tuple[str, float]] = {
    "push.ratio": ("≥", 0.7),
    "push.naive_ratio": ("≥", 20),
    "push.slow_crm_ratio": ("≥", 0.8),
    "push.p50_ms": ("≤", 5),
    "push.p99_ms": ("≤", 25),
    "isolation.p99_shift": ("≤", 1.10),
    "isolation.curve": ("≤", 1.3),
    "collect.per_s": ("≥", 35_000),
    "collect.ratio": ("≥", 0.5),
    "flush.ratio": ("≥", 0.8),
    "flush.peak_mb": ("<", 300),
    "drain.ratio": ("≥", 0.8),
    "recovery_s": ("≤", 13),
    "memory.push_mb": ("<", 400),
    "memory.pending_ratio": ("≤", 1.3),
}


def conditions(options: Options, record_bytes: int, receiver: str, ceiling: float) -> dict[str, Any]:
    """Everything a figure depends on. Those that differ between two runs forbid to mix their figures."""
    return {
        "machine": f"{_processor()}, {len(harness.MEASURED | harness.OTHERS)} cores",
        "python": platform.python_version(),
        "kafka": kafka.describe(),
        "valkey": f"{valkey.describe()}, appendfsync always",
        "receiver": receiver,
        "receiver_ceiling_per_s": round(ceiling),
        "log_level": options.log_level,
        "record_bytes": record_bytes,
        "records": options.records,
        "repeats": options.repeats,
        "connections": 50,
    }


def told(found: Mapping[str, Any]) -> Iterable[str]:
    return [f"{name.replace('_', ' ')}: {_number(value)}" for name, value in found.items()]


def table(figures: Mapping[str, Figure]) -> str:
    """A line a key: median, spread, goal."""
    rows = [
        (key, _number(one.median), f"±{one.spread / 2:.0%}", goal(key, one)) for key, one in figures.items()
    ]
    width = max(len(row[0]) for row in rows)
    return "\n".join(
        f"{key:<{width}}  {median:>12}  {spread:>6}  {to}".rstrip() for key, median, spread, to in rows
    )


def goal(key: str, found: Figure) -> str:
    """What it is to be, and whether it is."""
    if key not in GOALS:
        return ""
    sign, wanted = GOALS[key]
    return f"{sign} {_number(wanted)} {'yes' if _SIGNS[sign](found.median, wanted) else 'NO'}"


def write(path: Path, conditions: Mapping[str, Any], figures: Mapping[str, Figure]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"conditions": conditions, **{key: one.told() for key, one in figures.items()}}
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def read(path: Path, conditions: Mapping[str, Any]) -> dict[str, Figure]:
    """Figures of points measured before under the same conditions; the receiver's ceiling varies."""
    if not path.exists():
        return {}
    before = json.loads(path.read_text("utf-8"))
    varies = {"receiver_ceiling_per_s": 0}
    if {**before.pop("conditions"), **varies} != {**conditions, **varies}:
        return {}
    return {key: Figure(one["median"], one["spread"], tuple(one["values"])) for key, one in before.items()}


def _number(value: Any) -> str:
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _processor() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()
