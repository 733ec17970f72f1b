"""`python -m tests.bench [POINT…]`: measures, prints a table, writes out/bench.json and draws the graph."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from deploy.embedded.processes import raise_open_files
from tests.bench import (
    aof,
    collect,
    drain,
    flush,
    graph,
    isolation,
    memory,
    nginx,
    push,
    record,
    recovery,
    report,
)
from tests.bench.harness import Figure, Options
from tests.bench.stage import Stage, stage

#: In the order in which they are measured and told.
POINTS: Mapping[str, Callable[[Stage, Options], Mapping[str, Figure]]] = {
    "push": push.point,
    "isolation": isolation.point,
    "collect": collect.point,
    "flush": flush.point,
    "drain": drain.point,
    "recovery": recovery.point,
    "memory": memory.point,
    "aof": aof.point,
}


def main(argv: list[str]) -> int:
    options = argparse.ArgumentParser("python -m tests.bench", description=__doc__)
    options.add_argument("only", nargs="*", choices=[*POINTS, []], help="these points; all without any")
    options.add_argument("--records", type=int, default=100_000, help="of one run of a point")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO"], help="of the services")
    options.add_argument("--out", type=Path, default=Path("out/bench.json"))
    options.add_argument("--graph", type=Path, help="where the graph goes; beside --out without it")
    given = options.parse_args(argv)
    receiver = nginx.find()
    if isinstance(receiver, str):
        print(f"{receiver}: a receiver of ours takes its place, which is slower", file=sys.stderr)
        receiver = None
    raise_open_files()
    chosen = Options(given.records, given.repeats, given.log_level)
    with (
        tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder,
        stage(Path(folder), receiver, given.log_level) as running,
    ):
        ceiling = nginx.ceiling(running.receiver.port, b"x" * 400)
        conditions = report.conditions(chosen, record.size(), running.receiver.name, ceiling)
        print(*report.told(conditions), sep="\n", flush=True)
        found = report.read(given.out, conditions)
        for name in given.only or POINTS:
            figures = POINTS[name](running, chosen)
            print(report.table(figures), flush=True)
            found |= figures
            report.write(given.out, conditions, found)
    picture = given.graph or given.out.with_suffix(".svg")
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(graph.drawn({name: one.median for name, one in found.items()}), "utf-8")
    print(f"\n{given.out}, {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
