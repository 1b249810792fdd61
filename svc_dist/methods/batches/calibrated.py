"""SVC of many matrices at once; see ``calibration/svc``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from svc_dist.methods.batches.forms import Batch
from svc_dist.methods.batches.matrices import Alone, eigens, grams, require_fit
from svc_dist.methods.calibration.svc import MIN_NORM2, Calibrated, resolved_level
from svc_dist.methods.deltas import TaskDeltas


def svc(batch: Batch, deltas: TaskDeltas, *, alpha: Sequence[float], side: str) -> Batch:
    """The merged matrices, each with its spectrum calibrated against the deltas. Raises Alone."""
    turned = side == "right"
    merged = batch.delta.mT if turned else batch.delta
    sigma, left, responses, outer, inner, residuals = _directions(merged, batch.right if turned else batch.left)
    shares = []
    for delta in deltas:
        own = (left.to(delta.dtype) @ (delta.mT if turned else delta)).double()
        shares.append((responses * own).sum(2) / own.square().sum(2).clamp_min(MIN_NORM2))
        del delta, own
    ratios = torch.stack(shares)
    gamma = torch.where(sigma > 0, len(deltas) / ratios.clamp_min(alpha[0]).sum(0), 1)
    order = sigma.argsort(dim=1, descending=True, stable=True)
    table = torch.cat([sigma[None], gamma[None], ratios]).gather(2, order.expand(2 + len(ratios), -1, -1))
    read = torch.cat([table.flatten(), residuals]).cpu()  # one wait for a device
    here, off = read[: table.numel()].view(table.shape), read[table.numel() :]
    if not bool(here[1].isfinite().all()):
        raise Alone
    require_fit(off, sigma.shape[1])
    result = (outer.mT @ (gamma[..., None] * inner)).to(deltas.dtype)
    summaries = []
    for number, summary in enumerate(batch.summaries):
        rows = here[:, number]
        one = Calibrated(result[number], rows[0], rows[1], rows[2:], alpha[0], float(off[number]), rows)
        summaries.append(summary | one.summary)
    return Batch(result.mT if turned else result, summaries)


def _directions(merged: Tensor, basis: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """sigma ``(b, r)``, ``U^T (b, r, m)``, ``A = U^T M (b, r, n)``, two matrices P and Q with ``M = P^T Q``, residuals.

    ``M`` calibrated is ``P^T diag(gamma) Q``. All in float64, U zero where sigma is at rounding level and M is tall.
    """
    wide = merged.double()
    level = resolved_level(max(merged.shape[1:]), merged.dtype)
    if basis is None and merged.shape[1] > merged.shape[2]:
        found = eigens(grams(merged.mT))
        inner = found.vectors.mT
        outer = inner @ wide.mT
        sigma = _above(torch.linalg.vector_norm(outer, dim=2), level)
        left = torch.where(sigma[..., None] > 0, outer / sigma[..., None], 0)
        return sigma, left, sigma[..., None] * inner, outer, inner, found.residuals
    residuals = wide.new_zeros(len(wide))
    if basis is None:
        found = eigens(grams(merged))
        basis, residuals = found.vectors, found.residuals
    outer = basis.double().mT
    inner = outer @ wide
    sigma = _above(torch.linalg.vector_norm(inner, dim=2), level)
    return sigma, outer, inner, outer, inner, residuals


def _above(sigma: Tensor, level: float) -> Tensor:
    return torch.where(sigma > level * sigma.amax(1, keepdim=True), sigma, 0)
