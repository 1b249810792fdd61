"""The spectral methods as their formulas read: full SVDs, all experts stacked, everything in the inputs' dtype.

``deltas (K, m, n)``. What the package computes by other means is held against these, in float64; the benchmark runs
them in float32, as published code does.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.linalg.svd(matrix, full_matrices=False)


def polar(matrix: Tensor) -> Tensor:
    left, _, right = svd(matrix)
    return left @ right


def svc(merged: Tensor, deltas: Tensor, alpha: float | None = None, basis: Tensor | None = None) -> Tensor:
    alpha = 1 / len(deltas) if alpha is None else alpha
    left, sigma, right = svd(merged)
    if basis is not None:
        left = basis
        right = left.T @ merged
        sigma = torch.ones_like(right[:, 0])
    own = left.T @ deltas
    shared = left.T @ merged
    ratio = (shared * own).sum(2) / own.square().sum(2).clamp_min(1e-12)
    gamma = len(deltas) / ratio.clamp_min(alpha).sum(0)
    return (left * (gamma * sigma)) @ right


def tsv_m(deltas: Tensor) -> Tensor:
    count = min(deltas.shape[1:]) // len(deltas)
    triplets = [svd(delta) for delta in deltas]
    left = torch.cat([left[:, :count] for left, _, _ in triplets], 1)
    values = torch.cat([values[:count] for _, values, _ in triplets])
    right = torch.cat([right[:count] for _, _, right in triplets])
    return (polar(left) * values) @ polar(right)


def iso_c(deltas: Tensor) -> Tensor:
    left, values, right = svd(deltas.sum(0))
    return values.mean() * (left @ right)


def iso_c_basis(deltas: Tensor) -> Tensor:
    return svd(deltas.sum(0))[0]


def iso_cts(deltas: Tensor, common_space_fraction: float = 0.8) -> Tensor:
    experts, size = len(deltas), min(deltas.shape[1:])
    common = int(common_space_fraction * size)
    own = round((size - common) / experts)
    common = size - own * experts
    left, values, right = (part for part in svd(deltas.sum(0)))
    space = left[:, :common]
    lefts, all_values, rights = [], [], []
    for delta in deltas:
        part = svd(delta - space @ (space.T @ delta))
        lefts.append(part[0][:, :own])
        all_values.append(part[1][:own])
        rights.append(part[2][:own])
    left = torch.cat([*lefts, space], 1)
    right = torch.cat([*rights, right[:common]])
    return torch.cat([*all_values, values[:common]]).mean() * (polar(left) @ polar(right))


def star(deltas: Tensor, eta: float = 40.0) -> Tensor:
    merged = torch.zeros_like(deltas[0])
    for delta in deltas:
        left, values, right = svd(delta)
        share = values.cumsum(0) / values.sum() * 100
        rank = min(int((share < eta).sum()) + 1, len(values))
        kept = values[:rank] * values.sum() / values[:rank].sum()
        merged += (left[:, :rank] * kept) @ right[:rank]
    return merged / len(deltas)


def normalised(deltas: Tensor) -> tuple[Tensor, Tensor]:
    """C and R."""
    grams = deltas.mT @ deltas / deltas.square().sum((1, 2), keepdim=True)
    return grams.sum(0), (deltas @ grams).sum(0)


def swudi(deltas: Tensor, exp_time: float = 300.0, rank_ratio: float = 0.65, init: str = "sum") -> Tensor:
    columns = deltas.shape[2]
    top = min(columns, max(1, math.ceil(rank_ratio * columns)))
    return _closed_form(deltas, init, lambda lam: top, lambda lam: 1 - torch.exp(-lam * exp_time))


def swudi_a(deltas: Tensor, top: int, init: str = "sum") -> Tensor:
    return _closed_form(deltas, init, lambda lam: top, torch.ones_like)


def _closed_form(deltas: Tensor, init: str, rank: object, strength: object) -> Tensor:
    normal, target = normalised(deltas)
    lam, vectors = torch.linalg.eigh(normal)
    lam, vectors = lam.flip(0).clamp_min(1e-8), vectors.flip(1)
    factor = strength(lam)  # type: ignore[operator]
    factor[rank(lam) :] = 0  # type: ignore[operator]
    start = {"sum": deltas.sum(0), "mean": deltas.mean(0), "zero": torch.zeros_like(deltas[0])}[init]
    return start + (((target @ vectors) / lam - start @ vectors) * factor) @ vectors.T


def wudi(deltas: Tensor, steps: int = 300, lr: float = 1e-5) -> Tensor:
    return _descended(deltas, deltas, deltas, steps, lr)


def optmerge(deltas: Tensor, steps: int = 300, lr: float = 1e-5) -> Tensor:
    count = min(deltas.shape[1:]) // len(deltas)
    mean = deltas.mean(0)
    targets, projectors = [], []
    for delta in deltas:
        left, values, right = svd(delta - mean)
        targets.append(mean + (left[:, :count] * values[:count]) @ right[:count])
        left, values, right = svd(delta)
        projectors.append(values[:count, None] * right[:count])
    return _descended(deltas, torch.stack(targets), torch.stack(projectors), steps, lr)


def _descended(deltas: Tensor, targets: Tensor, projectors: Tensor, steps: int, lr: float) -> Tensor:
    merged = deltas.sum(0).clone().requires_grad_(True)
    optimizer = torch.optim.Adam([merged], lr=lr)
    scale = deltas.square().sum((1, 2))
    for _ in range(steps):
        optimizer.zero_grad()
        interference = ((merged - targets) @ projectors.mT).square().sum((1, 2)) / scale
        interference.sum().backward()
        optimizer.step()
    return merged.detach()
