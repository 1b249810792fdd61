"""WUDI and OptMerge: a merged delta whose interference with every expert is minimised by gradient descent.

Both minimise a sum of squares ``sum_i ||(M - Ti) Pi^T||_F^2 / ||Di||_F^2``, whose gradient is ``2 (M C - R)`` with
``C = sum_i Pi^T Pi / ||Di||^2 (n, n)`` and ``R = sum_i Ti Pi^T Pi / ||Di||^2 (m, n)``: one product a step, whatever the
number of experts. SWUDI replaces them by a closed form.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from svc_dist.linalg.devices.grain import lines, on_the_cpu
from svc_dist.linalg.devices.transfer import sent
from svc_dist.linalg.finite import require_finite
from svc_dist.linalg.gram import add_gram, mirrored
from svc_dist.linalg.svd import leading_values, thin_svd
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.merged import TOP, Merged, numbers
from svc_dist.methods.spectral.normal_equations import NormalEquations, contributing, normal_equations, norms_at_once

_BETAS = (0.9, 0.999)
_EPS = 1e-8
_ROWS = 256  # rows of M descended at once: their state stays in the processor's cache


def wudi(deltas: TaskDeltas, *, steps: int, lr: float) -> Merged:
    """WUDI: ``steps`` of Adam on the interference ``sum_i ||(M - Di) Di^T||^2 / ||Di||^2``, from ``sum_i Di``.

    Cheng et al. 2025, arXiv 2503.08099.
    """
    equations = normal_equations(deltas)
    total = deltas.total()
    return _descended(total, equations, steps, lr, {"singular_values": leading_values(total, TOP)})


def optmerge(deltas: TaskDeltas, *, steps: int, lr: float) -> Merged:
    """OptMerge: WUDI against denoised experts, ``Ti = mean + top-k of (Di - mean)`` and ``Pi = S_k V_k^T`` of ``Di``.

    ``k = min(m, n) // K``, at least 1. Wei et al. 2025, arXiv 2505.19892.
    """
    rows, columns = deltas.shape
    count = max(1, min(rows, columns) // len(deltas))
    # Of many directions of nearly equal strength those on either side of the cut are told apart in float64 alone.
    wide, full = deltas.at("float64"), deltas.precision == "float64"
    known = norms_at_once(wide)
    total = torch.zeros(deltas.shape, dtype=wide.dtype, device=deltas.device)
    for _, delta, _ in contributing(wide, known):  # names an expert that is not finite, before the mean hides which
        total += delta
        del delta
    target = torch.zeros_like(total)
    normal = total.new_zeros(columns, columns)
    experts = rank = cut = 0
    values: list[float] = []
    residual = 0.0
    for index, delta, norm in contributing(wide, known):
        experts += 1
        svd = thin_svd(delta, f"expert {index}'s task delta", count=count, full=full, finite=True)
        projector = (svd.values / norm)[:, None] * svd.right
        values += numbers(svd.host_values)
        rank, cut, residual = rank + len(svd.values), cut + svd.cut, max(residual, svd.residual)
        del svd
        delta.sub_(total, alpha=1 / len(deltas))
        rest = thin_svd(delta, f"expert {index}'s task delta less the mean", count=count, full=full, finite=True)
        del delta
        residual = max(residual, rest.residual)
        add_gram(normal, projector.T)
        response = (total @ projector.T).div_(len(deltas))
        response += (rest.left * rest.values) @ (rest.right @ projector.T)
        del rest
        target.addmm_(response, projector)
        del projector, response
    equations = NormalEquations(mirrored(normal).to(deltas.dtype), target.to(deltas.dtype), experts)
    del normal, target
    summary = {
        "kept_rank": rank,
        "cut": cut,
        "residual": residual,
        "singular_values": sorted(values, reverse=True)[:TOP],
    }
    return _descended(total.to(deltas.dtype), equations, steps, lr, summary)


def _descended(merged: Tensor, equations: NormalEquations, steps: int, lr: float, summary: dict[str, Any]) -> Merged:
    """Adam from ``merged``, in its place. Rows do not depend on one another and are descended block by block."""
    sizes = torch.stack([_gradient_norm(merged, equations), torch.linalg.vector_norm(equations.target)])
    first, target = sizes.cpu().tolist()
    first, noise = 2 * first, 32 * torch.finfo(merged.dtype).eps * target
    if first <= noise:  # already the minimum, as for one expert: Adam would take rounding for a slope
        return Merged(merged, {"steps": 0, "gradient_norm": [first, first]} | summary, finite=math.isfinite(first))
    step = lines(merged.device, _ROWS, merged.shape[1])
    for start in range(0, len(merged), step):
        rows = slice(start, start + step)
        descend = _adam if on_the_cpu(merged.device) else _fused_adam
        descend(merged[rows], equations.target[rows], equations.normal, steps, lr)
    last = 2 * float(_gradient_norm(merged, equations))
    if not math.isfinite(last):
        require_finite(merged, "the result of gradient descent")
    return Merged(merged, {"steps": steps, "gradient_norm": [first, last]} | summary, finite=math.isfinite(last))


def _adam(block: Tensor, target: Tensor, normal: Tensor, steps: int, lr: float) -> None:
    """Descend the rows ``block`` of M in place: Adam without weight decay (Kingma & Ba 2015, Algorithm 1)."""
    gradient, mean, square, divisor = (torch.zeros_like(block) for _ in range(4))
    for step in range(1, steps + 1):
        torch.addmm(target, block, normal, beta=-2, alpha=2, out=gradient)
        mean.lerp_(gradient, 1 - _BETAS[0])
        square.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
        torch.sqrt(square, out=divisor)
        divisor.div_((1 - _BETAS[1] ** step) ** 0.5).add_(_EPS)
        block.addcdiv_(mean, divisor, value=-lr / (1 - _BETAS[0] ** step))


def _fused_adam(block: Tensor, target: Tensor, normal: Tensor, steps: int, lr: float) -> None:
    """As ``_adam``, on a device: each step is one product and one call of torch's own update."""
    gradient, mean, square = (torch.zeros_like(block) for _ in range(3))
    numbers = sent(torch.arange(1, steps + 1, dtype=torch.float32), block.device)
    for step in range(steps):
        torch.addmm(target, block, normal, beta=-2, alpha=2, out=gradient)
        torch._fused_adam_(
            [block], [gradient], [mean], [square], [], [numbers[step]], lr=lr, beta1=_BETAS[0], beta2=_BETAS[1],
            weight_decay=0.0, eps=_EPS, amsgrad=False, maximize=False,
        )  # fmt: skip


def _gradient_norm(merged: Tensor, equations: NormalEquations) -> Tensor:
    """Half of it."""
    norm: Tensor = torch.linalg.vector_norm(torch.addmm(equations.target, merged, equations.normal, beta=-1))
    return norm
