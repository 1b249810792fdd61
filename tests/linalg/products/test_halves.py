"""Eigendecompositions of halves agree with that of the whole, whatever the spectrum."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from svc_dist.linalg.products.halves import eigen_of_halves

SIZE = 160
SPECTRA = {
    "noise": torch.rand(SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    "decaying": torch.logspace(0, -9, SIZE, dtype=torch.float64),
    "few strong": torch.cat([torch.linspace(5, 9, 20), torch.linspace(1e-3, 2e-3, SIZE - 20)]).double(),
    "few weak": torch.cat([torch.full((SIZE - 20,), 1.0), torch.linspace(0, 1e-3, 20)]).double(),
    "of low rank": torch.cat([torch.linspace(1, 2, 60), torch.zeros(SIZE - 60)]).double(),
}


def with_values(values: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    vectors = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)).Q
    matrix = (vectors * values) @ vectors.T
    return (matrix + matrix.T) / 2


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_pairs_are_those_of_the_whole(spectrum: str) -> None:
    matrix = with_values(SPECTRA[spectrum])
    sizes: list[int] = []

    def solver(part: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(len(part))
        return torch.linalg.eigh(part)

    values, vectors = eigen_of_halves(matrix, 150, solver)
    assert sum(sizes) == SIZE
    assert max(sizes) <= 150
    scale = float(SPECTRA[spectrum].max())
    assert float((values - SPECTRA[spectrum].sort().values).abs().max()) <= 1e-13 * scale * SIZE
    assert float((vectors.T @ vectors - torch.eye(SIZE)).abs().max()) <= 1e-12
    assert float((matrix @ vectors - vectors * values).norm()) <= 1e-11 * scale


@pytest.mark.parametrize("matrix", [torch.eye(40, dtype=torch.float64), torch.zeros(40, 40, dtype=torch.float64)])
def test_a_matrix_that_cannot_be_split_is_refused(matrix: Tensor) -> None:
    with pytest.raises(torch.linalg.LinAlgError, match="40 rows are more than the 30"):  # type: ignore[attr-defined]
        eigen_of_halves(matrix, 30, torch.linalg.eigh)
