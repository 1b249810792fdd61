"""Spectra of matrices, and the sizes of the experts' deltas by layer."""

from __future__ import annotations

from collections.abc import Sequence

from svc_dist.report.diagnosis import Diagnosis, Matrix, label
from svc_dist.report.sections.charts import Line, chart, keys

_SPECTRA = 6


def spectra(diagnosis: Diagnosis) -> str:
    """The leading singular values of chosen matrices, before and after calibration."""
    chosen = chosen_matrices(diagnosis)
    if not chosen:
        return ""
    drawn = "".join(chart(label(matrix), spectrum(matrix), "direction") for matrix in chosen)
    if not any(matrix.summary.get("sigma_calibrated") for matrix in chosen):
        text = "The leading singular values of the merged delta in some matrices."
        return f'<p>{text}</p>\n<div class="charts">{drawn}</div>'
    return (
        "<p>The leading singular values of the merged delta in the matrices that calibration changed most and least."
        f'</p>\n{keys(["before", "after calibration"])}<div class="charts">{drawn}</div>'
    )


def spectrum(matrix: Matrix) -> list[Line]:
    """The curve before calibration, and one after it where there is one."""
    found = [(colour, matrix.summary.get(key)) for colour, key in enumerate(("sigma", "sigma_calibrated"))]
    return [Line(range(1, len(values) + 1), values, colour) for colour, values in found if values]


def chosen_matrices(diagnosis: Diagnosis, count: int = _SPECTRA) -> list[Matrix]:
    """Matrices to draw: half with the smallest gamma, half with the largest; without gammas, evenly spaced ones."""
    known = [matrix for matrix in diagnosis.matrices if matrix.summary.get("sigma")]
    if len(known) <= count:
        return known
    calibrated = [matrix for matrix in known if "gamma_by_energy" in matrix.summary]
    ranked = sorted(calibrated, key=lambda matrix: float(matrix.summary["gamma_by_energy"]))
    if len(ranked) >= count:
        return [*ranked[: count // 2], *ranked[-(count - count // 2) :]]
    return [known[number * len(known) // count] for number in range(count)]


def norms(diagnosis: Diagnosis) -> str:
    """The size of each expert's delta relative to the base, by layer."""
    layers, values = diagnosis.norms()
    if not values.size:
        return ""
    lines: Sequence[Line] = [Line(layers, list(values[:, number]), number) for number in range(values.shape[1])]
    drawn = chart("size of the delta / size of the base", lines, "layer")
    return f'{keys(diagnosis.experts)}<div class="charts">{drawn}</div>' if drawn else ""
