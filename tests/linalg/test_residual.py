"""The estimate of how well a decomposition fits its matrix."""

from __future__ import annotations

import pytest
import torch

from svc_dist.linalg.eigen import symmetric_eigen
from svc_dist.linalg.residual import Probe


def test_the_residual_is_that_of_the_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(40, 40, generator=generator, dtype=torch.float64)
    matrix = matrix @ matrix.T
    probe = Probe(lambda rows: rows @ matrix, 40, matrix)
    values, vectors, residual = symmetric_eigen(matrix, "A")
    assert residual <= 1e-13
    wrong = vectors + 1e-3 * torch.randn(40, 40, generator=generator, dtype=torch.float64)
    true = float(torch.linalg.norm(matrix @ wrong - wrong * values) / values[0])
    assert probe.residual(wrong, values, wrong) == pytest.approx(true, rel=0.3)


def test_the_residual_is_relative_to_the_largest_value() -> None:
    matrix = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    eye = torch.eye(3, dtype=torch.float64)
    residuals = []
    for scale in (1.0, 1e6):
        probe = Probe(lambda rows, scale=scale: rows @ (scale * matrix), 3, matrix)  # type: ignore[misc]
        residuals.append(probe.residual(eye, scale * torch.tensor([3.0, 2.0, 1.1], dtype=torch.float64), eye))
        assert probe.residual(eye, scale * matrix.diagonal(), eye) <= 1e-15
    assert residuals[0] == pytest.approx(residuals[1], rel=1e-9)
    assert 0 < residuals[0] < 0.2


def test_a_matrix_of_zeros_and_no_triplets_fit() -> None:
    probe = Probe(torch.zeros_like, 3, torch.zeros(3, dtype=torch.float64))
    eye = torch.eye(3, dtype=torch.float64)
    assert probe.residual(eye, torch.zeros(3, dtype=torch.float64), eye) == 0.0
    assert probe.residual(eye[:, :0], torch.zeros(0, dtype=torch.float64), eye[:, :0]) == 0.0
