"""The figure of the language model in ``docs/choosing.md``."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from benchmarks.quality.lm.data import TASKS
from benchmarks.quality.lm.tables import Results
from benchmarks.quality.results import accuracy


def draw(found: Results, folder: Path) -> None:
    """Write the figure as SVG; the same results give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = [case for case in found.cases if case[1] == min(count for _, count in found.cases)]
    with matplotlib.rc_context({"svg.hashsalt": "svc_dist", "font.size": 9, "svg.fonttype": "none"}):
        figure = methods(found, cases)
        figure.savefig(folder / "choosing-lm.svg", metadata={"Date": None}, bbox_inches="tight")
        plt.close(figure)


def methods(found: Results, cases: list[tuple[str, int]]) -> Any:
    """The score of each row, a panel for each kind of experts: the mean as a line, each set of experts as a dot."""
    by_case = {case: _scores(found, *case) for case in cases}
    means = {family: statistics.fmean(values) for scores in by_case.values() for family, values in scores.items()}
    means |= {family: statistics.fmean(values) for family, values in by_case[cases[0]].items()}  # orders the rows
    families = sorted(means, key=means.__getitem__)
    size = (1.6 + 2.2 * len(cases), 0.24 * len(families) + 0.9)
    figure, all_axes = plt.subplots(1, len(cases), figsize=size, sharey=True, squeeze=False)
    for (kind, count), axes in zip(cases, all_axes[0], strict=True):
        for row, family in enumerate(families):
            values = by_case[kind, count].get(family, [])
            if values:
                colour = "tab:red" if "SVC" in family and not family.startswith("norms") else "0.3"
                axes.scatter(values, [row] * len(values), s=14, color=colour, alpha=0.6, linewidths=0)
                axes.scatter([statistics.fmean(values)], [row], s=110, marker="|", color=colour, linewidths=1.8)
        own, base = found.experts(kind, count), found.base()
        for value, style in ((own, "--"), (accuracy({name: base[name] for name in list(TASKS)[:count]}), ":")):
            if value is not None:
                axes.axvline(value, color="tab:blue", linewidth=0.9, linestyle=style)
        axes.set_yticks(range(len(families)), families)
        axes.set_title(f"{kind}, K = {count}", fontsize=9)
        axes.set_xlim(0, 100)
        axes.grid(axis="x", alpha=0.3)
    figure.supxlabel("score (%); dashed: the experts themselves, dotted: the base", fontsize=9)
    figure.tight_layout()
    return figure


def _scores(found: Results, kind: str, count: int) -> dict[str, list[float]]:
    """The scores of each row, one for each set of experts."""
    return {
        family: [accuracy(answers) for answers in found.of(variant, kind, count, found.seeds_of(variant, kind, count))]
        for family, variant in found.rows(kind, count).items()
    }
