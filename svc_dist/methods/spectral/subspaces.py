"""Merge methods that combine singular subspaces of the task deltas: TSV-M, Iso-C, Iso-CTS, STAR.

Each takes the deltas of one matrix, one expert at a time, and returns its merged delta. Directions at rounding level
are never lifted: they are left out, and the receipt says how many (``cut``), and how many of them rise above arithmetic
but not above what storage has rounded (``cut_as_storage_rounding``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from svc_dist.linalg.devices.transfer import sent
from svc_dist.linalg.noise import Noise
from svc_dist.linalg.rounding import storage_rounding
from svc_dist.linalg.svd import ThinSvd, largest_value, polar_factor, thin_svd
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.merged import TOP, Merged, numbers
from svc_dist.methods.spectral.normal_equations import known_finite


def tsv_m(deltas: TaskDeltas) -> Merged:
    """TSV-M: the top ``min(m, n) / K`` triplets of each expert, decorrelated: ``polar(B_U) diag(s) polar(B_V)``.

    Gargiulo et al. 2025, arXiv 2412.00081. Where there are more experts than directions, each keeps one.
    """
    rows, columns = deltas.shape
    count = max(1, min(rows, columns) // len(deltas))
    triplets = _Triplets(deltas, count * len(deltas))
    finite = known_finite(deltas)
    for index in range(len(deltas)):
        noise = rounding_of(deltas, index)
        triplets.add(
            thin_svd(deltas[index], _name(index), count=count, dtype=torch.float64, noise=noise, finite=finite)
        )
    left, right, values = triplets.polar()
    summary = triplets.summary()
    if triplets.dependent:
        return Merged((left * values) @ right, summary)
    # Both factors have orthonormal columns: they are the singular vectors, more exactly than the result tells them.
    return Merged((left * values) @ right, summary | {"sigma": summary["singular_values"]}, left=left, right=right.T)


def iso_c(deltas: TaskDeltas) -> Merged:
    """Iso-C: the sum of the deltas with a flat spectrum, ``mean(s) * U V^T``. Marczak et al. 2025, arXiv 2502.04959."""
    noise = rounding_of_sum(deltas)
    svd = thin_svd(deltas.total(), "the sum of the task deltas", dtype=torch.float64, noise=noise)
    return flattened(svd, min(deltas.shape), deltas.dtype)


def flattened(svd: ThinSvd, size: int, dtype: torch.dtype) -> Merged:
    """``mean(s) * U V^T``, the mean over ``size`` directions, in ``dtype``."""
    flat = float(svd.host_values.sum()) / size
    summary = {
        "kept_rank": len(svd.values),
        "cut": svd.cut,
        "cut_as_storage_rounding": svd.noisy,
        "residual": svd.residual,
        "singular_values": numbers(svd.host_values),
        "sigma": [flat] * min(TOP, len(svd.values)),
    }
    return _flat(flat, svd.left, svd.right, summary, dtype)


def iso_cts(deltas: TaskDeltas, *, common_space_fraction: float) -> Merged:
    """Iso-CTS: common directions of the sum and, of what they leave of each expert, its own; all with equal strength.

    Marczak et al. 2025, arXiv 2502.04959, Algorithm 2. (The order in which directions are collected does not matter.)
    """
    experts = len(deltas)
    size = min(deltas.shape)
    specific = round((size - int((common_space_fraction + 1e-9) * size)) / experts)
    specific = min(specific, size // experts)
    common_count = size - specific * experts
    noise = rounding_of_sum(deltas)
    finite = known_finite(deltas)
    wide = deltas.at("float64")  # what is left of an expert may be far smaller than what was taken out of it
    full = deltas.precision == "float64"
    total = wide.total()
    common = thin_svd(total, "the sum of the task deltas", count=common_count, noise=noise, full=full, finite=finite)
    del total
    strongest, common_rank = numbers(common.host_values), len(common.values)
    triplets = _Triplets(deltas, size)
    triplets.add(common)
    space = common.left.T.contiguous()
    del common
    for index in range(len(deltas) if specific else 0):
        noise, delta = rounding_of(deltas, index).without(common_rank), wide[index]
        scale = largest_value(delta)
        delta.addmm_(space.T, space @ delta, alpha=-1)
        rest = f"what the common space leaves of {_name(index)}"
        triplets.add(
            thin_svd(delta, rest, count=specific, scale=scale, noise=noise, full=full, finite=finite)
        )  # fmt: skip
        del delta
    del space
    left, right, values = triplets.polar()
    flat = float(values.sum()) / size
    summary = triplets.summary() | {"common_rank": common_rank, "singular_values": strongest}
    if not triplets.dependent:
        summary["sigma"] = [flat] * min(TOP, triplets.filled)
    return _flat(flat, left, right, summary, deltas.dtype)


def star(deltas: TaskDeltas, *, eta: float) -> Merged:
    """STAR: of each expert the directions that hold ``eta`` percent of its nuclear norm, rescaled to it; averaged.

    Lee et al. 2025, STAR: Spectral Truncation and Rescale, NAACL.
    """
    merged = torch.zeros(deltas.shape, dtype=deltas.dtype, device=deltas.device)
    ranks: list[int] = []
    values: list[float] = []
    cut, noisy, residual = 0, 0, 0.0
    finite = known_finite(deltas)
    for index in range(len(deltas)):
        noise, nuclear = rounding_of(deltas, index), 0.0

        def rank(values: Tensor) -> int:
            nonlocal nuclear
            sums = values.double().cpu().cumsum(0)  # in one order: a GPU's may change from run to run
            nuclear = float(sums[-1])
            return min(int((sums < sums[-1] * (eta / 100)).sum()) + 1, len(values))

        svd = thin_svd(deltas[index], _name(index), count=rank, noise=noise, finite=finite)
        ranks.append(len(svd.values))
        values += numbers(svd.host_values)
        cut, noisy, residual = cut + svd.cut, noisy + svd.noisy, max(residual, svd.residual)
        if ranks[-1]:
            merged.addmm_(svd.left * (svd.values * (nuclear / float(svd.host_values.sum()) / len(deltas))), svd.right)
        del svd
    return Merged(
        merged,
        {
            "kept_rank": sum(ranks),
            "kept_ranks": ranks,
            "cut": cut,
            "cut_as_storage_rounding": noisy,
            "residual": residual,
            "singular_values": sorted(values, reverse=True)[:TOP],
        },
    )


def rounding_of(deltas: TaskDeltas, index: int) -> Noise:
    """What storage has rounded of task delta ``index``: nothing where it is an adapter's, which is known exactly."""
    expert = deltas.experts[index]
    if expert is None:
        return Noise(*(torch.zeros(size, dtype=torch.float64, device=deltas.device) for size in deltas.shape))
    return storage_rounding(expert, deltas.base_view, deltas.device)


