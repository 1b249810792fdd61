"""What is read out of a report: places, means by energy, cosines, names."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from svc_dist.plan.inputs import PlannedModel
from svc_dist.plan.settings import Settings
from svc_dist.report.diagnosis import Diagnosis
from svc_dist.run_folder.report import MergeReport, ReportedTensor


def upper(rows: list[list[float]]) -> list[float]:
    """The upper triangle of the inner products of these vectors."""
    gram = np.array(rows) @ np.array(rows).T
    return [float(value) for value in gram[np.triu_indices(len(rows))]]


def report(**fields: Any) -> MergeReport:
    models = tuple(PlannedModel(f"/models/{name}", ()) for name in ("base", "a", "b"))
    return MergeReport(
        fingerprint="", settings=Settings(), files=(), svc_dist="", finished="", recipe={}, methods={},
        bytes_in=0, unit_seconds={}, hosts=(), devices=(), **{"matrices": [], "deltas": [], "models": models, **fields},
    )  # fmt: skip


def test_cosines_are_those_of_the_deltas_and_parts_of_a_tensor_add_up() -> None:
    a, b = [3.0, 0.0, 1.0, 2.0], [1.0, 1.0, 0.0, -1.0]
    parts = [(a[:1], b[:1]), (a[1:], b[1:])]
    deltas = [{"tensor": "w", "base": 8.0, "gram": upper([x, y])} for x, y in parts]
    found = Diagnosis(report(deltas=deltas))
    expected = np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
    assert found.overlap()[0, 1] == pytest.approx(expected)
    assert np.allclose(np.diag(found.overlap()), 1)
    assert found.mean_cosine() == pytest.approx(expected)


def test_norms_are_relative_to_the_base_by_layer() -> None:
    deltas = [
        {"tensor": f"model.layers.{layer}.w", "base": 16.0, "gram": upper([[2.0, 0.0], [0.0, 1.0]])}
        for layer in (10, 2)
    ]
    layers, values = Diagnosis(report(deltas=deltas)).norms()
    assert layers == [2, 10]
    assert np.allclose(values, [[0.5, 0.25]] * 2)


def test_the_mean_gamma_goes_by_the_energy_of_the_sum() -> None:
    matrices = [{"tensor": name, "matrix": 0, "gamma_by_energy": gamma} for name, gamma in (("v", 0.5), ("w", 1.0))]
    deltas = [
        {"tensor": "v", "base": 1.0, "gram": upper([[3.0, 0.0], [3.0, 0.0]])},  # the sum has energy 36
        {"tensor": "w", "base": 1.0, "gram": upper([[2.0, 0.0], [0.0, 0.0]])},  # and here 4
    ]
    found = Diagnosis(report(matrices=matrices, deltas=deltas))
    assert found.gamma() == pytest.approx((36 * 0.5 + 4 * 1.0) / 40)


def test_a_report_without_calibration_claims_nothing() -> None:
    found = Diagnosis(report(matrices=[{"tensor": "w", "matrix": 0, "sigma": [1.0]}]))
    assert math.isnan(found.gamma())
    assert math.isnan(found.times_counted())


def test_the_plain_sum_counts_by_energy() -> None:
    deltas = [
        {"tensor": "v", "base": 1.0, "gram": upper([[3.0, 0.0], [3.0, 0.0]])},  # shared: 36 of 18
        {"tensor": "w", "base": 1.0, "gram": upper([[2.0, 0.0], [0.0, 1.0]])},  # not: 5 of 5
        {"tensor": "norm", "base": 1.0, "gram": upper([[9.0, 0.0], [9.0, 0.0]])},
    ]
    matrices = [{"tensor": name, "matrix": number} for name in ("v", "w") for number in (0, 1)]
    found = Diagnosis(report(matrices=matrices, deltas=deltas))
    assert found.times_counted(["v"]) == pytest.approx(2)
    assert found.times_counted() == pytest.approx(41 / 23)


def test_without_matrices_those_that_a_spectral_step_would_take_are_compared() -> None:
    shapes = {"embed_tokens.weight": (8, 4), "layers.0.up.weight": (4, 4), "layers.0.norm.weight": (4,)}
    tensors = tuple(ReportedTensor(name, "F32", shape, 0, 0) for name, shape in shapes.items())
    made = report()
    object.__setattr__(made, "tensors", tensors)
    assert Diagnosis(made).compared == ["layers.0.up.weight"]
    object.__setattr__(made, "tensors", tensors[:1])
    assert Diagnosis(made).compared == ["embed_tokens.weight"]
