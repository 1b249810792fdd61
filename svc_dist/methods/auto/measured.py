"""The features of experts from rows of their task deltas, in float64."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from svc_dist.methods.auto.features import Features


@dataclass(frozen=True)
class SampledRows:
    """Some rows of a matrix in float64: of the base ``(rows, columns)``, and of the deltas ``(K, rows, columns)``.

    ``elements``: of the whole matrix, for which these rows stand.
    """

    base: Tensor
    deltas: Tensor
    elements: int


def measured(sampled: Iterable[SampledRows], experts: int, adapters: int, bytes_read: int) -> Features:
    """The features of so many experts, of which so many are adapters. Three digits: more would be noise."""
    gram = torch.zeros(experts, experts, dtype=torch.float64)
    base = changed = elements = 0.0
    ranks: list[float] = []
    tensors = 0
    for one in sampled:
        flat = one.deltas.flatten(1)
        scale = one.elements / max(flat.shape[1], 1)
        gram += flat @ flat.T * scale
        base += float(one.base.square().sum()) * scale
        changed += float((flat != 0).double().mean()) * one.elements
        ranks += [share for delta in one.deltas if (share := _rank(delta)) is not None]
        elements += one.elements
        tensors += 1
    energies = gram.diagonal()
    return Features(
        experts=experts,
        adapters=_short(adapters / experts),
        times=_short(_ratio(float(gram.sum()), float(energies.sum()), 1.0)),
        cosine=_short(_cosine(gram)),
        changed=_short(_ratio(changed, elements, 0.0)),
        rank=_short(sum(ranks) / len(ranks) if ranks else 0.0),
        norms=tuple(_short(math.sqrt(_ratio(float(energy), base, 0.0))) for energy in energies),
        tensors=tensors,
        bytes_read=bytes_read,
    )


def _rank(delta: Tensor) -> float | None:
    """The effective rank of the rows that are not zero, over the largest possible; None for fewer than two."""
    rows = delta[delta.any(1)]
    if min(rows.shape) < 2:
        return None
    gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    gram = gram / gram.trace()
    return float(1 / gram.square().sum()) / min(rows.shape)


def _cosine(gram: Tensor) -> float:
    norms = gram.diagonal().sqrt()
    pairs = [_ratio(float(gram[i, j]), float(norms[i] * norms[j]), 0.0) for i in range(len(norms)) for j in range(i)]
    return sum(pairs) / len(pairs) if pairs else 0.0


def _ratio(one: float, other: float, otherwise: float) -> float:
    return one / other if other > 0 else otherwise


def _short(value: float) -> float:
    return float(f"{value:.3g}")
