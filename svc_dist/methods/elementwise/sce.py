"""SCE: select entries by their variance over experts, weight experts by energy, erase the minority's sign.

Wan et al. 2024, arXiv 2408.07990, section 3.2.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.elementwise.selection import Cut, cuts

_SQUARED = 1e-12  # entries from this to its inverse are squared in float32 as they are


@dataclass(frozen=True)
class Selection:
    """Which entries of a tensor take part (None: all), and each expert's share of the energy in them.

    ``unit``: the power of two that deltas are divided by before they are squared.
    """

    cut: Cut | None
    weight: tuple[float, ...]
    unit: float = 1.0


def sce(deltas: TaskDeltas, *, select_topk: float, statistics: Selection) -> Tensor:
    """Per entry, the energy-weighted mean of the selected deltas that have the sign of their sum (zero elects +)."""
    mask = _mask(deltas, statistics.cut, statistics.unit)
    total: Tensor | None = None
    for index in range(len(deltas)):
        delta = _selected(deltas, index, mask)
        total = delta if total is None else total.add_(delta)
    if total is None:
        raise ValueError("there are no deltas to merge")
    sign = torch.empty_like(total)
    torch.ge(total, 0, out=sign).mul_(2).sub_(1)
    merged, divisor, agrees = torch.zeros_like(sign), torch.zeros_like(sign), torch.empty_like(sign)
    for index, weight in enumerate(statistics.weight):
        along = _selected(deltas, index, mask).mul_(sign)
        divisor.add_(torch.gt(along, 0, out=agrees), alpha=weight)
        merged.add_(along.clamp_min_(0), alpha=weight)
    return merged.mul_(sign).div_(divisor.masked_fill_(divisor == 0, 1.0))


def sce_selection(deltas: TaskDeltas, *, select_topk: float, **_: Any) -> Selection:
    """The selection in a whole tensor: the ``int(select_topk * n)`` entries of largest variance.

    ``n`` counts the entries whose variance is not zero. Without any energy the experts weigh the same.
    """
    cut: Cut | None = None
    unit = 1.0
    if select_topk < 1:
        unit = _unit(deltas)
        measure = functools.partial(_variance, unit=unit)
        varying = sum(int(torch.count_nonzero(measure(part, 0))) for part in deltas.chunks())
        (cut,) = cuts(deltas, [int(select_topk * varying)], [0], measure)
    energy = torch.zeros(len(deltas), dtype=torch.float64)
    for part in deltas.chunks():
        mask = _mask(part, cut, unit)
        for index in range(len(deltas)):
            delta = _selected(part, index, mask).reshape(-1).double()
            energy[index] += torch.dot(delta, delta).cpu()
    total = float(energy.sum())
    if total == 0:
        return Selection(cut, (1 / len(deltas),) * len(deltas), unit)
    return Selection(cut, tuple((energy / total).tolist()), unit)


def _selected(deltas: TaskDeltas, index: int, mask: Tensor | None) -> Tensor:
    delta = deltas[index]
    return delta if mask is None else delta.mul_(mask)


def _mask(deltas: TaskDeltas, cut: Cut | None, unit: float) -> Tensor | None:
    """1 where an entry is selected, else 0; None when all are."""
    if cut is None:
        return None
    variance = _variance(deltas, 0, unit)
    return torch.ne(cut.keep(variance, deltas.offset), 0, out=torch.empty_like(variance))


def _unit(deltas: TaskDeltas) -> float:
    """A power of two near the largest entry of a tensor whose entries cannot be squared in float32; else 1.

    A division by it is exact.
    """
    largest = max((float(delta.abs_().max()) for part in deltas.chunks() for delta in part), default=0.0)
    usual = largest == 0 or not math.isfinite(largest) or _SQUARED < largest < 1 / _SQUARED
    return 1.0 if usual else 2.0 ** math.frexp(largest)[1]


def _variance(deltas: TaskDeltas, _: int, unit: float = 1.0) -> Tensor:
    """Variance over experts of each entry, by Welford's update: exactly zero where all experts agree."""
    mean = deltas[0].mul_(1 / unit)
    squares = torch.zeros_like(mean)
    for index in range(1, len(deltas)):
        delta = deltas[index].mul_(1 / unit)
        step = delta - mean
        mean.add_(step, alpha=1 / (index + 1))
        squares.add_(step.mul_(delta.sub_(mean)))
    return squares.div_(len(deltas)).clamp_min_(0)
