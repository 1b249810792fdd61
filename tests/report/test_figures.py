"""The plots of a report: nothing without data, the same text every time, and every curve that the data have."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from svc_dist.plan.inputs import PlannedModel
from svc_dist.plan.settings import Settings
from svc_dist.report.diagnosis import Diagnosis
from svc_dist.report.figures import gamma_map, norms, overlap, rank_map, spectra, svg
from svc_dist.run_folder.report import MergeReport


def diagnosis(**fields: Any) -> Diagnosis:
    models = tuple(PlannedModel(f"/models/{name}", ()) for name in ("base", "a", "b"))
    report = MergeReport(
        fingerprint="", settings=Settings(), files=(), svc_dist="", finished="", recipe={}, methods={}, models=models,
        bytes_in=0, unit_seconds={}, hosts=(), devices=(), **{"matrices": [], "deltas": [], **fields},
    )  # fmt: skip
    return Diagnosis(report)


MATRICES = [
    {"tensor": f"model.layers.{layer}.mlp.{kind}_proj.weight", "matrix": 0, "gamma_by_energy": 0.5 + layer / 10,
     "kept_rank": 3 + layer, "sigma": [3.0, 2.0, 1.0], "sigma_calibrated": [1.5, 1.0, 1.0]}
    for layer in range(3) for kind in ("up", "down")
]  # fmt: skip
DELTAS = [
    {"tensor": matrix["tensor"], "base": 16.0, "gram": [4.0, 1.0, 1.0]} for matrix in MATRICES
]  # of a: 2, of b: 1, their cosine 0.5


def image(figure: Figure | None) -> Any:
    assert figure is not None
    return figure.axes[0].images[0]


def test_without_data_there_is_no_plot() -> None:
    nothing = diagnosis()
    assert [draw(nothing) for draw in (gamma_map, rank_map, overlap, norms)] == [None] * 4
    assert spectra([]) is None


def test_maps_show_each_layer_and_kind_and_gamma_around_one() -> None:
    found = diagnosis(matrices=MATRICES)
    gamma = image(gamma_map(found))
    assert np.allclose(gamma.get_array(), [[0.5, 0.6, 0.7]] * 2)
    assert gamma.norm.vmin == pytest.approx(0.5)
    assert gamma.norm.vmax == pytest.approx(1.5)
    assert np.allclose(image(rank_map(found)).get_array(), [[3, 4, 5]] * 2)


def test_overlap_shows_cosines_between_experts_and_norms_their_sizes() -> None:
    found = diagnosis(deltas=DELTAS)
    shown = np.ma.filled(image(overlap(found)).get_array().astype(float), np.nan)
    assert np.isnan(np.diag(shown)).all()
    assert shown[0, 1] == pytest.approx(0.5)
    figure = norms(found)
    assert figure is not None
    assert [line.get_ydata()[0] for line in figure.axes[0].lines] == pytest.approx([0.5, 0.25])


def test_a_spectrum_has_a_curve_before_and_one_after_calibration() -> None:
    found = diagnosis(matrices=[*MATRICES[:1], {**MATRICES[1], "sigma_calibrated": None}])
    figure = spectra(found.matrices)
    assert figure is not None
    first, second = figure.axes
    assert [list(line.get_ydata()) for line in first.lines] == [[3.0, 2.0, 1.0], [1.5, 1.0, 1.0]]
    assert len(second.lines) == 1


def test_svg_is_the_same_every_time_and_leaves_matplotlib_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    texts = [svg(figure) for figure in (norms(diagnosis(deltas=DELTAS)), norms(diagnosis(deltas=DELTAS))) if figure]
    assert texts[0] == texts[1]
    assert texts[0].startswith("<svg")
    assert "<metadata>" not in texts[0]
    assert dict(matplotlib.rcParams) == before
