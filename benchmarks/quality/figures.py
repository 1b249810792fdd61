"""The figures of ``docs/choosing.md``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.quality.steps import place
from benchmarks.quality.tables import Results
from benchmarks.quality.variants import PARTS, SCALED, TASK_SCALES, Variant, layer_variants
from svc_dist.report.diagnosis import Diagnosis
from svc_dist.run_folder.report import MergeReport

_COLOURS = {None: "0.35", "1/K": "tab:red", "0.5": "tab:orange", "1": "tab:blue"}


def draw(found: Results, folder: Path) -> None:
    """Write every figure whose results exist as SVG; the same results give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Callable[[Results], Any]] = {"methods": methods, "scales": scales}
    if _inspected(found) is not None:
        figures["inflation"] = inflation
    with matplotlib.rc_context({"svg.hashsalt": "svc_dist", "font.size": 9, "svg.fonttype": "none"}):
        for name, make in figures.items():
            figure = make(found)
            figure.savefig(folder / f"choosing-{name}.svg", metadata={"Date": None}, bbox_inches="tight")
            plt.close(figure)


def methods(found: Results) -> Any:
    """Accuracy of each family, plain and with SVC at each alpha."""
    families = sorted(found.families(found.main), key=lambda family: _accuracy(found, family, None) or 0)
    figure, axes = plt.subplots(figsize=(7, 0.33 * len(families) + 1))
    for alpha, colour in _COLOURS.items():
        values = [_accuracy(found, family, alpha) for family in families]
        label = "plain" if alpha is None else f"SVC, alpha {alpha}"
        axes.scatter(
            [np.nan if value is None else value for value in values],
            range(len(families)),
            color=colour,
            s=90 if alpha is None else 28,
            label=label,
            marker="|" if alpha is None else "o",
            linewidths=2 if alpha is None else 0.5,
        )
    axes.set_yticks(range(len(families)), families)
    axes.set_xlabel(f"average accuracy on {found.main} tasks (%)")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="upper center", ncols=4, frameon=False)
    return figure


def _accuracy(found: Results, family: str, alpha: str | None) -> float | None:
    best = found.best(family, alpha, found.main)
    return None if best is None else found.mean(best, found.main)


def scales(found: Results) -> Any:
    """Task arithmetic by the scale of the sum, with and without SVC, for every K."""
    figure, all_axes = plt.subplots(1, len(found.measured), figsize=(1.5 + 3 * len(found.measured), 3), squeeze=False)
    for count, axes in zip(found.measured, all_axes[0], strict=True):
        for alpha, colour in ((None, "0.35"), ("1/K", "tab:red")):
            variants = [Variant("task arithmetic", "task_arithmetic", weight=w, alpha=alpha) for w in TASK_SCALES]
            known = [v for v in variants if found.seeds_of(v, count)]
            axes.plot(
                [v.weight for v in known],
                [found.mean(v, count) for v in known],
                marker="o",
                color=colour,
                label="plain" if alpha is None else f"SVC, alpha {alpha}",
            )
        axes.set_title(f"K = {count}", fontsize=9)
        axes.set_xlabel("scale of the sum of task deltas")
        axes.grid(alpha=0.3)
    all_axes[0][0].set_ylabel("average accuracy (%)")
    all_axes[0][0].legend(frameon=False)
    return figure


def _inspected(found: Results) -> int | None:
    """The largest number of experts that were inspected."""
    return next((count for count in found.measured if _inspection(found, count).exists()), None)


def _inspection(found: Results, count: int) -> Path:
    return place(found.work, 0, count).folder / "inspection.json"


def inflation(found: Results) -> Any:
    """For each part of the model, the predicted over-counting and the gain from calibrating it."""
    figure, axes = plt.subplots(figsize=(5, 3.4))
    whole = SCALED[0]
    count = _inspected(found)
    assert count is not None
    file = _inspection(found, count)
    diagnosis = Diagnosis(MergeReport.parse(file.read_bytes(), str(file)))
    predicted, measured = [], []
    for number, variant in enumerate(layer_variants()):
        layer, kind = number // len(PARTS), list(PARTS)[number % len(PARTS)]
        predicted.append(predicted_inflation(diagnosis, layer, kind))
        gain = found.gain(whole, variant, count)
        measured.append(np.nan if gain is None else gain.mean)
        axes.annotate(str(layer + 1), (predicted[-1], measured[-1]), textcoords="offset points", xytext=(5, 3))
        axes.scatter(predicted[-1], measured[-1], color="tab:red" if kind == "attention" else "tab:blue",
                     label=kind if layer == 0 else None)  # fmt: skip
    axes.set_xlabel("predicted inflation: times that the sum counts the contribution of an expert")
    axes.set_ylabel("points gained by calibrating this part")
    axes.set_title(
        f"parts of layers 1 to 6, K = {count}, rank correlation {rank_correlation(predicted, measured):.2f}", fontsize=9
    )
    axes.grid(alpha=0.3)
    axes.margins(0.1)
    axes.legend(frameon=False)
    return figure


def predicted_inflation(diagnosis: Diagnosis, layer: int, kind: str) -> float:
    """Times that the sum counts the contribution of an expert in a part of the model, by energy: 1 / mean gamma."""
    held = [
        matrix
        for matrix in diagnosis.calibrated
        if f".layer.{layer}." in matrix.tensor and (".attention." in matrix.tensor) == (kind == "attention")
    ]
    return 1 / diagnosis.gamma(held)


def rank_correlation(one: list[float], other: list[float]) -> float:
    """Spearman's rank correlation."""
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(np.array(ranks))[0, 1])
