"""Positive definite systems: what is solved, what its residual says, and what singular ones give."""

from __future__ import annotations

import pytest
import torch

from svc_dist.errors import NumericsError
from svc_dist.methods.candidates.solve import solved


def system(size: int, rank: int) -> torch.Tensor:
    factor = torch.randn(size, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return factor @ factor.T


def test_the_solution_fits() -> None:
    matrix, wanted = system(30, 60), torch.randn(7, 30, dtype=torch.float64)
    found, residual = solved(matrix, wanted @ matrix, "it")
    assert torch.linalg.norm(found - wanted) <= 1e-10 * torch.linalg.norm(wanted)
    assert 0 <= residual <= 1e-14


def test_a_singular_one_is_solved_on_the_directions_that_it_has() -> None:
    matrix = system(30, 5)
    rows = torch.randn(7, 30, dtype=torch.float64) @ matrix
    found, _ = solved(
        matrix - 1e-14 * torch.eye(30, dtype=torch.float64), rows, "it"
    )  # Cholesky's factors do not exist
    assert torch.linalg.norm(found @ matrix - rows) <= 1e-9 * torch.linalg.norm(rows)
    expected = rows @ torch.linalg.pinv(matrix, hermitian=True)
    assert torch.linalg.norm(found - expected) <= 1e-8 * torch.linalg.norm(expected)


def test_one_that_is_not_finite_is_named() -> None:
    matrix = system(8, 8)
    matrix[2, 3] = float("nan")
    with pytest.raises(NumericsError, match="the covariances"):
        solved(matrix, torch.ones(2, 8, dtype=torch.float64), "the covariances")
