"""Charts: ``svc_dist.report.sections.charts`` draws lines, ``svc_dist.report.sections.lines`` those of a merge, with
names of ``svc_dist.report.sections.names``."""

from __future__ import annotations

import math
import re

import pytest

from svc_dist.report.diagnosis import Diagnosis
from svc_dist.report.sections.charts import Line, chart, nice_step
from svc_dist.report.sections.lines import norms, spectra, spectrum
from svc_dist.report.sections.names import breakable
from tests.report.test_diagnosis import report, upper

MATRICES = [
    {"tensor": f"model.layers.{layer}.up.weight", "matrix": 0, "gamma_by_energy": 0.5 + layer / 10,
     "sigma": [3.0, 2.0, 1.0], "sigma_calibrated": [1.5, 1.0, 1.0]}
    for layer in range(8)
]  # fmt: skip


def test_points_lie_where_their_values_say() -> None:
    html = chart("a < b", [Line([1, 2, 3], [0.0, 2.0, 1.0])], "layer")
    path = re.findall(r'class="curve" d="M(.*?)"', html)[0]
    points = [tuple(map(float, point.split())) for point in path.split("L")]
    assert points == [(40.0, 140.0), (176.0, 8.0), (312.0, 74.0)]  # the axes' ends, and half the height
    assert re.findall(r'text-anchor="end">(.*?)<', html) == ["0", "0.5", "1", "1.5", "2"]
    assert re.findall(r'text-anchor="middle">(.*?)<', html) == ["1", "2", "3", "layer"]
    assert "a &lt; b" in html


def test_a_gap_stays_a_gap_and_values_below_zero_have_room() -> None:
    html = chart("", [Line([0, 1, 2, 3], [1.0, math.nan, -1.0, 1.0])], "layer")
    assert re.findall(r'd="(M[^"HL]*M[^"H]*)"', html) == ["M40.0 8.0M221.3 140.0L312.0 8.0"]
    assert html.count("<circle") == 3
    assert chart("", [Line([0], [math.nan])], "layer") == ""
    assert chart("", [], "layer") == ""


def test_one_layer_or_values_of_zero_are_drawn() -> None:
    assert 'cx="176.0" cy="140.0"' in chart("", [Line([7], [0.0])], "layer")


@pytest.mark.parametrize(("span", "step"), [(0.0, 1.0), (1.0, 0.2), (0.6, 0.2), (3.0, 1.0), (4.2, 1.0), (170.0, 50.0)])
def test_steps_are_round(span: float, step: float) -> None:
    assert nice_step(span) == pytest.approx(step)


def test_a_spectrum_has_a_curve_before_and_one_after_calibration() -> None:
    found = Diagnosis(report(matrices=[*MATRICES[:1], {**MATRICES[1], "sigma_calibrated": None}]))
    first, second = (spectrum(matrix) for matrix in found.matrices)
    assert [(list(line.x), line.y) for line in first] == [([1, 2, 3], [3.0, 2.0, 1.0]), ([1, 2, 3], [1.5, 1.0, 1.0])]
    assert len(second) == 1
    assert spectra(found).count("<svg") == 2


def test_spectra_are_of_the_matrices_that_calibration_changed_most_and_least() -> None:
    html = spectra(Diagnosis(report(matrices=MATRICES)))
    assert re.findall(r'aria-label="model.layers.(\d)', html) == ["0", "1", "2", "5", "6", "7"]
    assert "after calibration" in html
    assert spectra(Diagnosis(report())) == ""


def test_norms_have_a_line_for_each_expert() -> None:
    deltas = [{"tensor": m["tensor"], "base": 16.0, "gram": upper([[2.0, 0.0], [0.0, 1.0]])} for m in MATRICES]
    html = norms(Diagnosis(report(deltas=deltas)))
    assert html.count('class="curve"') == 2
    assert re.findall(r'<em class="(l\d)"></em>(\w)', html) == [("l0", "a"), ("l1", "b")]
    assert norms(Diagnosis(report())) == ""


def test_names_break_after_dots_and_are_no_markup() -> None:
    assert breakable("1.50 of h.0.up") == "1.50 of h.<wbr>0.<wbr>up"
    assert breakable("a.b/<i>\n") == "a.<wbr>b/<wbr>&lt;i&gt;\\n"
