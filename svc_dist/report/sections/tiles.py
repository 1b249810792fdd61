"""The four figures that stand first on a page."""

from __future__ import annotations

import html

from svc_dist.report.effect import Kind
from svc_dist.report.sections.style import shade
from svc_dist.report.summary import INFLATED, Summary, figure, minutes, percent


def tiles(summary: Summary) -> str:
    """Times counted, the share of inflated matrices, the change of the deltas, minutes."""
    change, what = _change(summary)
    matrices = f"{summary.inflated} of {summary.matrices}" if summary.matrices else "no matrix was compared"
    title = "Change of the deltas" if summary.merged else "Change by calibration"
    shown = [
        ("Times counted", figure(summary.times), "by the plain sum of the experts; 1 is right", shade(summary.times)),
        (f"Matrices above {INFLATED:g} times", percent(summary.share_inflated), matrices, ""),
        (title, change, what, ""),
        ("Minutes", minutes(summary.seconds), summary.of_seconds, ""),
    ]
    return f'<div class="tiles">\n{"".join(_tile(*one) for one in shown)}</div>'


def _tile(title: str, value: str, what: str, colour: str) -> str:
    name = f"tile {colour}".rstrip()
    texts = [html.escape(text) for text in (title, value, what)]
    return f'<div class="{name}"><em>{texts[0]}</em><strong>{texts[1]}</strong><span>{texts[2]}</span></div>\n'


def _change(summary: Summary) -> tuple[str, str]:
    effect = summary.effect
    if effect is None:
        return "–", "this merge was not calibrated" if summary.merged else "no matrix was analysed"
    if effect.kind is Kind.HARDLY_TOUCHED:
        what = "by calibration, hardly any" if summary.merged else "calibrate: svc would hardly change them"
    else:
        would = "" if summary.merged else "calibrate: svc would bring them "
        what = f"{would}to {effect.growth:.2f} times their size"
    return percent(effect.change), what
