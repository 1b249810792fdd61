"""The verdict judges by what changed, and begins with the same words before and after a merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.report.diagnosis import Diagnosis
from svc_dist.report.verdict import inspection_text, plain_sum, verdict
from svc_dist.run_folder.report import ReportedRange, read_report
from tests.report.test_diagnosis import report, upper
from tests.support.checkpoints import recipe_data, write_llamas

#: Two experts with a cosine of 0.6 and equal norms: their sum counts what they learned 1.6 times.
SHARED = [{"tensor": "w", "base": 1.0, "gram": upper([[1.0, 0.0], [0.6, 0.8]])}]


def of(deltas: list[dict[str, Any]] = SHARED, merged: bool = True, **summary: Any) -> str:
    matrices = [{"tensor": "w", "matrix": 0, "sigma": [1.0], **summary}]
    found = Diagnosis(report(matrices=matrices, deltas=deltas))
    if merged:
        object.__setattr__(found.report, "ranges", (ReportedRange("u", 0, 0, 1, ""),))
    return verdict(found)


def gamma(value: float) -> dict[str, Any]:
    norms = {"norm_merged": 1.0, "norm_calibrated": value, "norm_changed": abs(value - 1)}
    return {"gamma": [value], "gamma_by_energy": value, **norms}


def test_a_merge_whose_weights_counted_too_little_was_lifted() -> None:
    assert of(**gamma(1.75)) == (
        "Much over-counting: the plain sum of these experts counts what they learned 1.60 times. Before calibration, "
        "the merged deltas counted it 0.57 times (gamma 1.75). Calibration lifted the deltas to 1.75 times their size, "
        "a change of 75%."
    )


def test_a_merge_that_counted_too_often_was_shrunk_or_hardly_touched() -> None:
    assert of(**gamma(0.62)).endswith("Calibration shrank the deltas to 0.62 times their size, a change of 38%.")
    assert of(**gamma(0.98)).endswith("Calibration hardly touched the deltas: a change of 2%.")


def test_an_inspection_says_what_calibrating_would_do() -> None:
    said = of(merged=False, **gamma(0.62))
    assert said.endswith(
        "Calibrating that sum (calibrate: svc) would shrink the deltas to 0.62 times their size, a change of 38%."
    )


def test_a_merge_without_calibration_still_says_what_its_experts_share() -> None:
    assert of() == (
        "Much over-counting: the plain sum of these experts counts what they learned 1.60 times. This merge was not "
        "calibrated."
    )


@pytest.mark.parametrize(
    ("second", "begin"),
    [
        ([0.6, 0.8], "Much over-counting"),
        ([0.1, 0.99499], "Some over-counting"),
        ([0.0, 1.0], "Little over-counting: the plain sum of these experts counts what they learned 1.00 times."),
        ([-0.6, 0.8], "The experts cancel each other: their plain sum holds only 0.40 of what they learned."),
    ],
)
def test_experts_share_much_something_nothing_or_cancel(second: list[float], begin: str) -> None:
    deltas = [{"tensor": "w", "base": 1.0, "gram": upper([[1.0, 0.0], second])}]
    assert of(deltas).startswith(begin)


def test_inspection_and_report_of_one_recipe_agree_on_the_plain_sum(tmp_path: Path) -> None:
    data = recipe_data(write_llamas(tmp_path / "models"), calibrate="svc")
    for entry in data["models"]:
        entry["parameters"] = {"weight": 0.4}
    before = Diagnosis(svc_dist.inspect(data))
    svc_dist.merge(data, tmp_path / "out", executor="inline")
    after = Diagnosis(read_report(str(tmp_path / "out")))
    assert plain_sum(before) == plain_sum(after)
    assert "would shrink" in verdict(before) or "would hardly" in verdict(before)
    assert "Calibration lifted the deltas" in verdict(after)
    assert inspection_text(before).splitlines()[0].split() == ["kind", "matrices", "times", "gamma", "cosine"]
