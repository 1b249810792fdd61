"""Spectra that tell no directions apart, along which a merged delta could be calibrated."""

from __future__ import annotations

import torch
from torch import Tensor

from svc_dist.errors import NumericsError, RecipeError
from svc_dist.methods.calibration.svc import Calibrated

_CLOSE = 1e-6  # of the largest singular value: neighbours that are closer may be rotated by rounding
_SHARE = 1e-2  # of the result that may depend on such a rotation
_FITS = 1e-3  # what a basis may be off


def require_distinct(result: Calibrated) -> None:
    """Raise NumericsError where the result depends on directions that the merged delta's spectrum does not determine.

    Of singular values that agree, the directions are any rotation of one another; a calibration with different factors
    for them gives one result of many, which the last bits decide.
    """
    sigma, gamma = result.sigma.cpu(), result.gamma.cpu()  # sums in one order: a GPU's may change from run to run
    if len(sigma) < 2 or not float(sigma[0]):
        return
    runs = torch.cat([sigma.new_zeros(1), (sigma.diff().abs() > _CLOSE * sigma[0]).double().cumsum(0)]).long()
    weight = sigma.square()
    sums = [torch.zeros_like(sigma).index_add_(0, runs, part) for part in (weight, weight * gamma)]
    mean = sums[1] / sums[0].clamp_min(torch.finfo(sigma.dtype).tiny)
    open_part = float((weight * (gamma - mean[runs]).square()).sum() / (weight * gamma.square()).sum()) ** 0.5
    if open_part > _SHARE:
        most = int(torch.bincount(runs).max())
        raise NumericsError(
            f"{most} singular values of the merged delta agree, so that its directions are not determined: "
            f"{open_part:.0%} of the calibrated delta would depend on rounding",
            "pass the method's own directions as basis=, or calibrate where they are known: "
            "merge_deltas(..., calibrate='svc')",
        )


def require_basis(basis: Tensor, merged: Tensor) -> None:
    """Raise RecipeError unless the columns of ``basis (m, r)`` are orthonormal and span those of ``merged (m, n)``."""
    if basis.ndim != 2 or len(basis) != len(merged):
        raise RecipeError(
            f"basis has shape {list(basis.shape)}, but must have {len(merged)} rows: one column per direction, of the "
            "column space for side='left' and of the row space for side='right'"
        )
    basis, merged = basis.double(), merged.double()
    overlap = basis.T @ basis
    if not float((overlap - torch.eye(len(overlap)).to(overlap)).abs().max()) <= _FITS:
        raise RecipeError("the columns of basis are not orthonormal")
    rest = torch.linalg.matrix_norm(merged - basis @ (basis.T @ merged))
    if not float(rest) <= _FITS * float(torch.linalg.matrix_norm(merged)):
        raise RecipeError("the columns of basis do not span the merged delta")
