"""ACE-Merging: the experts' mean, each weighted by the covariance that its own delta suggests. arXiv 2603.02945.

``W = (sum_t D_t S_t) (sum_t S_t)^-1`` with ``S_t`` from ``D_t^T D_t``; centring, ridge, prior and refinement as in the
authors' code.
"""

from __future__ import annotations

import math
import statistics
from typing import Any, NamedTuple

import torch
from torch import Tensor

from svc_dist.linalg.gram import add_gram, mirrored
from svc_dist.linalg.svd import leading_values, thin_svd
from svc_dist.methods.candidates.solve import solved
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.merged import TOP, Merged
from svc_dist.methods.spectral.normal_equations import contributing


def ace(deltas: TaskDeltas, *, eps: float, heterogeneity: float, refined_share: float) -> Merged:
    """ACE: ``W = B A^-1`` with ``B = sum_t Dc_t S_t`` and ``A = sum_t S_t + 1 c^T``.

    ``Dc_t`` is ``D_t`` less the mean of its rows, ``S_t = Dc_t^T Dc_t + eps I``, and ``c`` the mean row of the sum of
    ``Dc_t^T Dc_t``. Where the variance of ``log ||D_t||^2`` exceeds ``heterogeneity`` times its squared mean, each
    ``S_t`` is divided by ``||Dc_t||^2``, and ``c`` by the mean of ``||D_t||^2``; and the leading ``refined_share`` of
    the directions of ``W + sum_t D_t (Dc_t^T Dc_t / ||Dc_t||^2 - mean(S))`` are added to ``W``, all as strong as their
    mean. An expert without a change takes no part.

    Sums and the solution are float64; at ``fast`` the products of an expert are float32.
    """
    wide = deltas if deltas.precision == "fast" else deltas.at("float64")
    normal, target, beside, ridges, prior_scale, apart = _sums(wide, eps, heterogeneity)
    if not ridges:
        return Merged(torch.zeros(deltas.shape, dtype=deltas.dtype, device=deltas.device), {"heterogeneous": False})
    plain = target[:-1].clone() if apart else None
    for index, delta, _ in contributing(wide):
        delta -= delta.mean(0, keepdim=True)
        target[:-1].add_(delta, alpha=ridges[index])
        del delta
    target[-1] = normal.mean(0) / prior_scale
    normal.diagonal().add_(math.fsum(ridges.values()))
    found, residual = solved(normal, target, "the sum of the experts' covariances")
    del target
    # (S + 1 c^T)^-1 by Sherman and Morrison. c^T S^-1 1 is not negative, so that the denominator is at least 1.
    merged, last = found[:-1], found[-1]
    merged.addr_(merged.sum(1), last, alpha=-1 / (1 + float(last.sum())))
    summary: dict[str, Any] = {"heterogeneous": apart, "residual": residual}
    if plain is not None and (count := int(min(deltas.shape) * refined_share)):
        plain += beside
        plain.addmm_(wide.total().double(), normal, alpha=-1 / len(ridges))
        del normal
        plain += merged
        full = deltas.precision == "float64"
        svd = thin_svd(plain, "what ACE refines", count=count, dtype=torch.float64, full=full)
        del plain
        merged.addmm_(svd.left * (float(svd.host_values.sum()) / count), svd.right)
        summary |= {"kept_rank": len(svd.values), "cut": svd.cut, "residual": max(residual, svd.residual)}
    summary["singular_values"] = leading_values(merged, TOP)
    return Merged(merged.to(deltas.dtype), summary)


class _Sums(NamedTuple):
    """Over the experts that contribute, in float64: ``normal (n, n)``, the sum of ``Dc^T Dc``, and ``target``, that of
    ``Dc Dc^T Dc`` in its first m rows, each normalised where the experts are heterogeneous; ``beside (n)``: that of
    ``mean(D) Dc^T Dc``; ``ridges``: of each expert; ``prior_scale``: what the prior is divided by."""

    normal: Tensor
    target: Tensor
    beside: Tensor
    ridges: dict[int, float]
    prior_scale: float
    heterogeneous: bool


def _sums(deltas: TaskDeltas, eps: float, heterogeneity: float) -> _Sums:
    rows, columns = deltas.shape
    norms = [norm for _, _, norm in contributing(deltas)]
    logs = [2 * math.log(norm) for norm in norms]
    apart = len(logs) > 1 and statistics.variance(logs) > heterogeneity * statistics.mean(logs) ** 2
    normal = torch.zeros(columns, columns, dtype=torch.float64, device=deltas.device)
    target, beside = normal.new_zeros(rows + 1, columns), normal.new_zeros(columns)
    ridges: dict[int, float] = {}
    for index, delta, _ in contributing(deltas):
        mean = delta.mean(0, keepdim=True)
        delta -= mean
        size = float(torch.linalg.vector_norm(delta, dtype=torch.float64)) if apart else 1.0
        scale = size * size or 1.0
        ridges[index] = eps / scale
        share = torch.zeros(columns, columns, dtype=delta.dtype, device=delta.device)
        add_gram(share, delta.T)
        mirrored(share).div_(scale)
        normal += share
        target[:-1] += delta @ share
        beside += (mean @ share)[0]
        del delta, share  # before the next one is made
    mean_trace = statistics.mean(norm * norm for norm in norms) if apart else 1.0
    return _Sums(normal, target, beside, ridges, mean_trace, apart)
