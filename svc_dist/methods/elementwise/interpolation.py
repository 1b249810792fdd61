"""Merge methods that interpolate between the base and the experts by an angle: SLERP and Model Stock."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from svc_dist.errors import RecipeError
from svc_dist.methods.chunking import CHUNK
from svc_dist.methods.deltas import TaskDeltas

_COLINEAR = 0.9995  # cosine past which the arc is taken for a line
_SINGULAR = 1e-6


def slerp(deltas: TaskDeltas, *, t: float, statistics: tuple[float, float]) -> Tensor:
    """The model at share ``t`` of the arc from the base to the one expert, as a delta. Shoemake 1985, SIGGRAPH.

    ``W = sin((1-t) theta)/sin(theta) W0 + sin(t theta)/sin(theta) W1`` with theta the angle between the two tensors,
    taken as vectors. Nearly colinear tensors are interpolated linearly.
    """
    base_share, expert_share = statistics
    merged = deltas[0].mul_(expert_share)
    excess = base_share + expert_share - 1  # W0 and D1 instead of W0 and W1
    return merged if excess == 0 else merged.add_(deltas.base, alpha=excess)


def slerp_coefficients(deltas: TaskDeltas, *, t: float, **_: Any) -> tuple[float, float]:
    """The factors of ``W0`` and ``W1`` for a whole tensor."""
    if deltas.base_view is None:
        raise RecipeError("slerp interpolates from the base model, so it needs the models, not only their difference")
    dot = base_square = expert_square = 0.0
    for part in deltas.chunks():
        base, expert = part.base.reshape(-1).double(), part.model(0).reshape(-1).double()
        dot += float(torch.dot(base, expert))
        base_square += float(torch.dot(base, base))
        expert_square += float(torch.dot(expert, expert))
    lengths = [math.sqrt(square) or 1.0 for square in (base_square, expert_square)]
    cosine = dot / lengths[0] / lengths[1]
    if not abs(cosine) <= _COLINEAR:  # a NaN comes here too, and into the result
        return (1 - t, t) if math.isfinite(cosine) else (math.nan, math.nan)
    theta = math.acos(cosine)
    return math.sin((1 - t) * theta) / math.sin(theta), math.sin(t * theta) / math.sin(theta)


def model_stock(deltas: TaskDeltas, *, filter_wise: bool, statistics: float | None) -> Tensor:
    """``M = t * mean(Di)`` with ``t = K cos / (1 + (K-1) cos)``. Jang et al. 2024, arXiv 2403.19522, equation 6.

    ``cos`` is the mean cosine between two experts' deltas of the whole tensor, or with ``filter_wise`` of each row.
    """
    ratio = statistics if statistics is not None else _row_ratios(deltas)
    merged = deltas[0]
    for index in range(1, len(deltas)):
        merged.add_(deltas[index])
    if isinstance(ratio, float):
        return merged.mul_(ratio / len(deltas))
    return merged.view(-1, max(deltas.row, 1)).mul_(ratio[:, None] / len(deltas)).view(merged.shape)


def _row_ratios(deltas: TaskDeltas) -> Tensor:
    """``t`` of each row."""
    count, width = len(deltas), max(deltas.row, 1)
    if count == 1:
        return torch.ones(deltas.numel // width, dtype=deltas.dtype, device=deltas.device)
    cosines = torch.zeros(deltas.numel // width, dtype=deltas.dtype, device=deltas.device)
    for first in range(count):  # pair by pair, so that no more than two deltas are held
        one = deltas[first].view(-1, width)
        for second in range(first + 1, count):
            other = deltas[second].view(-1, width)
            lengths = one.norm(dim=-1) * other.norm(dim=-1)
            cosines += ((one * other).sum(-1) / lengths.masked_fill_(lengths == 0, 1.0)).clamp_(-1, 1)
    cosines *= 2 / (count * (count - 1))
    denominator = 1 + (count - 1) * cosines
    none = denominator.abs() < _SINGULAR
    return (count * cosines / denominator.masked_fill(none, 1.0)).masked_fill_(none, 0.0)


def model_stock_ratio(deltas: TaskDeltas, *, filter_wise: bool, **_: Any) -> float | None:
    """``t`` of a whole tensor. A zero delta is at right angles to all; one expert alone has ``t = 1``.

    0, the base, where ``1 + (K-1) cos`` vanishes: opposing experts leave no finite estimate. None with ``filter_wise``.
    """
    if filter_wise:
        return None
    count = len(deltas)
    if count == 1:
        return 1.0
    gram = torch.zeros(count, count, dtype=torch.float64, device=deltas.device)
    step = max(1, 2 * CHUNK // count)  # all experts at once, so that less of each
    for start in range(0, deltas.numel, step):
        part = deltas.chunk(start, min(start + step, deltas.numel))
        rows = torch.empty(count, part.numel, dtype=torch.float64, device=deltas.device)
        for index in range(count):
            rows[index] = part[index]
        gram += rows @ rows.T
    if not bool(torch.isfinite(gram).all()):
        return math.nan
    lengths = gram.diagonal().sqrt()
    lengths = lengths.masked_fill(lengths == 0, 1.0)
    cosines = (gram / lengths[:, None] / lengths).clamp(-1, 1)
    cosine = float((cosines.sum() - cosines.trace()) / (count * (count - 1)))
    denominator = 1 + (count - 1) * cosine
    return 0.0 if abs(denominator) < _SINGULAR else count * cosine / denominator
