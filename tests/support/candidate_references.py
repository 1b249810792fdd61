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


def heterogeneous(deltas: Tensor, threshold: float = 0.3) -> bool:
    """ACE's measure of how much the experts' energies differ."""
    logs = deltas.square().sum((1, 2)).log()
    return len(deltas) > 1 and bool(logs.var() / logs.mean() ** 2 > threshold)


def ace(deltas: Tensor, eps: float = 1e-2, refined_share: float = 0.3) -> Tensor:
    """With a general inverse."""
    count, _, size = deltas.shape
    apart = heterogeneous(deltas)
    traces = deltas.square().sum((1, 2))
    centred = deltas - deltas.mean(1, keepdim=True)
    covariances = centred.mT @ centred
    scales = centred.square().sum((1, 2)) if apart else torch.ones(count, dtype=deltas.dtype)
    covariances = covariances / scales[:, None, None]
    ridged = covariances + (eps / scales)[:, None, None] * torch.eye(size, dtype=deltas.dtype)
    prior = covariances.sum(0).mean(0) / (traces.mean() if apart else 1)
    merged = (centred @ ridged).sum(0) @ torch.linalg.inv(ridged.sum(0) + prior[None])
    if apart:
        fused = (deltas @ (covariances - ridged.mean(0))).sum(0) + merged
        left, values, right = torch.linalg.svd(fused, full_matrices=False)
        top = int(len(values) * refined_share)
        merged = merged + values[:top].mean() * left[:, :top] @ right[:top]
    return merged


def resmerge(
    deltas: Tensor, rank: int = 1, beta_min: float = 0.7, beta_max: float = 1.0, head_ratio: float = 0.2
) -> Tensor:
    """With full decompositions, all experts at once and all pairs of them."""
    count = len(deltas)
    left, values, right = torch.linalg.svd(deltas, full_matrices=False)
    heads = (left[:, :, :rank] * values[:, None, :rank]) @ right[:, :rank]
    rests = deltas - heads
    pairs = [(i, j) for i in range(count) for j in range(i)]

    def cosine(one: Tensor, other: Tensor) -> float:
        return float((one * other).sum() / one.norm() / other.norm())

    norms = rests.flatten(1).norm(dim=1)
    total = (rests / norms[:, None, None]).sum(0)
    coherence = sum(cosine(rest, total) for rest in rests) / count
    similarity = sum(cosine(rests[i], rests[j]) for i, j in pairs) / max(len(pairs), 1)
    if coherence <= count**-0.5 * (1 + 1e-6):
        backbone = rests.mean(0)
    else:
        beta = beta_max - (beta_max - beta_min) * ((similarity + 1) / 2 + (coherence + 1) / 2) / 2
        backbone = total / total.norm() * coherence**beta * norms.mean()
    agreement = sum(max(cosine(heads[i], heads[j]), 0.0) for i, j in pairs) / len(pairs) if pairs else 1.0
    return backbone + heads.mean(0) / heads.mean(0).norm() * head_ratio * agreement * backbone.norm()
