"""Candidates in plain float64, a few lines each, from their papers or their authors' descriptions."""

from __future__ import annotations

import torch
from torch import Tensor


def magic(merged: Tensor, deltas: Tensor) -> Tensor:
    """Each row on the surface of an ellipsoid with the experts' rows as axes, and of a sphere beside them."""
    rows = []
    for row, experts in zip(merged, deltas.transpose(0, 1), strict=True):
        norms = [float(expert.norm()) for expert in experts]
        shares = [float(row @ d) / norm**2 if norm else 0.0 for d, norm in zip(experts, norms, strict=True)]
        inside = sum((share * d for share, d in zip(shares, experts, strict=True)), torch.zeros_like(row))
        radius = sum(norms) / len(norms)
        if not radius or not float(row.norm()):
            rows.append(row)
            continue
        surface = sum(share**2 for share in shares) + (float((row - inside).norm()) / radius) ** 2
        rows.append(row / surface**0.5)
    return torch.stack(rows)
