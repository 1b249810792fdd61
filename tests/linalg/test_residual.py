"""The estimate of how well a decomposition fits its matrix."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from svc_dist.errors import NumericsError
from svc_dist.linalg import lapack
from svc_dist.linalg.eigen import symmetric_eigen
from svc_dist.linalg.residual import Probe
from svc_dist.linalg.svd import full_svd


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


def test_a_decomposition_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arithmetic that is off by a thousandth, as TF32 is, or by a NaN."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(64, 64, generator=generator, dtype=torch.float64)
    matrix = matrix @ matrix.T
    vectors, svd = lapack.Tridiagonal.vectors, torch.linalg.svd
    noise = 1e-3 * torch.randn(64, 64, generator=generator, dtype=torch.float64)
    for off in (noise, noise * math.nan):

        def wrong_vectors(*given: Any, off: Tensor = off) -> Tensor:
            return vectors(*given) + off

        def wrong_svd(*given: Any, off: Tensor = off, **more: Any) -> tuple[Tensor, ...]:
            left, *others = svd(*given, **more)
            return left + off, *others

        monkeypatch.setattr(lapack.Tridiagonal, "vectors", wrong_vectors)
        monkeypatch.setattr(torch.linalg, "svd", wrong_svd)
        for decompose in (symmetric_eigen, full_svd):
            with pytest.raises(NumericsError, match="the decomposition of A does not fit it"):
                decompose(matrix, "A")


def test_a_matrix_at_the_end_of_the_range_of_numbers_still_fits() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(16, 16, generator=generator, dtype=torch.float64)
    matrix = matrix @ matrix.T
    for scale in (1e-320, 1e-300, 1e300):
        symmetric_eigen(matrix * scale, "A")
