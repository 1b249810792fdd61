"""Merge methods that combine singular subspaces of the task deltas: TSV-M, Iso-C, Iso-CTS, STAR.

Each takes the deltas of one matrix, one expert at a time, and returns its merged delta. Directions at rounding level
are never lifted: they are left out, and the receipt says how many (``cut``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from svc_dist.linalg.svd import ThinSvd, leading_values, polar_factor, thin_svd
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.merged import TOP, Merged, numbers


def tsv_m(deltas: TaskDeltas) -> Merged:
    """TSV-M: the top ``min(m, n) / K`` triplets of each expert, decorrelated: ``polar(B_U) diag(s) polar(B_V)``.

    Gargiulo et al. 2025, arXiv 2412.00081. Where there are more experts than directions, each keeps one.
    """
    rows, columns = deltas.shape
    count = max(1, min(rows, columns) // len(deltas))
    triplets = _Triplets(deltas, count * len(deltas))
    for index, delta in enumerate(deltas):
        triplets.add(thin_svd(delta, _name(index), count=count, dtype=torch.float64))
        del delta
    left, right, values = triplets.polar()
    summary = triplets.summary()
    if triplets.cut:
        return Merged((left * values) @ right, summary)
    # Both factors have orthonormal columns: they are the singular vectors, more exactly than the result tells them.
    return Merged((left * values) @ right, summary | {"sigma": summary["singular_values"]}, left=left, right=right.T)


def iso_c(deltas: TaskDeltas) -> Merged:
    """Iso-C: the sum of the deltas with a flat spectrum, ``mean(s) * U V^T``. Marczak et al. 2025, arXiv 2502.04959."""
    svd = thin_svd(deltas.total(), "the sum of the task deltas", dtype=torch.float64)
    return flattened(svd, min(deltas.shape), deltas.dtype)


def flattened(svd: ThinSvd, size: int, dtype: torch.dtype) -> Merged:
    """``mean(s) * U V^T``, the mean over ``size`` directions, in ``dtype``."""
    flat = float(svd.values.sum()) / size
    summary = {
        "kept_rank": len(svd.values),
        "cut": svd.cut,
        "residual": svd.residual,
        "singular_values": numbers(svd.values),
        "sigma": [flat] * min(TOP, len(svd.values)),
    }
    return _flat(flat, svd.left, svd.right, summary, dtype)


def iso_cts(deltas: TaskDeltas, *, common_space_fraction: float) -> Merged:
    """Iso-CTS: common directions of the sum and, of what they leave of each expert, its own; all with equal strength.

    Marczak et al. 2025, arXiv 2502.04959, Algorithm 2. (The order in which directions are collected does not matter.)
    """
    experts = len(deltas)
    size = min(deltas.shape)
    specific = round((size - int(common_space_fraction * size)) / experts)
    specific = min(specific, size // experts)
    common_count = size - specific * experts
    common = thin_svd(deltas.total(), "the sum of the task deltas", count=common_count, dtype=torch.float64)
    space, strongest, common_rank = common.left.to(deltas.dtype), numbers(common.values), len(common.values)
    triplets = _Triplets(deltas, size)
    triplets.add(common)
    del common
    for index, delta in enumerate(deltas):
        if specific == 0:
            break
        scale = leading_values(delta, 1)[0]
        delta.addmm_(space, space.T @ delta, alpha=-1)
        rest = f"what the common space leaves of {_name(index)}"
        triplets.add(thin_svd(delta, rest, count=specific, dtype=torch.float64, scale=scale))
        del delta
    del space
    left, right, values = triplets.polar()
    flat = float(values.sum()) / size
    summary = triplets.summary() | {"common_rank": common_rank, "singular_values": strongest}
    if not triplets.cut:
        summary["sigma"] = [flat] * min(TOP, triplets.filled)
    return _flat(flat, left, right, summary, deltas.dtype)


def star(deltas: TaskDeltas, *, eta: float) -> Merged:
    """STAR: of each expert the directions that hold ``eta`` percent of its nuclear norm, rescaled to it; averaged.

    Lee et al. 2025, STAR: Spectral Truncation and Rescale, NAACL.
    """
    merged = torch.zeros(deltas.shape, dtype=deltas.dtype, device=deltas.device)
    ranks: list[int] = []
    values: list[float] = []
    cut, residual = 0, 0.0
    for index, delta in enumerate(deltas):
        nuclear = 0.0

        def rank(values: Tensor) -> int:
            nonlocal nuclear
            sums = values.double().cumsum(0)
            nuclear = float(sums[-1])
            return min(int((sums < sums[-1] * (eta / 100)).sum()) + 1, len(values))

        svd = thin_svd(delta, _name(index), count=rank)
        ranks.append(len(svd.values))
        values += numbers(svd.values)
        cut, residual = cut + svd.cut, max(residual, svd.residual)
        if ranks[-1]:
            merged.addmm_(svd.left * (svd.values * (nuclear / float(svd.values.sum()) / len(deltas))), svd.right)
        del delta, svd
    return Merged(
        merged,
        {
            "kept_rank": sum(ranks),
            "kept_ranks": ranks,
            "cut": cut,
            "residual": residual,
            "singular_values": sorted(values, reverse=True)[:TOP],
        },
    )


class _Triplets:
    """Singular triplets of several matrices side by side: ``B_U (m, r)``, ``s (r)``, ``B_V (r, n)``."""

    def __init__(self, deltas: TaskDeltas, capacity: int) -> None:
        rows, columns = deltas.shape
        self.left = torch.empty(capacity, rows, dtype=torch.float64, device=deltas.device)
        self.right = torch.empty(capacity, columns, dtype=torch.float64, device=deltas.device)
        self.values = torch.empty(capacity, dtype=torch.float64, device=deltas.device)
        self.dtype = deltas.dtype
        self.filled = 0
        self.cut = 0
        self.residual = 0.0

    def add(self, svd: ThinSvd) -> None:
        rows = slice(self.filled, self.filled + svd.values.numel())
        self.left[rows], self.values[rows], self.right[rows] = svd.left.T, svd.values, svd.right
        self.filled += svd.values.numel()
        self.cut += svd.cut
        self.residual = max(self.residual, svd.residual)

    def polar(self) -> tuple[Tensor, Tensor, Tensor]:
        """``polar(B_U)``, ``polar(B_V)`` and ``s``, the strongest first. Takes the collected directions' memory."""
        left = polar_factor(self.left[: self.filled].T, "the experts' left directions", self.dtype)
        del self.left
        right = polar_factor(self.right[: self.filled], "the experts' right directions", self.dtype)
        del self.right
        self.cut += max(left.cut, right.cut)
        self.residual = max(self.residual, left.residual, right.residual)
        values, order = self.values[: self.filled].sort(descending=True, stable=True)
        return left.factor[:, order], right.factor[order], values.to(self.dtype)

    def summary(self) -> dict[str, Any]:
        """What a receipt says once the polar factors are made; ``cut`` counts before them and there, on either side."""
        return {
            "kept_rank": self.filled,
            "cut": self.cut,
            "residual": self.residual,
            "singular_values": numbers(self.values[: self.filled].sort(descending=True).values),
        }


def _flat(flat: float, left: Tensor, right: Tensor, summary: dict[str, Any], dtype: torch.dtype) -> Merged:
    left, right = left.to(dtype), right.to(dtype)
    return Merged((left @ right).mul_(flat), summary, left=left, right=right.T)


def _name(index: int) -> str:
    return f"expert {index}'s task delta"
