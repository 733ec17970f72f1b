"""How long everything took, from when things were published and when receivers noted them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deploy.embedded.accounts import Plan
from deploy.embedded.publisher import Published
from deploy.embedded.reconcile import Request, percentile


@dataclass(slots=True)
class Moments:
    """Of a run, in seconds since the epoch; 0 for what did not happen."""

    began: float
    steady: float = 0.0
    burst: float = 0.0
    burst_ended: float = 0.0
    recovered: float = 0.0
    asked: float = 0.0
    flushed: float = 0.0


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds. `p50` and `p99`: from publication to acceptance by a healthy CRM, at the steady rate.

    `published`: the burst of so many, and `drained`: from its beginning until the healthy CRMs had all of it.
    `recovered`: from when the CRMs that answered 503 worked again until they had all of theirs.
    """

    p50: float
    p99: float
    burst: int
    published: float
    drained: float
    drained_per_second: float
    recovered: float
    flushed: float
    total: float


def times(
    plan: Plan,
    published: Sequence[Published],
    requests: Iterable[tuple[float, Request]],
    moments: Moments,
    now: float,
) -> Times:
    """`requests`: with when each was accepted."""
    since = {one.referral_id: one.at for one in published}
    behaviour = {p.name: p.behaviour for p in plan.connections}
    effects = [
        (behaviour.get(r.connection), at, since[r.referral_id])
        for at, r in requests
        if r.kind == "effect" and r.referral_id in since
    ]
    healthy = [(at, begun) for how, at, begun in effects if how == "ok"]
    steady = sorted(at - begun for at, begun in healthy if moments.steady <= begun < moments.burst)
    drained = (
        max((at for at, begun in healthy if begun >= moments.burst), default=moments.burst) - moments.burst
    )
    late = max((at for how, at, _ in effects if how == "troubled"), default=moments.recovered)
    burst = sum(one.at >= moments.burst for one in published)
    return Times(
        p50=percentile(steady, 0.5),
        p99=percentile(steady, 0.99),
        burst=burst,
        published=moments.burst_ended - moments.burst,
        drained=drained,
        drained_per_second=burst / drained if drained else 0.0,
        recovered=max(0.0, late - moments.recovered),
        flushed=max(0.0, moments.flushed - moments.asked),
        total=now - moments.began,
    )
