"""Polar factors by products: the cubic Newton-Schulz iteration with the best scaling at each step.

``X <- (3 r X - (r X)(r X)^T (r X)) / 2`` maps singular values in ``[l, 1]`` into ``[l', 1]``; with
``r^2 = 3 / (1 + l + l^2)`` both ends come out equal, and l' is as large as a cubic can make it (Chen & Chow 2014, "A
stable scaling of Newton-Schulz for improving the sign function computation of a Hermitian matrix", ANL/MCS-P5059-0114).
For an l near zero the largest values would come out near zero too, and their rounding with them: so r is never chosen
for an l below a tenth, and small values grow by 2.47 in each step, not by 2.6.
"""

from __future__ import annotations

import torch
from torch import Tensor

from svc_dist.linalg.devices.transfer import sent

LEAST = {torch.float64: 1e-12, torch.float32: 1e-5}  # of the largest singular value: smaller ones are not lifted whole
_CUSHION = 0.1  # of the largest singular value: the scaling is chosen for values down to this
_DONE = 1e-3  # from 1: two steps without scaling then reach 1 to rounding
_PROBES = 4
ORTHONORMAL = 1e-9  # what a row of the factor may be off


def polar_by_products(matrix: Tensor, least: float | None = None) -> Tensor | None:
    """``U V^T`` of ``A = U S V^T (m, n)``, ``m <= n``, in the dtype of A and by products alone.

    ``least``: singular values are lifted down to this share of the largest. None where A has smaller ones (or is zero),
    so that rows of the factor would not be orthonormal.
    """
    found = polar_with_residual(matrix, least)
    return None if found is None else found[0]


def polar_with_residual(matrix: Tensor, least: float | None = None) -> tuple[Tensor, float] | None:
    """As ``polar_by_products``, and ``||X U U^T - X|| / ||X||`` for random rows X: how far U is from orthonormal."""
    factor, products, _ = _lifted(matrix, least)  # of a matrix of zeros: NaN, which fails below
    products.diagonal().sub_(1)
    worst = torch.linalg.vector_norm(products, dim=1).max()
    off, residual = torch.stack([worst, _orthonormality(factor)]).cpu().tolist()
    return (factor, residual) if off <= max(ORTHONORMAL, 100 * torch.finfo(matrix.dtype).eps) else None


def lifted_to_one(matrix: Tensor, least: float | None = None) -> tuple[Tensor, Tensor] | None:
    """``X = U f(S) V^T`` of ``A = U S V^T (m, n)`` and ``X X^T``: f is 1 down to ``least`` of the largest value.

    Smaller values come out between 0 and 1. None for a matrix of zeros, or of infinities.
    """
    current, products, bound = _lifted(matrix, least)
    return (current, products) if 0 < float(bound) < torch.finfo(matrix.dtype).max else None


def _lifted(matrix: Tensor, least: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """What ``lifted_to_one`` returns, without a look at it, and the bound on A's values that it was divided by."""
    least = LEAST[matrix.dtype] if least is None else least
    products = matrix @ matrix.T
    bound = products.abs().sum(1).max().sqrt()  # at least the largest singular value
    current = matrix / bound
    products /= bound.square()
    for scale in scales(least / len(matrix) ** 0.5):
        current = torch.addmm(current, products, current, beta=1.5 * scale, alpha=-0.5 * scale**3)
        products = current @ current.T
    return current, products, bound


def scales(low: float) -> list[float]:
    """The scalings of the steps that bring singular values in ``[low, 1]`` to 1."""
    found = []
    while low < 1 - _DONE:
        end = max(low, _CUSHION)
        scale = (3 / (1 + end + end * end)) ** 0.5
        low = scale * low * (3 - (scale * low) ** 2) / 2
        found.append(scale)
    return [*found, 1.0, 1.0, 1.0]


def _orthonormality(factor: Tensor) -> Tensor:
    rows = torch.randn(_PROBES, len(factor), generator=torch.Generator().manual_seed(0))
    rows = sent(rows.to(factor.dtype), factor.device)
    off: Tensor = torch.linalg.vector_norm(rows @ factor @ factor.T - rows) / torch.linalg.vector_norm(rows)
    return off
