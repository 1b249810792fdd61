"""MAGIC's weight space calibration: each row of a merged delta at the length that the experts' rows suggest.

Li et al. 2025, arXiv 2512.19320, as in the authors' code. Their feature space calibration needs data and is not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from svc_dist.linalg.devices.grain import lines
from svc_dist.linalg.finite import require_finite
from svc_dist.methods.deltas import Deltas
from svc_dist.methods.merged import Merged

_ROWS = 512  # rows that are taken to float64 at once: bounds temporaries


@dataclass(frozen=True)
class Rescaled:
    """A delta ``(m, n)`` whose rows were multiplied by ``scale (m)``; ``length (m)``: their norms before."""

    delta: Tensor
    scale: Tensor
    length: Tensor

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Plain numbers for a receipt. Rows that are zero count for nothing."""
        scale, length = torch.stack([self.scale, self.length]).cpu()  # one wait for a device
        scales = scale[length > 0]
        said = {
            "norm_merged": float(length.norm()),
            "norm_calibrated": float((scale * length).norm()),
            "norm_changed": float(((scale - 1) * length).norm()),
        }
        if scales.numel():
            spread = {"min": scales.min(), "median": scales.median(), "max": scales.max()}
            said |= {f"row_scale_{name}": float(value) for name, value in spread.items()}
        return said


def magic(merged: Merged, deltas: Deltas, *, limit: str) -> Rescaled:
    """Scale each row ``r`` of M so that it lies on a surface that the experts' rows ``d_i`` span.

    ``xi = 1 / sqrt(sum_i a_i^2 + ||r - p||^2 / l^2)`` with ``a_i = <r, d_i> / ||d_i||^2``, ``p = sum_i a_i d_i`` and
    ``l`` the mean of ``||d_i||``: an ellipsoid with the ``d_i`` as axes for what they say of the row, a sphere of
    radius ``l`` for the rest. An expert whose row is zero has no axis; its length of 0 counts in ``l``. A row of M that
    is zero stays zero. ``limit``: ``amplify`` leaves rows alone that would shrink, ``suppress`` those that would grow.

    The deltas are taken one at a time, in one pass. Sums are float64 at every precision. Raises NumericsError when an
    input is not finite.
    """
    delta = merged.delta
    rows = len(delta)
    explained = torch.zeros_like(delta)
    shares, lengths = delta.new_zeros(2, rows, dtype=torch.float64)
    step = lines(delta.device, _ROWS, delta.shape[1])
    blocks = [slice(start, start + step) for start in range(0, rows, step)]
    for expert in deltas:
        for block in blocks:
            own, row = expert[block].double(), delta[block].double()
            square = own.square().sum(1)
            share = torch.where(square == 0, 0, (row * own).sum(1) / square)
            shares[block] += share.square()
            lengths[block] += square.sqrt()
            explained[block] += (share[:, None] * own).to(delta.dtype)
        del expert, own, row  # before the next one is made
    lengths /= len(deltas)
    length, rest = (torch.empty_like(lengths) for _ in range(2))
    for block in blocks:
        row = delta[block].double()
        length[block] = torch.linalg.vector_norm(row, dim=1)
        rest[block] = torch.linalg.vector_norm(row - explained[block].double(), dim=1)
    del explained
    outside = torch.where(lengths == 0, 0, (rest / lengths).square())
    scale = torch.where((length == 0) | (lengths == 0), 1, (shares + outside).rsqrt())
    if limit != "none":
        scale = scale.clamp_min(1) if limit == "amplify" else scale.clamp_max(1)
    require_finite(scale, "the scales of rows")
    return Rescaled(delta * scale.to(delta.dtype)[:, None], scale, length)