def rounding_of_sum(deltas: TaskDeltas) -> Noise:
    """What storage has rounded of the sum of the task deltas."""
    noise = rounding_of(deltas, 0)
    for index in range(1, len(deltas)):
        noise += rounding_of(deltas, index)
    return noise


class _Triplets:
    """Singular triplets of several matrices side by side: ``B_U (m, r)``, ``s (r)``, ``B_V (r, n)``.

    ``cut``: directions that were left out, ``noisy`` of them as rounding of the stored weights and ``dependent`` of
    them by the polar factors, on either side, because they lie in the span of the others.
    """

    def __init__(self, deltas: TaskDeltas, capacity: int) -> None:
        rows, columns = deltas.shape
        self.left = torch.empty(capacity, rows, dtype=torch.float64, device=deltas.device)
        self.right = torch.empty(capacity, columns, dtype=torch.float64, device=deltas.device)
        self.values = torch.empty(capacity, dtype=torch.float64)  # in the host's memory, where they are looked at
        self.dtype = deltas.dtype
        self.filled = 0
        self.cut = 0
        self.noisy = 0
        self.dependent = 0
        self.residual = 0.0

    def add(self, svd: ThinSvd) -> None:
        rows = slice(self.filled, self.filled + svd.values.numel())
        self.left[rows], self.values[rows], self.right[rows] = svd.left.T, svd.host_values, svd.right
        self.filled += svd.values.numel()
        self.cut += svd.cut
        self.noisy += svd.noisy
        self.residual = max(self.residual, svd.residual)

    def polar(self) -> tuple[Tensor, Tensor, Tensor]:
        """``polar(B_U)``, ``polar(B_V)`` and ``s``, the strongest first. Takes the collected directions' memory."""
        left = polar_factor(self.left[: self.filled].T, "the experts' left directions", self.dtype, overwrite=True)
        del self.left
        right = polar_factor(self.right[: self.filled], "the experts' right directions", self.dtype, overwrite=True)
        del self.right
        self.dependent = max(left.cut, right.cut)
        self.cut += self.dependent
        self.residual = max(self.residual, left.residual, right.residual)
        values, order = self.values[: self.filled].sort(descending=True, stable=True)
        device = left.factor.device
        order = sent(order, device)
        return left.factor[:, order], right.factor[order], sent(values.to(self.dtype), device)

    def summary(self) -> dict[str, Any]:
        """What a receipt says once the polar factors are made; ``cut`` counts before them and there, on either side."""
        return {
            "kept_rank": self.filled,
            "cut": self.cut,
            "cut_as_storage_rounding": self.noisy,
            "residual": self.residual,
            "singular_values": numbers(self.values[: self.filled].sort(descending=True).values),
        }


def _flat(flat: float, left: Tensor, right: Tensor, summary: dict[str, Any], dtype: torch.dtype) -> Merged:
    left, right = left.to(dtype), right.to(dtype)
    return Merged((left @ right).mul_(flat), summary, left=left, right=right.T)


def _name(index: int) -> str:
    return f"expert {index}'s task delta"
