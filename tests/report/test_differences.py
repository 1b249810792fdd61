"""The table by which a threshold of only_where is chosen, from figures worked out by hand."""

from __future__ import annotations

from svc_dist.report.diagnosis import Diagnosis
from svc_dist.report.differences import difference_lines
from tests.report.test_diagnosis import report


def test_it_shows_the_farthest_expert_by_kind_of_module() -> None:
    measured = report(
        only_where=[
            {"tensor": "model.layers.0.mlp.experts.7.up_proj.weight", "differences": [0.01, 0.02], "merged": True},
            {"tensor": "model.layers.1.mlp.experts.3.up_proj.weight", "differences": [0.04, 0.0], "merged": True},
            {"tensor": "model.layers.1.mlp.experts.4.up_proj.weight", "differences": [0.0, 0.03], "merged": True},
            {"tensor": "model.norm.weight", "differences": [None, 0.5], "merged": True},
        ],
    )
    assert [*difference_lines(Diagnosis(measured))] == [
        "relative difference      number     least    median   largest",
        "mlp.experts.*.up_proj         3      0.02      0.03      0.04",
        "model.norm                    1       inf       inf       inf",
        "all                           4      0.02     0.035       inf",
    ]
    assert [*difference_lines(Diagnosis(report()))] == []
