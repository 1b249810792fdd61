"""A search as one self-contained page: what it found, and a plot of the score over each value."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

from svc_dist.errors import is_installed
from svc_dist.report.figures import plain, svg
from svc_dist.scoring.search.outcome import Outcome, progress
from svc_dist.scoring.search.trials import State

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22303c; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #d5dde3; }
svg { max-width: 100%; height: auto; } table { border-collapse: collapse; }
td, th { text-align: left; padding: .15rem .9rem .15rem 0; vertical-align: top; }
"""
_INK, _BLUE, _ORANGE = "#22303c", "#2a6f97", "#e07a2f"
_COLUMNS = 3


def render(outcome: Outcome, title: str, command: str) -> str:
    """The page of a search."""
    names = "".join(f"<th>{html.escape(name)}</th>" for name in outcome.names)
    rows = []
    for trial in [*outcome.ranked, *(one for one in outcome.trials if outcome.score(one) is None)]:
        score = outcome.score(trial)
        shown = f"{score:.6g}" if score is not None else "" if trial.state is State.PROPOSED else "failed"
        values = [str(trial.values[name]) if trial.values else "as in the recipe" for name in outcome.names]
        cells = "".join(f"<td>{html.escape(one)}</td>" for one in (str(trial.number), shown, *values))
        reason = (trial.reason(outcome.metric) or "").partition("\n")[0]
        rows.append(f"<tr>{cells}<td>{html.escape(reason)}</td></tr>")
    best = outcome.best
    said = "no trial has a score yet"
    if best is not None:
        said = f"the best of {len(outcome.ranked)} scored trials is trial {best.number}: {outcome.score(best):.6g}"
    figure = plot(outcome) if is_installed("matplotlib") else None
    drawn = "" if figure is None else f"<h2>Score by value</h2>\n{svg(figure)}"
    if best is not None and figure is None:
        drawn = "<p>Plots need matplotlib: <code>pip install 'svc-dist[report]'</code>, then run the search again.</p>"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{html.escape(title)}</h1>\n<p>{html.escape(said)}</p>\n"
        f"<p>Score command: <code>{html.escape(command)}</code></p>\n{drawn}\n<h2>Trials</h2>\n"
        f"<table><tr><th>trial</th><th>score</th>{names}<th></th></tr>{''.join(rows)}</table>\n</body>\n</html>\n"
    )


def plot(outcome: Outcome) -> Figure | None:
    """The score over each value, and the best score up to each trial. None where no trial has a score."""
    scored = [(one, score) for one in outcome.trials if (score := outcome.score(one)) is not None]
    if not scored:
        return None
    from matplotlib.figure import Figure

    panels = 1 + len(outcome.names)
    rows = math.ceil(panels / _COLUMNS)
    figure = Figure(figsize=(9.0, 2.9 * rows), layout="constrained")
    axes = [figure.add_subplot(rows, min(_COLUMNS, panels), number + 1) for number in range(panels)]
    numbers, scores = [one.number for one, _ in scored], [score for _, score in scored]
    axes[0].plot(numbers, scores, "o", ms=4, color=_BLUE)
    axes[0].step(numbers, progress(scores, outcome.minimise), where="post", color=_ORANGE)
    axes[0].set_xlabel("trial")
    axes[0].set_ylabel("score")
    axes[0].set_title("the best so far", fontsize=9)
    own = next((score for one, score in scored if not one.values), None)
    best = outcome.best
    top = max if not outcome.minimise else min
    for name, panel in zip(outcome.names, axes[1:], strict=True):
        points = [(one.values[name], score) for one, score in scored if one.values]
        order: list[object] = sorted({value for value, _ in points if _is_number(value)})
        order += [text for text in dict.fromkeys(value for value, _ in points) if not _is_number(text)]
        is_scale = all(_is_number(value) for value in order)
        at = [value if is_scale else order.index(value) for value, _ in points]
        panel.plot(at, [score for _, score in points], "o", ms=4, color=_BLUE)
        if best is not None and best.values:
            value = best.values[name]
            x = value if is_scale else order.index(value)
            panel.plot([x], [top(scores)], "o", ms=8, mfc="none", mec=_ORANGE, mew=1.5)
        if not is_scale:
            panel.set_xticks(range(len(order)), [plain(str(value)) for value in order])
        if own is not None:
            panel.axhline(own, color=_INK, lw=0.8, ls=":")
        panel.set_xlabel(plain(name))
    if own is not None and len(axes) > 1:
        axes[1].set_title("dotted: the recipe as it is", fontsize=9)
    return figure


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
