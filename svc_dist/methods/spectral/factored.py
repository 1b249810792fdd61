"""Merge methods where every task delta is of low rank: exact, at a cost in the sum R of the ranks.

Each takes the deltas' cores ``(R, R)`` and returns the merged delta as a core; see cores.py. What a method takes from
the size of the matrix (how many directions, a mean over all of them, the rounding level) is that of the whole matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from svc_dist.linalg.eigen import symmetric_eigen
from svc_dist.linalg.svd import full_svd
from svc_dist.methods.elementwise.consensus import weighted_sum
from svc_dist.methods.merged import Merged, numbers
from svc_dist.methods.spectral.cores import Cores, resolved_svd
from svc_dist.methods.spectral.filters import (
    FLOOR,
    Filter,
    Spectrum,
    above_rounding,
    spectrum_summary,
    swudi_a_filter,
    swudi_filter,
)
from svc_dist.methods.spectral.normal_equations import finite_norm
from svc_dist.methods.spectral.subspaces import flattened


def task_arithmetic(cores: Cores, *, weight: Sequence[float], normalize: bool) -> Merged:
    """As ``elementwise.task_arithmetic``."""
    return Merged(weighted_sum(cores, weight, normalize))


def linear(cores: Cores, *, weight: Sequence[float], base_weight: float, normalize: bool) -> Merged:
    """As ``elementwise.linear`` where it is a sum of deltas: the weights add up to 1, or are divided by their sum."""
    merged = weighted_sum(cores, weight, normalize=False)
    return Merged(merged.div_(sum(weight) + base_weight) if normalize else merged)


def tsv_m(cores: Cores) -> Merged:
    """As ``spectral.tsv_m``."""
    rows, columns = cores.shape
    count = max(1, min(rows, columns) // len(cores))
    triplets = [cores.svd(index, count) for index in range(len(cores))]
    values, order = torch.cat([svd.values for svd in triplets]).sort(descending=True, stable=True)
    left, left_cut, left_residual = _polar(torch.cat([svd.left for svd in triplets], dim=1), rows, "left")
    right, right_cut, right_residual = _polar(torch.cat([svd.right.T for svd in triplets], dim=1), columns, "right")
    left, right = left[:, order], right[:, order]
    cut = sum(svd.cut for svd in triplets) + max(left_cut, right_cut)
    summary = {
        "kept_rank": len(values),
        "cut": cut,
        "cut_as_storage_rounding": 0,  # factors give exactly the directions that an adapter has
        "residual": max(left_residual, right_residual, *(svd.residual for svd in triplets)),
        "singular_values": numbers(values),
    }
    delta = (left * values) @ right.T
    if max(left_cut, right_cut):
        return Merged(delta, summary)
    return Merged(delta, summary | {"sigma": summary["singular_values"]}, left=left, right=right)


def iso_c(cores: Cores) -> Merged:
    """As ``spectral.iso_c``."""
    size = min(cores.shape)
    svd = resolved_svd(weighted_sum(cores, [1.0] * len(cores), False), "the sum of the task deltas", cores.shape, size)
    return flattened(svd, size, svd.left.dtype)


def swudi(cores: Cores, *, exp_time: Sequence[float], rank_ratio: float, init: str) -> Iterator[Merged]:
    """As ``swudi.swudi``."""
    return _solved(cores, init, swudi_filter(cores.shape[1], exp_time, rank_ratio))


def swudi_a(cores: Cores, *, rank_rule: str, init: str) -> Merged:
    """As ``swudi.swudi_a``."""
    return next(_solved(cores, init, swudi_a_filter(rank_rule)))


def _solved(cores: Cores, init: str, chosen: Filter) -> Iterator[Merged]:
    """C and R in the spaces of the factors. Past the rank of C, R and M0 are zero: nothing is moved there."""
    rows, columns = cores.shape
    normal, target, total = (torch.zeros_like(cores.inner_left) for _ in range(3))
    count = 0
    for index, core in enumerate(cores):
        norm = finite_norm(core, index)
        if not norm:
            continue
        count += 1
        total += core
        core /= norm
        gram = core.T @ core
        normal += gram
        target.addmm_(core, gram, alpha=norm)
    values, vectors, residual = symmetric_eigen(normal, "C", overwrite=True)
    resolved = above_rounding(values, columns, torch.float64)
    padded = values.new_full((columns,), FLOOR)
    padded[: len(values)] = values.clamp_min(FLOOR)
    top, cut = chosen.cut(Spectrum(padded, resolved, (count * rows, columns)))
    kept = vectors[:, : min(top, resolved)]
    lam = padded[: kept.shape[1]]
    start = total.mul_({"sum": 1.0, "mean": 1 / len(cores), "zero": 0.0}[init])
    summary = spectrum_summary(top, cut, values, residual)
    for strength in (strength(lam) for strength in chosen.strengths):
        moved = (target @ kept) * (strength / lam) - (start @ kept) * strength
        yield Merged(torch.addmm(start, moved, kept.T), summary)


def _polar(directions: Tensor, length: int, side: str) -> tuple[Tensor, int, float]:
    """The polar factor of directions ``(R, r)`` of that ``length``, how many were cut, and the SVD's residual."""
    left, values, right, residual = full_svd(directions, f"the experts' {side} directions")
    level = max(length, directions.shape[1]) * torch.finfo(values.dtype).eps
    rank = int((values > level * values[:1]).sum())
    return left[:, :rank] @ right[:rank], directions.shape[1] - rank, residual
