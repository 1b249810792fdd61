"""Merge methods of many matrices at once: each does with ``(b, m, n)`` what the method does with one ``(m, n)``.

Each raises Alone for what it does not take, and where something seldom happens: then the method itself is asked for one
matrix after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from svc_dist.linalg.devices.transfer import sent
from svc_dist.methods.batches.matrices import Alone, eigens, polars, require_fit, require_orthonormal, svds
from svc_dist.methods.batches.noise import Noises, storage_roundings
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.elementwise import linear
from svc_dist.methods.merged import TOP
from svc_dist.methods.spectral.filters import FLOOR, swudi_filter
from svc_dist.methods.spectral.policy import small_gram_is_cheaper, swudi_precision


@dataclass(frozen=True)
class Batch:
    """As ``Merged``, of each matrix: ``delta (b, m, n)``, summaries (b), ``left (b, m, r)`` and ``right (b, n, r)``."""

    delta: Tensor
    summaries: list[dict[str, Any]]
    left: Tensor | None = None
    right: Tensor | None = None


def task_arithmetic(deltas: TaskDeltas, *, weight: Sequence[float], normalize: bool) -> Batch:
    """In float64, as what a calibration decomposes is."""
    merged = linear.task_arithmetic(deltas.at("float64"), weight=weight, normalize=normalize)
    return Batch(merged, [{} for _ in merged])


def iso_c(deltas: TaskDeltas) -> Batch:
    """See ``subspaces.iso_c``."""
    norms_of(deltas)
    noises = _rounding(deltas, 0)
    for index in range(1, len(deltas)):
        noises += _rounding(deltas, index)
    size = min(deltas.shape[1:])
    found = svds(deltas.total(), size, noises)
    flat = found.strengths.sum(1) / size
    left, right = found.left.to(deltas.dtype), found.right.to(deltas.dtype)
    merged = (left @ right).mul_(sent(flat.to(deltas.dtype), left.device)[:, None, None])
    summaries = [
        {
            "kept_rank": rank,
            "cut": size - rank,
            "cut_as_storage_rounding": int(found.noisy[number]),
            "residual": float(found.residuals[number]),
            "singular_values": found.strengths[number][found.kept[number]][:TOP].tolist(),
            "sigma": [float(flat[number])] * min(TOP, rank),
        }
        for number, rank in enumerate(found.kept.sum(1).tolist())
    ]
    return Batch(merged, summaries, left, right.mT)


def tsv_m(deltas: TaskDeltas) -> Batch:
    """See ``subspaces.tsv_m``."""
    size = min(deltas.shape[1:])
    count = size // len(deltas)
    if not count:
        raise Alone
    norms_of(deltas)
    each = [svds(deltas[index], count, _rounding(deltas, index)) for index in range(len(deltas))]
    kept, strengths = (torch.cat([getattr(one, name) for one in each], 1) for name in ("kept", "strengths"))
    mask = sent(kept.double(), each[0].left.device)
    left, off_left = polars(torch.cat([one.left for one in each], 2).mT, mask)
    right, off_right = polars(torch.cat([one.right for one in each], 1), mask)
    residuals, noisy = (torch.stack([getattr(one, name) for one in each]) for name in ("residuals", "noisy"))
    del each, mask
    require_orthonormal(torch.stack([off_left, off_right]).cpu())
    strengths, order = strengths.sort(dim=1, descending=True, stable=True)
    places = sent(order, left.device)[..., None]
    left = left.gather(1, places.expand(-1, -1, left.shape[2])).to(deltas.dtype)
    right = right.gather(1, places.expand(-1, -1, right.shape[2])).to(deltas.dtype)
    values = sent(strengths.to(deltas.dtype), left.device)
    ranks = kept.sum(1).tolist()
    summaries: list[dict[str, Any]] = []
    for number, rank in enumerate(ranks):
        top = strengths[number, : min(TOP, rank)].tolist()
        summary = {
            "kept_rank": rank,
            "cut": kept.shape[1] - rank,
            "cut_as_storage_rounding": int(noisy[:, number].sum()),
        }
        summary |= {"residual": float(residuals[:, number].max()), "singular_values": top, "sigma": top}
        summaries.append(summary)
    return Batch((left.mT * values[:, None]) @ right, summaries, left.mT, right.mT)


def swudi(deltas: TaskDeltas, *, exp_time: Sequence[float], rank_ratio: float, init: str) -> Batch:
    """See ``swudi.swudi``, from all directions."""
    _, rows, columns = deltas.shape
    if small_gram_is_cheaper(rows, columns, len(deltas)) or len(exp_time) > 1:
        raise Alone
    chosen = swudi_filter(columns, exp_time, rank_ratio)
    assert chosen.known is not None
    wide = deltas.at(swudi_precision(rows, columns, deltas.precision))
    norms = norms_of(deltas)
    if not bool(norms.all()):
        raise Alone
    sizes = sent(norms.to(wide.dtype), deltas.device)
    normal = torch.zeros(len(norms[0]), columns, columns, dtype=wide.dtype, device=deltas.device)
    target = normal.new_zeros(deltas.shape)
    for index in range(len(deltas)):
        delta = wide[index]
        unit = delta / sizes[index, :, None, None]
        share = unit.mT @ unit
        del unit
        normal += share
        target.baddbmm_(delta, share)
        del delta, share
    found = eigens(normal.double())
    del normal
    lam = found.values[:, : chosen.known].clamp_min(FLOOR)
    strength = chosen.strengths[0](lam)
    kept = found.vectors[:, :, : chosen.known].to(wide.dtype)
    table = torch.cat([found.values[:, :TOP], found.residuals[:, None]], 1).cpu()
    require_fit(table[:, -1], columns)
    del found
    inner = (target @ kept).mul_((strength / lam).to(kept.dtype)[:, None])
    del target
    merged = wide.total()
    if init != "sum":
        merged.mul_(0 if init == "zero" else 1 / len(deltas))
    inner -= (merged @ kept).mul_(strength.to(kept.dtype)[:, None])
    merged.baddbmm_(inner, kept.mT)
    summaries: list[dict[str, Any]] = [
        {
            "kept_rank": chosen.known,
            "cut": 0,
            "residual": float(row[-1]),
            "singular_values": row[:-1].clamp_min(0).sqrt().tolist(),
        }
        for row in table
    ]
    return Batch(merged.to(deltas.dtype), summaries)


def norms_of(deltas: TaskDeltas) -> Tensor:
    """``||Di||_F`` of each expert and matrix ``(k, b)``, in the host's memory. Raises Alone where one is not finite."""
    each = [torch.linalg.vector_norm(delta, dim=(1, 2), dtype=torch.float64) for delta in deltas]
    norms = torch.stack(each).cpu()
    if not bool(norms.isfinite().all()):
        raise Alone  # one by one, its expert is named
    return norms


def _rounding(deltas: TaskDeltas, index: int) -> Noises:
    expert, base = deltas.experts[index], deltas.base_view
    assert expert is not None
    assert base is not None
    return storage_roundings(expert, base)
