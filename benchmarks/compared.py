"""The picture of the README: seconds and memory of whole merges, beside mergekit's.

``python -m benchmarks.compared`` draws docs/figures/compared.svg from benchmarks/compared.json, which is written by

    python benchmarks/checkpoints.py models
    python benchmarks/floor.py models --mergekit mk/bin/mergekit-yaml --json benchmarks/compared.json
"""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.figure import Figure

from svc_dist.report.figures import svg

HERE = Path(__file__).parent
TARGET = HERE.parent / "docs" / "figures" / "compared.svg"
NAMES = {"task_arithmetic": "task arithmetic", "ties": "TIES", "dare_ties": "DARE-TIES"}
_OURS, _THEIRS, _TEXT = "#2a6f97", "#b0b8bf", "#7a8b99"  # legible on a light page and on a dark one


def picture(medians: dict[str, dict[str, float]]) -> Figure:
    """Bars by method: seconds on the left, peak memory on the right. ``medians``: as floor.py writes them."""
    methods = [name for name in NAMES if f"{name}, mergekit" in medians]
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    figure.patch.set_alpha(0)
    for axes, key, title in zip(
        figure.subplots(1, 2), ("seconds", "memory_mib"), ("seconds", "memory of its own, MiB"), strict=True
    ):
        axes.patch.set_alpha(0)
        ours = [medians[name][key] for name in methods]
        theirs = [medians[f"{name}, mergekit"][key] for name in methods]
        for offset, values, colour, label in (
            (-0.19, theirs, _THEIRS, "mergekit 0.1.5"),
            (0.19, ours, _OURS, "svc_dist"),
        ):
            bars = axes.barh([place + offset for place in range(len(methods))], values, 0.36, color=colour, label=label)
            axes.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3, color=_TEXT, fontsize=9)
        axes.set_yticks(range(len(methods)), [NAMES[name] for name in methods])
        axes.set_xlim(0, 1.15 * max(theirs))
        axes.set_title(title, color=_TEXT, fontsize=10, loc="left")
        axes.invert_yaxis()
        axes.tick_params(colors=_TEXT, length=0)
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
    figure.axes[0].legend(frameon=False, labelcolor=_TEXT, loc="lower right")
    return figure


if __name__ == "__main__":
    found = json.loads((HERE / "compared.json").read_text(encoding="utf-8"))
    TARGET.write_text(svg(picture(found)), encoding="utf-8")
