"""The bench's own arithmetic: medians, waits, the table, the file and the graph."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from schemas import referral
from tests.bench import graph, harness, record, report
from tests.bench.accounts import crms
from tests.bench.harness import Figure, figure


@pytest.mark.parametrize(
    ("values", "median", "spread"),
    [
        pytest.param([4.0], 4.0, 0.0, id="one"),
        pytest.param([10.0, 8.0, 9.0, 30.0, 10.0], 10.0, 2.2, id="odd"),
        pytest.param([1.0, 3.0], 2.0, 1.0, id="even"),
        pytest.param([0.0, 0.0], 0.0, 0.0, id="nothing"),
    ],
)
def test_median_and_spread(values: list[float], median: float, spread: float) -> None:
    assert figure(values) == Figure(median, pytest.approx(spread), tuple(values))


def test_a_ratio_is_taken_within_a_repeat() -> None:
    runs = [(10.0, 10.0), (20.0, 40.0), (30.0, 30.0)]
    found = harness.measure(3, lambda n: {"ours": runs[n][0], "ratio": runs[n][0] / runs[n][1]})
    assert found["ours"].median == 20.0
    assert found["ratio"].values == (1.0, 0.5, 1.0)
    assert found["ratio"].median == 1.0


def test_quantiles_are_values_that_were_there() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert harness.quantile(values, 0.5) == 51.0
    assert harness.quantile(values, 0.99) == 100.0
    assert harness.quantile([7.0], 0.99) == 7.0


def test_a_wait_ends_and_says_what_did_not_come() -> None:
    with pytest.raises(harness.TooLate, match="not within 0 s: the thing"):
        harness.wait(lambda: False, "the thing", 0.0)


def test_a_started_process_keeps_to_its_core() -> None:
    with harness.pinned(harness.MEASURED):
        assert harness.os.sched_getaffinity(0) == harness.MEASURED
    assert harness.os.sched_getaffinity(0) == harness.MEASURED | harness.OTHERS


def test_records_are_whole_and_nobody_comes_twice() -> None:
    made = list(record.records(40, ("acme", "brightbox")))
    assert len({one.referral_id for one in made}) == 40
    for one in made:
        found = referral.decode(one.value)
        assert (found.referral_id, found.account_id) == (one.referral_id, one.account)
        assert len(one.value) >= record.LEAST_BYTES
    each = list(record.spread(6, ("acme", "brightbox", "casa")))
    assert [one.account for one in each] == ["acme", "brightbox", "casa"] * 2


def test_goals_are_told_as_reached_or_not() -> None:
    assert report.goal("push.ratio", figure([0.71])) == "≥ 0.7 yes"
    assert report.goal("push.ratio", figure([0.69])) == "≥ 0.7 NO"
    assert report.goal("push.p99_ms", figure([26.0])) == "≤ 25 NO"
    assert report.goal("push.per_s", figure([1.0])) == ""
    lines = report.table({"push.per_s": figure([12_345.0, 12_345.0]), "push.ratio": figure([0.6, 0.8])})
    assert [line.split() for line in lines.splitlines()] == [
        ["push.per_s", "12,345", "±0%"],
        ["push.ratio", "0.7", "±14%", "≥", "0.7", "yes"],
    ]


def test_figures_of_other_conditions_are_forgotten(tmp_path: Path) -> None:
    path, figures = tmp_path / "out" / "bench.json", {"push.per_s": figure([1.0, 2.0])}
    conditions = {"machine": "m", "receiver_ceiling_per_s": 1}
    assert report.read(path, conditions) == {}
    report.write(path, conditions, figures)
    assert json.loads(path.read_text())["push.per_s"] == {
        "median": 1.5,
        "spread": pytest.approx(2 / 3),
        "values": [1.0, 2.0],
    }
    assert report.read(path, {**conditions, "receiver_ceiling_per_s": 2}) == figures
    assert report.read(path, {**conditions, "machine": "n"}) == {}


def test_the_graph_is_the_same_for_the_same_figures_and_has_a_bar_for_each() -> None:
    medians = {"push.per_s": 5_000.0, "push.plain_loop_per_s": 10_000.0, "collect.per_s": 7.0}
    drawn = graph.drawn(medians)
    assert drawn == graph.drawn(dict(reversed(medians.items())))
    bars = [one for one in ET.fromstring(drawn).iter() if one.tag.endswith("rect")]
    lengths = [float(one.attrib["width"]) for one in bars]
    assert lengths[0] * 2 == pytest.approx(lengths[1], abs=0.2)
    assert [one.attrib["class"] for one in bars] == ["ours", "other", "ours"]
    assert "prefers-color-scheme:dark" in drawn
    assert "5,000" in drawn


def test_connections_of_the_bench_are_valid(tmp_path: Path) -> None:
    from consumer.folder import look
    from tests.bench.accounts import COLUMNS, folders

    for name, text in crms("http://ACCOUNT.bench.example:20000", ["acme", "casa"]).items():
        (tmp_path / f"{name}.yaml").write_text(text)
    found = look(tmp_path).connections.by_name()
    assert {c.url for _, c in found.values()} == {
        "http://acme.bench.example:20000/acme-crm",
        "http://casa.bench.example:20000/casa-crm",
    }
    host_key = f"SHA256:{'A' * 43}"
    (tmp_path / "acme.yaml").write_text(folders(22, host_key, ["acme"], fields=json.dumps(COLUMNS))["acme"])
    (_, folder) = look(tmp_path).connections.by_name()["acme-sftp"]
    assert tuple(rule.name for rule in folder.fields) == COLUMNS
