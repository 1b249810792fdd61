"""ResMerge: what experts have beside their leading directions, in their common direction; then those. arXiv 2606.02252.

As in the authors' code, which treats matrices outside of attention and feed-forward layers with ``beta_max`` alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from svc_dist.linalg.svd import ThinSvd, thin_svd
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.merged import TOP, Merged, numbers
from svc_dist.methods.spectral.cores import Cores
from svc_dist.methods.spectral.normal_equations import known_finite

_NOTHING = 1e-9  # of a delta: a residual below this is what its decomposition leaves
_TIE = 1e-6  # relative: a coherence that is closer to that of unrelated experts is theirs


def resmerge(deltas: TaskDeltas, *, rank: int, beta_min: float, beta_max: float, head_ratio: float) -> Merged:
    """ResMerge of deltas in one pass: two sums and an expert are held, whatever the number of experts.

    Each delta is a head, its ``rank`` leading triplets, and a residual. With ``q_t`` the residuals divided by their
    norms, ``Q`` their sum and ``c = ||Q|| / K``, the backbone is ``Q / ||Q||`` times ``c^beta`` times the mean norm of
    the residuals, where ``beta = beta_max - (beta_max - beta_min) (s' + c') / 2``, ``s`` is the mean cosine of pairs
    and ``x' = (x + 1) / 2``. Where ``c`` is not above ``1 / sqrt(K)``, that of unrelated experts, it is the mean of the
    residuals. The mean head is added, at ``head_ratio`` times the mean positive cosine of pairs of heads times the
    backbone's norm.
    """
    wide = deltas if deltas.precision == "fast" else deltas.at("float64")
    count, finite = min(rank, *wide.shape), known_finite(wide)

    def experts() -> Iterable[tuple[Tensor, ThinSvd]]:
        for index in range(len(wide)):
            delta = wide[index]
            yield delta, thin_svd(delta, f"expert {index}'s task delta", count=count, full=False, finite=finite)
            del delta  # before the next one is made

    found = _merged(experts(), len(deltas), max(deltas.shape), beta_min, beta_max, head_ratio)
    return Merged(found.delta.to(deltas.dtype), found.summary)


def of_cores(cores: Cores, *, rank: int, beta_min: float, beta_max: float, head_ratio: float) -> Merged:
    """As ``resmerge``, of deltas that are all of low rank."""
    count = min(rank, *cores.shape)
    experts = ((core, cores.svd(index, count)) for index, core in enumerate(cores))
    return _merged(experts, len(cores), max(cores.shape), beta_min, beta_max, head_ratio)


def _merged(
    experts: Iterable[tuple[Tensor, ThinSvd]],
    count: int,
    length: int,
    beta_min: float,
    beta_max: float,
    head_ratio: float,
) -> Merged:
    """``length``: of the deltas' longer side, which says what is rounding."""
    heads: list[ThinSvd] = []
    norms: list[float] = []
    directions = mean = torch.empty(0)
    for delta, svd in experts:
        if not heads:
            directions, mean = torch.zeros_like(delta), torch.zeros_like(delta)
        size = torch.linalg.vector_norm(delta, dtype=torch.float64)
        if len(svd.values):
            delta.addmm_((svd.left * svd.values).to(delta.dtype), svd.right.to(delta.dtype), alpha=-1)
        size, norm = torch.stack([size, torch.linalg.vector_norm(delta, dtype=torch.float64)]).cpu().tolist()
        norms.append(norm if norm > max(length * torch.finfo(delta.dtype).eps, _NOTHING) * size else 0.0)
        if norms[-1]:
            directions.add_(delta, alpha=1 / norm)
            mean.add_(delta, alpha=1 / count)
        heads.append(svd)
        del delta, svd  # before the next one is made
    backbone, summary = _backbone(directions, mean, norms, beta_min, beta_max)
    del directions, mean
    agreement = _agreement(heads)
    head = torch.zeros_like(backbone)
    for svd in heads:
        head.addmm_((svd.left * svd.values).to(head.dtype), svd.right.to(head.dtype))
    sizes = torch.stack([torch.linalg.vector_norm(one, dtype=torch.float64) for one in (head, backbone)])
    reached, anchor = sizes.cpu().tolist()
    if reached:
        backbone.add_(head, alpha=head_ratio * agreement * anchor / reached)
    kept = sum(len(svd.values) for svd in heads)
    strongest = sorted((value for svd in heads for value in numbers(svd.host_values)), reverse=True)
    summary |= {
        "agreement": agreement,
        "kept_rank": kept,
        "residual": max(svd.residual for svd in heads),
        "singular_values": strongest[:TOP],
    }
    return Merged(backbone, summary)


def _backbone(
    directions: Tensor, mean: Tensor, norms: list[float], beta_min: float, beta_max: float
) -> tuple[Tensor, dict[str, Any]]:
    count, present = len(norms), sum(map(bool, norms))
    length = float(torch.linalg.vector_norm(directions, dtype=torch.float64))
    coherence = min(length / count, 1.0)
    cosine = (length * length - present) / (count * (count - 1)) if count > 1 else 1.0
    summary = {"coherence": coherence, "cosine": cosine}
    if coherence <= (1 + _TIE) / math.sqrt(count):
        return mean, summary
    score = min(max(((cosine + 1) / 2 + (coherence + 1) / 2) / 2, 0.0), 1.0)
    beta = beta_max - (beta_max - beta_min) * score
    return directions.mul_(coherence**beta * (math.fsum(norms) / count) / length), summary | {"beta": beta}


def _agreement(heads: list[ThinSvd]) -> float:
    """The mean over pairs of heads of their cosine where it is positive; 1 for one, and 0 for none."""
    present = [svd for svd in heads if len(svd.values)]
    if len(present) < 2:
        return float(len(present))
    inner, sizes = [], [svd.host_values.double().norm() for svd in present]
    for index, one in enumerate(present):
        for other in present[:index]:
            both = (one.left.T @ other.left).double() * (one.right @ other.right.T).double()
            inner.append((one.values.double()[:, None] * both * other.values.double()).sum())
    products = torch.stack([one * other for index, one in enumerate(sizes) for other in sizes[:index]])
    return min(float((torch.stack(inner).cpu() / products).clamp_min(0).mean()), 1.0)
