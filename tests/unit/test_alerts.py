"""Alerts, their unit tests, their runbook and the dashboard agree with each other and with the metrics."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from console.reconcile.books import Books
from console.reconcile.ledger import Range
from console.reconcile.run import Reconciled
from console.reconcile.shown import textfile
from consumer import metrics
from consumer.service import STUCK_AFTER_S

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
ALERTS = PROMETHEUS / "alerts.yml"
TESTS = [PROMETHEUS / "alerts_test.yml", PROMETHEUS / "alerts_days_test.yml"]
DASHBOARD = DEPLOY / "grafana/dashboards/referrals.json"
GROUPS = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
NAMES = sorted({rule["alert"] for rule in RULES if "alert" in rule})
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
METRIC = re.compile(r"\b(referral(?::\w+)+|referral_\w+)(\{[^}]*\})?")
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
#: Labels Prometheus or a query adds.
FOREIGN = {"job", "instance"}


def promtool(*arguments: str) -> str:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("no promtool: apt-get install prometheus")
    done = subprocess.run(
        [tool, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def exposed() -> dict[str, dict[str, set[str]]]:
    """Sample name to the values each of its labels can have, of the services and of a reconciliation."""
    metrics.start(range(1))
    found: dict[str, dict[str, set[str]]] = {}
    written = textfile(Reconciled(Range(0, 1, None), Books(), 0, ()), 0.0)
    for line in (metrics.exposition().decode() + written).splitlines():
        if line.startswith("referral_"):
            name, _, labels = line.rpartition(" ")[0].partition("{")
            values = found.setdefault(name, {})
            for label, _, value in MATCHER.findall(labels):
                values.setdefault(label, set()).add(value)
    return found


def panels() -> list[dict]:
    return [panel for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"] if panel["type"] != "row"]


def expressions() -> list:
    rules = [pytest.param(rule["expr"], id=rule.get("alert") or rule["record"]) for rule in RULES]
    queries = [
        pytest.param(query["expr"], id=f"panel {panel['title']}")
        for panel in panels()
        for query in panel["targets"]
    ]
    return rules + queries


def test_promtool_accepts_the_configuration_and_the_rules():
    assert "rules found" in promtool("check", "config", "prometheus.yml")


@pytest.mark.parametrize("file", [pytest.param(file.name, id=file.stem) for file in TESTS])
def test_alerts_fire_when_they_must_and_only_then(file: str):
    assert "SUCCESS" in promtool("test", "rules", file)


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_in_an_expression_is_one_we_export(expression: str):
    known = exposed()
    for name, selector in METRIC.findall(expression):
        if name in RECORDED:
            continue
        assert name in known, f"{name} is not exported"
        for label, how, value in MATCHER.findall(selector):
            if label in FOREIGN:
                continue
            wanted = set(value.split("|")) if how == "=~" else {value}
            assert wanted <= known[name].get(label, set()), f"{name} has no {label} {wanted}"


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_is_shown_to_fire_and_not_to_fire(name: str):
    cases = [
        case
        for file in TESTS
        for test in yaml.safe_load(file.read_text("utf-8"))["tests"]
        for case in test.get("alert_rule_test", ())
        if case["alertname"] == name
    ]
    fired = {one["exp_labels"]["severity"] for case in cases for one in case["exp_alerts"]}
    assert fired == {rule["labels"]["severity"] for rule in RULES if rule.get("alert") == name}
    assert any(not case["exp_alerts"] for case in cases), "no case in which it must stay silent"


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule["alert"]) for rule in RULES if "alert" in rule])
def test_every_alert_says_how_urgent_it_is_and_where_its_runbook_stands(rule: dict):
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook"] == f"deploy/RUNBOOK.md#{rule['alert'].lower()}"


def test_the_runbook_has_one_section_an_alert_and_each_says_what_to_do():
    sections = re.split(r"(?m)^## ", (DEPLOY / "RUNBOOK.md").read_text("utf-8"))[1:]
    assert sorted(section.split("\n", 1)[0] for section in sections) == NAMES
    for section in sections:
        assert all(part in section for part in ("**Means.**", "**Look.**", "**Do.**")), section[:40]


def test_a_stuck_loop_pages_before_liveness_hides_it():
    (rule,) = [rule for rule in RULES if rule.get("alert") == "ReferralLoopStuck"]
    (age,) = set(re.findall(r"> (\d+)", rule["expr"]))
    assert int(age) + 2 * 15 < STUCK_AFTER_S, "scraped and evaluated every 15 s"


def test_the_dashboard_is_whole():
    board = json.loads(DASHBOARD.read_text("utf-8"))
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(panel["description"] for panel in panels())
    spots = [
        (x, y)
        for panel in board["panels"]
        for box in [panel["gridPos"]]
        for x in range(box["x"], box["x"] + box["w"])
        for y in range(box["y"], box["y"] + box["h"])
    ]
    assert len(set(spots)) == len(spots), "two panels overlap"
    assert max(x for x, _ in spots) < 24
