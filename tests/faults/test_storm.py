"""A short storm, as `make faults` has long ones: nothing lost, nothing doubled, whatever fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.storm.run import run

#: A minute of faults; with what comes before and after, three on two cores that do other things, too.
SEED, MINUTES, RATE = 5, 1.0, 200.0


@pytest.mark.timeout(420)
def test_nothing_is_lost_or_doubled_in_a_storm(tmp_path: Path) -> None:
    found = run(tmp_path, SEED, MINUTES, print, RATE)
    print(found)
    assert found.verdict.troubles == []
    assert (found.verdict.lost, found.verdict.duplicates, found.verdict.mismatches) == (0, 0, 0)
    assert found.verdict.repeats <= found.repeats_bound
    # What did not go wrong shows nothing.
    assert found.kills > 15
    assert found.points
    assert found.events > 5_000
