"""A decomposition by products resolves what a Gram matrix loses, and is as exact as an SVD."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from svc_dist.linalg.products.svd import svd_by_products
from tests.linalg.products.test_polar import with_values


def solver(matrix: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(matrix)
    return values.flip(0), vectors.flip(1)


@pytest.mark.parametrize("decades", [0.5, 4.0, 11.0])
@pytest.mark.parametrize(("rows", "columns"), [(1, 5), (60, 60), (40, 90)])
def test_directions_down_to_rounding_are_those_of_the_svd(rows: int, columns: int, decades: float) -> None:
    matrix = with_values(torch.logspace(0, -decades, rows, dtype=torch.float64), columns) * 1e5
    found = svd_by_products(matrix, solver)
    assert found is not None
    left, values, right = found
    expected = torch.linalg.svdvals(matrix)
    assert float((values - expected).abs().max() / expected[0]) <= 1e-14
    eye = torch.eye(rows, dtype=torch.float64)
    assert float((left.T @ left - eye).abs().max()) <= 1e-13
    assert float((right @ right.T - eye).abs().max()) <= 1e-9
    assert float((matrix - (left * values) @ right).norm() / expected[0]) <= 1e-13
    for count in (1, rows // 2 + 1):  # the leading directions, in sum: signs are anyone's
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        ours = left[:, :count] @ right[:count]
        theirs = u[:, :count] @ v[:count]
        gap = float((s[count - 1] - (s[count] if count < rows else 0)) / s[0])
        assert float((ours - theirs).abs().max()) <= 1e-14 / gap


def test_a_matrix_of_low_rank() -> None:
    values = torch.cat([torch.linspace(2, 1, 20), torch.zeros(20)]).double()
    found = svd_by_products(with_values(values, 70), solver)
    assert found is not None
    left, found_values, right = found
    assert float((found_values - values).abs().max()) <= 1e-14
    assert float(((left * found_values) @ right - with_values(values, 70)).norm()) <= 1e-13
    assert svd_by_products(torch.zeros(3, 5, dtype=torch.float64), solver) is None
