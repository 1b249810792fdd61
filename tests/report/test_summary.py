"""A merge in a few figures."""

from __future__ import annotations

import math
from typing import Any

import pytest

from svc_dist.report.diagnosis import Diagnosis
from svc_dist.report.summary import Summary, figure, minutes, percent
from tests.report.test_diagnosis import report, upper

DELTAS = [
    {"tensor": "v", "base": 1.0, "gram": upper([[3.0, 0.0], [3.0, 0.0]])},  # 36 of 18: twice
    {"tensor": "w", "base": 1.0, "gram": upper([[2.0, 0.0], [0.0, 1.0]])},  # 5 of 5: once
    {"tensor": "still", "base": 1.0, "gram": [0.0, 0.0, 0.0]},
]


def matrices(**summary: Any) -> list[dict[str, Any]]:
    return [{"tensor": name, "matrix": 0, **summary} for name in ("v", "w", "still")]


def test_the_share_of_inflated_matrices_is_of_those_that_an_expert_changes() -> None:
    found = Summary.of(Diagnosis(report(matrices=matrices(), deltas=DELTAS)))
    assert (found.times, found.inflated, found.matrices) == (pytest.approx(41 / 23), 1, 2)
    assert found.share_inflated == 0.5
    assert found.effect is None
    assert math.isnan(found.merged_times)


def test_a_calibrated_merge_has_a_change_and_what_it_counted() -> None:
    norms = {"norm_merged": 4.0, "norm_calibrated": 2.0, "norm_changed": 2.0}
    found = Summary.of(Diagnosis(report(matrices=matrices(gamma_by_energy=0.5, gamma=[0.5], **norms), deltas=DELTAS)))
    assert found.merged_times == pytest.approx(2)
    assert found.effect is not None
    assert (found.effect.growth, found.effect.change) == (0.5, 0.5)


def test_the_duration_is_of_the_start_that_completed_a_merge_or_of_all_units() -> None:
    start = {"units": 12, "units_resumed": 0, "seconds": 90.0}
    whole = Summary.of(Diagnosis(report(last_start=start)))
    assert (whole.seconds, whole.of_seconds) == (90.0, "12 units, 0 hosts")
    resumed = Summary.of(Diagnosis(report(last_start=start | {"units_resumed": 28})))
    assert resumed.of_seconds == "the last start: 12 of 40 units, 0 hosts"
    inspected = Summary.of(Diagnosis(report()))
    assert (inspected.seconds, inspected.of_seconds) == (0.0, "of all units together")


def test_figures_have_the_digits_that_one_reads() -> None:
    assert [minutes(seconds) for seconds in (1.5, 90.0, 3600.0)] == ["0.03", "1.5", "60"]
    assert [percent(share) for share in (0.0, 0.004, 0.6, math.nan)] == ["0%", "<1%", "60%", "–"]
    assert [figure(value) for value in (1.518, math.nan)] == ["1.52", "–"]
