"""The overlap of experts, ordered, and what leaving one out does; the worst matrices
(``svc_dist.report.sections.worst``)."""

from __future__ import annotations

import re

from svc_dist.report.diagnosis import Diagnosis
from svc_dist.report.sections.overlap import overlap
from svc_dist.report.sections.worst import table, worst
from tests.report.sections.test_heatmap import cells
from tests.report.test_diagnosis import report, upper
from tests.report.test_similarity import of


def test_cosines_stand_in_the_order_of_similarity() -> None:
    html = overlap(of([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.6, 0.0, 0.8]))
    assert re.findall(r'<th scope="col">(.*?)</th>', html) == ["b", "a", "c"]
    assert cells(html)[:3] == [
        ("b", [("", "·"), ("w0", "0.00"), ("w0", "0.00")]),
        ("a", [("w0", "0.00"), ("", "·"), ("w4", "0.60")]),
        ("c", [("w0", "0.00"), ("w4", "0.60"), ("", "·")]),
    ]
    assert "nearly coincide" not in html


def test_leaving_one_out_shows_what_the_others_count() -> None:
    html = overlap(of([1.0, 0.0, 0.0], [1.0, 0.1, 0.4], [0.0, 0.0, 1.0]))
    assert "b and a nearly coincide (cosine 0.92): leave b out." in html
    rows = re.findall(r'<th scope="row">(\w)</th><td class="n (\w\d)">(.*?)</td><td class="n">(.*?)</td>', html)
    times = (4.0 + 0.01 + 1.96) / 3.17
    assert rows == [
        ("b", "w0", "1.00", f"{1 - times:+.2f}"),
        ("a", "w2", "1.37", f"{2.97 / 2.17 - times:+.2f}"),
        ("c", "w3", "1.92", f"{4.17 / 2.17 - times:+.2f}"),
    ]


def test_one_expert_or_experts_without_deltas_overlap_with_none() -> None:
    assert overlap(of([1.0, 0.0])) == ""
    assert overlap(of([0.0], [0.0])) == ""


def test_the_worst_ten_matrices_are_those_that_are_counted_most_often() -> None:
    matrices = [{"tensor": f"w{number}", "matrix": 0, "gamma_by_energy": 0.5} for number in range(12)]
    deltas = [
        {"tensor": f"w{number}", "base": 1.0, "gram": upper([[1.0, 0.0], [number / 13, (1 - number**2 / 169) ** 0.5]])}
        for number in range(12)
    ]
    found = Diagnosis(report(matrices=matrices, deltas=deltas))
    assert worst(found) == [f"w{number}" for number in range(11, 1, -1)]
    assert '<td>w11</td><td class="n w3">1.85</td><td class="n">0.85</td><td class="n">0.50</td>' in table(found)
    uncalibrated = Diagnosis(report(matrices=[{"tensor": "w3", "matrix": 0}], deltas=deltas))
    assert worst(uncalibrated) == ["w3"]
    assert "gamma" not in table(uncalibrated)
    assert table(Diagnosis(report())) == ""
