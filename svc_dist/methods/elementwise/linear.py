"""Merge methods that look at each entry by itself.

Every function here takes the deltas of a tensor or of any piece of it and returns the merged delta ``M`` of the same
shape in the compute dtype; callers feed it pieces that fit the processor's cache.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from svc_dist.methods.deltas import Copy, TaskDeltas
from svc_dist.methods.elementwise.consensus import weighted_sum


def task_arithmetic(deltas: TaskDeltas, *, weight: Sequence[float], normalize: bool) -> Tensor:
    """``M = sum_i w_i Di``, divided by ``sum_i w_i`` with ``normalize``. Ilharco et al. 2023, arXiv 2212.04089."""
    return weighted_sum(deltas, weight, normalize)


def linear(deltas: TaskDeltas, *, weight: Sequence[float], base_weight: float, normalize: bool) -> Tensor | None:
    """The weighted sum of the models as a delta: ``M = sum_i w_i Wi (/ sum_i w_i) - W0``.

    The base takes part with ``base_weight`` (0 unless the recipe lists it among the models). Zero, as None, where no
    expert differs from the base, unless the weights add up to something else than 1 and stay so.
    """
    total = sum(weight) + base_weight
    if (normalize or total == 1) and deltas.all_zero():
        return None
    merged = weighted_sum(deltas, weight, normalize=False)
    if normalize:
        return merged.div_(total)
    return merged.add_(deltas.base, alpha=total - 1)


def passthrough(deltas: TaskDeltas, *, scale: Sequence[float]) -> Copy | Tensor:
    """The one model's tensor times ``scale``; at 1 unchanged bit for bit."""
    if scale[0] == 1:
        return Copy(0)
    return deltas.model(0).mul_(scale[0]).sub_(deltas.base)
