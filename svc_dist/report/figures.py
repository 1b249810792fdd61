"""The plots of a report as SVG text. They change no global state of matplotlib, which the first plot loads."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from svc_dist.errors import printable, require_extra
from svc_dist.report.diagnosis import Array, Diagnosis, Matrix, label

if TYPE_CHECKING:
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

_INK = "#22303c"
_COLOURS = ("#2a6f97", "#e07a2f", "#3a8f5c", "#b5446e", "#7a5ea8", "#8c6d31", "#4f9da6", "#c0392b")
_WIDE = 9.0  # inches
_LABELS = 40  # ticks of an axis that can be read


def plain(name: str) -> str:
    """A name as the text of a plot: harmless, and without mathematics."""
    return printable(name).replace("$", r"\$")


def require_plots() -> None:
    """Raise MissingExtraError where plots cannot be drawn."""
    require_extra("report", "a page with plots", "matplotlib")


def _figure(height: float) -> Figure:
    require_plots()
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDE, height), layout="constrained")


def _norm(least: float | None = None, largest: float | None = None) -> Normalize:
    require_plots()
    from matplotlib.colors import Normalize

    return Normalize(least, largest)


def svg(figure: Figure) -> str:
    """A figure as reproducible SVG text."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "svc-dist", "svg.fonttype": "none"}):
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    content = text.getvalue()[text.getvalue().index("<svg") :]
    return re.sub(r"<metadata>.*?</metadata>", "", content, count=1, flags=re.DOTALL)


def gamma_map(diagnosis: Diagnosis) -> Figure | None:
    """Gamma by layer and kind of module: blue below 1, red above 1."""
    layers, kinds, values = diagnosis.grid("gamma_by_energy")
    if not values.size:
        return None
    reach = max(float(np.nanmax(np.abs(values - 1))), 0.05)
    return _map(layers, kinds, values, "gamma, by energy", _norm(1 - reach, 1 + reach), "RdBu_r")


def rank_map(diagnosis: Diagnosis) -> Figure | None:
    """Rank after the merge method, by layer and kind of module."""
    layers, kinds, values = diagnosis.grid("kept_rank")
    return _map(layers, kinds, values, "directions kept", _norm(), "viridis") if values.size else None


def _map(
    layers: Sequence[int], kinds: Sequence[str], values: Array, name: str, norm: Normalize, colours: str
) -> Figure:
    figure = _figure(1.3 + 0.32 * len(kinds))
    axes = figure.subplots()
    image = axes.imshow(values, aspect="auto", norm=norm, cmap=colours, interpolation="nearest")
    step = math.ceil(len(layers) / _LABELS)
    axes.set_xticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
    axes.set_yticks(range(len(kinds)), [plain(kind) for kind in kinds])
    axes.set_xlabel("layer")
    figure.colorbar(image, ax=axes, label=name, pad=0.01)
    return figure


def spectra(matrices: Sequence[Matrix]) -> Figure | None:
    """The leading singular values before and after calibration."""
    if not matrices:
        return None
    columns = min(3, len(matrices))
    rows = math.ceil(len(matrices) / columns)
    figure = _figure(2.7 * rows)
    for number, matrix in enumerate(matrices):
        axes = figure.add_subplot(rows, columns, number + 1)
        for key, colour in (("sigma", _COLOURS[1]), ("sigma_calibrated", _COLOURS[0])):
            values = matrix.summary.get(key)
            if values is not None:
                axes.plot(range(1, len(values) + 1), values, "o-", ms=3, color=colour)
        axes.set_title(plain(label(matrix)), fontsize=7)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("direction", fontsize=8)
    if any("sigma_calibrated" in matrix.summary for matrix in matrices):
        figure.legend(["before", "after calibration"], loc="outside upper right", ncols=2, frameon=False)
    return figure


def overlap(diagnosis: Diagnosis) -> Figure | None:
    """Cosines between the experts' deltas, over all and by layer."""
    if len(diagnosis.experts) < 2 or not diagnosis.grams:
        return None
    cosines = diagnosis.overlap()
    diagonal = np.eye(len(cosines), dtype=bool)
    figure = _figure(3.6)
    left, right = figure.subplots(1, 2)
    largest = max(float(np.abs(cosines[~diagonal]).max()), 0.05)
    image = left.imshow(np.where(diagonal, np.nan, cosines), norm=_norm(-largest, largest), cmap="PuOr_r")
    experts = [plain(name) for name in diagnosis.experts]
    left.set_xticks(range(len(cosines)), experts, rotation=45, ha="right", fontsize=7)
    left.set_yticks(range(len(cosines)), experts, fontsize=7)
    left.set_title("cosine between experts, all tensors", fontsize=9)
    if len(cosines) <= 8:
        for row, column in zip(*np.nonzero(~diagonal), strict=True):
            colour = "white" if abs(cosines[row, column]) > 0.6 * largest else _INK
            left.text(column, row, f"{cosines[row, column]:.2f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, ax=left, shrink=0.8)
    layers = diagnosis.by_layer()
    if layers:
        means = [diagnosis.mean_cosine(names) for names in layers.values()]
        right.plot(list(layers), means, "o-", ms=3, color=_COLOURS[0])
        right.axhline(0, color=_INK, lw=0.5)
        right.set_xlabel("layer")
        right.set_title("mean cosine by layer", fontsize=9)
    else:
        right.set_axis_off()
    return figure


def norms(diagnosis: Diagnosis) -> Figure | None:
    """The size of each expert's delta relative to the base, by layer."""
    layers, values = diagnosis.norms()
    if not values.size:
        return None
    figure = _figure(3.2)
    axes = figure.subplots()
    for number, name in enumerate(diagnosis.experts):
        axes.plot(layers, values[:, number], "o-", ms=3, color=_COLOURS[number % len(_COLOURS)], label=plain(name))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("layer")
    axes.set_ylabel("size of the delta / size of the base")
    figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    return figure
