"""Merge methods that average on a sphere: NuSLERP, Multi-SLERP and the Karcher mean.

What lies on the sphere is the whole tensor of each model, seen as one vector: the task deltas around a base, or the
models themselves where a recipe names no base. Every result is a sum of these vectors, and its factors follow from
their inner products alone: one pass over the tensor gathers those, in float64, and another one adds up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from svc_dist.errors import NumericsError
from svc_dist.methods.chunking import CHUNK
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.elementwise.consensus import weighted_sum

#: Factors of the base (None: it is only the origin) and of the experts.
Factors = tuple[float | None, tuple[float, ...]]
_PARALLEL = 1e-8  # sine below which two vectors are on one line


def combined(deltas: TaskDeltas, *, statistics: Factors, **_: Any) -> Tensor:
    """The sum of the models with these factors, as a delta; of the deltas where the base is only the origin."""
    base, experts = statistics
    merged = weighted_sum(deltas, experts, normalize=False)
    return merged if base is None else merged.add_(deltas.base, alpha=base + sum(experts) - 1)


def multislerp_factors(
    deltas: TaskDeltas,
    *,
    weight: Sequence[float],
    base_weight: float | None,
    normalize_weights: bool,
    eps: float,
    **_: Any,
) -> Factors:
    """Barycentric interpolation on a sphere (Goddard, "Multi-SLERP", as in mergekit).

    ``W = (sum_i w_i |x_i|) m / |m|`` with ``m = sum_i w_i x_i / |x_i|``: the tangent vectors at ``m / |m|`` whose
    weighted sum the method adds cancel out there. Two opposed vectors are interpolated linearly. Raises NumericsError
    where more of them cancel out.
    """
    products = _products(deltas, with_base=base_weight is not None)
    shares = torch.tensor([*([] if base_weight is None else [base_weight]), *weight], dtype=torch.float64)
    if normalize_weights:
        shares = shares / shares.sum()
    lengths = products.diagonal().sqrt()
    units = shares / (lengths + eps)
    length = float((units @ products @ units).clamp_min(0).sqrt())
    if len(shares) == 1:
        factors = torch.ones(1, dtype=torch.float64)
    elif length >= eps:
        factors = units * (float(shares @ lengths) / length)
    elif len(shares) == 2 or not bool(products.any()):
        factors = shares
    else:
        raise NumericsError(
            f"multislerp: the weighted directions of the models cancel out in {deltas.tensor}",
            "change a weight, or merge this tensor by another method with a rule",
        )
    return _split(factors, base_weight is not None)


def karcher_factors(deltas: TaskDeltas, *, base_weight: float | None, max_iter: int, tol: float, **_: Any) -> Factors:
    """The mean on the sphere: the point from which the arcs to all vectors add up to nothing, at their mean length.

    Karcher 1977; Riemannian gradient descent. Vectors shorter than ``tol`` have no direction and count as zero.
    """
    products = _products(deltas, with_base=base_weight is not None)
    lengths = products.diagonal().sqrt()
    directed = [index for index, length in enumerate(lengths.tolist()) if length > tol]
    factors = torch.zeros(len(lengths), dtype=torch.float64)
    if directed:
        units = products[directed][:, directed] / lengths[directed] / lengths[directed][:, None]
        mean = _mean_direction(units, max_iter, tol)
        factors[directed] = mean / lengths[directed] * float(lengths.mean())
    return _split(factors, base_weight is not None)


def _mean_direction(units: Tensor, max_iter: int, tol: float) -> Tensor:
    """The factors of unit vectors with inner products ``units (N, N)`` that give their mean on the sphere."""
    count = len(units)

    def length(of: Tensor) -> float:
        return math.sqrt(max(float(of @ units @ of), 0.0))

    mean = torch.full((count,), 1 / count, dtype=torch.float64)
    if length(mean) < tol:
        mean = torch.eye(count, dtype=torch.float64)[0]
    mean = mean / length(mean)
    for _ in range(max_iter):
        cosines = (units @ mean).clamp(-1, 1)
        step = torch.zeros_like(mean)
        for index, cosine in enumerate(cosines.tolist()):
            angle = math.acos(cosine)
            if angle >= tol and (sine := math.sin(angle)) > 0:
                step[index] += angle / sine / count
                step -= angle / sine / count * cosine * mean
        size = length(step)
        if size < tol:
            break
        mean = math.cos(size) * mean + math.sin(size) / size * step
        mean = mean / length(mean)
    return mean


def nuslerp(deltas: TaskDeltas, *, nuslerp_flatten: bool, statistics: Any, **parameters: Any) -> Tensor:
    """Spherical interpolation of two vectors ``x_0`` and ``x_1`` at ``t = w_1 / (w_0 + w_1)``, as in mergekit.

    ``sin((1-t) a)/sin(a) x_0 + sin(t a)/sin(a) x_1`` with the angle ``a`` between them (Shoemake 1985): of whole
    tensors, or without ``nuslerp_flatten`` of each row, or of each column with ``nuslerp_row_wise`` (mergekit's name);
    the columns of fused experts go through all of them.
    Parallel vectors are interpolated linearly.
    """
    if nuslerp_flatten:
        return combined(deltas, statistics=statistics)
    t, with_base, of_columns = statistics
    one, other = _vectors(deltas, with_base)
    if of_columns is None:
        dot, first, second = (
            (a.double() * b.double()).sum(-1, keepdim=True) for a, b in ((one, other), (one, one), (other, other))
        )
        first, second = _arc(dot, first, second, t)
    else:
        first, second = of_columns
    result = (first.to(one.dtype) * one + second.to(one.dtype) * other).view(deltas.shape)
    return result if not with_base else result.sub_(deltas.base)


def nuslerp_statistics(
    deltas: TaskDeltas,
    *,
    weight: Sequence[float],
    base_weight: float | None,
    nuslerp_row_wise: bool,
    nuslerp_flatten: bool,
    **_: Any,
) -> Any:
    """The factors of whole tensors; else ``t``, whether the base is one of the two, and the factors of columns."""
    with_base = base_weight is not None
    first, second = [*([] if base_weight is None else [base_weight]), *weight]
    t = 0.5 if abs(first + second) < 1e-6 else second / (first + second)
    if nuslerp_flatten:
        products = _products(deltas, with_base)
        shares = _arc(products[0, 1][None], products[0, 0][None], products[1, 1][None], t)
        return _split(torch.cat(shares), with_base)
    if not nuslerp_row_wise or deltas.numel == deltas.row:
        return t, with_base, None
    sums = torch.zeros(3, deltas.row, dtype=torch.float64, device=deltas.device)
    for part in deltas.chunks(whole_rows=True):
        one, other = (vector.double() for vector in _vectors(part, with_base))
        for column, values in zip(sums, (one * other, one * one, other * other), strict=True):
            column += values.sum(0)
    return t, with_base, _arc(sums[0], sums[1], sums[2], t)


def _arc(dot: Tensor, one: Tensor, other: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """The factors of two vectors at share ``t`` of the arc between them, from their inner products."""
    lengths = one.sqrt().clamp_min(1e-7) * other.sqrt().clamp_min(1e-7)
    angle = torch.acos((dot / lengths).clamp(-1, 1))
    sine = torch.sin(angle)
    line = sine.abs() < _PARALLEL
    sine = sine.masked_fill(line, 1.0)
    first, second = torch.sin((1 - t) * angle) / sine, torch.sin(t * angle) / sine
    return first.masked_fill(line, 1 - t), second.masked_fill(line, t)


def _vectors(deltas: TaskDeltas, with_base: bool) -> tuple[Tensor, Tensor]:
    """Whole rows of the two models, or of their deltas around the base."""
    one, other = (deltas.base, deltas.model(0)) if with_base else (deltas[0], deltas[1])
    return one.view(-1, max(deltas.row, 1)), other.view(-1, max(deltas.row, 1))


def _products(deltas: TaskDeltas, with_base: bool) -> Tensor:
    """The inner products ``(N, N)`` of all vectors, in float64: of the deltas, or of the models, the base first."""
    count = len(deltas) + with_base
    products = torch.zeros(count, count, dtype=torch.float64, device=deltas.device)
    vector: Callable[[TaskDeltas, int], Tensor] = lambda part, index: part[index]  # noqa: E731
    if with_base:
        vector = lambda part, index: part.model(index - 1) if index else part.base  # noqa: E731
    step = max(1, 2 * CHUNK // count)  # all of them at once, so that less of each
    for start in range(0, deltas.numel, step):
        part = deltas.chunk(start, min(start + step, deltas.numel))
        rows = torch.empty(count, part.numel, dtype=torch.float64, device=deltas.device)
        for index in range(count):
            rows[index] = vector(part, index)
        products += rows @ rows.T
    return products.cpu()


def _split(factors: Tensor, with_base: bool) -> Factors:
    values = tuple(factors.tolist())
    return (values[0], values[1:]) if with_base else (None, values)
