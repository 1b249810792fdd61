"""Polar factors by products agree with those of the SVD, and say where they cannot be made."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from svc_dist.linalg.products.polar import polar_by_products
from svc_dist.linalg.svd import polar_factor


def with_values(values: Tensor, columns: int) -> Tensor:
    """A matrix with these singular values."""
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(columns, len(values), generator=generator, dtype=torch.float64)).Q
    return (left * values) @ right.T


@pytest.mark.parametrize("decades", [0.0, 1.0, 4.0, 7.0])
@pytest.mark.parametrize(("rows", "columns"), [(1, 5), (60, 60), (40, 90)])
def test_the_factor_is_that_of_the_svd(rows: int, columns: int, decades: float) -> None:
    matrix = with_values(torch.logspace(0, -decades, rows, dtype=torch.float64), columns) * 1e5
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    factor = polar_by_products(matrix)
    assert factor is not None
    assert float((factor - left @ right).abs().max()) <= 1e-14 * 10**decades + 1e-13


def test_experts_directions_beside_one_another() -> None:
    """What TSV-M decorrelates: orthonormal directions of several experts, some of which nearly agree."""
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn(16, 120, generator=generator, dtype=torch.float64)
    parts = [
        torch.linalg.qr((shared + 1e-3 * torch.randn(16, 120, generator=generator)).double().T).Q.T for _ in range(3)
    ]
    matrix = torch.cat(parts)
    factor = polar_by_products(matrix)
    assert factor is not None
    usual = polar_factor(matrix, "A", torch.float64).factor
    assert float((factor - usual).norm() / usual.norm()) <= 1e-10


def test_what_has_too_small_directions_is_none() -> None:
    ones = torch.ones(6, dtype=torch.float64)
    assert polar_by_products(with_values(torch.cat([ones, torch.zeros(1).double()]), 9)) is None
    assert polar_by_products(with_values(torch.cat([ones, 1e-15 * ones]), 12)) is None
    assert polar_by_products(torch.zeros(3, 4).double()) is None
    assert polar_by_products(torch.full((3, 4), torch.inf).double()) is None
    assert polar_by_products(with_values(torch.cat([ones, 1e-4 * ones]), 12), least=0.1) is None
