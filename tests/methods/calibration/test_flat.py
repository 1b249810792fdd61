"""A flat spectrum has no directions of its own to calibrate along: that is said, and they can be given."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import svc_dist
from svc_dist.errors import NumericsError, RecipeError


@pytest.fixture
def deltas() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [0.02 * torch.randn(24, 30, generator=generator, dtype=torch.float64) for _ in range(3)]


@pytest.mark.parametrize("method", ["iso_c", "iso_cts"])
@pytest.mark.parametrize("precision", ["float64", "mixed"])
def test_a_flat_spectrum_is_refused(method: str, precision: str, deltas: list[Tensor]) -> None:
    merged = svc_dist.merge_deltas(deltas, method, precision=precision)
    for given in (merged, merged.double()):
        with pytest.raises(NumericsError, match=r"24 singular values of the merged delta agree.*\n.*basis="):
            svc_dist.calibrate(given, deltas)


@pytest.mark.parametrize("side", ["left", "right"])
def test_it_is_calibrated_along_the_methods_own_directions(side: str, deltas: list[Tensor]) -> None:
    merged = svc_dist.merge_deltas(deltas, "iso_c")
    left, _, right = torch.linalg.svd(sum(deltas, torch.zeros_like(merged)), full_matrices=False)
    found = svc_dist.calibrate(merged, deltas, side=side, basis=left if side == "left" else right.T).delta
    expected = svc_dist.merge_deltas(deltas, "iso_c", calibrate={"method": "svc", "side": side})
    assert float((found - expected).norm() / expected.norm()) <= 1e-10


def test_values_that_agree_do_no_harm_where_their_factors_agree_too() -> None:
    share = torch.eye(4, dtype=torch.float64)
    assert torch.allclose(svc_dist.calibrate(2 * share, [share, share]).delta, share)


@pytest.mark.parametrize(
    ("basis", "said"),
    [
        (torch.eye(5), "must have 24 rows"),
        (2 * torch.eye(24), "not orthonormal"),
        (torch.eye(24)[:, :5], "do not span"),
    ],
)
def test_a_basis_that_does_not_fit_is_refused(basis: Tensor, said: str, deltas: list[Tensor]) -> None:
    with pytest.raises(RecipeError, match=said):
        svc_dist.calibrate(deltas[0], deltas, basis=basis)
