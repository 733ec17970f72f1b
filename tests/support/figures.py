"""What alerts read, from `/metrics` of this process or of a service: a case that moves nothing wakes nobody."""

from __future__ import annotations

import re

import yaml

from consumer import metrics
from tests.support.receivers import ROOT

ALERTS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text("utf-8"))


def watched(alert: str, series: str, exposition: str | None = None) -> float:
    """What `/metrics` says of a series (of this process, or as given) that an alert of that name reads."""
    rules = [rule for group in ALERTS["groups"] for rule in group["rules"] if rule.get("alert") == alert]
    name, brace, _labels = series.partition("{")
    read = rf"{re.escape(series)}|{name}(?!\{{)\b" if brace else rf"{name}\b"
    assert any(re.search(read, rule["expr"]) for rule in rules), f"{alert} does not read {series}"
    return figure(series, exposition)


def figure(series: str, exposition: str | None = None) -> float:
    """A series of `/metrics`: of this process, or as given."""
    metrics.start()  # as every service does, so that what never moved stands at 0
    told = exposition or metrics.exposition().decode()
    found = re.search(rf"^{re.escape(series)} (\S+)$", told, re.MULTILINE)
    assert found is not None, f"no {series} in /metrics"
    return float(found[1])


REWINDS = ("ReferralRedisRewind", "referral_redis_rewind_total")
GAPS = ("ReferralOffsetGap", "referral_offset_gap_total")
FENCED_OFFSET = ("ReferralOffsetFenced", 'referral_fenced_total{reason="offset"}')
CONSUMED = ("ReferralIntakeSilent", "referral_consumed_total")
TAKEN_AT = ("ReferralIntakeStalled", "referral_last_intake_timestamp_seconds")
PROGRESS = ("ReferralLoopStuck", "referral_last_progress_timestamp_seconds")


def quiet() -> tuple[float, ...]:
    """What must not move where nothing was wrong with offsets: two of these page."""
    return tuple(watched(*one) for one in (REWINDS, GAPS, FENCED_OFFSET))
