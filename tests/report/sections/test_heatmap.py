"""Tables of figures by layer and kind: each value in its cell, in the colour of a fixed scale."""

from __future__ import annotations

import math
import re

import pytest

from svc_dist.report.diagnosis import Diagnosis
from svc_dist.report.sections.heatmap import Heatmap, inverse_shade, legend, means, times_map
from svc_dist.report.sections.style import SHADES, STYLE, shade
from tests.report.test_diagnosis import report, upper

SAME, APART = [[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]


def cells(html: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Of each row its name, and the class and text of each cell."""
    rows = re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', html)
    return [(name.replace("<wbr>", ""), re.findall(r'<td(?: class="(\w*)")?>(.*?)</td>', row)) for name, row in rows]


def test_all_tensors_have_a_cell_with_the_times_they_are_counted() -> None:
    made = {
        "model.layers.0.up.weight": SAME, "model.layers.10.up.weight": APART, "model.layers.0.up.bias": SAME,
        "model.norm.weight": APART, "model.layers.10.still.weight": [[0.0], [0.0]],
    }  # fmt: skip
    deltas = [{"tensor": name, "base": 1.0, "gram": upper(rows)} for name, rows in made.items()]
    matrices = [{"tensor": f"model.layers.{layer}.up.weight", "matrix": 0} for layer in (0, 10)]
    html = times_map(Diagnosis(report(deltas=deltas, matrices=matrices))).html()
    assert re.findall(r'<th scope="col">(.*?)</th>', html) == ["0", "10"]
    assert cells(html) == [("up", [("w4", "2.00"), ("w0", "1.00")]), ("up.bias", [("w4", "2.00"), ("", "")])]
    assert html.index("other tensors") < html.index("up.<wbr>bias")
    assert re.findall(r'<li class="w0">model.<wbr>norm <strong>1.00</strong>', html)


def test_a_cell_joins_the_tensors_of_one_kind_and_layer_by_energy() -> None:
    deltas = [
        {"tensor": f"layers.3.experts.{expert}.up.weight", "base": 1.0, "gram": upper(rows)}
        for expert, rows in enumerate(([[3.0, 0.0], [3.0, 0.0]], [[2.0, 0.0], [0.0, 1.0]]))
    ]
    assert times_map(Diagnosis(report(deltas=deltas))).values == {("experts.*.up", 3): pytest.approx(41 / 23)}


def test_means_are_over_the_matrices_that_have_the_figure() -> None:
    matrices = [
        {"tensor": "layers.1.up.weight", "matrix": number, **({"kept_rank": rank} if rank else {})}
        for number, rank in enumerate((2, 5, 0))
    ]
    assert means(Diagnosis(report(matrices=matrices)), "kept_rank").values == {("up", 1): 3.5}


def test_matrices_of_one_kind_and_layer_share_a_cell() -> None:
    names = [f"model.layers.{layer}.mlp.experts.{expert}.up_proj.weight" for layer in (0, 1) for expert in (0, 1)]
    matrices = [{"tensor": n, "matrix": 0, "kept_rank": rank} for n, rank in zip(names, (2, 4, 10, 10), strict=True)]
    found = means(Diagnosis(report(matrices=matrices)), "kept_rank")
    assert (found.layers, found.kinds(lower=False)) == ([0, 1], ["mlp.experts.*.up_proj"])
    assert list(found.values.values()) == [3.0, 10.0]


def test_stacks_of_layers_have_rows_of_their_own() -> None:
    names = ["vision.layers.0.up.weight", "text.layers.0.up.weight", "text.norm.weight"]
    found = means(Diagnosis(report(matrices=[{"tensor": name, "kept_rank": 1} for name in names])), "kept_rank")
    assert list(found.values) == [("vision: up", 0), ("text: up", 0), ("text.norm", None)]


def test_nothing_makes_no_table() -> None:
    assert Heatmap({}).html() == ""


def test_warm_is_inflated_on_a_scale_that_does_not_depend_on_the_merge() -> None:
    values = (0.2, 0.6, 0.9, 1.0, 1.1, 1.3, 1.6, 2.5, 4.0)
    assert [shade(value) for value in values] == ["c3", "c2", "c1", "w0", "w1", "w2", "w3", "w4", "w5"]
    assert shade(math.nan) == ""
    assert [inverse_shade(gamma) for gamma in (0.5, 1.0, 2.0, 0.0)] == ["w4", "w0", "c2", ""]
    assert re.findall(r'class="(\w\d)"></em>(.*?)</span>', legend())[0] == ("c3", "below 0.5")
    assert re.findall(r'class="(\w\d)"></em>(.*?)</span>', legend())[-1] == ("w5", "from 3")


def test_every_shade_has_a_colour_in_light_and_in_dark() -> None:
    for _, name in SHADES:
        assert len(re.findall(rf"--{name}: #", STYLE)) == 2
        assert f".{name} {{ background: var(--{name})" in STYLE
