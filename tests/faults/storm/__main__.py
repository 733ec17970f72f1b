"""`make faults`: a storm and its verdict, every crash point, the planted bugs, and all fault cases by number.

`out/faults.json` has the figures. Exit code 0 only where nothing was lost or doubled, every case passed and
every planted bug was found; `out/faults-<seed>.schedule.json` is what the seed does, `--case 12` one case alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from deploy.embedded.processes import StartError, raise_open_files
from tests.faults.storm.points import POINTS
from tests.faults.storm.run import RATE, Figures, run
from tests.support.cases import CASES, passed

ROOT = Path(__file__).parents[3]
OUT = ROOT / "out"
#: As `make test` does: most of a test is waiting.
TESTERS = ("-n", "3", "--dist", "loadfile", "--no-loadscope-reorder")
PLANTED = "tests/faults/test_planted.py"
#: Of the long tests of cases those without which a case would be half shown; `--case N` runs all of one.
LONG_TOO = ("tests/faults/test_crash_points.py", "tests/faults/test_rolling.py")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=RATE, help="referrals a second")
    parser.add_argument("--case", help="only this fault case, by number")
    parser.add_argument("--storm", action="store_true", help="only the storm")
    given = parser.parse_args()
    if given.case:
        return _tests("--case", given.case, "-v", "-m", "")
    raise_open_files()
    OUT.mkdir(exist_ok=True)
    print(
        f"seed {given.seed}: `make faults SEED={given.seed} MINUTES={given.minutes:g}` repeats the schedule"
    )
    folder = Path(tempfile.mkdtemp(prefix="referrals-faults-"))
    try:
        figures = run(folder, given.seed, given.minutes, lambda line: print(line, flush=True), given.rate)
        shutil.copy(folder / "schedule.json", OUT / f"faults-{given.seed}.schedule.json")
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    for line in figures.verdict.troubles:
        print(f"TROUBLE: {line}")
    if figures.clean:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"all logs are in {folder}")
    told = _told(figures) if given.storm else {**_told(figures), **_shown(figures)}
    for path in (OUT / "faults.json", OUT / f"faults-{given.seed}.json"):
        path.write_text(json.dumps(told, indent=2) + "\n")
    print(json.dumps(told, indent=2))
    whole = given.storm or (told["cases_passed"] == told["cases_total"] and told["planted_bug_found"])
    return 0 if figures.clean and whole else 1


def _told(figures: Figures) -> dict[str, Any]:
    return {
        "seed": figures.seed,
        "minutes": figures.minutes,
        "kafka": figures.kafka,
        "events": figures.events,
        "kills": figures.kills,
        "faults": figures.faults,
        "crash_points_covered": len(figures.points),
        "crash_points_total": len(POINTS),
        "lost": figures.verdict.lost,
        "duplicates": figures.verdict.duplicates,
        "repeats": figures.verdict.repeats,
        "repeats_bound": figures.repeats_bound,
        "body_mismatches": figures.verdict.mismatches,
        "troubles": figures.verdict.troubles,
        "details": dict(sorted(figures.details.items())),
    }


def _shown(figures: Figures) -> dict[str, Any]:
    """What the tests show beside the storm: each crash point by itself, the planted bugs, the cases."""
    report, covered = OUT / "faults.cases.json", OUT / "faults.points"
    covered.unlink(missing_ok=True)
    planted = _tests(PLANTED, "-m", "")
    swept = _tests(*LONG_TOO, "-m", "")
    _tests("--case", "all", "--case-report", str(report), "-m", "not long")
    points = set(covered.read_text().split()) if covered.exists() else set()
    found = set(passed(json.loads(report.read_text())))
    if swept != pytest.ExitCode.OK:
        found -= {1, 30}
    missing = sorted(CASES.keys() - found)
    return {
        "crash_points_covered": len((figures.points | points) & POINTS.keys()),
        "cases_passed": len(found),
        "cases_total": len(CASES),
        "cases_missing": missing,
        "planted_bug_found": planted == pytest.ExitCode.OK,
    }


def _tests(*arguments: str) -> int:
    environment = {**os.environ, "FAULTS_POINTS": str(OUT / "faults.points")}
    given = (sys.executable, "-m", "pytest", "-q", *TESTERS, *arguments)
    return subprocess.run(given, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
