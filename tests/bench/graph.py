"""The graph of the README: bars of ours beside what they are held against. Pure; the same figures give the
same bytes. It follows the reader's light or dark theme.
"""

from __future__ import annotations

from collections.abc import Mapping
from xml.sax.saxutils import escape

#: Title, unit, and the bars: key and label; the first is ours.
GROUPS = (
    (
        "Push to 50 CRMs, deliveries a second",
        (
            ("push.per_s", "push: durable, receipts"),
            ("push.plain_loop_per_s", "plain loop, keeps nothing"),
            ("push.bare_client_per_s", "client alone, ready bodies"),
            ("push.naive_per_s", "one httpx call at a time"),
        ),
    ),
    (
        "Collect into windows, records a second",
        (("collect.per_s", "collect: durable"), ("collect.raw_script_per_s", "the script alone")),
    ),
    (
        "Flush a million rows, rows a second",
        (("flush.rows_per_s", "flush: sealed, SFTP"), ("flush.loop_per_s", "plain loop, to nowhere")),
    ),
)
WIDTH, LABEL, BAR, GAP, HEAD = 760, 210, 20, 6, 40
_STYLE = """text{font:13px system-ui,sans-serif;fill:#1f2328}.h{font-weight:600}.n{fill:#59636e}
.ours{fill:#0969da}.other{fill:#b6bfc9}
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.n{fill:#9198a1}.ours{fill:#4493f8}.other{fill:#3d444d}}"""


def drawn(medians: Mapping[str, float]) -> str:
    """An SVG of the groups that were measured."""
    lines: list[str] = []
    y = 0
    for title, bars in GROUPS:
        known = [(key, label, medians[key]) for key, label in bars if key in medians]
        if not known:
            continue
        y += HEAD
        lines.append(f'<text class="h" x="0" y="{y - 12}">{escape(title)}</text>')
        most = max(value for _, _, value in known)
        for key, label, value in known:
            lines += _bar(y, label, value, most, ours=key == bars[0][0])
            y += BAR + GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + GAP}" width="{WIDTH}" role="img">'
    )
    title = "<title>What one process on one core does, beside what it is held against</title>"
    return "\n".join([head, title, f"<style>{_STYLE}</style>", *lines, "</svg>"]) + "\n"


def _bar(y: int, label: str, value: float, most: float, *, ours: bool) -> list[str]:
    length = (WIDTH - LABEL - 80) * value / most if most else 0.0
    kind = "ours" if ours else "other"
    return [
        f'<text x="0" y="{y + 15}">{escape(label)}</text>',
        f'<rect class="{kind}" x="{LABEL}" y="{y}" width="{length:.1f}" height="{BAR}" rx="3"/>',
        f'<text class="n" x="{LABEL + length + 8:.1f}" y="{y + 15}">{value:,.0f}</text>',
    ]
